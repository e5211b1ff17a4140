"""Records of odd and ordinary files for the tests of the 2018 formats."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import pytest

from zml_dask.engine.executors import SerialExecutor
from zml_dask.engine.job import Executor, run_job
from zml_dask.engine.progress import BuildProgress
from zml_dask.legacy.legacy_record import Canvas, LegacyFile, LegacyFormat, LegacyRecord
from zml_dask.legacy.record_files import ExportLegacy
from zml_dask.query.dataset import Dataset
from zml_dask.raster.language import identify
from zml_dask.raster.text import BinaryFileError, normalize_text
from zml_dask.store.commit import commit
from zml_dask.store.layout import ImageShape, extension_of
from zml_dask.store.snapshot import Snapshot
from zml_dask.store.staging import RecordStager, StagedFile
from zml_dask.store.storage import Storage

DATA = Path(__file__).parent / "data"

HIT = {"id": 7, "metadata": {"title": "Títle", "keywords": ["a", "a"]}, "created": None}

SOURCES: dict[str, bytes] = {
    "top/.gitignore": b"*.pyc\n",
    "top/Makefile": b"all:\n\techo \xe2\x82\xac\n",
    "top/empty": b"",
    "top/logo.gif": b"GIF89a\0\1",
    "top/src/a.py": b"".join(b"x = %d\n" % i for i in range(200)),
    "top/src/emoji.md": "\U0001f600\n".encode() * 81,
    "top/src/full.c": b"int x;\n" * 160,
    "top/src/long.csv": b"1,2,3," * 100 + b"\n",
    "top/src/old.f": b"      END\n" * 31,
}


@pytest.fixture(scope="session")
def old_pickles() -> dict[str, bytes]:
    """Pickles by Python 2.7 and 3.6 with NumPy 1.14 (see data/make_pickles.py)."""
    with zipfile.ZipFile(DATA / "pickles.zip") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def draw_files(sources: Mapping[str, bytes]) -> Iterator[LegacyFile]:
    canvas = Canvas()
    for path in sorted(sources):
        data = sources[path]
        try:
            normalized = normalize_text(data)
        except BinaryFileError:
            yield canvas.file(path, None, size=len(data))
        else:
            yield canvas.file(path, normalized.text, size=len(data), n_lines=normalized.n_lines)


@pytest.fixture
def make_record() -> Callable[..., LegacyRecord]:
    def make(sources: Mapping[str, bytes] = SOURCES, record_id: int = 7) -> LegacyRecord:
        return LegacyRecord(record_id, json.dumps(HIT), draw_files(sources))

    return make


def staged_file(path: str, data: bytes) -> tuple[StagedFile, bytes | None]:
    """What a build makes of a file."""
    name = path.rpartition("/")[2]
    digest = hashlib.sha256(data).hexdigest()
    known = (path, name, extension_of(name))
    try:
        normalized = normalize_text(data)
    except BinaryFileError as error:
        row = StagedFile(*known, None, None, len(data), digest, None, "binary", str(error), 0, None)
        return row, None
    language = identify(path, normalized.text[:4096])
    status = "ok" if normalized.n_lines else "empty"
    row = StagedFile(
        *known, language.language, language.kind, len(data), digest, normalized.encoding,
        status, None, normalized.n_lines, normalized.n_cut,
    )  # fmt: skip
    return row, normalized.text or None


def stage(storage: Storage, scratch: Path, record_id: int, sources: Mapping[str, bytes]) -> None:
    hit = HIT | {"id": record_id}
    with RecordStager(scratch, record_id, ImageShape()) as stager:
        for path, data in sources.items():
            stager.add(*staged_file(path, data))
        stager.finish(storage, {"title": "Títle", "metadata": json.dumps(hit), "origin": "zenodo"})


def package_sources(name: str) -> dict[str, bytes]:
    """The files of an installed package, as if from its archive."""
    root = Path(__import__(name).__file__ or "").parent
    return {
        f"{name}-1a2b3c4/{path.relative_to(root).as_posix()}": path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and path.stat().st_size <= 100_000
    }


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of five records, two commits, one record without images."""
    folder = tmp_path_factory.mktemp("legacy")
    storage = Storage.open(folder / "dataset")
    stage(storage, folder, 30, package_sources("click"))
    stage(storage, folder, 7, SOURCES)
    stage(storage, folder, 9, {"only/logo.png": b"\x89PNG\0"})
    commit(storage)
    stage(storage, folder, 20, package_sources("fsspec"))
    stage(storage, folder, 40, {f"top/{n}.txt": b"%d\n" % n * 100 for n in range(30)})
    commit(storage)
    return folder / "dataset"


def export_dataset(
    dataset: Path | Storage,
    target: Path,
    formats: Collection[LegacyFormat],
    executor: Executor | None = None,
    progress: BuildProgress | None = None,
) -> Counter[str]:
    job = ExportLegacy.of(Dataset(Snapshot.open(dataset)), Storage.open(target), formats)
    return run_job(job, executor or SerialExecutor(), progress=progress)

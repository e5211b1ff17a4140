"""PNGs: lossless grey, grouped, in folders or tars, names that lead back to the lines."""

from __future__ import annotations

import io
import json
import tarfile
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from zml_dask.engine.executors import ThreadsExecutor
from zml_dask.engine.progress import ProgressCounts, SilentProgress
from zml_dask.errors import UsageError
from zml_dask.publish import png
from zml_dask.publish.png import PngOptions, encode_png, export_png, group_name
from zml_dask.query.dataset import Dataset
from zml_dask.query.portions import cut
from zml_dask.raster.images import rasterize
from zml_dask.store.commit import commit
from zml_dask.store.layout import ImageShape, extension_of
from zml_dask.store.snapshot import Snapshot
from zml_dask.store.staging import RecordStager, StagedFile
from zml_dask.store.storage import Storage
from zml_dask.store.withdrawal import withdraw

FILES = {
    7: {
        "a.py": ("Python", "x = 1\n" * 100),
        "b.py": ("Python", "é€\n"),
        "c/Makefile": (None, "a\n"),
    },
    9: {
        "d.py": ("Python", "y\n" * 40),
        "e.../.": (None, "z\n"),
        "f.md": ("Markdown", "\U0001f600\n"),
    },
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("png")
    storage = Storage.open(folder / "dataset")
    for record_id, files in FILES.items():
        with RecordStager(folder, record_id, ImageShape()) as stager:
            for path, (language, text) in files.items():
                name = path.rpartition("/")[2]
                row = StagedFile(
                    path, name, extension_of(name), language, None, len(text), None,
                    "utf-8", "ok", None, text.count("\n"), 0,
                )  # fmt: skip
                stager.add(row, text.encode())
            stager.finish(storage, {"metadata": json.dumps({"id": record_id})})
    commit(storage)
    return Dataset(Snapshot.open(storage))


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        return np.asarray(image)


@given(arrays(np.uint32, (80, 80), elements=st.integers(0, 255)))
def test_eight_bits_lose_nothing_below_256(image: np.ndarray) -> None:
    found = pixels(encode_png(image))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, image)


@given(arrays(np.uint32, (80, 80), elements=st.integers(0, 0x10FFFF)))
def test_code_points_beyond_the_depth_become_its_largest_value(image: np.ndarray) -> None:
    np.testing.assert_array_equal(pixels(encode_png(image, 8)), np.minimum(image, 255))
    np.testing.assert_array_equal(pixels(encode_png(image, 16)), np.minimum(image, 65_535))


def test_folders_by_language(dataset: Dataset, tmp_path: Path) -> None:
    result = export_png(dataset, Storage.open(tmp_path), PngOptions(by="language", depth=16))
    assert result.images == Counter(Python=4, Markdown=1, unknown=2)
    assert result.clipped == 1  # the emoji
    assert sorted(path.name for path in (tmp_path / "Python").iterdir()) == [
        "7_0_0.png", "7_0_1.png", "7_1_0.png", "9_3_0.png",
    ]  # fmt: skip
    images, _ = rasterize(FILES[7]["a.py"][1])
    for segment in (0, 1):
        data = (tmp_path / "Python" / f"7_0_{segment}.png").read_bytes()
        np.testing.assert_array_equal(pixels(data), images[segment])


def test_tars_by_extension_hold_the_same(dataset: Dataset, tmp_path: Path) -> None:
    folders = export_png(dataset, Storage.open(tmp_path / "folders"), PngOptions())
    tars = export_png(dataset, Storage.open(tmp_path / "tars"), PngOptions(tar=True))
    assert folders == tars
    assert folders.images == Counter(py=4, Makefile=1, md=1, **{"%": 1})
    found = {}
    for path in (tmp_path / "tars").iterdir():
        with tarfile.open(path) as tar:
            for member in tar:
                body = tar.extractfile(member)
                assert body is not None
                found[member.name] = body.read()
    assert found == {
        path.relative_to(tmp_path / "folders").as_posix(): path.read_bytes()
        for path in (tmp_path / "folders").rglob("*.png")
    }


def test_tars_are_the_same_whoever_writes_which_piece(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_png(dataset, Storage.open(tmp_path / "one"), PngOptions(tar=True))
    monkeypatch.setattr(png, "_PIECE_BYTES", 1)
    monkeypatch.setattr("zml_dask.publish.png.cut", lambda view: cut(view, records=1)[::-1])
    export_png(
        dataset, Storage.open(tmp_path / "many"), PngOptions(tar=True), executor=ThreadsExecutor(2)
    )
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert names == {path.name for path in (tmp_path / "many").iterdir()}
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()


def test_an_interrupted_tar_has_no_name(dataset: Dataset, tmp_path: Path) -> None:
    class Interrupt(SilentProgress):
        def update(self, stage: str, counts: ProgressCounts) -> None:
            if counts.done:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_png(dataset, Storage.open(tmp_path), PngOptions(tar=True), progress=Interrupt())
    assert list(tmp_path.iterdir()) == []


def test_short_images_may_be_left_out(dataset: Dataset, tmp_path: Path) -> None:
    assert export_png(dataset, Storage.open(tmp_path), PngOptions(min_lines=31)).images == Counter(
        py=2
    )
    with pytest.raises(UsageError, match="nothing to export: no image has 81 lines or more"):
        export_png(dataset, Storage.open(tmp_path), PngOptions(min_lines=81))


def test_withdrawn_records_are_left_out(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path / "dataset")
    for record_id in (1, 2):
        with RecordStager(tmp_path, record_id, ImageShape()) as stager:
            row = StagedFile("a.py", "a.py", "py", None, None, 2, None, None, "ok", None, 1, 0)
            stager.add(row, b"a\n")
            stager.finish(storage, {})
    commit(storage)
    withdraw(storage, [1], "asked for")
    export_png(Dataset(Snapshot.open(storage)), Storage.open(tmp_path / "out"), PngOptions())
    assert [path.name for path in (tmp_path / "out" / "py").iterdir()] == ["2_1_0.png"]


@given(st.text() | st.sampled_from(["con", "Aux", "NUL ", "com1.x", "lpt9", "a.", "a ", " "]))
def test_a_group_names_a_folder_right_here(group: str) -> None:
    name = group_name(group)
    assert name.isascii()
    assert name.isprintable()
    assert "/" not in name
    assert "\\" not in name
    assert not name.startswith(".")
    assert 0 < len(name) <= 240

    # As Windows sees it (learn.microsoft.com, "Naming Files, Paths, and Namespaces").
    assert not set(name) & set('<>:"|?*')
    assert not name.endswith((" ", "."))
    devices = {"CON", "PRN", "AUX", "NUL", *(f"{a}{n}" for a in ("COM", "LPT") for n in range(10))}
    for file in (name, f"{name}.tar"):
        assert file.split(".")[0].rstrip(" ").upper() not in devices
        assert unicodedata.normalize("NFD", file) == file  # as macOS may spell it


@given(st.lists(st.text(max_size=20), unique=True))
@example(["con", "CON", "%63on"])
@example(["a.", "a%2E", "A."])
def test_groups_share_no_folder(groups: list[str]) -> None:
    assert len({group_name(group) for group in groups}) == len(groups)


def test_tars_are_told_apart_where_case_is_nothing(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path / "dataset")
    with RecordStager(tmp_path, 1, ImageShape()) as stager:
        for name in ("Makefile", "makefile"):
            row = StagedFile(name, name, name, None, None, 2, None, None, "ok", None, 1, 0)
            stager.add(row, b"a\n")
        stager.finish(storage, {})
    commit(storage)
    export_png(
        Dataset(Snapshot.open(storage)), Storage.open(tmp_path / "out"), PngOptions(tar=True)
    )
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["Makefile.tar", "makefile%~.tar"]
    with tarfile.open(tmp_path / "out" / "makefile%~.tar") as tar:
        assert [name.partition("/")[0] for name in tar.getnames()] == ["makefile"]

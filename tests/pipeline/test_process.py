"""One record, from its catalogue entry to staging, without Dask."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from serving import Faults, Sandbox
from swh.model.model import Content

from zml_dask.errors import StorageError, UsageError
from zml_dask.fetch.member import Member
from zml_dask.legacy.record_files import legacy_paths
from zml_dask.net.client import HttpClient, HttpOptions
from zml_dask.pipeline import process as module
from zml_dask.pipeline.build_options import BuildOptions
from zml_dask.pipeline.process import process
from zml_dask.records.catalogue import Catalogue
from zml_dask.sandbox.corpus import make_record
from zml_dask.store.staging import StagedReader, StagingIndex
from zml_dask.store.storage import Storage

from .datasets import archive, harvested

MakeSandbox = Callable[..., Sandbox]

FILES = {
    "a.py": b"def f():\n\treturn 1\r\n",
    "empty.txt": b"",
    "big.csv": b"x" * 100_001,
    "exact.csv": b"x\n" * 50_000,
    "logo.png": b"\x89PNG\0\0",
    "old.txt": "caf\xe9\n".encode("latin-1"),
    "lie.txt": b"\xff\xfea",
    ".gitignore": b"*.pyc\n",
    ".git/config": b"[core]\n",
}


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def test_every_file_has_a_row_with_its_fate(
    make_sandbox: MakeSandbox, tmp_path: Path, scratch: Path
) -> None:
    served = make_sandbox([make_record(7, {"o/r-v1.zip": archive(FILES)}, title="Seven")])
    catalogue = Catalogue.open(harvested(served, tmp_path))
    storage = Storage.open(tmp_path / "ds")
    options = BuildOptions(scratch=str(scratch))
    outcome = process(7, storage, catalogue=catalogue, options=options)

    assert (outcome.status, outcome.origin, outcome.failure) == ("staged", "zenodo", None)
    location = StagingIndex.load(storage).find(7)
    assert location is not None
    staged = StagedReader(storage, location)
    rows = {row["name"]: (row, text) for row, text in staged}
    assert {name: row["status"] for name, (row, _) in rows.items()} == {
        "a.py": "ok",
        "empty.txt": "empty",
        "big.csv": "too_large",
        "exact.csv": "ok",
        "logo.png": "binary",
        "old.txt": "ok",
        "lie.txt": "ok",
        ".gitignore": "ok",
    }
    assert outcome.n_files == len(rows)
    assert all(row["reason"] for row, _ in rows.values() if row["status"] != "ok")
    row, text = rows["a.py"]
    assert text == b"def f():\n    return 1\n"
    assert (row["language"], row["encoding"], row["n_lines"], row["extension"]) == (
        "Python",
        "ascii",
        2,
        "py",
    )
    assert rows["exact.csv"][0]["n_images"] == 625
    assert rows["old.txt"][0]["encoding"] == "windows-1252 (assumed)"
    assert staged.record["title"] == "Seven"
    assert staged.record["archive_checksum"].startswith("md5:")
    assert list(scratch.iterdir()) == [], "scratch was not cleared away"

    again = process(7, storage, catalogue=catalogue)
    assert again.status == "already"


def test_what_is_asked_of_a_catalogue_must_be_in_it(sandbox: Sandbox, tmp_path: Path) -> None:
    catalogue = harvested(sandbox, tmp_path)
    with pytest.raises(UsageError, match="record 5 is not in the catalogue"):
        process(5, tmp_path / "ds", catalogue=catalogue)
    with pytest.raises(UsageError, match="name the catalogue"):
        process(5, tmp_path / "ds")


@pytest.mark.parametrize(
    ("files", "fields", "kind", "permanent"),
    [
        ({}, {}, "no_files", True),
        ({"a.zip": archive({"a.py": b"1\n"})}, {"access": "restricted"}, "restricted", True),
        ({"a.zip": b"7z\xbc\xaf\x27\x1c" + b"\0" * 200}, {}, "unreadable_archive", True),
    ],
)
def test_a_record_that_cannot_be_had_is_a_row(
    make_sandbox: MakeSandbox,
    tmp_path: Path,
    scratch: Path,
    files: dict[str, bytes],
    fields: dict[str, object],
    kind: str,
    permanent: bool,
) -> None:
    catalogue = harvested(make_sandbox([make_record(7, files, **fields)]), tmp_path)
    storage = Storage.open(tmp_path / "ds")
    options = BuildOptions(scratch=str(scratch))
    outcome = process(7, storage, catalogue=catalogue, options=options)
    assert outcome.status == "failed"
    assert outcome.failure is not None
    assert (outcome.failure.kind, outcome.failure.permanent) == (kind, permanent)
    rows = StagingIndex.load(storage).failures.to_pylist()
    assert [row["kind"] for row in rows] == [kind]
    assert "\n" not in rows[0]["message"]
    assert list(scratch.iterdir()) == []


def test_a_server_in_trouble_is_a_failure_that_may_pass(
    make_sandbox: MakeSandbox, tmp_path: Path
) -> None:
    served = make_sandbox([make_record(7, {"a.zip": archive({"a.py": b"1\n"})})])
    catalogue = harvested(served, tmp_path)
    served.faults = Faults(unavailable=1000)
    with HttpClient(HttpOptions(attempts=2, backoff=0.01)) as client:
        outcome = process(7, tmp_path / "ds", catalogue=catalogue, client=client)
        assert outcome.failure is not None
        assert (outcome.failure.kind, outcome.failure.permanent) == ("server_error", False)
        served.faults = Faults()
        assert process(7, tmp_path / "ds", catalogue=catalogue, client=client).status == "staged"
    assert len(StagingIndex.load(Storage.open(tmp_path / "ds")).failures) == 0


@pytest.mark.parametrize("data", [*FILES.values(), bytes(range(256)) * 300], ids=len)
def test_a_file_has_the_id_that_software_heritage_gives_it(data: bytes) -> None:
    member = Member("a.py", len(data), data, "ok", None)
    file, _ = module.read_member(member, width=80, keep_binary=False)
    content = Content.from_data(data)
    assert f"swh:1:cnt:{file.sha1_git}" == str(content.swhid())
    assert file.sha256 == content.sha256.hex()


@pytest.mark.parametrize("where", ["read_member", "open_record"])
def test_a_mistake_of_ours_is_a_row_with_its_type(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scratch: Path, where: str
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr(module, where, broken)
    catalogue = Catalogue.open(harvested(sandbox, tmp_path))
    ref = max(catalogue.refs, key=lambda one: one.archive_bytes)
    options = BuildOptions(scratch=str(scratch))
    outcome = process(ref, tmp_path / "ds", catalogue=catalogue, options=options)
    assert outcome.failure is not None
    assert (outcome.failure.kind, outcome.failure.message) == (
        "internal",
        "ZeroDivisionError: by zero",
    )
    assert list(scratch.iterdir()) == []


def test_a_dataset_that_cannot_be_written_is_no_record_failure(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    catalogue = Catalogue.open(harvested(sandbox, tmp_path))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError):
        process(catalogue.refs[0], tmp_path / "file" / "ds", catalogue=catalogue)


def test_exports_are_there_before_the_record_counts_as_staged(
    make_sandbox: MakeSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = make_sandbox([make_record(7, {"o/r-v1.zip": archive(FILES)})])
    catalogue = harvested(served, tmp_path)
    storage = Storage.open(tmp_path / "ds")
    options = BuildOptions(export=("pickle", "hdf5"))
    paths = legacy_paths(7, ["pickle", "hdf5"], "legacy").values()
    seen: list[str] = []

    def note(operation: str, path: str) -> None:
        if operation == "write" and path.startswith("staging/records/") and not seen:
            seen.extend(path for path in paths if storage.exists(path))

    from zml_dask.store import storage as operations

    process(7, tmp_path / "other", catalogue=catalogue)
    monkeypatch.setattr(operations, "before_operation", note)
    assert process(7, storage, catalogue=catalogue, options=options).status == "staged"
    assert all(storage.exists(path) for path in paths)
    with_export = storage.read("staging/records/7")
    assert with_export == (tmp_path / "other/staging/records/7").read_bytes()


def test_process_needs_no_dask() -> None:
    code = (
        "import sys, zml_dask.pipeline.process; "
        "sys.exit(any(name in sys.modules for name in ('dask', 'distributed')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

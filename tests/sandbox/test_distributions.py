"""Installed software as a corpus: real, whole, and the same each time."""

from __future__ import annotations

import gc
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

from zml_dask.records.parse import parse_record
from zml_dask.sandbox.corpus import Corpus, SandboxRecord
from zml_dask.sandbox.distributions import installed_corpus
from zml_dask.sandbox.serialise import legacy_json

_PRINT_SUMS = """
from zml_dask.sandbox.distributions import installed_corpus
for record in installed_corpus(4, most_bytes=1_000_000):
    print(record.record_id, record.created, *(
        (key, content.md5) for key, content in record.files.items()))
"""


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return installed_corpus(troubles=False)


def record_of(corpus: Corpus, name: str) -> SandboxRecord:
    version = distribution(name).version
    return next(one for one in corpus if any(f"/{name}-v{version}." in key for key in one.files))


def members(record: SandboxRecord) -> dict[str, bytes]:
    [(key, content)] = record.files.items()
    data = io.BytesIO(content.read(0, content.size))
    if key.endswith(".zip"):
        with zipfile.ZipFile(data) as archive:
            return {name: archive.read(name) for name in archive.namelist() if name[-1] != "/"}
    with tarfile.open(fileobj=data) as archive:
        entries = ((entry.name, archive.extractfile(entry)) for entry in archive)
        return {name: stream.read() for name, stream in entries if stream is not None}


def test_the_files_of_a_distribution_are_in_its_archive(corpus: Corpus) -> None:
    found = members(record_of(corpus, "click"))
    [top] = {name.split("/")[0] for name in found}
    owner, name, commit = top.split("-")
    assert (owner, name) == ("pallets", "click")
    assert len(commit) == 7
    source = next(
        file for file in distribution("click").files or [] if file.as_posix() == "click/core.py"
    )
    assert found[f"{top}/click/core.py"] == source.read_binary()
    assert f"{top}/PKG-INFO" in found
    assert any("LICENSE" in name for name in found)


def test_compiled_files_and_installers_traces_stay_out(corpus: Corpus) -> None:
    found = members(record_of(corpus, "numcodecs"))
    assert len(found) > 20
    bad = (".so", ".pyc", "RECORD", "INSTALLER", "direct_url.json", "REQUESTED", "WHEEL")
    assert not [name for name in found if name.endswith(bad) or "__pycache__" in name]


def test_metadata_is_the_distribution_s_own(corpus: Corpus) -> None:
    record = parse_record(legacy_json(record_of(corpus, "click"), "http://x/api"))
    assert record.version == f"v{distribution('click').version}"
    assert record.license == "bsd-3-clause"
    assert record.repository == "https://github.com/pallets/click"
    assert record.related[0].identifier == f"{record.repository}/tree/{record.version}"
    assert record.concept_id == record.record_id - 1
    assert record.created is not None
    assert record.creators


def test_there_are_enough_and_some_are_tars(corpus: Corpus) -> None:
    keys = [key for record in corpus for key in record.files]
    assert len(keys) >= 15
    assert any(key.endswith(".tar.gz") for key in keys)
    assert any(key.endswith(".zip") for key in keys)
    assert not any("/zml" in key for key in keys)
    ids = [record.record_id for record in corpus]
    dates = [record.created for record in corpus]
    assert dates == sorted(dates), "ids grow with dates, as Zenodo's do"
    assert len(set(ids)) == len(ids)


def test_no_two_runs_differ() -> None:
    def run(seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", _PRINT_SUMS]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        return hashlib.sha256(done.stdout.encode()).hexdigest() + done.stdout

    assert run("1") == run("2")


def test_a_limit_takes_the_same_first_ones(corpus: Corpus) -> None:
    few = {record.record_id for record in installed_corpus(5, troubles=False)}
    assert len(few) == 5
    assert few < {record.record_id for record in corpus}


def test_archives_outlive_their_corpus_and_not_their_records() -> None:
    record = next(iter(installed_corpus(1, troubles=False)))
    gc.collect()
    [content] = record.files.values()
    path = content.source
    assert isinstance(path, Path)
    assert path.exists()
    del record, content
    gc.collect()
    assert not path.parent.exists()

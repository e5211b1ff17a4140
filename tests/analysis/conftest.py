"""A small dataset whose every file is known, hostile names among them."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from zml_dask.publish.viewer import ViewerServer
from zml_dask.raster.language import identify
from zml_dask.raster.text import normalize_text
from zml_dask.store.commit import commit
from zml_dask.store.layout import ImageShape, extension_of
from zml_dask.store.staging.packs import FailureRow, stage_failure
from zml_dask.store.staging.stager import RecordStager, StagedFile
from zml_dask.store.storage import Storage
from zml_dask.store.withdrawal import withdraw

from .browsing import FLAGS, running

HOSTILE = (
    "a/<img src=x onerror=alert(1)>.py",
    'b/"><script>window.hacked=1<!--.c',
    "c/evil\u202egpj.py",
    "d/{{7*7}}'\"&amp;.js",
)
WORDS = {
    "py": "import os\ndef f(x):\n    return x\n",
    "c": "int main(void) {\n  return 0;\n}\n",
    "js": "const a = () => 1;\nmodule.exports = a;\n",
    "f90": "program p\n  print *, 1\nend program\n",
    "md": "# Title\n\nSome words.\n",
    "json": '{"a": [1, 2, 3]}\n',
    "R": "f <- function(x) x + 1\nlibrary(stats)\n",
    "txt": "plain words\n",
}


@dataclass(frozen=True)
class Known:
    """The dataset's folder, and what went into it: record -> path -> bytes."""

    path: Path
    files: dict[int, dict[str, bytes]]
    rows: dict[int, dict[str, object]]
    failures: list[FailureRow]
    withdrawn: frozenset[int]

    def shown(self) -> list[tuple[int, str, bytes]]:
        """Record, path and bytes of every file that is not withdrawn."""
        return [
            (record_id, path, data)
            for record_id, files in self.files.items()
            if record_id not in self.withdrawn
            for path, data in files.items()
        ]


def build_known(folder: Path, seed: int = 5) -> Known:
    random_ = random.Random(seed)
    files: dict[int, dict[str, bytes]] = {}
    rows: dict[int, dict[str, object]] = {}
    for record_id in range(101, 113):
        of_record: dict[str, bytes] = {}
        for number in range(random_.randint(4, 14)):
            extension = random_.choice(list(WORDS))
            times = random_.choice([1, 9, 15, 30, 31, 55, 90, 200])
            of_record[f"r{record_id}/src/f{number}.{extension}"] = (
                WORDS[extension] * times
            ).encode()
        of_record[f"r{record_id}/README.md"] = b"# Read me\n" * record_id
        if record_id % 2:
            of_record[f"r{record_id}/LICENSE"] = b"You may.\n" * 40
        if record_id % 5 == 0:
            of_record[f"r{record_id}/Dockerfile"] = b"FROM scratch\n"
        of_record[f"r{record_id}/logo.gif"] = b"GIF\0\0"
        files[record_id] = of_record
        rows[record_id] = {
            "doi": f"10.5072/zenodo.{record_id}",
            "title": f"Record <b>{record_id}</b> & co",
            "license": random_.choice(["mit", "gpl-3.0", None]),
            "publication_date": f"20{random_.randint(14, 24)}-05-06",
            "origin": "zenodo",
            "keywords": ["astronomy"],
            "creators": ["Doe, J."],
            "metadata": "{}",
        }
    files[101] |= dict.fromkeys(HOSTILE, b"x = 1\n" * 81)
    storage = Storage.open(folder / "known")
    for record_id, of_record in files.items():
        with RecordStager(folder, record_id, ImageShape()) as stager:
            for path, data in of_record.items():
                add(stager, path, data)
            stager.finish(storage, rows[record_id])
    failures = [
        FailureRow(900 + i, "fetch", kind, f"<i>{kind}</i>", 1, kind == "gone")
        for i, kind in enumerate(["gone", "gone", "checksum"])
    ]
    for failure in failures:
        stage_failure(storage, failure)
    commit(storage)
    withdraw(storage, [112], "asked for by its author")
    return Known(folder / "known", files, rows, failures, frozenset([112]))


def add(stager: RecordStager, path: str, data: bytes) -> None:
    name = path.rpartition("/")[2]
    binary = b"\0" in data
    normalized = None if binary else normalize_text(data)
    found = identify(path, normalized.text[:4096] if normalized else b"")
    file = StagedFile(
        path,
        name,
        extension_of(name),
        found.language,
        found.kind,
        len(data),
        hashlib.sha256(data).hexdigest(),
        normalized.encoding if normalized else None,
        "binary" if binary else "ok",
        None,
        normalized.n_lines if normalized else 0,
        normalized.n_cut if normalized else None,
    )
    stager.add(file, normalized.text if normalized else None)


@pytest.fixture(scope="session")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return build_known(tmp_path_factory.mktemp("known"))


@pytest.fixture(scope="session")
def served(known: Known) -> Iterator[ViewerServer]:
    with running(ViewerServer(str(known.path))) as server:
        yield server


@pytest.fixture(scope="session")
def _browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (program and driver):
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    browser.set_script_timeout(300)
    yield browser
    browser.quit()


@pytest.fixture
def chromium(_browser: webdriver.Chrome) -> webdriver.Chrome:
    """A browser whose log holds nothing of earlier tests."""
    _browser.get_log("browser")  # type: ignore[no-untyped-call]  # reading it empties it
    return _browser

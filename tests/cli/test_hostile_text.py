"""What is printed and shown of a dataset whose every text is hostile, as no build writes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import zml_dask as zml
from zml_dask.cli.main import main
from zml_dask.store.commit import commit
from zml_dask.store.info import committed_info, replace_info
from zml_dask.store.layout import ImageShape
from zml_dask.store.staging import FailureRow, RecordStager, StagedFile, stage_failure
from zml_dask.store.storage import Storage

ANSI = "\x1b[2J\x1b]0;pwned\x07\x9b31m\u202e\u2028\0"
MARKUP = "<script>alert(1)</script><img src=x onerror=alert(1)>'\"&{{7*7}}[bold red]x[/]"
EVIL = f"{ANSI}{MARKUP}"

Run = Callable[..., str]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    storage = Storage.open(folder / "ds")
    lines = [EVIL, *["second"] * 99]
    text = "".join(f"{line}\n" for line in lines).encode()
    fields = dict.fromkeys(
        ("doi", "title", "version", "publication_date", "license", "repository", "origin"), EVIL
    )
    lists = {"keywords": [EVIL, ""], "creators": [EVIL], "metadata": json.dumps({EVIL: EVIL})}
    row = (EVIL, EVIL, EVIL, EVIL, len(text), "00" * 32, EVIL)
    with RecordStager(folder, 7, ImageShape()) as stager:
        stager.add(StagedFile(f"a/{EVIL}", *row, "ok", EVIL, len(lines), 1), text)
        stager.add(StagedFile(f"b/{EVIL}/c", *row, "refused", EVIL, 0, None), None)
        stager.finish(storage, fields | lists)
    stage_failure(storage, FailureRow(8, EVIL, EVIL, EVIL, 1, True))
    stage_failure(storage, FailureRow(9, EVIL, f"{EVIL}2", EVIL, 3, False))
    commit(storage)
    info = committed_info(storage)
    replace_info(storage, info, replace(info, software={"zml-dask": EVIL}))
    return Path(folder / "ds")


@pytest.fixture
def run(dataset: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    def ask(command: str, *words: str) -> str:
        with pytest.raises(SystemExit):
            main([command, str(dataset), *words])
        captured = capfd.readouterr()
        return captured.out + captured.err

    return ask


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["status", "--failures"],
        ["status", "--json"],
        ["show", "7"],
        ["show", "7", f"a/{EVIL}"],
        ["show", "7", f"b/{EVIL}/c"],
        ["show", "7", EVIL],
        ["show", "8"],
        ["query", "n_lines > 0"],
        ["query", "status == 'refused'", "--format", "csv"],
        ["query", "n_lines > 0", "--format", "json"],
        ["query", f"title == '{MARKUP}\x1b["],
        ["query", f"{EVIL}"],
        ["verify"],
        ["verify", "--json"],
        ["export", EVIL, "--format", EVIL],
        ["report", "--output", EVIL],
    ],
)
def test_nothing_of_it_reaches_the_terminal(run: Run, words: list[str]) -> None:
    said = run(*words)
    assert said
    assert [character for character in said if not character.isprintable()] == ["\n"] * said.count(
        "\n"
    )
    assert "Traceback" not in said


def test_all_of_it_is_there_to_read(run: Run) -> None:
    """Escaped, and no word of it taken for markup."""
    shown = "\\x1b[2J\\x1b]0;pwned\\x07\\x9b31m\\u202e\\u2028\\x00" + MARKUP
    assert run("show", "7").count(shown) >= 7
    assert shown in run("status", "--failures")
    assert shown in run("show", "7", f"a/{EVIL}")


def test_damage_is_told_without_it(run: Run, dataset: Path) -> None:
    (dataset / "images.zarr" / "\x1b[2J").write_text("foreign")
    try:
        said = run("verify")
    finally:
        (dataset / "images.zarr" / "\x1b[2J").unlink()
    assert "\x1b" not in said
    assert "not part of the dataset" in said
    assert "\\x1b[2J" in said


def test_a_notebook_and_a_page_take_it_for_text(run: Run, dataset: Path, tmp_path: Path) -> None:
    opened = zml.open_dataset(dataset)
    pages = [opened._repr_html_(), opened.record(7)._repr_html_()]
    run("report", "--output", str(tmp_path / "report.html"))
    run("export", str(tmp_path / "card"), "--format", "croissant")
    pages += [path.read_text() for path in tmp_path.rglob("*.html")]
    assert len(pages) > 2
    for page in pages:
        assert "<script>alert" not in page
        assert "<img src=x" not in page
        assert not {"\x1b", "\x9b", "\u202e", "\0"} & set(page)


def test_exports_stay_in_their_folder(run: Run, tmp_path: Path) -> None:
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    for name in ("pickle,hdf5", "png"):
        run("export", str(inside / name), "--format", name)
        assert any((inside / name).rglob("*"))
    assert {path.name for path in tmp_path.iterdir()} == {"a"}
    assert {path.name for path in inside.iterdir()} == {"pickle,hdf5", "png"}
    for path in inside.rglob("*"):
        assert path.name.isprintable()

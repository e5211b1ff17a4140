"""Every snippet of the README and the documentation is run, in the order of its page.

Python blocks of a page share one namespace. In a console block, the lines that
begin with ``$ `` are run by bash and must succeed. Both run in a directory that
holds what ``zml-dask demo`` leaves: ``zenodo-ml`` and ``catalogue.jsonl``; the
harvest's default is a sandbox. A block that needs a server of its own says
which test runs it: ``<!-- tested-by: tests/... -->`` on the line before.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from serving import Sandbox

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TESTED_BY = "tested-by:"


def blocks(page: Path) -> Iterator[tuple[str, str, int, str | None]]:
    """Yield language, content, line number, and the test that runs the block instead, if any."""
    before: Token | None = None
    for token in MarkdownIt().enable("table").parse(page.read_text()):
        if token.type == "fence":
            language = token.info.strip().removeprefix("{code-block}").strip()
            elsewhere = None
            if before is not None and TESTED_BY in before.content:
                elsewhere = (
                    before.content.split(TESTED_BY)[1].split("-->")[0].split("\n")[0].strip()
                )
            yield language, token.content, (token.map or [0])[0] + 1, elsewhere
        if token.content.strip():
            before = token


def commands(console: str) -> str:
    """Return the shell script that a console block shows."""
    script, going_on = [], False
    for line in console.splitlines():
        if line.startswith("$ ") or going_on:
            script.append(line.removeprefix("$ "))
            going_on = line.endswith("\\")
    return "\n".join(script)


@pytest.fixture
def workplace(
    demo: Path, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    place = tmp_path / "work"
    shutil.copytree(demo, place)
    monkeypatch.chdir(place)
    monkeypatch.setenv("ZENODO_API_URL", sandbox.api_url)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("MPLBACKEND", "agg")
    return place


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_snippet_runs(page: Path, workplace: Path) -> None:
    namespace: dict[str, object] = {"__name__": "__page__"}
    for language, content, line, elsewhere in blocks(page):
        where = f"{page.relative_to(ROOT)}, line {line}"
        if elsewhere is not None:
            assert (ROOT / elsewhere.split("::")[0]).exists(), f"{where}: no {elsewhere}"
        elif language == "python":
            exec(compile(content, where, "exec"), namespace)  # what a reader would type
        elif language == "console":
            ran = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", commands(content)],
                capture_output=True,
                text=True,
            )
            assert ran.returncode == 0, f"{where}: {ran.stdout[-2000:]}{ran.stderr[-4000:]}"


def test_the_readme_names_no_command_that_ci_does_not_run() -> None:
    """CI takes both set-up commands from the README itself."""
    lines = (ROOT / "README.md").read_text().splitlines()
    assert sum("zml-dask demo" in line and "venv" in line for line in lines) == 1
    assert sum("/bin/pytest" in line for line in lines) == 1
    script = (ROOT / ".ci" / "install").read_text()
    assert "readme_command 'bin/zml-dask demo'" in script
    assert "readme_command '/bin/pytest'" in script
    assert "grep -m1 -F '/bin/pytest' README.md" in (ROOT / ".ci" / "tests").read_text()

"""The gallery's notebooks are what their pages say, are short, and run in a kernel of Jupyter's."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import nbformat
import pytest

DOCS = Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(DOCS))
import make_gallery  # noqa: E402

PAGES = make_gallery.pages()


@pytest.fixture(scope="module")
def workplace(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the demo that all notebooks share."""
    place = tmp_path_factory.mktemp("gallery") / "work"
    shutil.copytree(demo, place)
    return place


def test_there_are_ten_and_the_list_has_them_all() -> None:
    listed = (DOCS / "gallery" / "index.md").read_text()
    assert len(PAGES) == 10
    assert all(f"\n{page.stem}\n" in listed for page in PAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_notebook_is_its_page_and_runs(page: Path, workplace: Path) -> None:
    made = make_gallery.notebook(page)
    kept = nbformat.read(page.with_suffix(".ipynb"), as_version=4)
    assert kept == made, "run python docs/make_gallery.py"
    code = [cell.source for cell in made.cells if cell.cell_type == "code"]
    assert sum(len(source.splitlines()) for source in code) <= 30
    ran = make_gallery.run(page, workplace)  # raises what a cell raises
    last = [cell for cell in ran.cells if cell.cell_type == "code"][-1]
    assert last.outputs

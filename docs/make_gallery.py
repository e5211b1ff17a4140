"""Make the gallery's notebooks of its pages, and its pictures by running them.

``python docs/make_gallery.py`` writes a notebook without outputs beside each page of
``docs/gallery``; with a dataset (``python docs/make_gallery.py zenodo-ml``) it runs them all
and keeps what they draw as ``docs/gallery/images/PAGE.png``.
"""

from __future__ import annotations

import base64
import sys
import tempfile
from pathlib import Path

import nbformat
from markdown_it import MarkdownIt
from nbclient import NotebookClient

GALLERY = Path(__file__).parent / "gallery"


def pages() -> list[Path]:
    """Return the gallery's pages, but for the list of them."""
    return sorted(page for page in GALLERY.glob("*.md") if page.stem != "index")


def notebook(page: Path) -> nbformat.NotebookNode:
    """Return a page as a notebook: its Python blocks are cells of code, what is between is text."""
    lines = page.read_text().splitlines()
    cells, done = [], 0
    for token in MarkdownIt().parse(page.read_text()):
        if token.type == "fence" and token.info.strip() == "python" and token.map:
            cells += _text(lines[done : token.map[0]])
            cells.append(nbformat.v4.new_code_cell(token.content.rstrip()))
            done = token.map[1]
    made = nbformat.v4.new_notebook(cells=[*cells, *_text(lines[done:])])
    for number, cell in enumerate(made.cells):
        cell.id = f"cell-{number}"  # the same page gives the same bytes
    return made


def _text(lines: list[str]) -> list[nbformat.NotebookNode]:
    # Pictures are what the cells draw, and the link is to the notebook itself.
    kept = [line for line in lines if not line.startswith("![") and "{download}" not in line]
    text = "\n".join(kept).strip()
    return [nbformat.v4.new_markdown_cell(text)] if text else []


def run(page: Path, folder: Path) -> nbformat.NotebookNode:
    """Run a page's notebook in a folder that holds ``zenodo-ml``; return it with its outputs."""
    made = notebook(page)
    client = NotebookClient(made, timeout=300, resources={"metadata": {"path": str(folder)}})
    client.execute()
    return made


def _picture(made: nbformat.NotebookNode) -> bytes | None:
    outputs = (output.get("data", {}) for cell in made.cells for output in cell.get("outputs", ()))
    drawn = [data["image/png"] for data in outputs if "image/png" in data]
    return base64.b64decode(drawn[0]) if drawn else None


def main(dataset: str | None = None) -> None:
    """Write all notebooks, and where a dataset is given what they draw."""
    for page in pages():
        nbformat.write(notebook(page), page.with_suffix(".ipynb"))
    if dataset is not None:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "zenodo-ml").symlink_to(Path(dataset).absolute())
            for page in pages():
                picture = _picture(run(page, Path(folder)))
                if picture is not None:
                    (GALLERY / "images").mkdir(exist_ok=True)
                    (GALLERY / "images" / f"{page.stem}.png").write_bytes(picture)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A dataset and its records described for people, and the files of a record as a tree."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
import pandas as pd
from PIL import Image

from zml_dask.query.counting import count_by, nearest_values
from zml_dask.query.dataframes import files_of_record
from zml_dask.raster.images import Images
from zml_dask.store.snapshot import Snapshot
from zml_dask.text_safety import escape_text, number_of

if TYPE_CHECKING:
    from zml_dask.query.dataset import Dataset

Tree: TypeAlias = dict[str, Union["Tree", int, None]]
"""A folder: name -> a folder, or a file's size in bytes (None where it is not known)."""

MAX_DEPTH = 200
"""Folders within folders. pickle and json recurse, and a hostile path may hold
thousands of slashes: what lies deeper keeps its slashes in one name."""

_STRIP = 8
_TOP = 5
_BLANK = (32, 0)


def describe(view: Dataset) -> str:
    """Summarise in a few lines; for the whole dataset nothing is read."""
    facts = [f"{name:<10}{value}" for name, value in _facts(view)]
    return "\n".join([f"<Dataset {escape_text(view.url)}>", *facts])


def describe_html(view: Dataset) -> str:
    """Summarise with a strip of images from all over the view, each a PNG within the page."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{name}</th>"
        f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
        for name, value in _facts(view)
    )
    places = np.linspace(0, len(view) - 1, min(_STRIP, len(view))).astype(np.int64)
    chosen = [view.rows.positions(place, place + 1) for place in places.tolist()]
    images = view.snapshot.images.read(np.concatenate([np.empty(0, np.int64), *chosen]))
    strip = "".join(
        f'<img src="{png_url(image)}" style="margin:2px;border:1px solid #ccc">' for image in images
    )
    return f"<b>{html.escape(escape_text(view.url))}</b><table>{rows}</table><div>{strip}</div>"


def _facts(view: Dataset) -> Iterator[tuple[str, str]]:
    shape = view.info.shape
    counts = view.counted
    images = f"{counts['images']:,}"
    yield "images", f"{images} of {shape.height} x {shape.width}, uint32 code points"
    yield "files", f"{counts['files']:,}"
    yield "records", f"{counts['records']:,}"
    if view.is_unselected:
        yield "failures", f"{view.info.counts.failures:,}"
        large = view.snapshot.left_out()
        if large.files:
            yield "too large", str(large)
    languages = count_by(view, ["language"]).head(_TOP)
    top = (
        f"{escape_text(name) if isinstance(name, str) else '(not named)'} {count:,}"
        for name, count in languages["images"].items()
    )
    yield "languages", ", ".join(top) or "none"
    if not counts["files"] and (advice := nearest_values(view)):
        yield "note", escape_text(advice)


def png_url(image: Images) -> str:
    """Return a ``data:`` URL of an image, (height, width), in grey.

    What is blank is white; visible ASCII is 200 to 0, darker as code points rise; all others are
    black.

    Examples
    --------
    >>> _, png = png_url(np.array([[32, 33, 126, 4096]], np.uint32)).split(",")
    >>> np.asarray(Image.open(io.BytesIO(base64.b64decode(png)))).tolist()
    [[255, 200, 14, 0]]
    """
    ink = np.clip(np.minimum(image.astype(np.int64), 133) - 33, 0, 100)
    grey = np.where(np.isin(image, _BLANK), 255, 200 - 2 * ink).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


@dataclass(frozen=True)
class RecordView:
    """One record of a dataset: its row of the records table without the metadata."""

    snapshot: Snapshot
    row: Mapping[str, Any]

    @property
    def record_id(self) -> int:
        """Its id at Zenodo."""
        return int(self.row["record_id"])

    @property
    def title(self) -> str:
        """Its title, or its id if it has none."""
        return self.row["title"] or f"record {self.record_id}"

    @property
    def doi_url(self) -> str | None:
        """Its DOI as a URL; None if it has none."""
        return f"https://doi.org/{self.row['doi']}" if self.row["doi"] else None

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """The complete record as JSON, as it was harvested."""
        row = self.snapshot.record(self.record_id, ["metadata"])
        found: dict[str, Any] = json.loads(row["metadata"] or "{}")
        return found

    @cached_property
    def files(self) -> pd.DataFrame:
        """One row per file; columns of text are read on first access."""
        return files_of_record(self.snapshot, self.record_id)

    @property
    def tree(self) -> Tree:
        """Its files as nested dicts, with their sizes in bytes."""
        sizes = (None if pd.isna(size) else int(size) for size in self.files["size"])
        return build_tree(zip(self.files["path"], sizes, strict=True))

    def __repr__(self) -> str:
        return "\n".join(
            f"{name}: {escape_text(value)}"
            for name, value in [("record", self.title), *self._facts()]
        )

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{name}</th><td>{_linked(value)}</td></tr>" for name, value in self._facts()
        )
        return f"<b>{html.escape(escape_text(self.title))}</b><table>{rows}</table>"

    def _facts(self) -> Iterator[tuple[str, str]]:
        yield "number", str(self.record_id)
        for name in ("version", "publication_date", "license", "repository"):
            if self.row[name]:
                yield name.replace("_", " "), str(self.row[name])
        for name in ("creators", "keywords"):
            if self.row[name] is not None and len(self.row[name]):
                yield name, ", ".join(map(str, self.row[name]))
        if self.doi_url:
            yield "DOI", self.doi_url
        yield "files", f"{self.row['n_files']:,} with {number_of(image=int(self.row['n_images']))}"


def _linked(value: str) -> str:
    """Escape a value; make a link of an address, which no one but http(s) may be."""
    escaped = html.escape(escape_text(value))
    if value.startswith(("https://", "http://")):
        return f'<a href="{escaped}" rel="noreferrer">{escaped}</a>'
    return escaped


def build_tree(files: Iterable[tuple[str, int | None]]) -> Tree:
    """Arrange paths as a tree: folders are dicts, files are their sizes in bytes.

    If a file and a folder have one name, which is possible in an archive, the
    folder's name ends in a slash: no file's name can. If a path comes twice,
    the first one stays.

    Examples
    --------
    >>> build_tree([("a/b.py", 3), ("a/c.py", None), ("d", 1), ("d/e", 2)])
    {'a': {'b.py': 3, 'c.py': None}, 'd': 1, 'd/': {'e': 2}}
    """
    root: Tree = {}
    for path, size in files:
        *folders, name = path.split("/", MAX_DEPTH)
        node = root
        for folder in folders:
            node = _enter(node, folder)
        if isinstance(node.get(name), dict):
            node[f"{name}/"] = node.pop(name)
        node.setdefault(name, size)
    return root


def _enter(node: Tree, folder: str) -> Tree:
    """Return the folder called `folder` in `node`; create it if it is missing."""
    for name in (folder, f"{folder}/"):
        if name not in node:
            child: Tree = {}
            node[name] = child
            return child
        known = node[name]
        if isinstance(known, dict):
            return known
    # "x/" is only ever given to a folder: a part of a path holds no slash, but
    # the last one of a path deeper than MAX_DEPTH, which is a file, may.
    return _enter(node, f"{folder}/")

"""One record: its metadata, its files, its tree."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from zml_dask.query.tree import Tree, build_tree
from zml_dask.text_safety import escape_text


@dataclass(frozen=True)
class RecordView:
    """One record of a dataset.

    Attributes
    ----------
    row : mapping
        Its row of the records table.
    files : pandas.DataFrame
        Its rows of the files table.
    """

    row: Mapping[str, Any]
    files: pd.DataFrame

    @property
    def record_id(self) -> int:
        """Its number at Zenodo."""
        return int(self.row["record_id"])

    @property
    def title(self) -> str:
        """Its title, or its number where it has none."""
        return self.row["title"] or f"record {self.record_id}"

    @property
    def doi_url(self) -> str | None:
        """Link to it by its DOI; None where it has none."""
        return f"https://doi.org/{self.row['doi']}" if self.row["doi"] else None

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """The whole hit, as it was harvested."""
        found: dict[str, Any] = json.loads(self.row["metadata"] or "{}")
        return found

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
        yield "files", f"{len(self.files):,} with {int(self.row['n_images']):,} images"


def _linked(value: str) -> str:
    """Escape a value; make a link of an address, which no one but http(s) may be."""
    escaped = html.escape(escape_text(value))
    if value.startswith(("https://", "http://")):
        return f'<a href="{escaped}" rel="noreferrer">{escaped}</a>'
    return escaped

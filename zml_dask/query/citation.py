"""How to cite a dataset and the records it was made of: CSL JSON, and BibTeX made from it.

CSL JSON is what reference managers, pandoc and citation services read
(https://docs.citationstyles.org/en/stable/specification.html, appendix IV); its type
``software`` has no counterpart in BibTeX, whose styles all know ``misc``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, Literal

from zml_dask.arguments import checked
from zml_dask.store.info import DatasetInfo
from zml_dask.text_safety import escape_text, number_of

if TYPE_CHECKING:
    from zml_dask.query.dataset import Dataset

CitationFormat = Literal["bibtex", "csl"]
CITED_COLUMNS = (
    "record_id", "doi", "title", "version", "publication_date", "creators", "license",
    "repository"
)  # fmt: skip
"""Columns of the records table that a citation says something of."""

Item = dict[str, Any]

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\textbraceleft{}",
    "}": r"\textbraceright{}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}
"""What TeX would take for a command; any other character is written in UTF-8. BibTeX counts
braces even where they are escaped, so those have names."""


@checked
def cite(
    view: Dataset,
    format: CitationFormat,  # noqa: A002 - as in every writer
    *,
    records: bool,
) -> str:
    """Return citations of a view, and its records; see `Dataset.cite`."""
    items = [dataset_item(view.info, view.snapshot.storage.name, view.url)]
    if records:
        rows = view.snapshot.take("records", view.record_rows, CITED_COLUMNS)
        items += map(record_item, rows.to_pylist())
    return bibtex(items) if format == "bibtex" else json.dumps(items, indent=1, ensure_ascii=False)


def record_item(row: Mapping[str, Any]) -> Item:
    """Convert a row of the records table, with the `CITED_COLUMNS`, to CSL JSON.

    Examples
    --------
    >>> row = {"record_id": 7, "title": "toolz", "creators": ["Roe, A."]}
    >>> item = record_item(dict.fromkeys(CITED_COLUMNS) | row)
    >>> item["id"], item["title"], item["author"]
    ('zenodo7', 'toolz', [{'family': 'Roe', 'given': 'A.'}])
    """
    published: date | None = row["publication_date"]
    doi = row["doi"]
    item: Item = {
        "id": f"zenodo{row['record_id']}",
        "type": "software",
        "title": row["title"],
        "author": [_name(creator) for creator in row["creators"] or ()],
        "issued": published and {"date-parts": [[published.year, published.month, published.day]]},
        "version": row["version"],
        "DOI": doi,
        "URL": f"https://doi.org/{doi}" if doi else row["repository"],
        "publisher": "Zenodo",
    }
    return {key: value for key, value in item.items() if value}


def _name(creator: str) -> dict[str, str]:
    family, comma, given = creator.partition(",")
    if comma and given.strip():
        return {"family": family.strip(), "given": given.strip()}
    return {"literal": creator.strip()}


def dataset_item(info: DatasetInfo, name: str, url: str) -> Item:
    """Return the CSL JSON of a dataset itself.

    Its ``options`` may have a ``title``, ``creators`` and ``doi``; without a title it is called
    `name`. `url` is left out if it is a local folder.
    """
    about = info.options.get("about") or {}
    harvested = str((info.harvest or {}).get("complete_until") or "")[:10]
    parts = [[int(part) for part in harvested.split("-")]] if harvested else None
    item: Item = {
        "id": re.sub(r"\W+", "", name) or "dataset",
        "type": "dataset",
        "title": about.get("title") or f"Images of research software: {name}",
        "author": [_name(creator) for creator in about.get("creators") or ()],
        "issued": parts and {"date-parts": parts},
        "DOI": about.get("doi"),
        "URL": f"https://doi.org/{about['doi']}" if about.get("doi") else _public(url),
        "note": f"{number_of(image=info.counts.images)} of {number_of(file=info.counts.files)} of "
        f"{number_of(record=info.counts.records)}",
    }
    return {key: value for key, value in item.items() if value}


def _public(url: str) -> str | None:
    return url if url.startswith(("http://", "https://", "s3://", "gs://")) else None


def bibtex(items: Sequence[Item]) -> str:
    r"""Convert CSL items to BibTeX, one entry for each.

    Examples
    --------
    >>> print(bibtex([{"id": "zenodo7", "title": "100 % C", "DOI": "10.5072/a_b"}]))
    @misc{zenodo7,
      title = {{100 \% C}},
      doi = {10.5072/a_b},
    }
    """
    return "\n\n".join(map(_entry, items))


def _entry(item: Item) -> str:
    issued = item.get("issued") or {"date-parts": [[]]}
    year, month = [*issued["date-parts"][0], None, None][:2]
    authors = [_bibtex_name(author) for author in item.get("author", ())]
    fields = {
        "author": " and ".join(authors),
        # Doubled braces keep the capitals of a program's name.
        "title": f"{{{_tex(item['title'])}}}" if item.get("title") else "",
        "year": str(year or ""),
        "month": str(month or ""),
        "version": _tex(item.get("version", "")),
        "publisher": _tex(item.get("publisher", "")),
        "doi": _verbatim(item.get("DOI", "")),
        "url": _verbatim(item.get("URL", "")),
        "note": _tex(item.get("note", "")),
    }
    lines = [f"  {key} = {{{value}}}," for key, value in fields.items() if value]
    return "\n".join([f"@misc{{{item['id']},", *lines, "}"])


def _bibtex_name(author: Mapping[str, str]) -> str:
    if "literal" in author:
        return f"{{{_tex(author['literal'])}}}"
    return f"{_tex(author['family'])}, {_tex(author['given'])}"


def _tex(text: str) -> str:
    return "".join(_SPECIAL.get(char, char) for char in escape_text(text))


def _verbatim(text: str) -> str:
    """Identifiers stay as they are, except what would end the field."""
    return escape_text(text).replace("{", "%7B").replace("}", "%7D").replace(" ", "%20")

"""Metadata that dataset searches and machine-learning tools read: Croissant, RO-Crate, a card.

Croissant is schema.org's Dataset with a description of the columns
(https://docs.mlcommons.org/croissant/docs/croissant-spec.html), so that one file serves both.
mlcroissant only checks it in the tests, since it would add twenty packages to every install.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pyarrow as pa

from zml_dask.query.citation import bibtex, dataset_item
from zml_dask.query.dataset import Dataset
from zml_dask.store.info import Counts, DatasetInfo, Part
from zml_dask.store.layout import DATASET_JSON, IMAGES_ZARR, TABLES
from zml_dask.store.snapshot import Snapshot
from zml_dask.store.storage import Storage
from zml_dask.store.summary import recorded_limit
from zml_dask.text_safety import plain_words

CARD: Final = "README.md"
_MARK: Final = "<!-- made by zml-dask: written anew by every export -->"
_TOP: Final = 10
CROISSANT: Final = "croissant.json"
RO_CRATE: Final = "ro-crate-metadata.json"

_CROISSANT_TERMS: Final = (
    "citeAs", "column", "extract", "field", "fileObject", "fileProperty", "fileSet", "format",
    "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet",
    "references", "regex", "repeated", "replace", "samplingRate", "separator", "source",
    "subField", "transform",
)  # fmt: skip
_CONTEXT: Final[Mapping[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    **{term: f"cr:{term}" for term in _CROISSANT_TERMS},
}
_DESCRIBED: Final = ("files", "records", "failures")
_DESCRIPTIONS: Final[Mapping[str, str]] = {
    "files.first_image": "Row of the file's first image in images.zarr/images",
    "files.n_images": "How many rows of images.zarr/images it fills",
    "files.language": "As linguist names it",
    "files.extension": "What follows the last dot of the name, or the whole name",
    "files.status": "What became of it; 'ok' where it has images",
    "files.sha256": "Of the file's own bytes",
    "files.language_group": "The language, or the one that linguist groups it with",
    "files.sha1_git": "What git names the file's own bytes by",
    "records.license": "Identifier of the record's own licence",
    "records.licenses": "SPDX identifiers in that",
    "records.publication_date": "Day of publication; the first one of a month or year",
    "records.metadata": "The whole record as Zenodo gave it, JSON",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What the metadata of a dataset is made from.

    Attributes
    ----------
    counts : Counts
        Without withdrawn records.
    languages, licenses : sequence of (str, int)
        Name and number of images, or of records; the most frequent first.
    date : str
        Date of the last harvest where one is recorded, else today.
    """

    name: str
    info: DatasetInfo
    counts: Counts
    languages: Sequence[tuple[str, int]]
    licenses: Sequence[tuple[str, int]]
    date: str

    @property
    def about(self) -> Mapping[str, Any]:
        """Those of title, creators, license and doi that were set."""
        return self.info.options.get("about") or {}

    @property
    def title(self) -> str:
        """The title that was set, or the name."""
        return str(self.about.get("title") or self.name)

    @property
    def top_languages(self) -> list[str]:
        """The most frequent languages."""
        return [name for name, _ in self.languages[:_TOP]]

    @property
    def description(self) -> str:
        """One paragraph."""
        counts, shape = self.counts, self.info.shape
        return (
            f"The source files of {counts.records:,} published software records as "
            f"{counts.images:,} images of {shape.height} lines by {shape.width} characters, one "
            f"pixel a character and its value the character's code point (uint32), in a Zarr "
            f"array, with Parquet tables of {counts.files:,} files, of the records and of failures."
        )


def read_facts(storage: Storage) -> Facts:
    """Read the facts of a dataset; `UsageError` if there is none."""
    snapshot = Snapshot.open(storage)
    info = snapshot.info
    summary = snapshot.summary.to_pylist()

    def ranked(dimension: str, measure: str) -> list[tuple[str, int]]:
        pairs = [(row["value"], row[measure]) for row in summary if row["dimension"] == dimension]
        known = [(value, count) for value, count in pairs if value is not None and count]
        return sorted(known, key=lambda pair: (-pair[1], pair[0]))

    harvest = info.harvest or {}
    date = str(harvest.get("complete_until") or datetime.now(UTC).date().isoformat())[:10]
    return Facts(
        storage.name,
        info,
        replace(info.counts, **Dataset(snapshot).counted),
        ranked("language", "images"),
        ranked("license", "records"),
        date,
    )


def export(dataset: str, directory: str | Path) -> Path:
    """Write ``croissant.json``, ``ro-crate-metadata.json`` and a dataset card, ``README.md``.

    `directory` is usually the dataset's own folder; a README.md there that is not one of our cards
    is left alone. Returns the path of the Croissant file. `UsageError` if there is no dataset.
    """
    folder = Path(directory)
    storage = Storage.open(dataset)
    facts = read_facts(storage)
    folder.mkdir(parents=True, exist_ok=True)
    base = ""
    if not storage.is_local:
        base = dataset.rstrip("/") + "/"
    elif folder.absolute() != Path(dataset).absolute():
        base = Path(os.path.relpath(Path(dataset).absolute(), folder.absolute())).as_posix() + "/"
    croissant = folder / CROISSANT
    croissant.write_text(_dump(croissant_of(facts, base)), encoding="utf-8")
    # An RO-Crate refers to files by URL; a relative contentUrl in Croissant is a path, also to
    # mlcroissant.
    crate = ro_crate_of(facts, quote(base) if storage.is_local else base)
    (folder / RO_CRATE).write_text(_dump(crate), encoding="utf-8")
    write_card(facts, folder)
    return croissant


def croissant_of(facts: Facts, base: str = "") -> dict[str, Any]:
    """Describe a dataset as Croissant 1.0, in JSON-LD.

    Paths within the dataset are prefixed with `base`, so that they are paths or URLs as seen from
    the description.
    """
    distribution: list[dict[str, Any]] = []
    record_sets = []
    for table in _DESCRIBED:
        parts = facts.info.tables.get(table, ())
        distribution += [_file_object(part, base) for part in parts]
        # A record set reads one resource; the parts of a table are numbered.
        for number, part in enumerate(parts):
            name = table if len(parts) == 1 else f"{table}-{number}"
            record_sets.append(_record_set(name, table, part))
    return {
        "@context": dict(sorted(_CONTEXT.items())),
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        **_about(facts),
        "citeAs": bibtex([dataset_item(replace(facts.info, counts=facts.counts), facts.name, "")]),
        "distribution": distribution,
        "recordSet": record_sets,
    }


def ro_crate_of(facts: Facts, base: str = "") -> dict[str, Any]:
    """Describe a dataset and its files as an RO-Crate 1.1.

    `base` is as for `croissant_of`, but always a URL: absolute, or relative and quoted.
    """
    tables = [part for parts in facts.info.tables.values() for part in parts]
    parts: list[dict[str, Any]] = [
        {
            "@id": base + part.path,
            "@type": "File",
            "encodingFormat": "application/vnd.apache.parquet",
            "contentSize": str(part.size),
            "sha256": part.sha256,
        }
        for part in tables
    ]
    parts.append(
        {"@id": base + DATASET_JSON, "@type": "File", "encodingFormat": "application/json"}
    )
    parts.append({"@id": f"{base}{IMAGES_ZARR}/", "@type": "Dataset", "name": "Zarr v3 group"})
    about = _about(facts)
    root = {"@id": "./", "@type": "Dataset", **about}
    descriptor = {
        "@id": RO_CRATE,
        "@type": "CreativeWork",
        "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
        "about": {"@id": "./"},
    }
    root["hasPart"] = [{"@id": part["@id"]} for part in parts]
    return {
        "@context": "https://w3id.org/ro/crate/1.1/context",
        "@graph": [descriptor, root, *parts],
    }


def _about(facts: Facts) -> dict[str, Any]:
    about = facts.about
    own = "Every record has its own licence: column license of the table records"
    doi = {"identifier": f"https://doi.org/{about['doi']}"} if about.get("doi") else {}
    return {
        "name": facts.title,
        "description": facts.description,
        "license": _license(about["license"]) if about.get("license") else own,
        "url": doi.get("identifier", "https://zenodo.org"),
        **doi,
        "version": f"{facts.info.schema_version}.{len(facts.info.commits)}.0",
        "datePublished": facts.date,
        "creator": [
            # A name with a comma is a person's, as in DataCite.
            {"@type": "Person" if "," in name else "Organization", "name": name}
            for name in about.get("creators") or ("The zml_dask developers",)
        ],
        "keywords": ["research software", "source code", "images of code", *facts.top_languages],
        "isAccessibleForFree": True,
    }


def _license(name: str) -> str:
    """Return a licence as a URL, at SPDX where `name` is an identifier."""
    return name if "://" in name else f"https://spdx.org/licenses/{quote(name)}"


def _file_object(part: Part, base: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": part.path,
        "name": part.path,
        "contentUrl": base + part.path,
        "contentSize": f"{part.size} B",
        "encodingFormat": "application/x-parquet",
        "sha256": part.sha256,
    }


def _record_set(name: str, table: str, part: Part) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": f"{part.rows:,} rows of the table {table}",
        "field": [_field(name, table, part, field) for field in TABLES[table]],
    }


def _field(name: str, table: str, part: Part, field: pa.Field) -> dict[str, Any]:
    described: dict[str, Any] = {
        "@type": "cr:Field",
        "@id": f"{name}/{field.name}",
        "name": f"{name}/{field.name}",
        "description": _DESCRIPTIONS.get(f"{table}.{field.name}", field.name.replace("_", " ")),
        "dataType": _data_type(field.type),
        "source": {"fileObject": {"@id": part.path}, "extract": {"column": field.name}},
    }
    if pa.types.is_list(field.type):
        described["repeated"] = True
    return described


def _data_type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return _data_type(kind.value_type)
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_date(kind):
        return "sc:Date"
    return "sc:Integer" if pa.types.is_integer(kind) else "sc:Text"


def _dump(description: Mapping[str, Any]) -> str:
    return json.dumps(description, indent=2, ensure_ascii=True) + "\n"


def write_card(facts: Facts, folder: Path) -> Path | None:
    """Write the card and return its path; None where there is a README that is not a card."""
    path = folder / CARD
    if path.exists() and _MARK not in path.read_text(encoding="utf-8", errors="replace"):
        return None
    path.write_text(_card(facts), encoding="utf-8")
    return path


def _card(facts: Facts) -> str:
    height, width = facts.info.shape.height, facts.info.shape.width
    name = plain_words(facts.name).strip() or "dataset"
    title = plain_words(facts.title).strip() or name
    return f"""---
pretty_name: {title}
tags: [source code, research software, images]
license: other
size_categories: [{_size_category(facts.counts.images)}]
---
{_MARK}

# {title}

{facts.description}
{_listed(facts.about)}
## Reading it

```python
import zml_dask as zml

ds = zml.open_dataset("{name}")
python = ds.select("language == 'Python'")
python.images[:10].compute()  # (10, {height}, {width}) uint32
```

Any reader of Zarr v3 and Parquet reads it without this package: `images.zarr/images` holds the
images in the order of the files table, whose `first_image` and `n_images` tell a file's rows.

## What is in it

| language | images |
| --- | ---: |
{_rows(facts.languages)}

| licence | records |
| --- | ---: |
{_rows(facts.licenses)}

## Licences and withdrawal

The code belongs to its authors. Every record keeps its own licence, in the column `license` of the
table `records`, with its DOI and creators: obey and cite them. Whoever published a record may ask
for its withdrawal; readers of this format leave withdrawn records out.

## Limits

A file over {recorded_limit(facts.info.options):,} bytes has no
images; a line is cut at {width} characters. Languages are named by file names and, where those are
ambiguous, by rules over the content: some are wrong. Popular licences and large records weigh more
than others, and identical files occur in many records: split by record and by content.
"""


def _listed(about: Mapping[str, Any]) -> str:
    """List what was set besides the title."""
    items = {
        "Creators": "; ".join(about.get("creators") or ()),
        "Licence of the collection": about.get("license"),
        "DOI": about.get("doi"),
    }
    lines = [f"- {name}: {plain_words(value, ':;,')}" for name, value in items.items() if value]
    return "\n".join(["", *lines, ""]) if lines else ""


def _rows(pairs: Sequence[tuple[str, int]]) -> str:
    return "\n".join(f"| {plain_words(name)} | {count:,} |" for name, count in pairs[:_TOP])


def _size_category(images: int) -> str:
    for limit, name in ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K")):
        if images < limit:
            return name
    return "100K<n<1M" if images < 10**6 else "1M<n<10M" if images < 10**7 else "n>10M"

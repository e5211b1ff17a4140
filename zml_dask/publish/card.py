"""The dataset card: the page about a dataset that people read first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zml_dask.query.dataset import Dataset
from zml_dask.store.info import Counts, DatasetInfo
from zml_dask.store.snapshot import Snapshot
from zml_dask.store.storage import Storage
from zml_dask.store.summary import recorded_limit
from zml_dask.text_safety import plain_words

CARD = "README.md"
_MARK = "<!-- made by zml-dask: written anew by every export -->"
_TOP = 10


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
{_about(facts.about)}
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


def _about(about: Mapping[str, Any]) -> str:
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

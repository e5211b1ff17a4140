"""Counting one part of the files table: small frames that add up.

Every number of the report but those of records and failures is a sum over
files, so parts are counted where they lie and only sums travel. No pixel is
read: how many images a file has, and of how many lines, follows from its lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

LONG_LINES = 30
"""The first edition counted images of more lines than this."""

COLUMNS = (
    "file_id",
    "record_id",
    "path",
    "name",
    "extension",
    "language",
    "kind",
    "size",
    "status",
    "n_lines",
    "first_image",
    "n_images",
)
"""Of the files table."""

SUMS = ["files", "images", "long_images", "lines", "bytes"]

REPRODUCIBLE: Mapping[str, re.Pattern[str]] = {
    "README": re.compile(r"readme", re.IGNORECASE),
    "LICENSE": re.compile(r"licen[cs]e|copying", re.IGNORECASE),
    "Dockerfile": re.compile(r"dockerfile", re.IGNORECASE),
    "Singularity": re.compile(r"singularity", re.IGNORECASE),
}
"""What makes software reproducible, by how a file's name begins."""

UNNAMED = "(not named)"
"""Stands for a language that nothing named."""

_EXAMPLES_A_LANGUAGE = 4


@dataclass(frozen=True)
class Partial:
    """Sums over some of the files.

    Attributes
    ----------
    by_extension, by_language, by_txt, by_record : pandas.DataFrame
        Index the key, columns `SUMS`. `by_language` has a level ``kind``.
    by_status : pandas.DataFrame
        Columns ``files`` and ``bytes``.
    reproducible : pandas.DataFrame
        Index (what, record_id), columns `SUMS`.
    examples : pandas.DataFrame
        The first files of each language that fill an image.
    """

    by_extension: pd.DataFrame
    by_language: pd.DataFrame
    by_txt: pd.DataFrame
    by_record: pd.DataFrame
    by_status: pd.DataFrame
    reproducible: pd.DataFrame
    examples: pd.DataFrame


def long_images(n_lines: pd.Series, height: int) -> pd.Series:
    """Return how many images of each file hold more than `LONG_LINES` lines.

    Examples
    --------
    >>> long_images(pd.Series([30, 31, 80, 110, 111]), 80).tolist()
    [0, 1, 1, 1, 2]
    """
    lines = n_lines.astype("int64")
    full = lines // height if height > LONG_LINES else lines * 0
    return full + (lines % height > LONG_LINES).astype("int64")


def count_files(files: pd.DataFrame, height: int) -> Partial:
    """Sum up a part of the files table.

    Parameters
    ----------
    files : pandas.DataFrame
        Rows with `COLUMNS`.
    height : int
        Lines an image.
    """
    counted = pd.DataFrame(
        {
            "extension": files["extension"].astype("object"),
            "language": files["language"].astype("object").fillna(UNNAMED),
            "kind": files["kind"].astype("object").fillna(UNNAMED),
            "record_id": files["record_id"],
            "name": files["name"].astype("object"),
            "status": files["status"].astype("object"),
            "files": np.int64(1),
            "images": files["n_images"].astype("int64"),
            "long_images": long_images(files["n_lines"], height),
            "lines": files["n_lines"].astype("int64"),
            "bytes": files["size"].fillna(0).astype("int64"),
        }
    )
    drawn = counted[counted["images"] > 0]
    txt = drawn[drawn["extension"] == "txt"]
    full = files[(files["n_lines"] >= height) & files["language"].notna()]
    return Partial(
        by_extension=_sums(drawn, ["extension"]),
        by_language=_sums(drawn, ["language", "kind"]),
        by_txt=_sums(txt.assign(name=txt["name"].str.lower()), ["name"]),
        by_record=_sums(counted, ["record_id"]),
        by_status=counted.groupby("status")[["files", "bytes"]].sum(),
        reproducible=_reproducible(drawn),
        examples=_first(full),
    )


def add(partials: Iterable[Partial]) -> Partial:
    """Add up partial sums; at least one."""
    several = list(partials)

    def together(name: str) -> pd.DataFrame:
        frames = [getattr(one, name) for one in several]
        joined: pd.DataFrame = pd.concat(frames)
        return joined.groupby(level=list(range(joined.index.nlevels))).sum()

    return Partial(
        by_extension=together("by_extension"),
        by_language=together("by_language"),
        by_txt=together("by_txt"),
        by_record=together("by_record"),
        by_status=together("by_status"),
        reproducible=together("reproducible"),
        examples=_first(pd.concat([one.examples for one in several])),
    )


def _sums(counted: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    return counted.groupby(keys)[SUMS].sum()


def _reproducible(drawn: pd.DataFrame) -> pd.DataFrame:
    found = [
        drawn[drawn["name"].str.match(pattern)].assign(what=what)
        for what, pattern in REPRODUCIBLE.items()
    ]
    return _sums(pd.concat(found), ["what", "record_id"])


def _first(files: pd.DataFrame) -> pd.DataFrame:
    ordered = files.sort_values("file_id")
    # One a record, so that the mosaic shows more than the first package.
    spread = ordered.drop_duplicates(["language", "record_id"])
    return spread.groupby("language").head(_EXAMPLES_A_LANGUAGE)

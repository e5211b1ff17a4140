"""Images with a language, drawn for learning: split by concept, even over languages and records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from zml_dask.errors import UsageError
from zml_dask.query.dataset import Dataset
from zml_dask.raster.images import Images
from zml_dask.store.image_reader import ImageReader

N_TOKENS = 97
"""Space, the 94 visible characters and the two of the tail: `to_tokens`."""

_FIRST, _OTHER, _REST = 33, 95, 96


@dataclass(frozen=True, slots=True)
class SampleOptions:
    """What is drawn.

    Attributes
    ----------
    images_a_language : int
        At most so many for training; a third of it for testing.
    images_a_file : int
        At most so many of one file.
    min_lines : int
        Files of fewer lines are left out: an empty page has no language.
    min_records : int
        A language must occur in so many records of either part.
    test_share : float
    seed : int
    """

    images_a_language: int = 250
    images_a_file: int = 2
    min_lines: int = 20
    min_records: int = 2
    test_share: float = 0.3
    seed: int = 0


@dataclass(frozen=True)
class Samples:
    """Images of one part of the split.

    Attributes
    ----------
    rows : pandas.DataFrame
        A row an image: ``file_id``, ``record_id``, ``path``, ``language``,
        ``license``, ``segment``, ``label`` (position in the list of languages).
    tokens : numpy.ndarray of uint8, shape (n, height, width)
    """

    rows: pd.DataFrame
    tokens: NDArray[np.uint8]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Position of each image's language in the list of languages; int64, shape (n,)."""
        return self.rows["label"].to_numpy(np.int64)


def to_tokens(images: Images) -> NDArray[np.uint8]:
    """Turn code points into a small alphabet: 0 space, 1 to 94 visible ASCII, then the others.

    Examples
    --------
    >>> to_tokens(np.array([[32, 33, 126, 9, 955]], np.uint32)).tolist()
    [[0, 1, 94, 95, 96]]
    """
    tokens = np.where(images < _FIRST, _OTHER, np.minimum(images - (_FIRST - 1), _REST))
    tokens = np.where((images >= 127) & (images < 160), _OTHER, tokens)
    tokens = np.where(images >= 160, _REST, tokens)
    return np.where(images == _FIRST - 1, 0, tokens).astype(np.uint8)


def draw(dataset: Dataset, options: SampleOptions) -> tuple[list[str], Samples, Samples]:
    """Draw training and test images of programming languages.

    No record, no version of its concept and no identical file is in both
    (`Dataset.split`). Languages and, within them, records are weighted evenly.

    Parameters
    ----------
    dataset : Dataset
    options : SampleOptions

    Returns
    -------
    languages : list of str
    train, test : Samples

    Raises
    ------
    UsageError
        If fewer than two languages are left.
    """
    shares = {"train": 1 - options.test_share, "test": options.test_share}
    split = dataset.split(shares, seed=options.seed)
    frames = {name: _eligible(part, options) for name, part in split.items()}
    languages = _shared(frames["train"], frames["test"], options.min_records)
    if len(languages) < 2:
        raise UsageError(
            f"{dataset.url} has {len(languages)} languages of at least {options.min_records} "
            "records in either part of the split; learning needs two: give more records"
        )
    reader = dataset.snapshot.images
    limits = {"train": options.images_a_language, "test": options.images_a_language // 3}
    licenses = dataset.records.set_index("record_id")["license"]
    train, test = (
        _read(frames[name], languages, limits[name], options, reader, licenses)
        for name in ("train", "test")
    )
    return languages, train, test


def _eligible(part: Dataset, options: SampleOptions) -> pd.DataFrame:
    files = part.files
    return files[
        (files["status"] == "ok")
        & (files["kind"] == "programming")
        & (files["n_lines"] >= options.min_lines)
    ]


def _shared(train: pd.DataFrame, test: pd.DataFrame, min_records: int) -> list[str]:
    enough = [
        set(records[records >= min_records].index)
        for records in (part.groupby("language")["record_id"].nunique() for part in (train, test))
    ]
    return sorted(str(name) for name in enough[0] & enough[1])


def _read(
    files: pd.DataFrame,
    languages: Sequence[str],
    limit: int,
    options: SampleOptions,
    reader: ImageReader,
    licenses: pd.Series,
) -> Samples:
    """Choose images of files, even over records, and read them."""
    generator = np.random.default_rng(options.seed)
    chosen = files[files["language"].isin(languages)].copy()
    chosen["order"] = generator.permutation(len(chosen))
    n = np.minimum(chosen["n_images"].to_numpy(), options.images_a_file)
    rows = chosen.loc[chosen.index.repeat(n)].reset_index(drop=True)
    rows["segment"] = rows.groupby("file_id").cumcount()
    rows["turn"] = rows.sort_values("order").groupby(["language", "record_id"]).cumcount()
    rows = rows.sort_values(["turn", "order", "segment"]).groupby("language").head(limit)
    rows = rows.assign(image=rows["first_image"] + rows["segment"]).sort_values("image")
    rows["label"] = rows["language"].map({name: i for i, name in enumerate(languages)})
    rows["license"] = rows["record_id"].map(licenses)
    pixels = reader.read(rows["image"].to_numpy(np.int64))
    columns = ["file_id", "record_id", "path", "language", "license", "segment", "label"]
    return Samples(rows[columns].reset_index(drop=True), to_tokens(pixels))

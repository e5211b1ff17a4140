"""What is in a dataset, counted with Dask over the parts of its tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from zml_dask.analysis.partial import COLUMNS, SUMS, UNNAMED, Partial, add, count_files
from zml_dask.engine.executors import ThreadsExecutor
from zml_dask.engine.job import Job, run_job
from zml_dask.store.info import Part
from zml_dask.store.layout import FILES_SCHEMA
from zml_dask.store.snapshot import Snapshot

_ROWS_AT_ONCE = 262_144
_MERGED_AT_ONCE = 16


@dataclass(frozen=True)
class Numbers:
    """Every number of the report.

    Attributes
    ----------
    totals : mapping of str to float
        ``records``, ``files``, ``images``, ``long_images``, ``lines``, ``bytes``
        (of all files listed), ``failures``, ``slope`` of the rank plot (0 where
        there are fewer than two extensions), ``top_share`` and so on.
    tables : mapping of str to pandas.DataFrame
        The first column is the key, most frequent first; ``by_year`` in order.
    examples : pandas.DataFrame
        Rows of files whose first image is full, some of every language.
    """

    totals: Mapping[str, float]
    tables: Mapping[str, pd.DataFrame]
    examples: pd.DataFrame

    def to_json(self) -> str:
        """Arrange as JSON: ``totals``, and a list of rows for every table."""
        rows = {
            name: json.loads(table.to_json(orient="records", force_ascii=True))
            for name, table in self.tables.items()
        }
        return json.dumps({"totals": dict(self.totals), **rows}, indent=1)

    def write_parquet(self, path: Path) -> None:
        """Write every number as one long table: ``table``, ``key``, ``measure``, ``value``."""
        long = [
            table.melt(id_vars=table.columns[0], var_name="measure")
            .set_axis(["key", "measure", "value"], axis=1)
            .assign(table=name, key=lambda rows: rows["key"].astype(str))
            for name, table in self.tables.items()
        ]
        totals = pd.DataFrame(
            {"table": "totals", "key": list(self.totals), "measure": "value"}
        ).assign(value=list(self.totals.values()))
        columns = ["table", "key", "measure", "value"]
        everything = pd.concat([totals[columns], *(rows[columns] for rows in long)])
        everything = everything[pd.to_numeric(everything["value"], errors="coerce").notna()]
        everything["value"] = everything["value"].astype("float64")
        pq.write_table(pa.Table.from_pandas(everything, preserve_index=False), path)


def count(dataset: str) -> Numbers:
    """Count what is in a dataset.

    Parts of the files table are counted in threads, and their sums added up as they
    come, so that memory holds a few parts whatever the dataset's size.

    Parameters
    ----------
    dataset : str
        Path or URL.

    Raises
    ------
    NoDatasetError
        If there is none.
    """
    snapshot = Snapshot.open(dataset)
    counted = run_job(CountFiles(snapshot), ThreadsExecutor())
    records = snapshot.scan("records", _RECORD_COLUMNS).to_pandas()
    failures = snapshot.scan("failures").to_pandas()
    return _numbers(counted, records, failures)


_RECORD_COLUMNS = ["record_id", "title", "license", "publication_date", "origin", "n_images"]


@dataclass(frozen=True)
class CountFiles(Job[Part, None, Partial, Partial]):
    """Counts the files of a commit, part by part.

    Attributes
    ----------
    snapshot : Snapshot
    """

    name: ClassVar[str] = "counts"

    snapshot: Snapshot

    def plan(self, workers: int) -> tuple[Part, ...]:
        """Give one task per part of the files table."""
        return self.snapshot.info.tables.get("files", ())

    def run(self, task: Part, context: None) -> Partial:
        """Count one part."""
        return _count_part(self.snapshot, task)

    def finish(self, results: Iterator[Partial]) -> Partial:
        """Add the counts up."""
        empty = FILES_SCHEMA.empty_table().to_pandas()
        waiting = [count_files(empty, self.snapshot.info.shape.height)]
        for result in results:
            waiting.append(result)
            if len(waiting) >= _MERGED_AT_ONCE:
                waiting = [add(waiting)]
        return add(waiting)


def _count_part(snapshot: Snapshot, part: Part) -> Partial:
    """Count one part of the files table, some rows at a time."""
    height = snapshot.info.shape.height
    files = snapshot.scan_part("files", part, COLUMNS)
    batches = files.to_batches(max_chunksize=_ROWS_AT_ONCE)
    return add(
        [
            count_files(FILES_SCHEMA.empty_table().to_pandas(), height),
            *(count_files(batch.to_pandas(), height) for batch in batches),
        ]
    )


def _numbers(counted: Partial, records: pd.DataFrame, failures: pd.DataFrame) -> Numbers:
    extensions = _ranked(counted.by_extension, "long_images")
    largest = _ranked(counted.by_record, "images")
    largest = largest.merge(records[["record_id", "title"]], how="left", on="record_id")
    n_images = int(counted.by_record["images"].sum())
    share = largest["images"].to_numpy(np.float64) / max(n_images, 1)
    largest = largest.assign(share=share)[["record_id", "title", *SUMS, "share"]]
    slope, intercept = rank_line(extensions["long_images"].to_numpy())
    reproducible = counted.reproducible.reset_index()
    sums = reproducible.groupby("what")[SUMS].sum()
    sums["records"] = reproducible.groupby("what")["record_id"].nunique()
    totals: dict[str, float] = {
        "records": len(records),
        "failures": len(failures),
        "extensions": len(extensions),
        **{name: int(counted.by_record[name].sum()) for name in SUMS},
        "slope": slope,
        "intercept": intercept,
        "top_10_share": float(share[:10].sum()),
        "top_1_percent_share": float(share[: max(len(share) // 100, 1)].sum()),
    }
    by_kind = counted.by_language.groupby(level="kind").sum()
    years = records["publication_date"].astype("string").str[:4].astype("object")
    return Numbers(
        totals,
        {
            "by_extension": extensions,
            "by_language": _ranked(counted.by_language, "images"),
            "by_kind": _ranked(by_kind, "images"),
            "by_license": _records_by(records, records["license"], "license"),
            "by_year": _records_by(records, years, "year").sort_values("year", ignore_index=True),
            "by_origin": _records_by(records, records["origin"], "origin"),
            "by_txt": _ranked(counted.by_txt, "long_images"),
            "by_status": _ranked(counted.by_status, "files"),
            "reproducible": _ranked(sums, "images"),
            "by_record": largest,
            "failures": _failures(failures),
        },
        counted.examples,
    )


def rank_line(counts: np.ndarray) -> tuple[float, float]:
    """Fit a straight line through log10(count) over log10(rank): Zipf's law has slope -1.

    Examples
    --------
    >>> slope, intercept = rank_line(np.array([1000, 500, 250, 333]))
    >>> round(slope, 2), round(intercept, 2)
    (-1.0, 3.0)
    """
    values = np.sort(counts[counts > 0])[::-1].astype(np.float64)
    if values.size < 2:
        return 0.0, 0.0
    slope, intercept = np.polyfit(np.log10(np.arange(1, values.size + 1)), np.log10(values), 1)
    return float(slope), float(intercept)


def _ranked(sums: pd.DataFrame, by: str) -> pd.DataFrame:
    """Sort by a sum, the most first, and by key among equals."""
    table = sums.reset_index()
    key = str(table.columns[0])
    return table.sort_values([by, key], ascending=[False, True], ignore_index=True)


def _records_by(records: pd.DataFrame, key: pd.Series, name: str) -> pd.DataFrame:
    named = key.astype("object").where(key.notna(), UNNAMED).rename(name)
    sums = records.groupby(named)["n_images"].agg(["size", "sum"])
    return _ranked(sums.set_axis(["records", "images"], axis=1), "records")


def _failures(failures: pd.DataFrame) -> pd.DataFrame:
    grouped = failures.groupby(["kind", "stage"]).agg(
        records=("record_id", "size"), permanent=("permanent", "sum"), example=("message", "first")
    )
    return _ranked(grouped, "records")

"""What is in a dataset: every number of the report, by SQL over its tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from zml_dask.engine.progress import BuildProgress, ProgressCounts, SilentProgress
from zml_dask.query.engine import Database
from zml_dask.store.snapshot import Snapshot

LONG_LINES = 30
"""The legacy (2018) dataset counted images of more lines than this."""

UNNAMED = "(not named)"
"""Stands for an unknown language."""

SUMS = ["files", "images", "long_images", "lines", "bytes"]

_EXAMPLES_PER_LANGUAGE = 4

_REPRODUCIBLE: Mapping[str, str] = {
    "README": "readme",
    "LICENSE": "licen[cs]e|copying",
    "Dockerfile": "dockerfile",
    "Singularity": "singularity",
}
"""Files that make software reproducible, and how their names begin."""

_SUMS = """
    count(*)::BIGINT AS files, sum(n_images)::BIGINT AS images,
    sum(long_images)::BIGINT AS long_images, sum(n_lines)::BIGINT AS lines,
    coalesce(sum(size), 0)::BIGINT AS bytes"""

_QUERIES: Mapping[str, str] = {
    "by_extension": f"SELECT extension, {_SUMS} FROM drawn GROUP BY ALL "
    "ORDER BY long_images DESC, extension",
    "by_language": f"SELECT language, kind, {_SUMS} FROM drawn GROUP BY ALL "
    "ORDER BY images DESC, language, kind",
    "by_kind": f"SELECT kind, {_SUMS} FROM drawn GROUP BY ALL ORDER BY images DESC, kind",
    "by_license": f"SELECT coalesce(license, '{UNNAMED}') AS license, count(*) AS records, "
    "sum(n_images)::BIGINT AS images FROM all_records GROUP BY ALL ORDER BY records DESC, license",
    "by_year": f"SELECT coalesce(year(publication_date)::VARCHAR, '{UNNAMED}') AS year, "
    "count(*) AS records, sum(n_images)::BIGINT AS images FROM all_records GROUP BY ALL "
    "ORDER BY year",
    "by_origin": f"SELECT coalesce(origin, '{UNNAMED}') AS origin, count(*) AS records, "
    "sum(n_images)::BIGINT AS images FROM all_records GROUP BY ALL ORDER BY records DESC, origin",
    "by_txt": f"SELECT lower(name) AS name, {_SUMS} FROM drawn WHERE extension = 'txt' "
    "GROUP BY ALL ORDER BY long_images DESC, 1",
    "by_status": "SELECT status, count(*) AS files, coalesce(sum(size), 0)::BIGINT AS bytes "
    "FROM listed GROUP BY ALL ORDER BY files DESC, status",
    # Constant patterns, each compiled once: in a join they are compiled for every file.
    "reproducible": "SELECT CASE "
    + " ".join(
        f"WHEN regexp_matches(name, '^({pattern})', 'i') THEN '{what}'"
        for what, pattern in _REPRODUCIBLE.items()
    )
    + f" END AS what, {_SUMS}, count(DISTINCT record_id) AS records FROM drawn GROUP BY ALL "
    "HAVING what IS NOT NULL ORDER BY images DESC, what",
    "by_record": f"SELECT record_id, title, {_SUMS} FROM listed LEFT JOIN "
    "(SELECT record_id, title FROM all_records) USING (record_id) GROUP BY ALL "
    "ORDER BY images DESC, record_id",
    "failures": "SELECT kind, stage, count(*) AS records, sum(permanent::INT)::BIGINT AS permanent,"
    " min(message) AS example FROM all_failures GROUP BY ALL ORDER BY records DESC, kind, stage",
}
"""Tables of the report and their queries, in order; ``listed`` are all files, ``drawn`` those
with images."""

_YEAR = f"coalesce(year(publication_date)::VARCHAR, '{UNNAMED}') AS year"
_BY_YEAR: Mapping[str, str] = {
    table: f"SELECT {_YEAR}, {key}, sum({counted})::BIGINT AS {measure} FROM drawn "
    "JOIN (SELECT record_id, publication_date FROM all_records) USING (record_id) "
    f"GROUP BY ALL HAVING sum({counted}) > 0 ORDER BY year, 3 DESC, {key}"
    for table, key, counted, measure in (
        ("by_language", "language", "n_images", "images"),
        ("by_extension", "extension", "long_images", "long_images"),
    )
}
"""Tables of `_QUERIES` that are also counted by year."""

_NEAR = """
    SELECT language, count(*) AS files, count(*) FILTER (size > 1) AS near_copies,
        count(*) - count(DISTINCT cluster) AS superfluous
    FROM (SELECT file_id, language FROM drawn)
    JOIN (SELECT file_id, cluster, size FROM all_derived_near_duplicates
          WHERE cluster IS NOT NULL) USING (file_id)
    GROUP BY ALL ORDER BY near_copies DESC, language"""
"""``superfluous``: files to remove so that one of each cluster remains, within a language."""

_LICENSES: Mapping[str, str] = {
    "license_agreement": """
    SELECT CASE WHEN contained IS NULL THEN 'contains no licence known to SPDX'
        WHEN len(licenses) = 0 THEN 'contains one and states none known to SPDX'
        WHEN agrees THEN 'states the one that it contains'
        ELSE 'states another than it contains' END AS license,
    count(*) AS records FROM compared GROUP BY ALL ORDER BY records DESC, 1""",
    "license_disagreement": """
    SELECT license AS stated, list_aggregate(contained, 'string_agg', ', ') AS contained,
        count(*) AS records, min(record_id) AS example
    FROM compared WHERE len(licenses) > 0 AND NOT agrees GROUP BY ALL
    ORDER BY records DESC, stated, contained""",
}
"""Licences that records state, compared with those whose texts they contain."""

_COMPARED = r"""
    WITH texts AS (
        SELECT record_id, license, len(string_split(path, '/')) AS depth
        FROM (SELECT file_id, record_id, path FROM all_files)
        JOIN (SELECT file_id, license FROM all_derived_license_detected WHERE how = 'text')
        USING (file_id)),
    own AS (
        SELECT record_id, list(DISTINCT license ORDER BY license) AS contained
        FROM (SELECT * FROM texts QUALIFY depth = min(depth) OVER (PARTITION BY record_id))
        GROUP BY ALL)
    SELECT record_id, license, licenses, contained, list_has_any(
        list_transform(licenses, lambda each: regexp_replace(each, '-(only|or-later)$', '')),
        list_transform(contained, lambda each: regexp_replace(each, '-(only|or-later)$', ''))
    ) AS agrees
    FROM (SELECT record_id, license, licenses FROM all_records) LEFT JOIN own USING (record_id)"""
"""A record's own licences are those of the uppermost files: others may belong to bundled software.
GNU's texts are the same for "only" and "or later"."""

_DERIVED: Mapping[str, tuple[Mapping[str, str], Mapping[str, str]]] = {
    "near_duplicates": ({}, {"near_duplicates": _NEAR}),
    "license_detected": ({"compared": _COMPARED}, _LICENSES),
}
"""Derived tables, with the views and the tables of the report that exist only with them."""

_EXAMPLES = f"""
    WITH firsts AS (
        SELECT language, record_id, min(file_id) AS file_id FROM listed
        WHERE is_full AND language <> '{UNNAMED}' GROUP BY ALL),
    chosen AS (
        SELECT file_id FROM firsts QUALIFY {_EXAMPLES_PER_LANGUAGE} >=
        row_number() OVER (PARTITION BY language ORDER BY file_id))
    SELECT file_id, record_id, path, language, first_image FROM listed
    SEMI JOIN chosen USING (file_id) ORDER BY file_id"""
"""One file per record and language, so that the mosaic shows more than the first record."""


@dataclass(frozen=True)
class Numbers:
    """Every number of the report.

    Attributes
    ----------
    totals : mapping of str to float
        ``records``, ``files``, ``images``, ``long_images``, ``lines``, ``bytes`` (of all files),
        ``failures``, ``slope`` of the rank plot (0 with fewer than two extensions), and so on.
    tables : mapping of str to pandas.DataFrame
        The first column is the key, most frequent first; ``by_year`` in order.
    examples : pandas.DataFrame
        Rows of files whose first image is full, some of each language.
    years : mapping of str to pandas.DataFrame
        ``by_language`` and ``by_extension`` for each ``year``.
    """

    totals: Mapping[str, float]
    tables: Mapping[str, pd.DataFrame]
    examples: pd.DataFrame
    years: Mapping[str, pd.DataFrame]

    def to_json(self) -> str:
        """Return JSON with ``totals`` and a list of rows for each table."""
        years = {f"{name}_and_year": table for name, table in self.years.items()}
        rows = {
            name: json.loads(table.to_json(orient="records", force_ascii=True))
            for name, table in {**self.tables, **years}.items()
        }
        return json.dumps({"totals": dict(self.totals), **rows}, indent=1)

    def write_parquet(self, path: Path) -> None:
        """Write all but `years` as one table: ``table``, ``key``, ``measure`` and ``value``."""
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


def count(dataset: str, progress: BuildProgress | None = None) -> Numbers:
    """Count what is in a dataset, given by path or URL; `UsageError` if there is none.

    No pixel is read: the number of a file's images, and their lines, follow from its lines.
    """
    snapshot = Snapshot.open(dataset)
    height = snapshot.info.shape.height
    views = {
        "listed": f"SELECT * REPLACE (coalesce(language, '{UNNAMED}') AS language, "
        f"coalesce(kind, '{UNNAMED}') AS kind), {long_images(height)} AS long_images, "
        f"n_lines >= {height} AS is_full FROM all_files",
        "drawn": "SELECT * FROM listed WHERE n_images > 0",
    }
    queries = dict(_QUERIES)
    names = ["files", "records", "failures"]
    for name, (own_views, own_queries) in _DERIVED.items():
        if name in snapshot.derived:
            names.append(f"derived/{name}")
            views |= own_views
            queries |= own_queries
    progress = progress or SilentProgress()
    asked = [*queries.values(), *_BY_YEAR.values(), _EXAMPLES]
    found: list[pd.DataFrame] = []
    with Database(snapshot, tuple(names), views) as database:
        for query in asked:
            progress.update("tables", ProgressCounts(done=len(found), total=len(asked)))
            found.append(database.table(query).to_pandas())
    progress.update("tables", ProgressCounts(done=len(found), total=len(asked)))
    tables = dict(zip(queries, found, strict=False))
    years = dict(zip(_BY_YEAR, found[len(queries) :], strict=False))
    examples = found[-1]
    largest = tables["by_record"]
    n_images = int(largest["images"].sum())
    share = largest["images"].to_numpy(np.float64) / max(n_images, 1)
    tables["by_record"] = largest.assign(share=share)
    extensions = tables["by_extension"]
    slope, intercept = rank_line(extensions["long_images"].to_numpy())
    totals: dict[str, float] = {
        "records": int(tables["by_license"]["records"].sum()),
        "failures": int(tables["failures"]["records"].sum()),
        "extensions": len(extensions),
        **{name: int(largest[name].sum()) for name in SUMS},
        "slope": slope,
        "intercept": intercept,
        "top_10_share": float(share[:10].sum()),
        "top_1_percent_share": float(share[: max(len(share) // 100, 1)].sum()),
    }
    return Numbers(totals, tables, examples, years)


def long_images(height: int) -> str:
    """Return SQL for the number of a file's images with more than `LONG_LINES` lines.

    Examples
    --------
    >>> import duckdb
    >>> lines = "(SELECT unnest([30, 31, 80, 110, 111]) AS n_lines)"
    >>> duckdb.sql(f"SELECT {long_images(80)} FROM {lines}").fetchall()
    [(0,), (1,), (1,), (1,), (2,)]
    """
    full = f"n_lines // {height}" if height > LONG_LINES else "0"
    return f"({full} + (n_lines % {height} > {LONG_LINES})::INT)"


def rank_line(counts: np.ndarray) -> tuple[float, float]:
    """Fit a line to log10(count) over log10(rank), as slope and intercept; Zipf's slope is -1.

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

"""A harvest by dump and one by search of the same records build the same dataset."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import distributed
from serving import Sandbox

from zml_dask.net.client import HttpClient
from zml_dask.pipeline.build import build
from zml_dask.records.harvest import HarvestOptions, harvest
from zml_dask.records.native import LACKING
from zml_dask.sandbox.corpus import Corpus, make_record
from zml_dask.sandbox.distributions import installed_corpus

from .datasets import archive, array_bytes, tables


def test_both_ways_build_the_same_dataset_byte_for_byte(
    make_sandbox: Callable[..., Sandbox], client: distributed.Client, tmp_path: Path
) -> None:
    corpus = Corpus([*installed_corpus(4, most_bytes=500_000)])
    served = make_sandbox(corpus)
    served.exporter.make(served.api_url, datetime(2026, 3, 1, tzinfo=UTC))
    when = datetime(2026, 3, 2, tzinfo=UTC)
    newer = make_record(16_000_101, {"n.zip": archive({"n.py": b"1\n"})}, created=when)
    corpus.add(newer)
    for name in ("dump", "search"):
        path = tmp_path / f"{name}.jsonl"
        with HttpClient() as http:
            wanted = "newest" if name == "dump" else None
            harvest(path, HarvestOptions(api_url=served.api_url), http, from_dump=wanted)
        build(path, tmp_path / name, client=client)
    dump, search = tmp_path / "dump", tmp_path / "search"
    assert array_bytes(dump) == array_bytes(search)
    assert array_bytes(dump)
    one, other = tables(dump), tables(search)
    assert one["files"] == other["files"]
    assert len(one["records"]) > 5
    assert any(row["record_id"] == 16_000_101 for row in one["records"])
    for table in ("records", "failures"):
        for row in (*one[table], *other[table]):
            if "metadata" in row:
                hit = json.loads(row["metadata"])
                row["metadata"] = {k: v for k, v in hit.items() if k not in LACKING}
        assert one[table] == other[table]

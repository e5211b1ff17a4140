"""What 500,000 records cost the scheduler and the driver, fetching and reading left out.

The build's own job, executor, death watch and live counts run on a LocalCluster;
only what a worker does with a record is replaced by nothing at all, so that what is left is
what Dask and the driver do. Scheduler and driver are one process, as under ``--cluster
slurm``; its memory and processor time are what counts.

    python benchmarks/scale.py [RECORDS] [--workers N] [--partition-records N]
"""

from __future__ import annotations

import argparse
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
from comparison import keep_values, peak_memory

from zml_dask.engine.activity import active
from zml_dask.engine.clusters import ClusterOptions, open_cluster
from zml_dask.engine.executors import DaskExecutor
from zml_dask.engine.job import run_job
from zml_dask.pipeline.build_options import BuildOptions
from zml_dask.pipeline.outcome import Outcome
from zml_dask.pipeline.stage import Partition, StageRecords
from zml_dask.records.catalogue import RecordRef, RefTable
from zml_dask.store.storage import Storage

MEDIAN_ARCHIVE = 2_000_000


class Simulated(StageRecords):
    """Stages records without one being touched, but with all that is said of each."""

    def stage(
        self,
        task: Partition,
        refs: list[RecordRef],
        context: object,
    ) -> Iterator[Outcome]:
        for ref in refs:
            with active(ref.record_id):
                yield Outcome(ref.record_id, "staged", 40, 90, ref.archive_bytes)

    def pack(self, task: Partition, refs: list[RecordRef], context: object) -> None:
        """Pack nothing."""


def references(count: int) -> RefTable:
    """References as of a catalogue of so many records, with a long tail of sizes."""
    random = np.random.default_rng(20180531)
    sizes = np.minimum(random.lognormal(np.log(MEDIAN_ARCHIVE), 1.5, count), 5e9).astype(np.int64)
    numbers = np.arange(count, dtype=np.int64)
    return RefTable(np.stack([1000 + 2 * numbers, numbers * 4000, numbers * 0 + 4000, sizes], 1))


def measure(count: int, workers: int, partition_records: int, folder: Path) -> dict[str, float]:
    """Run the build's loop over so many records; what it cost."""
    options = BuildOptions(partition_records=partition_records)
    storage = Storage.open(folder / "dataset")
    driver = psutil.Process()
    with open_cluster("local", workers, None, ClusterOptions(dashboard="off")) as client:
        client.wait_for_workers(workers)
        before = driver.memory_info().rss
        began, busy = time.perf_counter(), sum(driver.cpu_times()[:2])
        job = Simulated(storage, options, references(count))
        partitions = job.plan(workers)
        planned = time.perf_counter()
        graph_bytes = sum(len(pickle.dumps(part)) for part in partitions)
        staged = run_job(job, DaskExecutor(client))
        seconds = time.perf_counter() - began
        busy = sum(driver.cpu_times()[:2]) - busy
    assert len(staged.record_ids) == count, staged
    return {
        "records": count,
        "workers": workers,
        "partitions": len(partitions),
        "seconds": round(seconds, 1),
        "planning_seconds": round(planned - began, 2),
        "ms_a_record_wall": round(1000 * seconds / count, 4),
        "ms_a_record_scheduler_and_driver_cpu": round(1000 * busy / count, 4),
        "graph_mib": round(graph_bytes / 2**20, 1),
        "graph_bytes_a_record": round(graph_bytes / count, 1),
        "peak_rss_mib": round(peak_memory() / 2**20),
        "rss_at_start_mib": round(before / 2**20),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", type=int, nargs="?", default=500_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--partition-records", type=int, default=BuildOptions().partition_records)
    chosen = parser.parse_args()
    with TemporaryDirectory() as folder:
        figures = measure(chosen.records, chosen.workers, chosen.partition_records, Path(folder))
    title = f"The scheduler with {chosen.records:,} records"
    keep_values(title, "the-scheduler-with-many-records", figures)


if __name__ == "__main__":
    main()

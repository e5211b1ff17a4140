"""What 500,000 records cost the scheduler and the driver, fetching and reading left out.

The build's own bag, partitions, death watch, live counts and tally run on a LocalCluster;
only what a worker does with a record is replaced by nothing at all, so that what is left is
what Dask and the driver do. Scheduler and driver are one process, as under ``--cluster
slurm``; its memory and processor time are what counts.

    python benchmarks/scale.py [RECORDS] [--workers N] [--partition-records N]
"""

from __future__ import annotations

import argparse
import pickle
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
from comparison import keep_values, peak_memory

from zml_dask.engine.clusters.opening import ClusterOptions, open_cluster
from zml_dask.pipeline import bag
from zml_dask.pipeline.bag import live_counts, partition_bag, run_partitions
from zml_dask.pipeline.isolation import in_hand, watch_deaths
from zml_dask.pipeline.options import BuildOptions
from zml_dask.pipeline.outcome import Outcome
from zml_dask.pipeline.partition import RECORD_TOPIC, Job, Partition, PartitionResult
from zml_dask.pipeline.partitioning import plan_partitions
from zml_dask.pipeline.result import Tally
from zml_dask.pipeline.workbench import Source
from zml_dask.records.refs import RefTable
from zml_dask.store.storage import Storage

MEDIAN_ARCHIVE = 2_000_000


def simulated(
    partitions: list[Partition],
    job: Job,  # noqa: ARG001 - as the build calls it
) -> list[PartitionResult]:
    """Build partitions without a record being touched, but with all that is said of each."""
    import distributed

    worker = distributed.get_worker()
    results = []
    for partition in partitions:
        outcomes = []
        for ref in partition.refs:
            with in_hand(ref.record_id):
                outcomes.append(Outcome(ref.record_id, "staged", 40, 90, ref.archive_bytes))
            worker.log_event(RECORD_TOPIC, {"partition": partition.name, "record": ref.record_id})
        results.append(PartitionResult(partition, tuple(outcomes), worker.address))
    return results


def references(count: int) -> RefTable:
    """References as of a catalogue of so many records, with a long tail of sizes."""
    random = np.random.default_rng(20180531)
    sizes = np.minimum(random.lognormal(np.log(MEDIAN_ARCHIVE), 1.5, count), 5e9).astype(np.int64)
    numbers = np.arange(count, dtype=np.int64)
    return RefTable(np.stack([1000 + 2 * numbers, numbers * 4000, numbers * 0 + 4000, sizes], 1))


def measure(count: int, workers: int, partition_records: int, folder: Path) -> dict[str, float]:
    """Run the build's loop over so many records; what it cost."""
    bag.build_partitions = simulated
    options = BuildOptions(partition_records=partition_records)
    job = Job(Storage.open(folder / "dataset"), Source(str(folder / "catalogue.jsonl")), options)
    driver = psutil.Process()
    with open_cluster("local", workers, None, ClusterOptions(dashboard="off")) as client:
        client.wait_for_workers(workers)
        watch_deaths(client)
        before = driver.memory_info().rss
        began, busy = time.perf_counter(), sum(driver.cpu_times()[:2])
        refs = references(count)
        partitions = plan_partitions(refs, options, workers=workers, attempts={})
        planned = time.perf_counter()
        graph = partition_bag(partitions, job).__dask_graph__()
        graph_bytes = len(pickle.dumps(dict(graph)))
        del graph
        tally = Tally()
        with live_counts(client) as live:
            for done in run_partitions(client, partitions, job, lambda _: []):
                live.finish(done.partition.name)
                for outcome in done.outcomes:
                    tally.add(outcome)
        seconds = time.perf_counter() - began
        busy = sum(driver.cpu_times()[:2]) - busy
    assert tally.done == count, tally
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

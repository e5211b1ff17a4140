"""Eight workers against a server that enforces Zenodo's limits: share used, share refused.

Three windows of a minute at 60 requests each; the hourly limit does not bind
within them. The server counts in moving windows, as Zenodo does.
"""

from __future__ import annotations

import time
from collections import Counter

import requests
from comparison import keep_values
from distributed import Client, LocalCluster, get_worker

from zml_dask.engine.cluster_throttle import ClusterThrottle
from zml_dask.sandbox.corpus import Corpus, make_record
from zml_dask.sandbox.server import GUEST, Sandbox

WORKERS = 8
MINUTES = 3
AGENT = {"User-Agent": "zml-dask-benchmark/1 (+https://example.org)"}


def requests_until(url: str, deadline: float) -> Counter[int]:
    """Ask for `url` again and again, as fast as the cluster's throttle permits."""
    throttle = ClusterThrottle(get_worker())
    statuses: Counter[int] = Counter()
    with requests.Session() as session:
        while True:
            throttle.acquire(url)
            if time.time() >= deadline:
                return statuses
            answer = session.get(url, headers=AGENT, timeout=30)
            throttle.report(url, answer.status_code, answer.headers, answer.elapsed.total_seconds())
            statuses[answer.status_code] += 1


def main() -> None:
    with (
        Sandbox(Corpus([make_record(7)]), limits=GUEST) as sandbox,
        LocalCluster(
            n_workers=WORKERS, threads_per_worker=1, dashboard_address=None, silence_logs=50
        ) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(WORKERS)
        deadline = time.time() + MINUTES * 60
        futures = [
            client.submit(requests_until, f"{sandbox.api_url}/records/7", deadline, pure=False)
            for _ in range(WORKERS)
        ]
        statuses = sum(client.gather(futures), Counter[int]())
    permitted = (GUEST.minute or 0) * MINUTES
    values = {
        "workers": WORKERS,
        f"requests permitted in {MINUTES} minutes": permitted,
        "requests answered": statuses[200],
        "share of the permitted rate used": f"{statuses[200] / permitted:.1%}",
        "share of requests refused (429)": f"{statuses[429] / statuses.total():.1%}",
    }
    keep_values("The shared throttle against Zenodo's limits", "the-shared-throttle", values)


if __name__ == "__main__":
    main()

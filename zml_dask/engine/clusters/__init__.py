"""Where a build runs: this machine, a job queue, or an existing Dask cluster."""

from __future__ import annotations

from zml_dask.engine.clusters.cluster_options import ClusterOptions, job_name_of, parse_adapt
from zml_dask.engine.clusters.opening import check_client, check_cluster, open_cluster, use_client

__all__ = [
    "ClusterOptions",
    "check_client",
    "check_cluster",
    "job_name_of",
    "open_cluster",
    "parse_adapt",
    "use_client",
]

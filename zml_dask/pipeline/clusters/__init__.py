"""Where a build runs: this machine, a job queue, or a Dask cluster that stands already."""

from __future__ import annotations

from zml_dask.pipeline.clusters.opening import ClusterOptions, open_cluster

__all__ = ["ClusterOptions", "open_cluster"]

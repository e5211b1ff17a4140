"""Proof that a dataset is what was written, and repair of what is not."""

from __future__ import annotations

from zml_dask.store.verify.report import Problem, Report
from zml_dask.store.verify.verification import verify

__all__ = ["Problem", "Report", "verify"]

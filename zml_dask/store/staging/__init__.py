"""Staging: what is built and not yet committed, as normalised text.

::

    staging/records/<id>       a staged record, while its partition runs
    staging/failures/<id>.json a failed record, likewise
    staging/packs/<name>       the records and failures of a finished partition
    staging/commit/            the plan of a commit under way
"""

from __future__ import annotations

from zml_dask.store.staging.frames import StagedLocation, StagedReader
from zml_dask.store.staging.packs import FailureRow, StagingIndex, pack_records, stage_failure
from zml_dask.store.staging.stager import RecordStager, StagedFile, StagedRecord

__all__ = [
    "FailureRow",
    "RecordStager",
    "StagedFile",
    "StagedLocation",
    "StagedReader",
    "StagedRecord",
    "StagingIndex",
    "pack_records",
    "stage_failure",
]

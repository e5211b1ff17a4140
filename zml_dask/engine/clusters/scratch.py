"""Where a worker may put what need not last."""

from __future__ import annotations

import tempfile
from pathlib import Path

from zml_dask.engine.clusters.plugin import this_worker


def worker_scratch() -> Path:
    """Directory for temporary files of whoever asks.

    Returns
    -------
    Path
        On a Dask worker, a folder inside the worker's own local directory: on
        the node's own disk (``local-directory`` says where), and removed by Dask
        when the worker ends, or by the next worker on that node where it was
        killed. Elsewhere, the system's directory for temporary files.

    Examples
    --------
    >>> worker_scratch() == Path(tempfile.gettempdir())
    True
    """
    worker = this_worker()
    if worker is None:
        return Path(tempfile.gettempdir())
    scratch = Path(worker.local_directory) / "records"
    scratch.mkdir(exist_ok=True)
    return scratch

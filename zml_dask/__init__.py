"""Published research software as one dataset of images.

Zenodo's software records are harvested, their archives read, and every source
file cut into images of 80 lines by 80 characters whose pixels are code points;
the images are committed to one chunked Zarr array with tables beside it.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zml_dask import errors as errors
    from zml_dask.derived.derive import derive as derive
    from zml_dask.learning.model import explain as explain
    from zml_dask.learning.model import predict as predict
    from zml_dask.pipeline.build import build as build
    from zml_dask.pipeline.build_options import BuildOptions as BuildOptions
    from zml_dask.pipeline.process import process as process
    from zml_dask.query.dataset import Dataset as Dataset
    from zml_dask.query.dataset import open_dataset as open_dataset
    from zml_dask.raster.images import rasterize as rasterize
    from zml_dask.raster.images import to_text as to_text
    from zml_dask.records.catalogue import Catalogue as Catalogue
    from zml_dask.records.parse import parse_record as parse_record
    from zml_dask.records.record import Record as Record
    from zml_dask.store.commit import commit as commit
    from zml_dask.store.storage import Storage as Storage
    from zml_dask.store.verify import verify as verify

__version__ = version("zml-dask")

NEEDS_UNIX = (
    "zml-dask runs on Linux and macOS; Python for Windows lacks what it needs: install it within "
    "the Windows Subsystem for Linux (wsl --install)"
)
"""What is said where there is no Unix."""

_HOMES = {
    "BuildOptions": "zml_dask.pipeline.build_options",
    "Catalogue": "zml_dask.records.catalogue",
    "Dataset": "zml_dask.query.dataset",
    "Record": "zml_dask.records.record",
    "Storage": "zml_dask.store.storage",
    "build": "zml_dask.pipeline.build",
    "commit": "zml_dask.store.commit",
    "derive": "zml_dask.derived.derive",
    "explain": "zml_dask.learning.model",
    "open_dataset": "zml_dask.query.dataset",
    "parse_record": "zml_dask.records.parse",
    "predict": "zml_dask.learning.model",
    "process": "zml_dask.pipeline.process",
    "rasterize": "zml_dask.raster.images",
    "to_text": "zml_dask.raster.images",
    "verify": "zml_dask.store.verify",
}

__all__ = [
    "BuildOptions",
    "Catalogue",
    "Dataset",
    "Record",
    "Storage",
    "__version__",
    "build",
    "commit",
    "derive",
    "errors",
    "explain",
    "open_dataset",
    "parse_record",
    "predict",
    "process",
    "rasterize",
    "to_text",
    "verify",
]


def __getattr__(name: str) -> Any:
    # Lazy, so that `import zml_dask` costs milliseconds and a reader of a
    # dataset never loads what only a build needs.
    if name in _HOMES:
        if find_spec("fcntl") is None:
            raise ImportError(NEEDS_UNIX)
        return getattr(import_module(_HOMES[name]), name)
    if name == "errors":
        return import_module("zml_dask.errors")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

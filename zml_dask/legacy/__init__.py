"""The 2018 formats: written, read safely, loaded as 2018's scripts do, and imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zml_dask.legacy.loaders import load_all as load_all
    from zml_dask.legacy.loaders import load_by_extension as load_by_extension
    from zml_dask.legacy.loaders import load_by_regexp as load_by_regexp
    from zml_dask.legacy.loaders import recursive_find as recursive_find

__all__ = ["load_all", "load_by_extension", "load_by_regexp", "recursive_find"]


def __getattr__(name: str) -> Any:
    # Lazy: a build that exports nothing needs neither h5py nor the loaders.
    if name in __all__:
        from zml_dask.legacy import loaders

        return getattr(loaders, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

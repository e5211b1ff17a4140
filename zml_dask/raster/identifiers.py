"""The ways to name a file's language that a build may choose from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec

from zml_dask.raster.language import Identity, identify
from zml_dask.raster.language_magika import identify_with_magika

Identifier = Callable[[str, bytes], Identity]
"""Takes a path and the head of the settled text."""

IDENTIFIERS: Mapping[str, Identifier] = {"linguist": identify, "magika": identify_with_magika}


def extra_missing(name: str) -> bool:
    """Tell whether a way needs a package that is not installed.

    Examples
    --------
    >>> extra_missing("linguist")
    False
    """
    return name == "magika" and find_spec("magika") is None

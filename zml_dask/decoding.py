"""Decode plain data (TOML, JSON) into dataclasses, with types and keys checked."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, TypeVar, get_type_hints

import msgspec

from zml_dask.arguments import nearest
from zml_dask.errors import UsageError

T = TypeVar("T")


def decode(content: Any, kind: type[T]) -> T:
    """Make a dataclass, and those nested in it, from mappings and lists.

    msgspec checks the types (it is strict: no text becomes a number, no number a flag); unknown
    keys, which it would ignore, are refused here.

    Raises `UsageError` if a key is unknown or missing, or a value of the wrong type or out of
    range.

    Examples
    --------
    >>> from zml_dask.store.layout import ImageShape
    >>> decode({"height": 40}, ImageShape)
    ImageShape(height=40, width=80)
    >>> decode({"hieght": 40}, ImageShape)
    Traceback (most recent call last):
    zml_dask.errors.UsageError: hieght: no such option; did you mean 'height'?
    """
    _check_keys(content, kind, "")
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        # Its words: "Expected `int`, got `str` - at `$.limits.max_members`".
        what, _, where = str(error).partition(" - at `$")
        path = where.rstrip("`").lstrip(".") or "it"
        raise UsageError(f"{path}: {_reworded(what)}") from None


def _check_keys(content: Any, kind: Any, where: str) -> None:
    if not (dataclasses.is_dataclass(kind) and isinstance(content, Mapping)):
        return
    hints = get_type_hints(kind)
    names = [each.name for each in dataclasses.fields(kind) if each.init]
    for name, value in content.items():
        if name not in names:
            raise UsageError(f"{where}{name}: no such option; {nearest(str(name), names)}")
        _check_keys(value, hints[name], f"{where}{name}.")


def _reworded(words: str) -> str:
    """Reword a message of msgspec's."""
    plain = words.replace("`", "").replace("array", "a list").replace("object", "a table")
    return re.sub(r"^Expected (.*), got (.*)$", r"must be \1, not \2", plain)

"""The arguments of public functions, checked against their annotations."""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Literal, TypeVar, Union, cast, get_args, get_origin

from zml_dask.errors import UsageError
from zml_dask.text_safety import brief_repr

_Target = TypeVar("_Target", bound=Callable[..., Any])

_NAMES: Final[Mapping[Any, str]] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "True or False",
    NoneType: "None",
    bytes: "an array",  # of NumPy's ArrayLike
    complex: "an array",
    os.PathLike: "a path",
    Path: "a path",
    Mapping: "a mapping",
    Callable: "a function",
}
_MEANINGS: Final[Mapping[str, str]] = {
    "file": " (files.file_id, or the path)",
    "record": " (records.record_id)",
    "record_id": " (records.record_id, or the DOI)",
    "fractions": " such as {'train': 0.8, 'test': 0.2}",
}
"""What is meant by parameters, where their type does not say enough."""
_LISTS: Final = (list, tuple, Sequence, Collection)


def checked(target: _Target) -> _Target:
    """Have a function, or each public method of a class, check what it is given.

    A value that does not fit its annotation is a `UsageError`, in one line. NumPy's numbers
    become Python's, and text where a list of texts is wanted becomes a list of one. What an
    annotation says beyond plain types, lists of these, paths, choices and classes is left to
    the function. beartype and typeguard convert nothing: they refuse NumPy's numbers and pass
    True as a number and text as a sequence of texts, and they name types rather than values.

    Examples
    --------
    >>> import numpy as np
    >>> @checked
    ... def repeat(text: str, times: int = 2) -> str:
    ...     return text * times
    >>> repeat("ab", np.int64(3))
    'ababab'
    >>> repeat("ab", 2.5)
    Traceback (most recent call last):
    zml_dask.errors.UsageError: repeat(): times has to be a whole number, not 2.5
    """
    if not inspect.isclass(target):
        return cast("_Target", _checked(target, target.__qualname__))
    for name, member in list(vars(target).items()):
        plain = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if not inspect.isfunction(plain) or (name.startswith("_") and name != "__init__"):
            continue
        wrapped: Any = _checked(
            plain, target.__name__ if name == "__init__" else plain.__qualname__
        )
        setattr(target, name, wrapped if plain is member else type(member)(wrapped))
    return target


def nearest(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Say which names are similar to an unknown one, to end an error message with.

    Where none is, say `otherwise`, by default all known names.

    Examples
    --------
    >>> nearest("pyhton", ["Python", "C"]), nearest("x", ["Python", "C"])
    ("did you mean 'Python'?", 'there are Python, C')
    """
    folded: dict[str, str] = {}
    for one in known:
        folded.setdefault(one.casefold(), one)
    short = name.casefold()
    near = difflib.get_close_matches(short, folded, n=3, cutoff=0.7)
    if not near and len(short) > 2:  # a part of a name
        near = [one for one in folded if one.startswith(short) or one.endswith(f"_{short}")][:3]
    if near:
        return f"did you mean {' or '.join(repr(folded[one]) for one in near)}?"
    return otherwise or f"there are {', '.join(folded.values())}"


def _checked(function: Callable[..., Any], where: str) -> Callable[..., Any]:
    parameters = list(inspect.signature(function).parameters.values())
    positional = [p.name for p in parameters if p.kind < inspect.Parameter.VAR_POSITIONAL]
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = {p.name for p in parameters if p.kind in by_name and p.name != "self"}
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    rest = next((p.name for p in parameters if p.kind is inspect.Parameter.VAR_POSITIONAL), None)

    @functools.cache
    def kinds() -> dict[str, Any]:
        # On first use, since an annotation may name what is defined further down.
        return {p.name: _evaluated(p.annotation, function) for p in parameters}

    def fit(name: str | None, value: Any) -> Any:
        kind = kinds().get(name, Any) if name else Any
        if kind is Any or type(value) is kind:
            return value
        try:
            return _converted(value, kind)
        except TypeError:
            advice = ""
            if name == rest and isinstance(value, Collection):
                advice = "; give them one after the other, not as a list"
            elif isinstance(value, bytes):
                advice = "; zml_dask.raster.text.normalize_text decodes a file's bytes"
            wanted = described(kind) + _MEANINGS.get(name or "", "")
            raise UsageError(
                f"{where}(): {name} has to be {wanted}, not {brief_repr(value)}{advice}"
            ) from None

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not (takes_any or named.issuperset(kwargs)):
            unknown = next(name for name in kwargs if name not in named)
            advice = nearest(unknown, (p.name for p in parameters if p.name in named))
            raise TypeError(f"{where}() has no argument {unknown!r}; {advice}")
        names = [*positional, *[rest] * (len(args) - len(positional))]
        values = map(fit, names, args)
        return function(*values, **{name: fit(name, value) for name, value in kwargs.items()})

    return call


def _evaluated(annotation: Any, function: Callable[..., Any]) -> Any:
    """Evaluate an annotation; Any where only type checkers know its names."""
    if annotation is inspect.Parameter.empty:
        return Any
    try:
        text = isinstance(annotation, str)
        kind = eval(annotation, function.__globals__) if text else annotation  # noqa: S307 - ours
        return Any if Any in get_args(kind) and get_origin(kind) in (Union, UnionType) else kind
    except (NameError, TypeError, AttributeError):
        return Any


def _converted(value: Any, kind: Any) -> Any:
    """Convert a value to its annotation; raise TypeError where it does not fit."""
    origin: Any = get_origin(kind) or kind
    inner = get_args(kind)
    if origin in (Union, UnionType):
        if type(value) in inner:
            return value
        for one in inner:
            with contextlib.suppress(TypeError):
                return _converted(value, one)
        fits = False
    elif origin is Literal:
        fits = any(isinstance(value, type(one)) and value == one for one in inner)
    elif origin in (int, float):
        number = Integral if origin is int else Real
        fits = isinstance(value, number) and not isinstance(value, bool)
        value = origin(value) if fits else value
    elif origin is bool:
        fits = type(value).__name__ in ("bool", "bool_")  # of Python or of NumPy
        value = bool(value) if fits else value
    elif origin in _LISTS and inner[:1] == (str,):
        items = [value] if isinstance(value, str) else list(value)
        fits = all(isinstance(item, str) for item in items)
        value = items if origin is list else tuple(items)
    elif origin is Mapping and inner[0] is str:
        fits = isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
        if fits and inner[1] in (int, float):
            value = {key: _converted(one, inner[1]) for key, one in value.items()}
    else:
        # Of a protocol nothing is known, unless it is one of ours.
        opaque = getattr(origin, "_is_protocol", False) and not origin._is_runtime_protocol  # noqa: SLF001
        known = isinstance(origin, type) and origin is not Any and not opaque
        fits = not known or isinstance(value, origin)
    if not fits:
        raise TypeError
    return value


def described(kind: Any) -> str:
    """Describe in words what an annotation accepts."""
    origin: Any = get_origin(kind) or kind
    inner = get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(described, inner)))
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin in _LISTS and inner[:1] == (str,):
        return "a list of texts"
    name = getattr(origin, "__name__", str(origin))
    return _NAMES.get(origin) or ("an array" if name.startswith("_") else f"a {name}")

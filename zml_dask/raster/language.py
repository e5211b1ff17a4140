"""The language of a file: from its name, and from its content where the name does not tell.

The tables and the rules for ambiguous extensions are linguist's, GitHub's
own (``data/linguist.json``, made by ``benchmarks/linguist_tables.py``);
``docs/languages.md`` says how they were chosen and how often they are right.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

HEAD_BYTES = 4096
"""How much of a file's text may be looked at; linguist's rules need no more."""

_SHEBANG = re.compile(
    rb"#!\s*(?:\S*/env\s+(?:-\S+\s+|\w+=\S*\s+)*)?(?:\S*/)?([A-Za-z][\w+#]*)", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a file is.

    Attributes
    ----------
    language : str or None
        Linguist's name of its language (``"Python"``, ``"C++"``, ``"Text"``), or
        None where nothing says.
    kind : str or None
        ``"programming"``, ``"markup"``, ``"data"`` or ``"prose"``.
    """

    language: str | None
    kind: str | None


UNKNOWN = Identity(None, None)
"""What nothing names."""

Rule = tuple[Identity, tuple[tuple[Callable[[bytes], object], bool], ...]]


@dataclass(frozen=True, slots=True)
class _Ambiguous:
    """A name that several languages share: rules over the content, in order."""

    rules: tuple[Rule, ...]
    default: Identity


def identify(path: str, head: bytes) -> Identity:
    r"""Name the language of a file.

    The name decides where it can; the content is looked at only where several
    languages share the name or extension, or where there is neither.

    Parameters
    ----------
    path : str
        The file's path or name; only what follows the last slash counts.
    head : bytes
        The first `HEAD_BYTES` of its normalised text; ``b""`` for what is no text.

    Examples
    --------
    >>> identify("src/a.py", b"").language, identify("a.h", b"class A {\npublic:\n").language
    ('Python', 'C++')
    >>> identify("bin/run", b"#!/usr/bin/env python3\n")
    Identity(language='Python', kind='programming')
    """
    found = _by_name(path[path.rfind("/") + 1 :])
    if isinstance(found, Identity):
        return found
    if found is None:
        return _by_content(head)
    if head.startswith(b"#!"):
        script = _by_content(head)
        if script is not UNKNOWN:
            return script
    # Without blank lines: many rules begin with `^\s*`, and on a page of nothing
    # but newlines one of them takes a minute (a test holds the worst case).
    head = b"\n".join([line for line in head[:HEAD_BYTES].split(b"\n") if line.strip()])
    for identity, conditions in found.rules:
        if all(bool(search(head)) is wanted for search, wanted in conditions):
            return identity
    return found.default


@lru_cache(maxsize=65_536)
def _by_name(name: str) -> Identity | _Ambiguous | None:
    """Return what a file's name says: a language, rules to choose by, or nothing."""
    tables = _tables()
    if name in tables["names"]:
        return _identity(tables["names"][name])
    lower = name.lower()
    dot = lower.find(".")
    while dot >= 0:  # the longest extension first: `.blade.php` before `.php`
        found = _by_extension(lower[dot:])
        if found is not None:
            return found
        dot = lower.find(".", dot + 1)
    return None


@lru_cache(maxsize=4096)
def _by_extension(extension: str) -> Identity | _Ambiguous | None:
    tables = _tables()
    if extension in tables["extensions"]:
        return _identity(tables["extensions"][extension])
    default = tables["defaults"].get(extension)
    if extension not in tables["rules"]:
        return _Ambiguous((), _identity(default)) if default else None
    rules = tuple(
        (
            _identity(language),
            tuple((_compiled(pattern), wanted) for pattern, wanted in conditions),
        )
        for language, conditions in tables["rules"][extension]
    )
    return _Ambiguous(rules, _identity(default))


def _by_content(head: bytes) -> Identity:
    """Name a file without a telling name: by its interpreter, or as XML."""
    if head.startswith(b"#!"):
        shebang = _SHEBANG.match(head[:256])
        if shebang is None:
            return UNKNOWN
        interpreters: Mapping[str, str] = _tables()["interpreters"]
        name = shebang[1].decode("ascii")
        # python3.11's regular expression match is `python3`: the dot ends it.
        language = interpreters.get(name) or interpreters.get(name.rstrip("0123456789"))
        return _identity(language)
    return _identity("XML") if head.startswith(b"<?xml") else UNKNOWN


@cache
def _tables() -> Mapping[str, Any]:
    source = files("zml_dask.raster") / "data" / "linguist.json"
    tables: Mapping[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    return tables


@cache
def _compiled(pattern: str) -> Callable[[bytes], object]:
    # Bytes, as Ruby's classes are ASCII; `^` and `$` mean lines in Ruby.
    return re.compile(pattern.encode(), re.MULTILINE).search


@cache
def _identity(language: str | None) -> Identity:
    return Identity(language, _tables()["kinds"][language]) if language else UNKNOWN


def identity_of(language: str) -> Identity:
    """Return a language, by linguist's name for it, with its kind; `UNKNOWN` if it has none.

    Examples
    --------
    >>> identity_of("Fortran").kind, identity_of("Klingon").kind
    ('programming', None)
    """
    return _identity(language) if language in _tables()["kinds"] else UNKNOWN


@cache
def language_group(language: str | None) -> str | None:
    """Return linguist's group of a language: the language itself where it is in none.

    Dialects and file formats of one language are languages of their own to
    linguist; a question about "Fortran" usually means the group.

    Parameters
    ----------
    language : str or None
        As in `Identity`.

    Examples
    --------
    >>> language_group("Fortran Free Form"), language_group("Python"), language_group(None)
    ('Fortran', 'Python', None)
    """
    groups: Mapping[str, str] = _tables()["groups"]
    return groups.get(language, language) if language else None

"""The language of a file, from its name, or from its content where the name is ambiguous.

The tables and the rules for ambiguous extensions are those of linguist, GitHub's detector
(``data/linguist.json``, made by ``benchmarks/linguist_tables.py``); ``docs/languages.md`` describes
how they were chosen and their accuracy.

Magika, Google's model for contents, is an option for all files, with the extra ``magika``. It is
slower and does not use names. Its package contains the model, so that nothing is downloaded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

from zml_dask.errors import require

HEAD_BYTES = 4096
"""How much of a file's text is examined; linguist's rules need no more."""

_SHEBANG = re.compile(
    rb"#!\s*(?:\S*/env\s+(?:-\S+\s+|\w+=\S*\s+)*)?(?:\S*/)?([A-Za-z][\w+#.-]*)", re.ASCII
)
# A script of the shell that starts another interpreter on itself, as those of Tcl do.
_EXEC = re.compile(rb"\bexec\s+(?:\S*/)?([A-Za-z][\w+#.-]*)(?:\s+-\S+)*\s+[\"']?\$0\b", re.ASCII)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a file is: linguist's name of its language, and its kind; None if unknown.

    Kinds are ``"programming"``, ``"markup"``, ``"data"`` and ``"prose"``.
    """

    language: str | None
    kind: str | None


UNKNOWN = Identity(None, None)
"""A file whose language is unknown."""

Rule = tuple[Identity, tuple[tuple[Callable[[bytes], object], bool], ...]]


@dataclass(frozen=True, slots=True)
class _Ambiguous:
    """A name that several languages share: rules for the content, in order."""

    rules: tuple[Rule, ...]
    default: Identity


def identify(path: str, head: bytes) -> Identity:
    r"""Return the language of a file.

    The content is examined only if several languages share the name or extension, or the name is
    unknown. `head` is the first `HEAD_BYTES` of the normalised text; ``b""`` if it is not text.

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
        return next(iter(_by_content(head)), UNKNOWN)
    if head.startswith(b"#!"):
        scripts = _by_content(head)
        named = {found.default, *(identity for identity, _ in found.rules)}
        if scripts:
            return next((script for script in scripts if script in named), scripts[0])
    # Without blank lines: many rules begin with `^\s*`, and on a text of newlines one of them takes
    # a minute (a test has the worst case).
    head = b"\n".join([line for line in head[:HEAD_BYTES].split(b"\n") if line.strip()])
    for identity, conditions in found.rules:
        if all(bool(search(head)) is wanted for search, wanted in conditions):
            return identity
    return found.default


@lru_cache(maxsize=65_536)
def _by_name(name: str) -> Identity | _Ambiguous | None:
    """Return what a file's name implies: a language, rules for the content, or None."""
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
        (_identity(language), tuple((_compiled(pattern), wanted) for pattern, wanted in conditions))
        for language, conditions in tables["rules"][extension]
    )
    return _Ambiguous(rules, _identity(default))


def _by_content(head: bytes) -> list[Identity]:
    """Return the languages of a file without a known name: by its interpreter, or XML."""
    if not head.startswith(b"#!"):
        return [_identity("XML")] if head.startswith(b"<?xml") else []
    shebang = _SHEBANG.match(head[:256])
    names = [shebang[1]] if shebang else []
    if names == [b"sh"] and (run := _EXEC.search(b"\n".join(head[:1024].split(b"\n", 6)[:6]))):
        names.insert(0, run[1])
    interpreters: Mapping[str, list[str]] = _tables()["interpreters"]
    for name in (raw.decode("ascii") for raw in names):
        # Without a version: python3.11, perl5.30.1, wish-8.6.
        languages = interpreters.get(name) or interpreters.get(name.rstrip("0123456789.-"))
        if languages:
            return [_identity(language) for language in languages]
    return []


@cache
def _tables() -> Mapping[str, Any]:
    source = files("zml_dask.raster") / "data" / "linguist.json"
    tables: Mapping[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    return tables


@cache
def _compiled(pattern: str) -> Callable[[bytes], object]:
    # Bytes, since Ruby's character classes are ASCII; in Ruby, `^` and `$` match at each line.
    return re.compile(pattern.encode(), re.MULTILINE).search


@cache
def _identity(language: str | None) -> Identity:
    return Identity(language, _tables()["kinds"][language]) if language else UNKNOWN


def identity_of(language: str) -> Identity:
    """Return a language with its kind, by linguist's name; `UNKNOWN` if there is none.

    Examples
    --------
    >>> identity_of("Fortran").kind, identity_of("Klingon").kind
    ('programming', None)
    """
    return _identity(language) if language in _tables()["kinds"] else UNKNOWN


@cache
def language_group(language: str | None) -> str | None:
    """Return linguist's group of a language, or the language itself if it is in none.

    To linguist, dialects and file formats of a language are languages of their own; "Fortran"
    usually means the group.

    Examples
    --------
    >>> language_group("Fortran Free Form"), language_group("Python"), language_group(None)
    ('Fortran', 'Python', None)
    """
    groups: Mapping[str, str] = _tables()["groups"]
    return groups.get(language, language) if language else None


_LEAST_PROBABILITY = 0.8
"""Below this probability of Magika, the name and linguist's rules are used."""

# Only labels that are not linguist's names with a small first letter.
MAGIKA_NAMES: Mapping[str, str] = {
    "asm": "Assembly", "batch": "Batchfile", "bazel": "Starlark", "clojure": "Clojure",
    "cmake": "CMake", "cobol": "COBOL", "coffeescript": "CoffeeScript", "cpp": "C++", "cs": "C#",
    "csv": "CSV", "dockerfile": "Dockerfile", "gitignore": "Ignore List", "ini": "INI",
    "ipynb": "Jupyter Notebook", "javascript": "JavaScript", "latex": "TeX", "matlab": "MATLAB",
    "objectivec": "Objective-C", "ocaml": "OCaml", "php": "PHP", "powershell": "PowerShell",
    "rst": "reStructuredText", "shell": "Shell", "sql": "SQL", "svg": "SVG", "toml": "TOML",
    "tsv": "TSV", "txt": "Text", "typescript": "TypeScript", "vba": "VBA", "verilog": "Verilog",
    "vhdl": "VHDL", "xml": "XML", "yaml": "YAML",
}  # fmt: skip
"""Magika's labels, and linguist's names."""


def identify_with_magika(path: str, head: bytes) -> Identity:
    """Return the language of a file by its content, or by its name where Magika is uncertain.

    `head` is the beginning of its normalised text; ``b""`` if it is not text.
    """
    by_name = identify(path, head)
    if not head.strip():
        return by_name
    found = magika().identify_bytes(head)
    if found.prediction.score < _LEAST_PROBABILITY:
        return by_name
    label = str(found.prediction.output.label)
    named = identity_of(MAGIKA_NAMES.get(label, label.capitalize()))
    # For what is no language to linguist ("unknown", or "txt" for a licence) the name is used.
    return named if named is not UNKNOWN and named.language != "Text" else by_name


@cache
def magika() -> Any:
    """Load the model, once per process; `UsageError` if its package is not installed."""
    require("magika", "magika", "--language magika")
    from magika import Magika

    return Magika()


Identifier = Callable[[str, bytes], Identity]
"""A function of a path and the beginning of the normalised text."""

IDENTIFIERS: Mapping[str, Identifier] = {"linguist": identify, "magika": identify_with_magika}

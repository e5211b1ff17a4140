"""Zenodo's query language over the sandbox's records.

Parsed by `luqum`, the parser that Zenodo's own software uses, so that what is
bad syntax there is bad syntax here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any, Final

from luqum.exceptions import ParseError
from luqum.thread import parse
from luqum.tree import (
    AndOperation,
    BaseOperation,
    BoolOperation,
    FieldGroup,
    Group,
    Item,
    Not,
    OrOperation,
    Phrase,
    Plus,
    Prohibit,
    Range,
    SearchField,
    UnknownOperation,
    Word,
)

from zml_dask.sandbox.record import SandboxRecord

Matcher = Callable[[SandboxRecord], bool]
Values = Callable[[SandboxRecord], Iterable[Any]]

_TOKEN: Final = re.compile(r"\w+")
_ESCAPE: Final = re.compile(r"\\(.)")


class QuerySyntaxError(ValueError):
    """A query that Zenodo's search answers with 500."""


def _file_types(record: SandboxRecord) -> list[str]:
    return [key.rpartition(".")[2].lower() for key in record.files]


def _instant(record: SandboxRecord) -> tuple[datetime]:
    # The search index keeps milliseconds.
    moment = record.created
    return (moment.replace(microsecond=moment.microsecond // 1000 * 1000),)


_FIELDS: Final[dict[str, Values]] = {
    "recid": lambda record: (record.record_id,),
    "id": lambda record: (record.record_id,),
    "conceptrecid": lambda record: (record.concept,),
    "parent.id": lambda record: (record.concept,),
    "created": _instant,
    "updated": _instant,
    "publication_date": lambda record: (record.created.replace(hour=0, minute=0, second=0),),
    "title": lambda record: (record.title,),
    "description": lambda record: (record.description,),
    "keywords": lambda record: record.keywords,
    "creators.name": lambda record: record.creators,
    "version": lambda record: (record.version or "",),
    "doi": lambda record: (record.doi,),
    "license": lambda record: (record.license or "",),
    "rights.id": lambda record: (record.license or "",),
    "resource_type.type": lambda record: (record.resource_type,),
    "resource_type.id": lambda record: (record.resource_type,),
    "access_right": lambda record: (record.access,),
    "access.status": lambda record: (record.access,),
    "filename": lambda record: tuple(record.files),
    "filetype": _file_types,
    "files.types": _file_types,
    "files.count": lambda record: (len(record.files),),
    "related.identifier": lambda record: tuple(link[0] for link in record.related),
}


def _everything(record: SandboxRecord) -> tuple[str, ...]:
    return (record.title, record.description, *record.keywords, *record.creators)


def matcher(text: str) -> Matcher:
    """Turn a query into a test of records; an empty one finds all.

    Raises
    ------
    QuerySyntaxError
        If the query is not in the syntax.
    """
    if not text.strip():
        return lambda _: True
    try:
        tree = parse(text)
    except ParseError as error:
        raise QuerySyntaxError(str(error)) from error
    return _of(tree, _everything)


def _of(node: Item, values: Values) -> Matcher:
    if isinstance(node, SearchField):
        if isinstance(node.expr, SearchField):
            raise QuerySyntaxError(f"a field within a field: {node}")
        # A field that no record has finds nothing; it is no error.
        return _of(node.expr, _FIELDS.get(node.name.removeprefix("metadata."), lambda _: ()))
    if isinstance(node, Group | FieldGroup):
        return _of(node.expr, values)
    if isinstance(node, Not | Prohibit):
        inner = _of(node.a, values)
        return lambda record: not inner(record)
    if isinstance(node, Plus):
        return _of(node.a, values)
    if isinstance(node, BaseOperation):
        return _combined(node, values)
    return _leaf(node, values)


def _combined(node: BaseOperation, values: Values) -> Matcher:
    parts = [_of(child, values) for child in node.children]
    if isinstance(node, AndOperation):
        return lambda record: all(part(record) for part in parts)
    if isinstance(node, OrOperation):
        return lambda record: any(part(record) for part in parts)
    if not isinstance(node, UnknownOperation | BoolOperation):
        raise QuerySyntaxError(f"an operation that is not supported: {node}")
    # Words side by side: those with a sign decide, the others only where none has a plus.
    signed = [isinstance(child, Plus | Prohibit | Not) for child in node.children]
    must = [part for part, sign in zip(parts, signed, strict=True) if sign]
    may = [part for part, sign in zip(parts, signed, strict=True) if not sign]
    required = any(isinstance(child, Plus) for child in node.children)
    return lambda record: (
        all(part(record) for part in must)
        and (required or not may or any(part(record) for part in may))
    )


def _leaf(node: Item, values: Values) -> Matcher:
    if isinstance(node, Range):
        low, high = _bound(node.low), _bound(node.high)
        return lambda record: any(_within(value, low, high, node) for value in values(record))
    if isinstance(node, Phrase):
        wanted = _unescaped(node.value[1:-1])
    elif isinstance(node, Word):
        wanted = node.value
        if wanted.count("/") % 2:
            raise QuerySyntaxError(f"a slash without its pair: {wanted}")
        wanted = _unescaped(wanted)
    else:
        raise QuerySyntaxError(f"an expression that is not supported: {node}")
    return lambda record: any(_equals(value, wanted) for value in values(record))


def _equals(value: Any, wanted: str) -> bool:
    if isinstance(value, datetime):
        return value == _moment(wanted)
    if isinstance(value, int):
        return wanted in {"*", str(value)}
    text, pattern = str(value).lower(), wanted.lower()
    if fnmatchcase(text, pattern):
        return True
    words = _TOKEN.findall(text)
    if "*" in pattern or "?" in pattern:
        return any(fnmatchcase(word, pattern) for word in words)
    sought = _TOKEN.findall(pattern)
    spans = range(len(words) - len(sought) + 1) if sought else ()
    return any(words[place : place + len(sought)] == sought for place in spans)


def _bound(node: Item) -> str:
    return _unescaped(str(node.value).strip('"'))


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(r"\1", text)


def _within(value: Any, low: str, high: str, node: Range) -> bool:
    make: Callable[[str], Any] = str.lower
    if isinstance(value, datetime):
        make = _moment
    elif isinstance(value, int):
        make = int
    else:
        value = str(value).lower()
    try:
        above = low == "*" or (value >= make(low) if node.include_low else value > make(low))
        below = high == "*" or (value <= make(high) if node.include_high else value < make(high))
    except ValueError as error:
        raise QuerySyntaxError(f"a bound that cannot be read: {error}") from error
    return above and below


def _moment(text: str) -> datetime:
    """Read an instant; a partial date is the instant that it begins with."""
    padded = text + "-01" * (2 - text.count("-")) if len(text) <= len("2020-01") else text
    moment = datetime.fromisoformat(padded)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    # An index of milliseconds compares with milliseconds.
    return moment - timedelta(microseconds=moment.microsecond % 1000)

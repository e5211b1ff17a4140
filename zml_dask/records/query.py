"""Zenodo's query language over local records: a subset, documented in docs/harvest.md.

Words, ``"phrases"``, wildcards, ``field:value``, ``field:(a OR b)``, ranges
``[a TO b]`` and ``{a TO b}``, ``AND``, ``OR``, ``NOT``, ``+``, ``-`` and
parentheses. Words side by side are joined by OR, as Zenodo's search does it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any, Final, NoReturn

from zml_dask.errors import UsageError
from zml_dask.records.instants import to_millisecond


@dataclass(frozen=True, slots=True)
class Searchable:
    """What a query can ask of one record."""

    record_id: int
    concept_id: int
    created: datetime  # aware, to the millisecond, as is `updated`
    updated: datetime
    publication_date: datetime  # its first instant, aware
    title: str = ""
    description: str = ""
    version: str = ""
    doi: str = ""
    license: str = ""
    resource_type: str = ""
    access: str = ""
    keywords: tuple[str, ...] = ()
    creators: tuple[str, ...] = ()
    filenames: tuple[str, ...] = ()
    related: tuple[str, ...] = ()


Matcher = Callable[[Searchable], bool]
_Values = Callable[[Searchable], Iterable[Any]]


def _file_types(record: Searchable) -> list[str]:
    return [name.rpartition(".")[2].lower() for name in record.filenames]


FIELDS: Final[dict[str, _Values]] = {
    "recid": lambda record: (record.record_id,),
    "id": lambda record: (record.record_id,),
    "conceptrecid": lambda record: (record.concept_id,),
    "parent.id": lambda record: (record.concept_id,),
    "created": lambda record: (record.created,),
    "updated": lambda record: (record.updated,),
    "publication_date": lambda record: (record.publication_date,),
    "title": lambda record: (record.title,),
    "description": lambda record: (record.description,),
    "keywords": lambda record: record.keywords,
    "creators.name": lambda record: record.creators,
    "version": lambda record: (record.version,),
    "doi": lambda record: (record.doi,),
    "license": lambda record: (record.license,),
    "rights.id": lambda record: (record.license,),
    "resource_type.type": lambda record: (record.resource_type,),
    "resource_type.id": lambda record: (record.resource_type,),
    "access_right": lambda record: (record.access,),
    "access.status": lambda record: (record.access,),
    "filename": lambda record: record.filenames,
    "filetype": _file_types,
    "files.types": _file_types,
    "files.count": lambda record: (len(record.filenames),),
    "related.identifier": lambda record: record.related,
}
"""Field of a query (with or without ``metadata.`` before it) -> its values in a record."""


def _everything(record: Searchable) -> tuple[str, ...]:
    return (record.title, record.description, *record.keywords, *record.creators)


def matcher(text: str, *, only_known: bool = False) -> Matcher:
    """Turn a query into a test of records; an empty one matches all.

    `only_known` refuses a field that is not in `FIELDS`; otherwise it finds nothing. Raises
    `UsageError` if the query is not in the language, or asks for such a field.

    Examples
    --------
    >>> when = datetime(2024, 2, 29, tzinfo=UTC)
    >>> tides = Searchable(7, 6, when, when, when, title="Tides", keywords=("sea level",))
    >>> matcher('title:tides AND keywords:"sea level" AND created:[2024-01-01 TO *]')(tides)
    True
    """
    if not text.strip():
        return lambda _: True
    return _Parser(text, only_known).whole()


_TOKENS: Final = re.compile(
    r"""\s*(?:
        (?P<phrase>"(?:\\.|[^"\\])*")
      | (?P<range>(?P<open>[\[{])\s*(?P<low>"(?:\\.|[^"\\])*"|(?:\\.|[^\s\]}"])+)\s+TO\s+
            (?P<high>"(?:\\.|[^"\\])*"|(?:\\.|[^\s\]}"\\])+)\s*(?P<close>[\]}]))
      | (?P<bracket>[()])
      | (?P<sign>[+-](?=\S)|!(?=\S))
      | (?P<operator>(?:AND|OR|NOT)(?=[\s()]|$)|&&|\|\|)
      | (?P<field>(?:\\.|[\w.*-])+:)
      | (?P<word>(?:\\.|[^\s()\[\]{}":^~<>\\])+)
    )""",
    re.VERBOSE | re.DOTALL,
)
_WORDS: Final = re.compile(r"\w+")
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_DEEPEST: Final = 100


@dataclass(frozen=True, slots=True)
class _Part:
    """One operand of a query."""

    test: Matcher
    sign: str = ""  # how it was marked: "+", "-" or nothing


class _Parser:
    """A query's tokens, read from the left."""

    def __init__(self, text: str, only_known: bool) -> None:
        self._text = text
        self._only_known = only_known
        self._tokens = self._split(text)
        self._at = 0
        self._depth = 0

    def whole(self) -> Matcher:
        test = self._sequence(_everything)
        if self._at < len(self._tokens):
            self._refuse("a bracket is closed that was not opened")
        return test

    def _split(self, text: str) -> list[re.Match[str]]:
        tokens, at, end = [], 0, len(text.rstrip())
        while at < end:
            match = _TOKENS.match(text, at)
            if match is None:
                self._refuse(f"it cannot be read from {text[at : at + 20]!r} on")
            tokens.append(match)
            at = match.end()
        return tokens

    def _refuse(self, why: str) -> NoReturn:
        raise UsageError(f"the query {self._text!r} is not valid: {why}")

    def _peek(self, kind: str) -> str | None:
        if self._at < len(self._tokens):
            return self._tokens[self._at][kind]
        return None

    def _sequence(self, values: _Values) -> Matcher:
        """Parse operands side by side: those with a sign decide, the others if none has a plus."""
        self._depth += 1
        if self._depth > _DEEPEST:
            self._refuse("it is nested too deeply")
        parts = []
        while self._at < len(self._tokens) and self._peek("bracket") != ")":
            parts.append(self._alternatives(values))
        self._depth -= 1
        if not parts:
            self._refuse("something is missing")
        if len(parts) == 1:
            return parts[0].test
        must = [part.test for part in parts if part.sign]
        may = [part.test for part in parts if not part.sign]
        is_required = any(part.sign == "+" for part in parts)
        return lambda record: (
            all(test(record) for test in must)
            and (is_required or not may or any(test(record) for test in may))
        )

    def _alternatives(self, values: _Values) -> _Part:
        return self._joined({"OR", "||"}, any, self._conjunction, values)

    def _conjunction(self, values: _Values) -> _Part:
        return self._joined({"AND", "&&"}, all, self._unit, values)

    def _joined(
        self,
        operators: set[str],
        join: Callable[[Iterable[bool]], bool],
        operand: Callable[[_Values], _Part],
        values: _Values,
    ) -> _Part:
        parts = [operand(values)]
        while self._peek("operator") in operators:
            self._at += 1
            parts.append(operand(values))
        if len(parts) == 1:
            return parts[0]
        return _Part(lambda record: join(part.test(record) for part in parts))

    def _unit(self, values: _Values) -> _Part:
        sign = self._peek("sign") or self._peek("operator")
        if sign == "+":
            self._at += 1
            return _Part(self._operand(values), "+")
        if sign in {"-", "!", "NOT"}:
            self._at += 1
            inner = self._operand(values)
            return _Part(lambda record: not inner(record), "-")
        return _Part(self._operand(values))

    def _operand(self, values: _Values) -> Matcher:
        field = self._peek("field")
        if field is not None:
            if values is not _everything:
                self._refuse("a field stands within another")
            self._at += 1
            return self._operand(self._values_of(field[:-1]))
        if self._peek("bracket") == "(":
            self._at += 1
            test = self._sequence(values)
            if self._peek("bracket") != ")":
                self._refuse("a bracket is not closed")
            self._at += 1
            return test
        return self._leaf(values)

    def _values_of(self, field: str) -> _Values:
        name = _unescaped(field).removeprefix("metadata.")
        if name not in FIELDS and self._only_known:
            self._refuse(f"the field {name!r} is not known here; use one of {', '.join(FIELDS)}")
        # A field that no record has finds nothing; to a search it is no error.
        return FIELDS.get(name, lambda _: ())

    def _leaf(self, values: _Values) -> Matcher:
        if self._at >= len(self._tokens):
            self._refuse("something is missing at its end")
        token = self._tokens[self._at]
        self._at += 1
        if token["range"] is not None:
            return _range(token, values, self._refuse)
        if token["phrase"] is not None:
            wanted = _unescaped(token["phrase"][1:-1])
        elif token["word"] is not None:
            if token["word"].count("/") % 2:
                self._refuse(f"a slash has no pair in {token['word']!r}; put it in quotes")
            wanted = _unescaped(token["word"])
        else:
            self._refuse(f"{token[0].strip()!r} stands where a value should")
        return lambda record: any(_equals(value, wanted) for value in values(record))


def _range(token: re.Match[str], values: _Values, refuse: Callable[[str], NoReturn]) -> Matcher:
    low, high = (_unescaped(token[name].strip('"')) for name in ("low", "high"))
    has_low, has_high = token["open"] == "[", token["close"] == "]"

    def is_within(value: Any) -> bool:
        make: Callable[[str], Any] = str.lower
        if isinstance(value, datetime):
            make = _moment
        elif isinstance(value, int):
            make = int
        else:
            value = str(value).lower()
        try:
            above = low == "*" or (value >= make(low) if has_low else value > make(low))
            below = high == "*" or (value <= make(high) if has_high else value < make(high))
        except ValueError as error:
            refuse(f"a bound cannot be read: {error}")
        return bool(above and below)

    return lambda record: any(map(is_within, values(record)))


def _equals(value: Any, wanted: str) -> bool:
    if isinstance(value, datetime):
        try:
            return wanted == "*" or value == _moment(wanted)
        except ValueError:
            return False
    if isinstance(value, int):
        return wanted in {"*", str(value)}
    text, pattern = str(value).lower(), wanted.lower()
    if fnmatchcase(text, pattern):
        return True
    words = _WORDS.findall(text)
    if "*" in pattern or "?" in pattern:
        return any(fnmatchcase(word, pattern) for word in words)
    sought = _WORDS.findall(pattern)
    spans = range(len(words) - len(sought) + 1) if sought else ()
    return any(words[place : place + len(sought)] == sought for place in spans)


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(r"\1", text)


def _moment(text: str) -> datetime:
    """Parse an instant; a partial date is the instant with which it begins."""
    padded = text + "-01" * (2 - text.count("-")) if len(text) <= len("2020-01") else text
    moment = datetime.fromisoformat(padded)
    return to_millisecond(moment if moment.tzinfo else moment.replace(tzinfo=UTC))

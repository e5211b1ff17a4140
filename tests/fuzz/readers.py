"""Coverage-guided fuzzing of the readers of what strangers write: archives and JSON.

Run by hand, for as long as one likes (``pip install atheris``)::

    python -m tests.fuzz.readers archives CORPUS -max_total_time=3600
    python -m tests.fuzz.readers json CORPUS -max_total_time=3600

CORPUS is a folder that keeps what reaches new code; it is begun with the tests' own
archives and hits. All further options are libFuzzer's. What it finds is written to the
current folder as ``crash-...``, and goes, once mended, into the tests of the reader.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any, Final

import atheris

with atheris.instrument_imports(include=["zml_dask.fetch", "zml_dask.records", "zipfile"]):
    from zml_dask.errors import ZmlError
    from zml_dask.fetch.member import FetchLimits
    from zml_dask.fetch.unpack import is_sound, kind_of, read_members
    from zml_dask.records.parse import (
        RecordParseError,
        archive_bytes_of,
        canonical_json,
        parse_record,
    )
    from zml_dask.records.search import hits_of

from tests.fetch.archives import COMPRESSIONS, make_zip
from tests.fetch.test_foreign import FILES, WRITERS
from tests.fetch.test_fuzz import ARCHIVES
from tests.records.test_parse import SHAPES

LIMITS: Final = FetchLimits(max_members=1000, max_unpacked_bytes=4_000_000)
# A mutation rarely gets through a compression unharmed, so some inputs are packed
# only here: the first byte says how.
_WRAPS: Final[tuple[Callable[[bytes], bytes], ...]] = (
    *COMPRESSIONS.values(),
    lambda data: make_zip({"member": data}),
)
# Names and values that the parser looks at.
_WORDS: Final = sorted(
    {word for shape in SHAPES for word in re.findall(r'"([^"]*)"', json.dumps(shape()))}
    | {"", "..", "a/../b", "\0", "\ud800", "-1", "1e999"}
)
_SCRATCH: Final = Path(tempfile.mkdtemp()) / "archive"


def fuzz_archives(data: bytes) -> None:
    """Every member is sound or has its reason; nothing else is raised."""
    if not data:
        return
    _SCRATCH.write_bytes(_WRAPS[data[0] % len(_WRAPS)](data[1:]))
    for member in read_members(_SCRATCH, name="archive", limits=LIMITS):
        member.path.encode("utf-8")
        assert (member.data is not None) == (member.status == "ok"), member
        assert member.status == "ok" or member.reason, member
        assert member.data is None or len(member.data) <= LIMITS.max_file_bytes, member
    is_sound(_SCRATCH, kind_of(_SCRATCH, limits=LIMITS))
    assert list(_SCRATCH.parent.iterdir()) == [_SCRATCH]


def fuzz_json(data: bytes) -> None:
    """Whatever JSON there is gives records fit for the tables, or one of our errors."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        # Nearly every mutation of JSON is none, so it directs changes to a good hit.
        value = _changed_hit(atheris.FuzzedDataProvider(data))
    try:
        hits, _ = hits_of(value, "http://127.0.0.1/api/records")
    except ZmlError:
        hits = [value]
    for hit in hits:
        try:
            record = parse_record(hit)
        except RecordParseError:
            continue
        assert record.record_id > 0
        assert archive_bytes_of(hit) >= 0
        for text in _texts(astuple(record)):
            text.encode("utf-8")
        assert parse_record(json.loads(canonical_json(hit))) == record


def _changed_hit(choices: atheris.FuzzedDataProvider) -> Any:
    """One of the tests' hits, with some of its values replaced."""
    hit = SHAPES[choices.ConsumeIntInRange(0, len(SHAPES) - 1)]()
    for _ in range(choices.ConsumeIntInRange(1, 6)):
        places = list(_places(hit))
        holder, key = places[choices.ConsumeIntInRange(0, len(places) - 1)]
        holder[key] = _any_value(choices, depth=3)
    return hit


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every value within a JSON value, as what holds it and its key there."""
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def _any_value(choices: atheris.FuzzedDataProvider, depth: int) -> Any:
    kind = choices.ConsumeIntInRange(0, 7 if depth else 5)
    count = choices.ConsumeIntInRange(0, 4)
    match kind:
        case 0:
            return None
        case 1:
            return choices.ConsumeBool()
        case 2:
            return choices.ConsumeInt(count * 4)
        case 3:
            return choices.ConsumeFloat()
        case 4:
            return choices.ConsumeUnicode(count * 10)
        case 5:
            return choices.PickValueInList(_WORDS)
        case 6:
            return [_any_value(choices, depth - 1) for _ in range(count)]
        case _:
            names = [choices.PickValueInList(_WORDS) for _ in range(count)]
            return {name: _any_value(choices, depth - 1) for name in names}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _texts(each)


def main() -> None:
    """Begin the corpus and fuzz until libFuzzer's options say that it is enough."""
    target = sys.argv.pop(1)
    corpus = Path(sys.argv[1])
    corpus.mkdir(parents=True, exist_ok=True)
    seeds = {
        "archives": [
            b"\0" + archive
            for archive in (*ARCHIVES, *(write(FILES) for write in WRITERS.values()))
        ],
        "json": [json.dumps(shape()).encode() for shape in SHAPES],
    }
    for number, seed in enumerate(seeds[target]):
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup(sys.argv, {"archives": fuzz_archives, "json": fuzz_json}[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()

"""Large zip files by their parts: fewer bytes for the same members."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import Faults, Sandbox

from zml_dask.errors import NetworkError
from zml_dask.fetch.fetched import FetchOptions
from zml_dask.fetch.member import FetchLimits
from zml_dask.fetch.origins import open_record
from zml_dask.fetch.partial import merge
from zml_dask.net.client import HttpClient
from zml_dask.records.parse import parse_record
from zml_dask.records.record import Record
from zml_dask.sandbox.corpus import make_record

from .archives import make_tar

MEGABYTE = 1024 * 1024
ALWAYS = FetchOptions(partial_threshold=MEGABYTE)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 MB of data, and 200 scripts before, within and behind it; a folder first, as of git."""
    path = tmp_path_factory.mktemp("large") / "large.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        target.mkdir("o-n-1/")
        for part in ("first", "second", "third"):
            for number in range(70):
                target.writestr(f"o-n-1/{part}/{number}.py", f"print({number})\n" * 100)
            if part != "third":
                target.writestr(f"o-n-1/{part}/data.bin", os.urandom(35 * MEGABYTE))
    return path


@pytest.fixture
def served(make_sandbox: Callable[..., Sandbox], archive: Path) -> Sandbox:
    files = {"large.zip": archive, "large.tar": make_tar({"d": bytes(2 * MEGABYTE), "a": b"a"})}
    return make_sandbox([make_record(7, files)])


@pytest.fixture
def record(served: Sandbox, client: HttpClient) -> Record:
    answer = client.get_json(f"{served.api_url}/records/7")
    return parse_record(answer.payload, api_url=served.api_url)


def one_file(record: Record, key: str) -> Record:
    return replace(record, files=tuple(file for file in record.files if file.key == key))


def test_the_same_members_for_a_fraction_of_the_bytes(
    record: Record, served: Sandbox, client: HttpClient, tmp_path: Path
) -> None:
    large = one_file(record, "large.zip")
    with open_record(large, client, tmp_path, replace(ALWAYS, partial_threshold=None)) as fetched:
        whole = (list(fetched.members()), fetched.origin, fetched.archives[0].checksum)
        whole_bytes = fetched.archives[0].bytes
    before = client.requests_sent
    with open_record(large, client, tmp_path, ALWAYS) as fetched:
        parts = (list(fetched.members()), fetched.origin, fetched.archives[0].checksum)
        assert fetched.archives[0].bytes < whole_bytes / 100
        # On disk it takes no more than what was fetched, give or take blocks.
        taken = sum(path.stat().st_blocks * 512 for path in tmp_path.rglob("*") if path.is_file())
        assert taken < whole_bytes / 20
    assert parts == whole
    # The end with the directory, and one for each part of the scripts.
    assert client.requests_sent - before <= 4


def test_a_zip_that_begins_with_what_is_not_read_is_still_seen_to_be_one(
    make_sandbox: Callable[..., Sandbox], client: HttpClient, tmp_path: Path
) -> None:
    for number, first in enumerate(("o-n-1/", "o-n-1/model.bin")):
        path = tmp_path / f"{number}.zip"
        with zipfile.ZipFile(path, "w") as target:
            target.writestr(first, os.urandom(0 if first.endswith("/") else 30 * MEGABYTE))
            target.writestr("o-n-1/weights.bin", os.urandom(30 * MEGABYTE))
            target.writestr("o-n-1/a.py", b"x = 1\n")
        sandbox = make_sandbox([make_record(7, {"code.zip": path})])
        record = parse_record(
            client.get_json(f"{sandbox.api_url}/records/7").payload, api_url=sandbox.api_url
        )
        with open_record(record, client, tmp_path, ALWAYS) as fetched:
            assert fetched.archives[0].bytes < MEGABYTE
            assert [one.path for one in fetched.members() if one.status == "ok"] == ["o-n-1/a.py"]


def test_a_large_zip_without_members_is_one(
    make_sandbox: Callable[..., Sandbox], client: HttpClient, tmp_path: Path
) -> None:
    path = tmp_path / "empty.zip"
    path.write_bytes(b"PK\x03\x04" + bytes(2 * MEGABYTE) + b"PK\x05\x06" + bytes(18))
    sandbox = make_sandbox([make_record(7, {"empty.zip": path})])
    record = parse_record(
        client.get_json(f"{sandbox.api_url}/records/7").payload, api_url=sandbox.api_url
    )
    with open_record(record, client, tmp_path, ALWAYS) as fetched:
        assert list(fetched.members()) == []


def test_a_server_without_parts_gives_the_whole(
    record: Record, served: Sandbox, client: HttpClient, tmp_path: Path
) -> None:
    served.faults = Faults(no_range=True)
    with open_record(one_file(record, "large.zip"), client, tmp_path, ALWAYS) as fetched:
        assert sum(one.status == "ok" for one in fetched.members()) == 210


def test_parts_that_break_off_are_had_all_the_same(
    record: Record, served: Sandbox, client: HttpClient, tmp_path: Path
) -> None:
    served.faults = Faults(cut_every=2)
    with open_record(one_file(record, "large.zip"), client, tmp_path, ALWAYS) as fetched:
        assert sum(one.status == "ok" for one in fetched.members()) == 210


def test_where_most_is_wanted_or_nothing_is_a_zip_the_whole_is_fetched(
    record: Record, served: Sandbox, client: HttpClient, tmp_path: Path
) -> None:
    everything = replace(ALWAYS, limits=FetchLimits(max_file_bytes=40 * MEGABYTE))
    large = one_file(record, "large.zip")
    with open_record(large, client, tmp_path, everything) as fetched:
        assert fetched.archives[0].bytes == large.files[0].size
    before = client.requests_sent
    with open_record(one_file(record, "large.tar"), client, tmp_path, ALWAYS) as fetched:
        assert client.requests_sent - before == 1


def test_an_archive_over_the_limit_may_still_be_had_by_its_parts(
    record: Record, client: HttpClient, tmp_path: Path
) -> None:
    large = one_file(record, "large.zip")
    for most, expected in ((10 * MEGABYTE, 210), (100_000, None)):
        options = replace(ALWAYS, limits=FetchLimits(max_archive_bytes=most))
        if expected is None:
            with (
                pytest.raises(NetworkError, check=lambda error: error.kind == "too_large"),
                open_record(large, client, tmp_path, options),
            ):
                pass
        else:
            with open_record(large, client, tmp_path, options) as fetched:
                assert sum(one.status == "ok" for one in fetched.members()) == expected


@given(
    st.lists(st.tuples(st.integers(0, 999), st.integers(1, 50)).map(lambda s: (s[0], s[0] + s[1]))),
    st.integers(0, 100),
)
def test_merged_spans_cover_all_and_keep_their_distance(
    spans: list[tuple[int, int]], gap: int
) -> None:
    merged = list(merge(spans, gap))
    for start, stop in spans:
        assert any(first <= start and stop <= last for first, last in merged)
    for (_, before), (after, _) in pairwise(merged):
        assert after - before > gap

"""Archives fetched ahead: complete or not there, resumed, and read without a network."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from serving import Faults, Sandbox

from zml_dask.errors import NetworkError, RecordError
from zml_dask.fetch.cache import is_whole, open_cache, read_cached
from zml_dask.fetch.fetched import FetchOptions
from zml_dask.fetch.member import FetchLimits
from zml_dask.fetch.origins import cache_record, open_record
from zml_dask.net.client import HttpClient
from zml_dask.records.parse import parse_record
from zml_dask.records.record import Record
from zml_dask.sandbox.corpus import make_record

from .archives import GOOD, make_tar, make_zip
from .conftest import fates, good

FILES = {
    "a.zip": make_zip(),
    "b.tar.gz": gzip.compress(make_tar({"x": b"2"})),
    "data.bin": os.urandom(300_000),
}


@pytest.fixture
def served(make_sandbox: Callable[..., Sandbox]) -> Sandbox:
    return make_sandbox([make_record(7, FILES)])


@pytest.fixture
def record(served: Sandbox, client: HttpClient) -> Record:
    answer = client.get_json(f"{served.api_url}/records/7")
    return parse_record(answer.payload, api_url=served.api_url)


def is_cached(cache: str, record: Record) -> bool:
    system, root = open_cache(cache)
    return is_whole(system, f"{root}/{record.record_id}", record)


@pytest.fixture(params=["folder", "memory"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "cache") if request.param == "folder" else f"memory://{tmp_path}/cache"


def test_offline_gives_what_online_gave(
    cache: str, record: Record, client: HttpClient, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with open_record(record, client, scratch) as fetched:
        online = (fetched.origin, list(fetched.members()))
        rows = [(one.name, one.bytes, one.checksum, one.kind) for one in fetched.archives]
    assert not is_cached(cache, record)
    assert cache_record(record, client, cache, scratch) == sum(row[1] for row in rows)
    assert is_cached(cache, record)
    assert not any(scratch.iterdir())

    sent = client.requests_sent
    options = FetchOptions(cache=cache, offline=True)
    with open_record(record, client, scratch, options) as fetched:
        assert (fetched.origin, list(fetched.members())) == online
        assert [(one.name, one.bytes, one.checksum, one.kind) for one in fetched.archives] == rows
    assert cache_record(record, client, cache, scratch) is None
    assert client.requests_sent == sent
    # Reading from a local cache leaves it as it was.
    with open_record(record, client, scratch, options) as fetched:
        assert fates(list(fetched.members())) == {"data.bin": "too_large"}


def test_offline_without_it_says_so(cache: str, record: Record, client: HttpClient) -> None:
    sent = client.requests_sent
    options = FetchOptions(cache=cache, offline=True)
    with (
        pytest.raises(
            RecordError, match="zml-dask fetch", check=lambda error: error.kind == "not_in_cache"
        ),
        open_record(record, client, Path("/tmp"), options),
    ):
        pass
    assert client.requests_sent == sent


def test_files_that_the_record_no_longer_has_are_fetched_again(
    cache: str, served: Sandbox, record: Record, client: HttpClient, tmp_path: Path
) -> None:
    old = replace(record, files=tuple(replace(f, checksum=f"md5:{0:032}") for f in record.files))
    cache_record(record, client, cache, tmp_path)
    offline = FetchOptions(cache=cache, offline=True)
    with (
        pytest.raises(RecordError, match="or of other files"),
        open_record(old, client, tmp_path, offline),
    ):
        pass
    assert not is_cached(cache, old)
    assert is_cached(cache, record)


def test_a_cache_is_asked_first_and_the_network_second(
    cache: str, record: Record, client: HttpClient, tmp_path: Path
) -> None:
    with open_record(record, client, tmp_path, FetchOptions(cache=cache)) as fetched:
        assert (
            GOOD.items()
            <= {
                path.removeprefix("a.zip/"): data
                for path, data in good(list(fetched.members())).items()
            }.items()
        )


def test_what_broke_off_is_not_in_the_cache_and_goes_on_where_it_was(
    served: Sandbox, record: Record, client: HttpClient, tmp_path: Path
) -> None:
    cache, scratch = str(tmp_path / "cache"), tmp_path / "scratch"
    served.faults = Faults(cut_every=1, no_range=True)
    with pytest.raises(NetworkError, check=lambda error: error.kind == "truncated"):
        cache_record(record, client, cache, scratch)
    assert not is_cached(cache, record)
    served.faults = Faults()
    served.requests.clear()
    cache_record(record, client, cache, scratch)
    assert is_cached(cache, record)
    assert str(served.requests.downloads[0].range).startswith("bytes=")


def test_a_torn_manifest_is_no_manifest(record: Record, client: HttpClient, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache_record(record, client, str(cache), tmp_path / "scratch")
    manifest = cache / "7" / "record.json"
    manifest.write_text(manifest.read_text()[:50])
    assert not is_cached(str(cache), record)
    assert cache_record(record, client, str(cache), tmp_path / "scratch")
    assert is_cached(str(cache), record)


@pytest.mark.parametrize("harm", ["flipped", "missing", "fields"])
def test_a_cache_that_was_harmed_is_noticed(
    cache: str, record: Record, client: HttpClient, tmp_path: Path, harm: str
) -> None:
    cache_record(record, client, cache, tmp_path / "scratch")
    system, root = fsspec.core.url_to_fs(cache)
    stored = f"{root}/7/0000"
    if harm == "flipped":
        system.pipe_file(stored, system.cat_file(stored)[:-1] + b"x")
    elif harm == "missing":
        system.rm_file(stored)
    else:
        system.pipe_file(f"{root}/7/record.json", json.dumps({"origin": "zenodo"}).encode())
    options = FetchOptions(cache=cache, offline=True)
    with (
        pytest.raises(RecordError, match="fetch", check=lambda error: error.kind == "cache"),
        open_record(record, client, tmp_path, options),
    ):
        pass
    if harm == "flipped":  # as the message says
        system.rm_file(stored)
    assert not is_cached(cache, record)
    assert cache_record(record, client, cache, tmp_path / "scratch")
    with open_record(record, client, tmp_path, options) as fetched:
        assert good(list(fetched.members()))


def test_a_record_that_cannot_be_had_for_good_leaves_nothing_in_scratch(
    record: Record, client: HttpClient, tmp_path: Path
) -> None:
    lost = tuple(replace(file, url=file.url + "/none") for file in record.files)
    with pytest.raises(NetworkError, check=lambda error: error.kind == "not_found"):
        cache_record(
            replace(record, files=lost),
            client,
            str(tmp_path / "cache"),
            tmp_path / "scratch",
        )
    assert not any((tmp_path / "scratch").iterdir())


def test_a_cache_that_cannot_be_opened_or_written(
    record: Record, client: HttpClient, tmp_path: Path
) -> None:
    with pytest.raises(RecordError, check=lambda error: error.kind == "cache"):
        cache_record(record, client, "nosuch://x", tmp_path)
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    with pytest.raises(RecordError, check=lambda error: error.kind == "cache"):
        cache_record(record, client, str(in_the_way), tmp_path / "scratch")


def test_archives_within_a_cached_archive_need_no_room_in_the_cache(
    make_sandbox: Callable[..., Sandbox], client: HttpClient, scratch: Path, tmp_path: Path
) -> None:
    inner = make_zip({"a.py": b"x = 1\n", "noise": os.urandom(150_000)})
    sandbox = make_sandbox([make_record(7, {"outer.zip": make_zip({"inner.zip": inner})})])
    answer = client.get_json(f"{sandbox.api_url}/records/7")
    record = parse_record(answer.payload, api_url=sandbox.api_url)
    cache = tmp_path / "cache"
    cache_record(record, client, str(cache), scratch)
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    options = FetchOptions(cache=str(cache), offline=True)
    with open_record(record, client, scratch, options) as fetched:
        (folder,) = scratch.iterdir()
        assert fetched.scratch == folder
        assert good(list(fetched.members())) == {"inner.zip/a.py": b"x = 1\n"}
    # Writing there would have changed the folder's own time.
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == before


def test_a_cache_whose_server_fails_is_not_an_empty_one(
    make_sandbox: Callable[..., Sandbox], record: Record, tmp_path: Path
) -> None:
    served = make_sandbox([], faults=Faults(unavailable=100))
    cache = f"{served.api_url}/cache"
    with pytest.raises(RecordError, match=r"cannot be read: the server answers 503") as caught:
        read_cached(cache, record, tmp_path, FetchLimits())
    assert caught.value.kind == "cache"
    served.faults = Faults()
    assert read_cached(cache, record, tmp_path, FetchLimits()) is None

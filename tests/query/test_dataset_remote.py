"""The same dataset over HTTP and from S3, by real servers."""

from __future__ import annotations

import shutil
import threading
import uuid
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_builders import write_dataset
from range_server import RangeServer

import zml_dask as zml
from zml_dask.errors import StorageError, UsageError, ZmlError
from zml_dask.store import object_storage
from zml_dask.store.storage import Storage

BUCKET = "asked"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("remote")
    write_dataset(Storage.open(base / "ds"), base)
    return base / "ds"


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    moto = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys)
    client.create_bucket(Bucket=BUCKET)
    yield {"endpoint_url": url, "key": "test", "secret": "test"}
    server.stop()


def check_same(remote: zml.Dataset, local: zml.Dataset) -> None:
    view, expected = remote.select("language == 'C'"), local.select("language == 'C'")
    assert view.files.equals(expected.files)
    assert view.records.title.tolist() == expected.records.title.tolist()
    np.testing.assert_array_equal(view.images, expected.images)
    file_id = int(view.files.file_id.iloc[-1])
    assert remote.text(file_id) == local.text(file_id)
    assert sum(len(images) for _, images in view) == len(expected)
    assert sum(map(len, view.batches(batch_size=32, seed=0))) == len(expected)


def test_from_s3(folder: Path, s3: dict[str, str], tmp_path: Path) -> None:
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    write_dataset(Storage.open(url, **s3), tmp_path)
    check_same(zml.open_dataset(url, storage_options=s3), zml.open_dataset(folder))
    with pytest.raises(UsageError, match="no committed dataset"):
        zml.open_dataset(f"s3://{BUCKET}/nothing-here", s3)


def test_over_http(folder: Path) -> None:
    with RangeServer(folder.parent) as server:
        remote = zml.open_dataset(f"{server.url}/ds")
        assert server.bytes_sent("") == (folder / "dataset.json").stat().st_size
        check_same(remote, zml.open_dataset(folder))
        with pytest.raises(UsageError, match="no committed dataset"):
            zml.open_dataset(f"{server.url}/nothing-here")


def test_a_server_that_ignores_range_is_named_as_such(folder: Path) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        remote = zml.open_dataset(f"http://127.0.0.1:{server.server_address[1]}/ds")
        with pytest.raises(StorageError, match="Range"):
            remote.images[:1].compute()
        # Parts this small are asked for whole, with their footers.
        assert len(remote.files) == len(zml.open_dataset(folder).files)
        server.shutdown()


def test_over_http_only_the_chunks_asked_for_are_sent(folder: Path) -> None:
    with RangeServer(folder.parent) as server:
        images = zml.open_dataset(f"{server.url}/ds").images
        server.sent.clear()
        images[:10].compute()
        shard = (folder / "images.zarr/images/c/0/0/0").stat().st_size
        assert 0 < server.bytes_sent("images.zarr") < shard / 2
        assert server.bytes_sent("parquet") == 0


@pytest.mark.parametrize("status", [403, 500])
def test_what_a_server_answers_is_one_line(folder: Path, status: int) -> None:
    with RangeServer(folder.parent) as server:
        server.refuse_with = status
        with pytest.raises(StorageError, match=f"dataset.json.*{status}"):
            zml.open_dataset(f"{server.url}/ds")


def test_an_endpoint_that_is_not_there_is_one_line(s3: dict[str, str]) -> None:
    options: dict[str, Any] = {
        "endpoint_url": "http://127.0.0.1:1",
        "config_kwargs": {"retries": {"max_attempts": 1}},
    }
    with pytest.raises(StorageError, match="cannot read"):
        zml.open_dataset("s3://x/y", s3 | options)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_read_from_s3_on_their_own(
    s3: dict[str, str], tmp_path: Path, workers: int
) -> None:
    data = pytest.importorskip("torch.utils.data")
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    write_dataset(Storage.open(url, **s3), tmp_path)
    ds = zml.open_dataset(url, s3)
    loader = data.DataLoader(ds.to_torch(32, seed=1), batch_size=None, num_workers=workers)
    assert sum(len(batch) for batch in loader) == len(ds)


def test_many_requests_are_under_way_at_once(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(15_000_000)
    (tmp_path / "x").write_bytes(data)
    with RangeServer(tmp_path) as server:
        server.together = 32
        storage = Storage.open(server.url)
        ranges = [("x", start, start + 50) for start in range(0, 15_000_000, 150_000)]
        assert storage.read_ranges(ranges) == [data[start:stop] for _, start, stop in ranges]
        assert server.most_at_once >= 32
        server.sent.clear()
        near = [("x", start, start + 100) for start in range(0, 1_000_000, 1_000)]
        assert len(storage.read_ranges(near)) == 1000
        assert len(server.sent) == 1


def test_what_fails_in_passing_is_asked_for_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_storage, "_PAUSES", (0, 0, 0))
    with RangeServer(folder.parent) as server:
        server.failures = [503, 429, 500]
        remote = zml.open_dataset(f"{server.url}/ds")
        server.failures = [503] * 3
        assert (remote.images[:2].compute() == zml.open_dataset(folder).images[:2].compute()).all()
        server.failures = [404]
        with pytest.raises(StorageError, match="no such object"):
            remote.images[:2].compute()


def test_a_url_with_a_query_keeps_it_for_every_object(folder: Path) -> None:
    with RangeServer(folder.parent) as server:
        remote = zml.open_dataset(f"{server.url}/ds?signature=abc")
        check_same(remote, zml.open_dataset(folder))
        assert set(server.queries) == {"signature=abc"}
        assert len(server.queries) == len(server.sent)


@pytest.mark.parametrize(
    "url",
    [
        "zip://inner/ds::{zip}",
        "simplecache::{http}/ds",
        "zip://inner/ds::{http}/ds.zip",
        "filecache::{http}/ds",
    ],
)
def test_chained_urls(folder: Path, tmp_path: Path, url: str) -> None:
    shutil.copytree(folder, tmp_path / "inner/ds")
    shutil.make_archive(str(tmp_path / "ds"), "zip", tmp_path, "inner")
    with RangeServer(tmp_path) as server:
        (tmp_path / "ds").symlink_to(folder)
        remote = zml.open_dataset(url.format(zip=tmp_path / "ds.zip", http=server.url))
        check_same(remote, zml.open_dataset(folder))
        with pytest.raises(StorageError, match="cannot write"):
            Storage.open(remote.url).write("x", b"1")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("zip://ds::{0}/none.zip", "no committed dataset"),
        ("zip://ds::{0}/text", "not a zip file"),
        ("nosuch::zip://ds::{0}/text", "there is no file system 'nosuch'"),
    ],
)
def test_a_chained_url_that_cannot_be_is_one_line(tmp_path: Path, url: str, words: str) -> None:
    (tmp_path / "text").write_text("no archive")
    with pytest.raises(ZmlError, match=words):
        zml.open_dataset(url.format(tmp_path))


def test_a_mistyped_option_of_a_web_server_is_named(folder: Path) -> None:
    said = pytest.raises(UsageError, match="'heders' for it; did you mean 'headers'")
    with RangeServer(folder.parent) as server, said:
        zml.open_dataset(f"{server.url}/ds", {"heders": {}})

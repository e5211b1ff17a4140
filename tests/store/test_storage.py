"""Storage, on a folder, in memory through fsspec, and on a real S3 server."""

from __future__ import annotations

import errno
import os
import pickle
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
import zarr
from range_server import RangeServer
from store_builders import content_of, objects, sources, stage

from zml_dask.errors import ObjectMissingError, UsageError
from zml_dask.store import object_storage
from zml_dask.store import storage as operations
from zml_dask.store.commit import commit, tidy
from zml_dask.store.info import DatasetInfo, read_info
from zml_dask.store.staging import pack_records
from zml_dask.store.storage import Storage
from zml_dask.store.verify import verify


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A server that speaks S3, on loopback."""
    moto = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    patch = pytest.MonkeyPatch()
    patch.setenv("AWS_ACCESS_KEY_ID", "test")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    boto3.client("s3", endpoint_url=url).create_bucket(Bucket="zml")
    yield url
    server.stop()
    patch.undo()


@pytest.fixture(params=["folder", "memory", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return Storage.open(tmp_path / "ds")
    if request.param == "memory":
        return Storage.open(f"memory://{uuid.uuid4().hex}")
    url = request.getfixturevalue("s3_endpoint")
    return Storage.open(f"s3://zml/{uuid.uuid4().hex}", endpoint_url=url)


def test_an_object_is_replaced_only_where_it_is_as_expected(storage: Storage) -> None:
    assert not storage.replace("a", b"new", expected=b"old")
    assert storage.replace("a", b"first", expected=None)
    assert not storage.replace("a", b"second", expected=None)
    assert not storage.replace("a", b"second", expected=b"other")
    assert storage.read("a") == b"first"
    assert storage.replace("a", b"second", expected=b"first")
    assert storage.read("a") == b"second"
    assert storage.names() == ["a"]
    assert not storage.leftovers()


@pytest.mark.parametrize("storage", ["folder", "s3"], indirect=True)
def test_of_many_writers_at_once_each_builds_on_the_last(storage: Storage) -> None:
    """However their reads and writes fall: what was written is never overwritten unread."""
    storage.write("n", b"0")

    def count(_: int) -> None:
        while True:
            old = storage.read("n")
            if storage.replace("n", str(int(old) + 1).encode(), expected=old):
                return

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(40)))
    assert storage.read("n") == b"40"


def test_objects_are_written_read_listed_and_removed(storage: Storage, tmp_path: Path) -> None:
    storage.write("a/b/one", b"0123456789")
    storage.write("a/two", b"")
    local = tmp_path / "local"
    local.write_bytes(b"three")
    storage.publish(local, "a/three")
    assert not local.exists()
    assert storage.list("a") == ["a/b/one", "a/three", "a/two"]
    assert storage.list("a/b") == ["a/b/one"]
    assert list(storage.list("none")) == []
    assert storage.names() == ["a"]
    assert storage.read("a/three") == b"three"
    assert storage.read_range("a/b/one", 2, 5) == b"234"
    assert storage.read_tail("a/b/one", 3) == b"789"
    assert storage.read_tail("a/b/one", 30) == b"0123456789"
    assert storage.read_tail("a/two", 3) == b""
    with storage.open_reader("a/b/one") as stream:
        stream.seek(8)
        assert stream.read() == b"89"
    assert (storage.size("a/b/one"), storage.exists("a/b/one"), storage.exists("a/b")) == (
        10,
        True,
        False,
    )
    storage.write("a/two", b"replaced")
    assert storage.read("a/two") == b"replaced"
    storage.remove(["a/two", "a/none"])
    storage.remove("a/b/one")
    storage.prune("a")
    assert storage.list() == ["a/three"]
    assert not storage.leftovers()
    assert pickle.loads(pickle.dumps(storage)).read("a/three") == b"three"
    assert "secret" not in repr(Storage.open("s3://x", key="secret"))


@pytest.mark.parametrize("method", ["read", "size", "open_reader"])
def test_what_is_missing_is_named(storage: Storage, method: str) -> None:
    with pytest.raises(ObjectMissingError, match="cannot read 'a/none': no such object"):
        getattr(storage, method)("a/none")


def test_many_ranges_come_in_their_order(storage: Storage) -> None:
    rng = np.random.default_rng(0)
    contents = {f"a/{number}": rng.bytes(200_000) for number in range(12)}
    for path, data in contents.items():
        storage.write(path, data)
    storage.write("a/empty", b"")
    ranges: list[tuple[str, int, int | None]] = [("a/empty", -9, None), ("a/3", 0, None)]
    for path in [*contents, "a/3"]:
        for start in rng.integers(0, 200_000, 9).tolist():
            ranges.append((path, start, start + int(rng.integers(1, 9_000))))
        ranges.append((path, -int(rng.integers(1, 9_000)), None))
    everything = contents | {"a/empty": b""}
    assert storage.read_ranges(ranges) == [
        everything[path][start:stop] for path, start, stop in ranges
    ]
    with pytest.raises(ObjectMissingError, match="cannot read 'a/none'"):
        storage.read_ranges([("a/1", 0, 5), ("a/none", 0, 5)])
    assert storage.read_ranges([]) == []


def test_only_one_of_many_makes_a_new_object(storage: Storage) -> None:
    barrier = threading.Barrier(8)

    def attempt(number: int) -> bool:
        barrier.wait()
        return storage.write_new("build.lock", b"%d" % number)

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(attempt, range(8)))
    if storage.url.startswith("memory"):
        assert any(won)  # fsspec's memory is a plain dictionary
    else:
        assert sum(won) == 1
    assert storage.read("build.lock") == b"%d" % won.index(True)
    assert not storage.write_new("build.lock", b"late")
    assert not storage.leftovers()


def test_a_new_object_where_there_are_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    storage = Storage.open(tmp_path / "ds")
    assert storage.write_new("build.lock", b"one")
    assert not storage.write_new("build.lock", b"two")
    assert (storage.read("build.lock"), storage.leftovers()) == (b"one", [])


def test_readers_see_old_bytes_or_new_ones(storage: Storage) -> None:
    storage.write("x", b"0" * 300_000)
    stop = threading.Event()

    def read() -> set[bytes]:
        seen = set()
        while not stop.is_set():
            data = storage.read("x")
            assert len(set(data)) == 1
            assert len(data) == 300_000
            seen.add(data[:1])
        return seen

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        for number in range(1, 10):
            storage.write("x", b"%d" % number * 300_000)
        stop.set()
        assert reading.result()


def test_a_dataset_is_the_same_wherever_it_lies(storage: Storage, tmp_path: Path) -> None:
    plain = Storage.open(tmp_path / "plain")
    for target in (storage, plain):
        stage(target, tmp_path, 1, sources(8))
        stage(target, tmp_path, 2, sources(8, 2), max_memory=0)
        pack_records(target, "p", [1, 2], scratch=tmp_path)
        commit(target)
        stage(target, tmp_path, 3, sources(8, 3))
        commit(target)
    assert objects(storage) == objects(plain)
    assert verify(storage, deep=True).ok
    url, options = f"{storage.url}/images.zarr", getattr(storage, "options", None)
    group = zarr.open_group(url, mode="r", storage_options=options)
    expected = zarr.open_group(f"{plain.url}/images.zarr", mode="r")
    assert np.array_equal(group["images"][:], expected["images"][:])
    dataset = xarray.open_zarr(url, storage_options=options)
    assert dict(dataset.sizes)["image"] == expected["images"].shape[0]


@pytest.mark.slow
def test_a_crash_on_an_object_store_leaves_the_last_commit(
    s3_endpoint: str, tmp_path: Path
) -> None:
    class CrashError(BaseException):
        pass

    first = Storage.open(tmp_path / "first")
    stage(first, tmp_path, 1, sources(8))
    commit(first)
    good = Storage.open(tmp_path / "good")
    for number in range(1, 60, 4):
        storage = Storage.open(f"s3://zml/crash-{number}", endpoint_url=s3_endpoint)
        for path, data in objects(first).items():
            storage.write(path, data)
        left = number

        def hook(operation: str, path: str) -> None:
            nonlocal left
            left -= 1
            if left <= 0:
                raise CrashError

        operations.before_operation = hook
        try:
            stage(storage, tmp_path, 2, sources(8, 2))
            pack_records(storage, "p", [2])
            commit(storage)
        except CrashError:
            pass
        finally:
            operations.before_operation = None
        report = verify(storage, deep=True)
        assert report.ok, report.problems
        if left > 0:
            break
        if read_info(storage).counts.records == 1:
            stage(storage, tmp_path, 2, sources(8, 2))
        commit(storage)
        if not good.names():
            stage(good, tmp_path, 1, sources(8))
            commit(good)
            stage(good, tmp_path, 2, sources(8, 2))
            commit(good)
        assert content_of(objects(storage)) == content_of(objects(good))
    assert left > 0


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    """A real full file system: /dev/full cannot hold a folder, so a file size limit stands in."""
    import resource
    import signal

    storage = Storage.open(tmp_path / "ds")
    storage.write("a", b"old")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, old[1]))
        with pytest.raises(operations.StorageError, match="cannot write 'a'"):
            storage.write("a", b"n" * 20_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert storage.read("a") == b"old"
    assert not storage.leftovers()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "is empty"),
        ("nosuch://x", "there is no file system 'nosuch'"),
        ("s3://bucket//ds", "'s3://bucket//ds' has a slash too many: write s3://BUCKET/FOLDER"),
        ("simplecache::s3:///ds", "has a slash too many"),
    ],
)
def test_a_url_that_cannot_be(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Storage.open(url)


@pytest.mark.parametrize(
    ("method", "arguments"),
    [("read", [5]), ("write", ["a", "text"]), ("list", [None]), ("read_range", ["a", "0", 1])],
)
def test_arguments_of_other_types_are_named(
    tmp_path: Path, method: str, arguments: list[Any]
) -> None:
    with pytest.raises(UsageError, match=rf"Storage\.{method}\(\): \w+ has to be"):
        getattr(Storage.open(tmp_path), method)(*arguments)


def test_a_folder_takes_no_storage_options(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="takes no storage options; leave out 'anon'"):
        Storage.open(tmp_path, anon=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"anon": "x", "client_kwargs": 3}, "'anon' has to be True or False, not .* type str"),
        ({"client_kwargs": 3}, "option 'client_kwargs' has to be a mapping, not .* type int"),
        ({"config_kwargs": "x"}, "option 'config_kwargs' has to be a mapping"),
        ({"key": "k", "secret": b"private"}, "option 'secret' has to be text, not .* type bytes"),
        ({"session": 3}, "check the storage options session, endpoint_url: 'int' object has no"),
    ],
)
@pytest.mark.parametrize("chain", ["", "simplecache::"])
def test_a_storage_option_of_another_type_is_named(
    s3_endpoint: str, chain: str, options: dict[str, Any], message: str
) -> None:
    options = {**options, "endpoint_url": s3_endpoint}
    if chain:
        options, message = {"s3": options}, message.replace("session, endpoint_url", "s3")
    with pytest.raises(UsageError, match=message) as raised:
        Storage.open(f"{chain}s3://zml/x", **options).read("a")
    assert "private" not in str(raised.value)


@pytest.mark.parametrize(
    "options", [{"headers": "x"}, {"client_kwargs": []}, {"cookies": 3}, {"auth": ("a", "b")}]
)
def test_a_storage_option_of_another_type_is_named_over_http(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    with RangeServer(tmp_path) as server, pytest.raises(UsageError, match=next(iter(options))):
        Storage.open(server.url, **options).read("a")


def test_links_that_lead_out_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_bytes(b"mine")
    (tmp_path / "real").mkdir()
    (tmp_path / "ds").symlink_to(tmp_path / "real")  # where the dataset itself is, is its owner's
    storage = Storage.open(tmp_path / "ds")
    storage.write("a/one", b"1")
    (tmp_path / "ds/file").symlink_to(secret / "key")
    (tmp_path / "ds/folder").symlink_to(secret)
    (tmp_path / "ds/within").symlink_to(tmp_path / "ds/a/one")
    for path in ("file", "folder/key"):
        for use in (
            lambda path=path: storage.read(path),
            lambda path=path: storage.read_ranges([("a/one", 0, 1), (path, 0, 1)]),
            lambda path=path: storage.open_reader(path),
            lambda path=path: storage.size(path),
            lambda path=path: storage.write(path, b"x"),
        ):
            with pytest.raises(operations.StorageError, match="leads out of the dataset"):
                use()
    assert (secret / "key").read_bytes() == b"mine"
    assert storage.read("within") == b"1"


def test_what_s3_refuses_is_said(s3_endpoint: str) -> None:
    options = {"endpoint_url": s3_endpoint}
    with pytest.raises(UsageError, match="no storage option 'annon' for it; did you mean 'anon'"):
        Storage.open("s3://zml/x", annon=True, **options).read("a")
    with pytest.raises(operations.StorageError, match=r"Invalid endpoint: 127\S+; check the addr"):
        Storage.open("s3://zml/x", key="k", secret="s", endpoint_url="127.0.0.1:9000").read("a")
    for error, words in (
        (PermissionError("Forbidden"), r"access is denied \(Forbidden\); .* anon=True"),
        (NotImplementedError(), "storage of this kind cannot write"),
    ):
        storage = Storage.open("s3://zml/x", **options)
        with pytest.raises(operations.StorageError, match=words), storage._operation("write", "a"):
            raise error


def test_a_server_that_falls_silent_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_storage, "_SILENCE", 0.5)
    (tmp_path / "a").write_bytes(bytes(range(200)))
    with RangeServer(tmp_path) as server:
        server.failures = [0, 0]
        storage = Storage.open(server.url)
        assert storage.read_range("a", 50, 150) == bytes(range(50, 150))
    assert len(server.sent) == 3


def test_s3_says_of_a_bucket_that_is_closed_what_helps(tmp_path: Path) -> None:
    with RangeServer(tmp_path) as server:
        server.refuse_with = 403
        storage = Storage.open("s3://zml/x", endpoint_url=server.url, key="nobody", secret="wrong")
        with pytest.raises(operations.StorageError, match=r"access is denied .* anon=True"):
            storage.read("a")


def test_a_folder_has_one_name_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere/inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere/inner")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    name = str(tmp_path / "ds")
    for written in ("ds", "./ds/", "./x/../ds", "~/ds", f"file://{name}/", Path("elsewhere/../ds")):
        assert Storage.open(written).url == name
    # As a shell does, where there is no such user.
    assert Storage.open("~no-such-user/ds").url == str(tmp_path / "~no-such-user/ds")
    # As the system takes it: the folder above a link's target.
    assert Storage.open("link/../ds").url == str(tmp_path / "elsewhere/ds")


def test_what_a_killed_process_was_writing_goes_once_nobody_can_be_writing_it(
    tmp_path: Path,
) -> None:
    storage = Storage.open(tmp_path)
    old, new = tmp_path / ".tmp-1-build.lock", tmp_path / ".tmp-2-build.lock"
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    assert storage.leftovers(600) == [old.name]
    assert storage.leftovers() == [old.name, new.name]
    storage.write("dataset.json", DatasetInfo().to_bytes())
    tidy(storage, None, ())
    assert storage.leftovers() == [new.name]

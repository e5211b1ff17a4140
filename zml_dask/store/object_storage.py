"""A dataset in an object store (S3), on a web server, or anywhere else fsspec reaches."""

from __future__ import annotations

import contextlib
import errno
import inspect
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import IO, TYPE_CHECKING, Any, ClassVar

import fsspec

from zml_dask.arguments import described, nearest
from zml_dask.errors import ObjectMissingError, StorageError, UsageError, ZmlError
from zml_dask.remote import explain_fsspec, is_ours
from zml_dask.store.storage import Range, Storage, is_url

if TYPE_CHECKING:
    import aiohttp

_CONNECTIONS = 64
"""Requests under way. 416 ranges of 26 objects, 19 MB, from a server 30 ms away: 0.35 s (fsspec)
and 0.40 s (obstore) with 64, 0.67 s and 0.62 s with 32; fsspec's one at a time takes 14 s."""

_PAUSES = (0.2, 1.0, 3.0)
"""Seconds before what failed in passing is asked for again."""

_SILENCE = 60.0
"""Seconds without a byte after which a connection is given up."""

_PASSING_STATUS = (429, 500, 502, 503, 504)
_PASSING_ERRORS = ("ServerDisconnectedError", "ClientPayloadError", "FSTimeoutError")
_PRECONDITION_FAILED = ("PreconditionFailed", "ConditionalRequestConflict")
_BUCKETS = ("s3", "s3a", "gs", "gcs")
"""Protocols whose URLs begin with a bucket."""
_OPTIONS: Mapping[str, type] = {
    "anon": bool,
    **dict.fromkeys(("client_kwargs", "config_kwargs", "headers", "s3_additional_kwargs"), Mapping),
    **dict.fromkeys(("endpoint_url", "key", "profile", "secret"), str),
}
"""Types of the usual options, which fsspec and its clients do not check."""
_MISUSES = (TypeError, AttributeError, RuntimeError)
"""What a client raises that is given an option of a wrong type."""


@dataclass(frozen=True)
class ObjectStorage(Storage):
    """Objects under an fsspec URL; a put of a whole object is atomic there.

    `options` are for fsspec; they may contain a secret, and are not shown.
    """

    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    is_local: ClassVar[bool] = False
    # The bytes between two ranges take less time than another request.
    _gap: ClassVar[int] = 1 << 16

    @classmethod
    def _at(cls, url: str, options: Mapping[str, Any]) -> Storage | None:
        if not is_url(url) or url.startswith(("file://", "local://")):
            return None
        *wrappers, last = url.split("::")
        for link in [*wrappers, *([last] if "://" in last else [])]:
            protocol, _, place = link.partition("://")
            bucket, _, key = place.partition("/")
            if protocol in _BUCKETS and (not bucket or key.startswith("/")):
                # s3fs writes such objects, and does not find them in a listing.
                raise UsageError(f"{url!r} has a slash too many: write {protocol}://BUCKET/FOLDER")
            _check_types(options)
            if isinstance(options.get(protocol), Mapping):  # those of one link of a chain
                _check_types(options[protocol])
            try:
                fsspec.get_filesystem_class(protocol)
            except ImportError as error:
                raise UsageError(
                    f"{url!r} needs a package that is not installed: {error}; "
                    "for S3, install zml-dask[s3]"
                ) from error
            except ValueError as error:
                raise UsageError(
                    f"{url!r}: there is no file system {protocol!r}; give a path, "
                    "file://, s3://, http(s):// or another protocol that fsspec knows"
                ) from error
        return cls(url.rstrip("/"), dict(options))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.url, self.options)

    @property
    def _is_chained(self) -> bool:
        return "::" in self.url

    def _connect(self) -> tuple[Any, str]:
        """Return the file system and the dataset's place there."""
        options = dict(self.options)
        if self._is_chained:
            # Kept, since fsspec opens an archive each time; a forked process must open its own.
            held = self.__dict__.setdefault("_held", {})
            if os.getpid() not in held:
                held[os.getpid()] = fsspec.core.url_to_fs(self.url, **options)
            fs, root = held[os.getpid()]
            return fs, str(root)
        if self.url.startswith(("http://", "https://")):
            # Without compression, since ranges are of the stored bytes.
            options["headers"] = {"Accept-Encoding": "identity", **options.get("headers", {})}
            import aiohttp

            # A large object may take any time, but a silent server is asked again.
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_SILENCE, sock_read=_SILENCE)
            client = {"raise_for_status": _refuse_whole, "timeout": timeout}
            options["client_kwargs"] = {**client, **options.get("client_kwargs", {})}
        else:
            # No cache of listings, since other workers write here too.
            options.setdefault("use_listings_cache", False)
            if self.url.startswith("s3://"):
                connections = {"max_pool_connections": _CONNECTIONS}
                options["config_kwargs"] = {**connections, **options.get("config_kwargs", {})}
        fs, root = fsspec.core.url_to_fs(self.url, **options)  # one per URL and options
        return fs, str(root)

    def _locate(self, path: str, *, write: bool = False) -> tuple[Any, str]:
        if write and self._is_chained:
            raise NotImplementedError  # caches and archives are for reading
        fs, root = self._connect()
        return fs, self._join(root, path)

    def _join(self, root: str, path: str) -> str:
        if not path:
            return root
        # A query (a signature, say) belongs to each object's address, after its path.
        mark = "?" if self.url.startswith("http") else "\0"
        base, mark, query = root.partition(mark)
        base = base.rstrip("/")
        return (f"{base}/{path}" if base or root.startswith("/") else path) + mark + query

    def _read_ranges(self, ranges: Sequence[Range]) -> Sequence[bytes | BaseException]:
        answers: list[bytes | BaseException] = [b""] * len(ranges)
        waiting = list(range(len(ranges)))
        for pause in (*_PAUSES, None):
            asked = [ranges[number] for number in waiting]
            for number, answer in zip(waiting, self._ask(asked), strict=True):
                answers[number] = answer
            waiting = [number for number in waiting if _passes(answers[number])]
            if not waiting or pause is None:
                break
            time.sleep(pause)
        return answers

    def _ask(self, ranges: Sequence[Range]) -> Sequence[bytes | BaseException]:
        try:
            fs, root = self._connect()
            if self._is_chained or not fs.async_impl:
                return [self._read_one(*wanted) for wanted in ranges]
            answers = fs.cat_ranges(
                [self._join(root, path) for path, _, _ in ranges],
                # Without limits for a whole object, so that S3 may divide it.
                [None if stop is None and not start else start for _, start, stop in ranges],
                [stop for _, _, stop in ranges],
                on_error="return",
                batch_size=_CONNECTIONS,
            )
        except Exception as error:  # noqa: BLE001 - explained where it is raised again
            return [error] * len(ranges)
        return [
            b"" if start < 0 and self._is_empty(path, answer) else answer
            for (path, start, _), answer in zip(ranges, answers, strict=True)
        ]

    def _read_one(self, path: str, start: int, stop: int | None) -> bytes | BaseException:
        # Caches and archives support little more than opening a file.
        try:
            with self._open_reader(path) as stream:
                size = stream.seek(0, 2)
                start = max(0, size + start) if start < 0 else start
                stream.seek(start)
                return stream.read(max(0, (size if stop is None else min(stop, size)) - start))
        except Exception as error:  # noqa: BLE001 - as above
            return error

    def _is_empty(self, path: str, answer: bytes | BaseException) -> bool:
        """Whether the end of an object could not be read because it has no bytes at all."""
        if isinstance(answer, (bytes, FileNotFoundError, StorageError)) or _passes(answer):
            return False
        with contextlib.suppress(Exception):
            return self._size(path) == 0
        return False

    def _open_reader(self, path: str) -> IO[bytes]:
        fs, place = self._locate(path)
        stream: IO[bytes] = fs.open(place, "rb")
        return stream

    def _write(self, path: str, data: bytes, *, durable: bool) -> None:
        fs, place = self._locate(path, write=True)
        fs.pipe_file(place, data)

    def _write_new(self, path: str, data: bytes) -> bool:
        return self._put_if(path, data, mode="create")

    def _replace_if(self, path: str, data: bytes, expected: bytes | None) -> bool:
        if expected is None:
            return self._write_new(path, data)
        fs, place = self._locate(path, write=True)
        try:
            # The tag before the bytes: an object that is replaced between the two fails the put.
            etag = fs.info(place).get("ETag") if "s3" in fs.protocol else None
            if fs.cat_file(place) != expected:
                return False
        except FileNotFoundError:
            return False
        # Elsewhere fsspec has no conditions: two writers within these lines are not detected.
        return self._put_if(path, data, **({"IfMatch": etag} if etag else {}))

    def _put_if(self, path: str, data: bytes, **condition: Any) -> bool:
        fs, place = self._locate(path, write=True)
        try:
            fs.pipe_file(place, data, **condition)
        except FileExistsError:
            return False
        except OSError as error:
            # s3fs passes S3's answer to a condition on as a bare OSError.
            if error.errno == errno.EEXIST or any(
                word in f"{error} {error.__cause__}" for word in _PRECONDITION_FAILED
            ):
                return False
            raise
        return True

    def _publish(self, local: Path, path: str, *, durable: bool) -> None:
        fs, place = self._locate(path, write=True)
        fs.put_file(str(local), place)
        local.unlink()

    def _exists(self, path: str) -> bool:
        with contextlib.suppress(FileNotFoundError):  # of the archive that it would be in
            fs, place = self._locate(path)
            return bool(fs.isfile(place))
        return False

    def _size(self, path: str) -> int:
        fs, place = self._locate(path)
        return int(fs.info(place)["size"])

    def _list(self, prefix: str) -> Sequence[str]:
        try:
            fs, root = self._connect()
            found = fs.find(self._join(root, prefix))
        except FileNotFoundError:
            return []
        return [str(name).removeprefix(root).lstrip("/") for name in found]

    def _names(self) -> Sequence[str]:
        try:
            fs, root = self._connect()
            found = fs.ls(root, detail=False)
        except FileNotFoundError:
            return []
        return list({str(name).rstrip("/").rpartition("/")[2] for name in found})

    def _remove(self, path: str) -> None:
        fs, place = self._locate(path, write=True)
        with contextlib.suppress(FileNotFoundError):
            fs.rm_file(place)

    def _prune(self, prefix: str) -> None:
        """Do nothing: an object store has no folders."""

    def _explain(self, error: Exception, operation: str) -> tuple[type[ZmlError], str]:
        if unknown := self._unknown_option(error):
            return UsageError, unknown
        if self.options and type(error) in _MISUSES and not is_ours(error):
            return UsageError, f"check the storage options {', '.join(self.options)}: {error}"
        if isinstance(error, NotImplementedError):
            return StorageError, f"storage of this kind cannot {operation}; copy it to a folder"
        failure = explain_fsspec(error)
        if isinstance(error, OSError) and not failure.is_denied:
            return super()._explain(error, operation)
        return ObjectMissingError if failure.is_missing else StorageError, failure.reason

    def _unknown_option(self, error: Exception) -> str | None:
        """Return a message that names a wrong option, if that is the error."""
        found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        given = {*self.options}
        for options in self.options.values():
            given.update(options if isinstance(options, Mapping) else ())
        if not isinstance(error, TypeError) or found is None or found[1] not in given:
            return None
        known: set[str] = set()
        for link in self.url.split("::"):
            protocol = link.partition("://")[0]
            if protocol in fsspec.available_protocols():
                for each in fsspec.get_filesystem_class(protocol).__mro__:
                    known.update(inspect.signature(each.__init__).parameters)
        known.update(("headers", "auth", "proxy", "ssl", "timeout"))
        advice = nearest(found[1], sorted(known - {"self"}), "fsspec's documentation")
        return f"there is no storage option {found[1]!r} for it; {advice}"


def _check_types(options: Mapping[str, Any]) -> None:
    """Raise `UsageError` where an option is of a wrong type; its value may be a secret."""
    for name, value in options.items():
        kind = _OPTIONS.get(name)
        if kind and not isinstance(value, (kind, NoneType)):
            raise UsageError(
                f"the storage option {name!r} has to be {described(kind)}, not a value of the "
                f"type {type(value).__name__}"
            )


def _passes(answer: bytes | BaseException) -> bool:
    """Whether a failure may be transient."""
    if isinstance(answer, bytes):
        return False
    names = {base.__name__ for base in type(answer).__mro__}
    return (
        getattr(answer, "status", None) in _PASSING_STATUS
        or isinstance(answer, (ConnectionResetError, TimeoutError))
        or bool(names & set(_PASSING_ERRORS))
    )


async def _refuse_whole(response: aiohttp.ClientResponse) -> None:
    """Refuse an object that a server sends whole instead of a part, before it arrives."""
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", response.request_info.headers.get("Range", ""))
    if response.status != 200 or asked is None:
        return
    start, end = asked.groups()
    most = int(end) + 1 if start == "0" and end else int(end) if not start else 0
    if start == "0" and not end:
        return
    if response.content_length is None or response.content_length > most:
        response.close()
        raise StorageError(
            f"the server of {response.host} sends whole files instead of the requested part; use a "
            "server that supports HTTP's Range, as nginx, Apache and Caddy do (Python's "
            "http.server does not)"
        )

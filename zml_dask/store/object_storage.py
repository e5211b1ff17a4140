"""A dataset in an object store (S3) or anywhere else fsspec reaches."""

# ruff: noqa: D102 - the methods are documented where StorageBackend declares them

from __future__ import annotations

import contextlib
import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import fsspec

from zml_dask.errors import UsageError
from zml_dask.store.operations import RangeIgnoredError, inside
from zml_dask.store.storage_backend import StorageBackend

if TYPE_CHECKING:
    from zarr.abc.store import Store

_PRECONDITION_FAILED = ("PreconditionFailed", "ConditionalRequestConflict")


@dataclass(frozen=True)
class ObjectStorage(StorageBackend):
    """Objects under an fsspec URL; a put of a whole object is atomic there."""

    url: str
    options: Mapping[str, Any] = field(repr=False)  # may hold a secret

    @classmethod
    def connect(cls, url: str, options: Mapping[str, Any]) -> ObjectStorage:
        """Check that fsspec knows the URL's protocol, and hold on to its options.

        Raises
        ------
        UsageError
            If it does not, or the package for it is missing.
        """
        protocol = url.partition("://")[0].partition("::")[0]
        try:
            fsspec.get_filesystem_class(protocol)
        except ImportError as error:
            raise UsageError(
                f"{url!r} needs a package that is not installed: {error}; "
                "for S3, install zml-dask[s3]"
            ) from error
        except ValueError as error:
            raise UsageError(
                f"{url!r}: no file system is known by the name {protocol!r}; give a path, "
                "file://, s3://, http(s):// or another protocol that fsspec knows"
            ) from error
        return cls(url, dict(options))

    @property
    def is_local(self) -> bool:
        return False

    def _fs(self) -> Any:
        # fsspec keeps one instance per URL and options. Its listings would be
        # remembered, but other workers write here too.
        options = {"use_listings_cache": False, **self.options}
        if self.url.startswith("http"):
            options.pop("use_listings_cache")
        return fsspec.core.url_to_fs(self.url, **options)[0]

    def _locate(self, path: str) -> str:
        return f"{self.url}/{inside(path)}" if path else self.url

    def read(self, path: str) -> bytes:
        data: bytes = self._fs().cat_file(self._locate(path))
        return data

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        data: bytes = self._fs().cat_file(self._locate(path), start=start, end=stop)
        if len(data) > stop - start:
            raise RangeIgnoredError(
                f"the server of {self.url} sends whole files where a part is asked for; serve the "
                "dataset with one that knows HTTP's Range, as nginx, Apache and Caddy do (Python's "
                "http.server does not)"
            )
        return data

    def read_tail(self, path: str, size: int) -> bytes:
        total = self.size(path)
        return self.read_range(path, max(0, total - size), total) if total else b""

    def open_reader(self, path: str) -> IO[bytes]:
        stream: IO[bytes] = self._fs().open(self._locate(path), "rb")
        return stream

    def write(self, path: str, data: bytes, *, durable: bool) -> None:
        self._fs().pipe_file(self._locate(path), data)

    def write_new(self, path: str, data: bytes) -> bool:
        try:
            self._fs().pipe_file(self._locate(path), data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            # s3fs passes S3's answer to If-None-Match on as a bare OSError.
            if error.errno == errno.EEXIST or any(
                word in f"{error} {error.__cause__}" for word in _PRECONDITION_FAILED
            ):
                return False
            raise
        return True

    def publish(self, local: Path, path: str, *, durable: bool) -> None:
        self._fs().put_file(str(local), self._locate(path))
        local.unlink()

    def exists(self, path: str) -> bool:
        return bool(self._fs().isfile(self._locate(path)))

    def size(self, path: str) -> int:
        return int(self._fs().info(self._locate(path))["size"])

    def list(self, prefix: str) -> Sequence[str]:
        fs = self._fs()
        root = str(fs._strip_protocol(self.url)).rstrip("/") + "/"  # noqa: SLF001 - fsspec's own way
        try:
            found = fs.find(self._locate(prefix))
        except FileNotFoundError:
            return []
        return sorted(str(name).removeprefix(root) for name in found)

    def names(self) -> Sequence[str]:
        fs = self._fs()
        try:
            found = fs.ls(self.url, detail=False)
        except FileNotFoundError:
            return []
        return sorted({str(name).rstrip("/").rpartition("/")[2] for name in found})

    def remove(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs().rm_file(self._locate(path))

    def prune(self, prefix: str) -> None:
        """Do nothing: an object store has no folders."""

    def zarr_store(self, path: str, *, read_only: bool) -> Store:
        from zarr.storage import FsspecStore

        return FsspecStore.from_url(
            self._locate(path), storage_options=dict(self.options), read_only=read_only
        )

    def leftovers(self) -> Sequence[str]:
        return ()

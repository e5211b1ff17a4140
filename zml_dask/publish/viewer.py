"""The viewer: a static page that reads a dataset in the browser, and a small server for it.

The page reads Parquet and Zarr by HTTP range requests, so that any web host that supports these
can show a published dataset. Its source is in ``page/src``; ``page/viewer.js`` is that source
bundled with zarrita and hyparquet, JavaScript readers of Zarr v3 and Parquet.
"""

from __future__ import annotations

import atexit
import errno
import html
import os
import re
import sys
import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

import numpy as np

from zml_dask.errors import ObjectMissingError, StorageError, UsageError
from zml_dask.query.dataset import Dataset
from zml_dask.query.rows import Int64
from zml_dask.store.info import committed_info
from zml_dask.store.layout import DATASET_JSON, IMAGES_ZARR
from zml_dask.store.storage import Storage
from zml_dask.text_safety import escape_text

if TYPE_CHECKING:
    from IPython.display import IFrame

_TYPES: Mapping[str, str] = {
    "index.html": "text/html; charset=utf-8",
    "viewer.css": "text/css; charset=utf-8",
    "viewer.js": "text/javascript; charset=utf-8",
    "highlight.js": "text/javascript; charset=utf-8",
    "map.js": "text/javascript; charset=utf-8",
    "sql.js": "text/javascript; charset=utf-8",
    "sql-worker.js": "text/javascript; charset=utf-8",
    "duckdb.bin": "application/octet-stream",
    "icon.svg": "image/svg+xml",
    "THIRD-PARTY.txt": "text/plain; charset=utf-8",
}
_DATA = "data/"
_READABLE = re.compile(
    rf"{re.escape(DATASET_JSON)}|(files|files_by_language|records|failures|summary|withdrawn|derived/\w+)\.parquet/[\w.-]+"
    rf"|{re.escape(IMAGES_ZARR)}/[\w./-]+"
)
_NO_OBJECT = (errno.EISDIR, errno.ENAMETOOLONG)
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
"""A single range; a number with more digits lies beyond every object."""
_IDLE_SECONDS = 60
"""Time without a request after which a connection is closed and its thread ends."""
_MOST_RUNS = 5_000
_MOST_IMAGES = 100_000
"""Limits of a selection in a page's address: runs of neighbours, and rows kept by its SQL."""


def page_files(dataset: str, name: str) -> dict[str, bytes]:
    """Return the page's files, for a dataset at a URL that is absolute or relative to the page.

    Examples
    --------
    >>> b'content="../"' in page_files("../", "zenodo-ml")["index.html"]
    True
    """
    folder = files("zml_dask.publish") / "page"
    found = {name: (folder / name).read_bytes() for name in _TYPES}
    parts = urlsplit(dataset)
    origin = f" {parts.scheme}://{parts.netloc}" if parts.netloc else ""
    page = found["index.html"].decode()
    page = page.replace("{connect}", html.escape(f"'self'{origin}"))
    page = page.replace("{dataset}", html.escape(dataset))
    page = page.replace("{name}", html.escape(escape_text(name)))
    found["index.html"] = page.encode()
    return found


def export_page(dataset: str, directory: Path, data_url: str | None = None) -> Path:
    """Write the viewer as static files that any web host can serve, and return the page's path.

    A browser finds the dataset at `data_url`, absolute or relative to the page; by default the path
    from `directory` to a local dataset. `UsageError` if there is no dataset, or a browser cannot
    read it at its URL.
    """
    storage = _open(dataset)
    if data_url is None:
        if storage.is_local:
            way = Path(os.path.relpath(Path(dataset).absolute(), directory.absolute()))
            data_url = quote(way.as_posix())
        elif dataset.startswith(("http://", "https://")):
            data_url = dataset
        else:
            raise UsageError(
                f"a browser cannot read {dataset}; name its public address with --data-url"
            )
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in page_files(data_url.rstrip("/") + "/", storage.name).items():
        (directory / name).write_bytes(data)
    return directory / "index.html"


class ViewerServer(ThreadingHTTPServer):
    """Serves the page and a dataset on loopback, read-only.

    Port 0 takes a free one. `UsageError` if there is no dataset.
    """

    daemon_threads = True

    def __init__(self, dataset: str | Storage, port: int = 0) -> None:
        self.storage = _open(dataset)
        self.pages = page_files(_DATA, self.storage.name)
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://127.0.0.1:{self.server_address[1]}/"


def in_notebook(view: Dataset, height: int = 720) -> IFrame:
    """Show the viewer's page in a notebook; see `zml_dask.query.dataset.Dataset.view`."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None or not hasattr(shell, "kernel"):
        raise UsageError(f"view() works in notebooks only; elsewhere run: zml-dask view {view.url}")
    from IPython.display import IFrame

    address = "" if view.is_unselected else f"#sql={quote(_selected_sql(view.rows.positions()))}"
    url = _served(view.snapshot.storage).url + address
    return IFrame(url, "100%", height, extras=['allow="clipboard-write"'])


def _selected_sql(images: Int64) -> str:
    """Return SQL whose result is these images.

    Examples
    --------
    >>> _selected_sql(np.array([3, 4, 5, 9]))
    'SELECT unnest(range(a, b)) AS image FROM (VALUES (3, 6), (9, 10)) runs (a, b)'
    """
    starts = np.flatnonzero(np.diff(images, prepend=-2) != 1)
    if not len(images):
        return "SELECT 0 AS image WHERE false"
    if len(starts) > _MOST_RUNS or len(images) > _MOST_IMAGES:
        raise UsageError(
            f"view() shows selections of up to {_MOST_IMAGES:,} images in {_MOST_RUNS:,} runs of "
            f"neighbours, and this one has {len(images):,} in {len(starts):,}; take a sample(1000)"
        )
    ends = images[np.append(starts[1:], len(images)) - 1] + 1
    runs = ", ".join(f"({a}, {b})" for a, b in zip(images[starts], ends, strict=True))
    return f"SELECT unnest(range(a, b)) AS image FROM (VALUES {runs}) runs (a, b)"  # noqa: S608


_SERVERS: dict[str, ViewerServer] = {}


def _served(storage: Storage) -> ViewerServer:
    """Serve a dataset until this process ends."""
    if storage.url not in _SERVERS:
        server = _SERVERS[storage.url] = ViewerServer(storage)
        threading.Thread(target=server.serve_forever, name="zml-viewer", daemon=True).start()
        atexit.register(server.server_close)
    return _SERVERS[storage.url]


def _open(dataset: str | Storage) -> Storage:
    storage = Storage.open(dataset)
    committed_info(storage)  # raises where there is none
    return storage


class _Handler(BaseHTTPRequestHandler):
    server: ViewerServer
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS

    def do_GET(self) -> None:
        # A page elsewhere whose host name was made to resolve to this machine must not read the
        # dataset: its requests carry that name.
        if (self.headers.get("Host") or "").rpartition(":")[0] not in {"127.0.0.1", "localhost"}:
            self._refuse(HTTPStatus.FORBIDDEN)
            return
        path = unquote(urlsplit(self.path).path).removeprefix("/") or "index.html"
        if path in self.server.pages:
            self._answer(HTTPStatus.OK, self.server.pages[path], {"Content-Type": _TYPES[path]})
            return
        wanted = path.removeprefix(_DATA)
        if wanted == path or not _READABLE.fullmatch(wanted) or ".." in wanted:
            self._refuse(HTTPStatus.NOT_FOUND)
            return
        try:
            self._answer_data(wanted)
        except StorageError as error:
            # A failure is not reported as missing: a missing chunk would be drawn as blank.
            number = getattr(error.__cause__, "errno", None)
            missing = isinstance(error, ObjectMissingError) or number in _NO_OBJECT
            self._refuse(HTTPStatus.NOT_FOUND if missing else HTTPStatus.BAD_GATEWAY)

    do_HEAD = do_GET  # noqa: N815 - the name is the standard library's

    def _answer_data(self, path: str) -> None:
        storage = self.server.storage
        size = storage.size(path)
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        wanted = self.headers.get("Range") or ""
        asked = _RANGE.fullmatch(wanted)
        if asked is None and wanted.startswith("bytes="):
            self._refuse(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            return
        if asked is None or asked.groups() == ("", ""):
            self._answer(HTTPStatus.OK, storage.read(path), headers)
            return
        first, last = asked.groups()
        start = int(first) if first else max(0, size - int(last))
        stop = min(size, int(last) + 1) if first and last else size
        if start >= stop:
            self._refuse(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            return
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        self._answer(HTTPStatus.PARTIAL_CONTENT, storage.read_range(path, start, stop), headers)

    def _refuse(self, status: HTTPStatus) -> None:
        self._answer(status, f"{status.value} {status.phrase}\n".encode(), {})

    def _answer(self, status: HTTPStatus, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-cache")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Log nothing: one page of images is a hundred requests."""

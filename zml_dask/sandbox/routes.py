"""What the sandbox answers to which path: Zenodo's routes, without HTTP's plumbing."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlencode

from zml_dask.records.parse import quote_key
from zml_dask.sandbox.answers import (
    Answer,
    Content,
    Request,
    blocked,
    content_answer,
    error_answer,
    json_answer,
    redirect,
)
from zml_dask.sandbox.corpus import Corpus, SandboxRecord
from zml_dask.sandbox.exporter import Exporter
from zml_dask.sandbox.search import answer_search
from zml_dask.sandbox.serialise import files_json, legacy_json, native_json, tombstone_json

NATIVE: Final = "application/vnd.inveniordm.v1+json"

_RECORD: Final = re.compile(r"/api/records/(\d+)(/.*)?")
_EXPORTER: Final = re.compile(r"/api/exporter(?:/([\w.-]+)(?:/([\w-]+))?)?/?")
_PAGE: Final = re.compile(r"/records?/(\d+)(/.*)?")
_BLOCKED_AGENTS: Final = ("python-requests/", "aria2/")


def is_search(path: str) -> bool:
    """Whether a path is the search's, which has a rate limit of its own."""
    return path.rstrip("/") == "/api/records"


def is_content(path: str) -> bool:
    """Whether a path is that of a file's bytes."""
    return path.endswith("/content") or path.startswith("/records/")


def _exporter_route(key: str, version_id: str, request: Request, exporter: Exporter) -> Answer:
    if not key:
        return json_answer(200, exporter.listing(request.api_url))
    version = exporter.find(request.api_url, version_id)
    if version is None or key not in version.contents:
        return error_answer(404, "The requested URL was not found on the server.")
    return content_answer(version.contents[key].made(), request.headers.get("range"))


def answer(request: Request, corpus: Corpus, exporter: Exporter) -> Answer:
    """Answer one request."""
    agent = request.headers.get("user-agent", "")
    if agent.startswith(_BLOCKED_AGENTS):
        return blocked()
    if is_search(request.path):
        if request.path.endswith("/"):
            return redirect(f"{request.api_url}/records?{urlencode(request.query)}", 301)
        native = _wants_native(request)
        return answer_search(
            request, corpus, lambda record: _shaped(record, request, native=native)
        )
    if match := _EXPORTER.fullmatch(request.path):
        return _exporter_route(match[1] or "", match[2] or "", request, exporter)
    if match := _RECORD.fullmatch(request.path):
        return _record_route(int(match[1]), match[2] or "", request, corpus)
    if match := _PAGE.fullmatch(request.path):
        return _page_route(int(match[1]), match[2] or "", request, corpus)
    return error_answer(404, "The requested URL was not found on the server.")


def _record_route(record_id: int, rest: str, request: Request, corpus: Corpus) -> Answer:
    record = corpus.get(record_id)
    if record is None:
        latest = corpus.latest_of(record_id)
        if latest is None:
            return error_answer(404, "The persistent identifier does not exist.")
        # Like Zenodo's, this redirect drops the query.
        return redirect(f"{request.api_url}/records/{latest.record_id}{rest}")
    if record.withdrawal is not None:
        return json_answer(410, tombstone_json(record.withdrawal, record))
    if rest in {"", "/"}:
        return json_answer(200, _shaped(record, request, native=_wants_native(request)))
    if rest == "/versions/latest":
        latest = corpus.latest_of(record.concept) or record
        return redirect(f"{request.api_url}/records/{latest.record_id}")
    if rest == "/versions":
        hits = [
            _shaped(one, request, native=_wants_native(request))
            for one in reversed(corpus.versions_of(record.concept))
        ]
        return json_answer(200, {"hits": {"hits": hits, "total": len(hits)}, "links": {}})
    if rest.startswith("/files"):
        return _files_route(record, rest, request)
    return error_answer(404, "The requested URL was not found on the server.")


def _files_route(record: SandboxRecord, rest: str, request: Request) -> Answer:
    if record.access in {"restricted", "embargoed", "closed"}:
        return error_answer(403, "Permission denied.")
    if _wants_native(request):
        return error_answer(406, "Not acceptable.")
    listing = files_json(record, request.api_url)
    if rest == "/files":
        return json_answer(200, files_json(record, request.api_url))
    tail = rest.removeprefix("/files/")
    key, what = _key_of(tail, record.files)
    if key is None:
        missing = tail.removesuffix("/content")
        return error_answer(404, f"Record '{record.record_id}' has no file '{missing}'.")
    if what == "/content":
        return _content(record, key, request)
    if what == "":
        return json_answer(200, next(one for one in listing["entries"] if one["key"] == key))
    return error_answer(404, "The requested URL was not found on the server.")


def _page_route(record_id: int, rest: str, request: Request, corpus: Corpus) -> Answer:
    """Answer under the user interface's paths: the download link, and old forms of URLs."""
    site = request.api_url.removesuffix("/api")
    if request.path.startswith("/record/"):
        return redirect(f"{site}/records/{record_id}{quote_key(rest)}", 301)
    record = corpus.get(record_id)
    if record is None:
        return Answer(404, {"Content-Type": "text/html"}, b"<h1>Not found</h1>")
    if record.withdrawal is not None:
        return Answer(410, {"Content-Type": "text/html"}, b"<h1>Gone</h1>")
    key = rest.removeprefix("/files/")
    if key in record.files:
        if record.access != "open":
            return Answer(403, {"Content-Type": "text/html"}, b"<h1>Permission required</h1>")
        return _content(record, key, request)
    return Answer(200, {"Content-Type": "text/html"}, b"<h1>A record</h1>")


def _content(record: SandboxRecord, key: str, request: Request) -> Answer:
    return content_answer(record.files[key].made(), request.headers.get("range"))


def _key_of(tail: str, files: Mapping[str, Content]) -> tuple[str | None, str]:
    """Tell a file's key, which may hold slashes, from what is asked about it."""
    for key in sorted(files, key=len, reverse=True):
        what = tail.removeprefix(key) if tail.startswith(key) else None
        if what in {"", "/content"}:
            return key, what
    return None, ""


def _shaped(record: SandboxRecord, request: Request, *, native: bool) -> dict[str, Any]:
    shape: Callable[..., dict[str, Any]] = native_json if native else legacy_json
    return shape(record, request.api_url)


def _wants_native(request: Request) -> bool:
    return NATIVE in request.headers.get("accept", "")

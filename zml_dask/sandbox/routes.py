"""The sandbox's routes, as Zenodo's, without the details of HTTP."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from zml_dask.errors import UsageError
from zml_dask.records.parse import quote_key
from zml_dask.sandbox.answers import (
    Answer,
    Content,
    Request,
    blocked,
    content_answer,
    error_answer,
    internal_error,
    json_answer,
    redirect,
    validation_error,
)
from zml_dask.sandbox.corpus import Corpus, SandboxRecord, SearchQuery
from zml_dask.sandbox.exporter import Exporter
from zml_dask.sandbox.serialise import files_json, legacy_json, native_json, tombstone_json

NATIVE: Final = "application/vnd.inveniordm.v1+json"
GUEST_PAGE: Final = 25
TOKEN_PAGE: Final = 100
WINDOW: Final = 10_000
_DEFAULT_PAGE: Final = 10

_RECORD: Final = re.compile(r"/api/records/(\d+)(/.*)?")
_EXPORTER: Final = re.compile(r"/api/exporter(?:/([\w.-]+)(?:/([\w-]+))?)?/?")
_PAGE: Final = re.compile(r"/records?/(\d+)(/.*)?")
_BLOCKED_AGENTS: Final = ("python-requests/", "aria2/")
_NO_SUCH_URL: Final = "The requested URL was not found on the server."
_NEWEST_FIRST: Final = frozenset(
    {"newest", "mostrecent", "updated-desc", "bestmatch", "version", "mostviewed",
     "mostdownloaded", "publication_date"}
)  # fmt: skip
_OLDEST_FIRST: Final = frozenset({"oldest", "-mostrecent", "updated-asc", "-publication_date"})
_KNOWN: Final = ("all_versions", "page", "q", "size", "sort", "type")


def is_search(path: str) -> bool:
    """Whether a path is that of the search, which has its own rate limit."""
    return path.rstrip("/") == "/api/records"


def is_content(path: str) -> bool:
    """Whether a path is that of a file's bytes."""
    return path.endswith("/content") or path.startswith("/records/")


def answer(request: Request, corpus: Corpus, exporter: Exporter) -> Answer:
    """Answer one request."""
    if request.headers.get("user-agent", "").startswith(_BLOCKED_AGENTS):
        return blocked()
    if is_search(request.path):
        if request.path.endswith("/"):
            return redirect(f"{request.api_url}/records?{urlencode(request.query)}", 301)
        return _search_route(request, corpus)
    if match := _EXPORTER.fullmatch(request.path):
        return _exporter_route(match[1], match[2] or "", request, exporter)
    if match := _RECORD.fullmatch(request.path):
        return _record_route(int(match[1]), match[2] or "", request, corpus)
    if match := _PAGE.fullmatch(request.path):
        return _page_route(int(match[1]), match[2] or "", request, corpus)
    return error_answer(404, _NO_SUCH_URL)


def _search_route(request: Request, corpus: Corpus) -> Answer:
    """Answer a search as Zenodo does, with its errors."""
    # Arguments that it does not know are ignored, and so widen the result.
    arguments = {name: request.query[name] for name in _KNOWN if name in request.query}
    most = TOKEN_PAGE if request.is_authenticated else GUEST_PAGE
    try:
        page = int(arguments.get("page", "1"))
        size = int(arguments.get("size", str(_DEFAULT_PAGE)))
    except ValueError:
        return validation_error("size", "Not a valid integer.")
    sort = arguments.get("sort", "bestmatch" if arguments.get("q") else "newest")
    if size > most:
        message = f"Page size cannot be greater than {most}."
        if not request.is_authenticated:
            message += f" Please use authenticated requests to increase the limit to {TOKEN_PAGE}."
        return validation_error("size", message)
    is_known_order = sort in _NEWEST_FIRST | _OLDEST_FIRST
    if page < 1 or size < 1 or not is_known_order or (page - 1) * size >= WINDOW:
        return error_answer(400, "Invalid querystring parameters.")
    question = SearchQuery(
        text=arguments.get("q", ""),
        resource_type=arguments.get("type", ""),
        all_versions=arguments.get("all_versions", "false") in {"", "true", "1"},
        newest_first=sort in _NEWEST_FIRST,
    )
    try:
        found = corpus.search(question)
    except UsageError:
        return internal_error()
    hits = [_shaped(record, request) for record in found[(page - 1) * size : page * size]]
    pages = {"self": page}
    if page > 1:
        pages["prev"] = page - 1
    # Calculated from the total, so it leads out of the window.
    if page * size < len(found):
        pages["next"] = page + 1
    arguments |= {"size": str(size), "sort": sort}
    links = {}
    for name, number in pages.items():
        query = sorted({**arguments, "page": str(number)}.items())
        links[name] = f"{request.api_url}/records?{urlencode(query)}"
    return json_answer(200, {"hits": {"hits": hits, "total": len(found)}, "links": links})


def _exporter_route(
    key: str | None, version_id: str, request: Request, exporter: Exporter
) -> Answer:
    if key is None:
        return json_answer(200, exporter.listing(request.api_url))
    version = exporter.find(request.api_url, version_id)
    if version is None or key not in version.contents:
        return error_answer(404, _NO_SUCH_URL)
    return content_answer(version.contents[key], request.headers.get("range"))


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
        return json_answer(200, _shaped(record, request))
    if rest == "/versions/latest":
        latest = corpus.latest_of(record.concept) or record
        return redirect(f"{request.api_url}/records/{latest.record_id}")
    if rest == "/versions":
        versions = reversed(corpus.versions_of(record.concept))
        hits = [_shaped(one, request) for one in versions]
        return json_answer(200, {"hits": {"hits": hits, "total": len(hits)}, "links": {}})
    if rest.startswith("/files"):
        return _files_route(record, rest, request)
    return error_answer(404, _NO_SUCH_URL)


def _files_route(record: SandboxRecord, rest: str, request: Request) -> Answer:
    if record.access in {"restricted", "embargoed", "closed"}:
        return error_answer(403, "Permission denied.")
    if _wants_native(request):
        return error_answer(406, "Not acceptable.")
    if rest == "/files":
        return json_answer(200, files_json(record, request.api_url))
    tail = rest.removeprefix("/files/")
    key, what = _key_of(tail, record.files)
    if key is None:
        missing = tail.removesuffix("/content")
        return error_answer(404, f"Record '{record.record_id}' has no file '{missing}'.")
    if what == "/content":
        return content_answer(record.files[key], request.headers.get("range"))
    entries = files_json(record, request.api_url)["entries"]
    return json_answer(200, next(one for one in entries if one["key"] == key))


def _page_route(record_id: int, rest: str, request: Request, corpus: Corpus) -> Answer:
    """Answer under the user interface's paths: the download link, and old forms of URLs."""
    if request.path.startswith("/record/"):
        site = request.api_url.removesuffix("/api")
        return redirect(f"{site}/records/{record_id}{quote_key(rest)}", 301)
    record = corpus.get(record_id)
    key = rest.removeprefix("/files/")
    if record is None:
        return _page(404, "Not found")
    if record.withdrawal is not None:
        return _page(410, "Gone")
    if key not in record.files:
        return _page(200, "A record")
    if record.access != "open":
        return _page(403, "Permission required")
    return content_answer(record.files[key], request.headers.get("range"))


def _page(status: int, title: str) -> Answer:
    return Answer(status, {"Content-Type": "text/html"}, f"<h1>{title}</h1>".encode())


def _key_of(tail: str, files: Mapping[str, Content]) -> tuple[str | None, str]:
    """Split a path into a file's key, which may hold slashes, and what is wanted of it."""
    for key in sorted(files, key=len, reverse=True):
        what = tail.removeprefix(key) if tail.startswith(key) else None
        if what in {"", "/content"}:
            return key, what
    return None, ""


def _shaped(record: SandboxRecord, request: Request) -> dict[str, Any]:
    shape = native_json if _wants_native(request) else legacy_json
    return shape(record, request.api_url)


def _wants_native(request: Request) -> bool:
    return NATIVE in request.headers.get("accept", "")

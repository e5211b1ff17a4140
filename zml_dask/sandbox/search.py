"""The search endpoint: its arguments, limits, order, and links between pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

from zml_dask.errors import UsageError
from zml_dask.sandbox.answers import (
    Answer,
    Request,
    error_answer,
    internal_error,
    json_answer,
    validation_error,
)
from zml_dask.sandbox.corpus import Corpus, Question, SandboxRecord

GUEST_PAGE: Final = 25
TOKEN_PAGE: Final = 100
WINDOW: Final = 10_000
_DEFAULT_PAGE: Final = 10
_NEWEST_FIRST: Final = {
    "newest": True,
    "mostrecent": True,
    "updated-desc": True,
    "bestmatch": True,
    "version": True,
    "mostviewed": True,
    "mostdownloaded": True,
    "publication_date": True,
    "oldest": False,
    "-mostrecent": False,
    "updated-asc": False,
    "-publication_date": False,
}
_KNOWN: Final = ("all_versions", "page", "q", "size", "sort", "type")

Serialise = Callable[[SandboxRecord], Mapping[str, Any]]


def answer_search(request: Request, corpus: Corpus, serialise: Serialise) -> Answer:
    """Answer a search as Zenodo does, errors included."""
    # Arguments it does not know are ignored, and so widen the result.
    arguments = {name: request.query[name] for name in _KNOWN if name in request.query}
    most = TOKEN_PAGE if request.is_authenticated else GUEST_PAGE
    try:
        page = int(arguments.get("page", "1"))
        size = int(arguments.get("size", str(_DEFAULT_PAGE)))
    except ValueError:
        return validation_error("size", "Not a valid integer.")
    sort = arguments.get("sort", "bestmatch" if arguments.get("q") else "newest")
    if size > most:
        return validation_error("size", _too_large(request.is_authenticated))
    if page < 1 or size < 1 or sort not in _NEWEST_FIRST or (page - 1) * size >= WINDOW:
        return error_answer(400, "Invalid querystring parameters.")
    try:
        found = corpus.search(
            Question(
                text=arguments.get("q", ""),
                resource_type=arguments.get("type", ""),
                all_versions=arguments.get("all_versions", "false") in {"", "true", "1"},
                newest_first=_NEWEST_FIRST[sort],
            )
        )
    except UsageError:
        return internal_error()
    payload = {
        "aggregations": _aggregations(found) if page == 1 else {},
        "hits": {
            "hits": [serialise(record) for record in found[(page - 1) * size : page * size]],
            "total": len(found),
        },
        "links": _links(request.api_url, arguments, page, size, sort, len(found)),
    }
    return json_answer(200, payload)


def _too_large(is_authenticated: bool) -> str:
    if is_authenticated:
        return f"Page size cannot be greater than {TOKEN_PAGE}."
    return (
        f"Page size cannot be greater than {GUEST_PAGE}. "
        f"Please use authenticated requests to increase the limit to {TOKEN_PAGE}."
    )


def _links(
    api_url: str, arguments: Mapping[str, str], page: int, size: int, sort: str, total: int
) -> dict[str, str]:
    pages = {"self": page}
    if page > 1:
        pages["prev"] = page - 1
    # Reckoned with the total, so it leads out of the window.
    if page * size < total:
        pages["next"] = page + 1
    applied = dict(arguments) | {"size": str(size), "sort": sort}
    return {
        name: f"{api_url}/records?{urlencode(sorted((applied | {'page': str(n)}).items()))}"
        for name, n in pages.items()
    }


def _aggregations(found: Sequence[SandboxRecord]) -> dict[str, Any]:
    counts = Counter(record.resource_type for record in found)
    buckets = [
        {"key": key, "doc_count": count, "label": key.title(), "is_selected": False}
        for key, count in counts.most_common()
    ]
    return {"resource_type": {"buckets": buckets, "label": "Resource types"}}

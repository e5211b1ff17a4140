"""Clients that do not wait, for servers of the tests' own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from serving import Sandbox

from zml_dask.net.client import HttpClient, HttpOptions, Token
from zml_dask.net.throttle import host_of
from zml_dask.records import harvest as harvest_module
from zml_dask.records import search as search_module
from zml_dask.sandbox import routes


@pytest.fixture
def client_of() -> Iterator[Callable[..., HttpClient]]:
    """Makes clients of a sandbox, with a token where asked for."""
    with ExitStack() as stack:

        def make(sandbox: Sandbox, *, token: bool = False) -> HttpClient:
            secret = Token("secret", host_of(sandbox.api_url)) if token else None
            return stack.enter_context(HttpClient(HttpOptions(backoff=0.0), token=secret))

        yield make


@pytest.fixture
def tiny_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that shows twelve results, three a page."""
    for module in (search_module, harvest_module, routes):
        monkeypatch.setattr(module, "WINDOW", 12)
    monkeypatch.setattr(harvest_module, "GUEST_SIZES", (3,))

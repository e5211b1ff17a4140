"""A plain HTTP client: the sandbox is judged from outside, not by this package's own client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as made:
        made.headers["User-Agent"] = "tests/1.0 (+https://example.org)"
        yield made

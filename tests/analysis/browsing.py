"""Chromium, driven by the tests of the viewer and the report."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

from zml_dask.publish import viewer

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--enable-unsafe-swiftshader",  # draws WebGL without a GPU
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1300,1000",
]


@contextmanager
def running(server: Any) -> Iterator[Any]:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def wait(browser: webdriver.Chrome, condition: Callable[[Any], object]) -> None:
    WebDriverWait(browser, 300, poll_frequency=0.05).until(condition)


def script(browser: webdriver.Chrome, code: str) -> Any:
    return browser.execute_script("return " + code)


def show(browser: webdriver.Chrome, url: str) -> None:
    browser.get("about:blank")
    browser.get(url)
    wait(browser, lambda b: script(b, "document.body.dataset.state"))
    assert script(browser, "document.body.dataset.state") == "ready", status(browser)


def status(browser: webdriver.Chrome) -> str:
    return str(script(browser, "document.getElementById('status').textContent"))


def shows(browser: webdriver.Chrome, text: str) -> None:
    """Wait until the page says that it shows what was asked for."""
    wait(browser, lambda b: status(b).startswith(text))


def tiles(browser: webdriver.Chrome) -> list[int]:
    """Return the rows of the images on the wall."""
    found = "[...document.querySelectorAll('.tile')].map(tile => +tile.dataset.image)"
    return [int(image) for image in script(browser, found)]


def opened(browser: webdriver.Chrome) -> str:
    """Wait for the image that the address names; return its code."""
    drawn = (
        "document.getElementById('detail').dataset.state === 'drawn' && "
        "new URLSearchParams(location.hash.slice(1)).get('image') "
        "=== document.getElementById('detail').dataset.image"
    )
    wait(browser, lambda b: script(b, drawn))
    return str(script(browser, "document.querySelector('#code .current').textContent"))


def violations(browser: webdriver.Chrome) -> list[tuple[str, list[str]]]:
    """Return what axe finds against WCAG 2.2 A and AA on the page, and examples of it."""
    axe = Path(viewer.__file__).parent / "page" / "node_modules" / "axe-core" / "axe.min.js"
    if not axe.exists():
        pytest.skip("needs axe-core (npm ci in zml_dask/publish/page)")
    # The page's policy allows no script of another origin; a debugger may add one all the same.
    browser.execute_script(axe.read_text(encoding="utf-8"))
    run = "axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa']})"
    found = browser.execute_async_script(f"{run}.then(arguments[0])")
    return [(v["id"], [n["html"] for n in v["nodes"]][:3]) for v in found["violations"]]

"""The viewer in a real browser, and the server and the static export behind it."""

from __future__ import annotations

import errno
import html
import http.client
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import numpy as np
import pyarrow as pa
import pytest
import zarr
from flask import Flask, send_from_directory
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait
from werkzeug.serving import make_server

from zml_dask.analysis.counts import count
from zml_dask.analysis.report import render
from zml_dask.publish.viewer import DataUrlError, ViewerServer, export_page
from zml_dask.raster.language import identify
from zml_dask.store.info import Counts, DatasetInfo, NoDatasetError
from zml_dask.store.layout import FILES_SCHEMA, RECORDS_SCHEMA
from zml_dask.store.storage import Storage
from zml_dask.store.tables import write_part

from .conftest import HOSTILE, Known
from .test_report import images

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
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


@pytest.fixture(scope="module")
def served(known: Known) -> Iterator[ViewerServer]:
    with running(ViewerServer(str(known.path))) as server:
        yield server


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (program and driver):
        if os.environ.get("ZML_REQUIRE_ALL"):
            pytest.fail("chromium and chromedriver are required")
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    yield browser
    browser.quit()


def wait(browser: webdriver.Chrome, condition: Callable[[Any], object]) -> None:
    WebDriverWait(browser, 60, poll_frequency=0.05).until(condition)


def script(browser: webdriver.Chrome, code: str) -> Any:
    return browser.execute_script("return " + code)


def show(browser: webdriver.Chrome, url: str) -> None:
    browser.get("about:blank")
    browser.get(url)
    wait(browser, lambda b: script(b, "document.body.dataset.state"))
    assert script(browser, "document.body.dataset.state") == "ready", status(browser)


def status(browser: webdriver.Chrome) -> str:
    return str(script(browser, "document.getElementById('status').textContent"))


def opened(browser: webdriver.Chrome) -> str:
    """Wait for the image that the address names; return its code."""
    drawn = (
        "document.getElementById('detail').dataset.state === 'drawn' && "
        "new URLSearchParams(location.hash.slice(1)).get('image') "
        "=== document.getElementById('detail').dataset.image"
    )
    wait(browser, lambda b: script(b, drawn))
    return str(script(browser, "document.getElementById('code').textContent"))


def ask(
    server: ViewerServer, path: str, **headers: str
) -> tuple[int, bytes, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1])
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, answer.read(), answer.headers
    connection.close()
    return found


def test_ranges_are_the_file_s_own_bytes(known: Known, served: ViewerServer) -> None:
    whole = (known.path / "dataset.json").read_bytes()
    assert ask(served, "/data/dataset.json")[:2] == (200, whole)
    assert ask(served, "/data/dataset.json", Range="bytes=3-9")[:2] == (206, whole[3:10])
    assert ask(served, "/data/dataset.json", Range="bytes=-7")[:2] == (206, whole[-7:])
    assert ask(served, "/data/dataset.json", Range="bytes=5-")[:2] == (206, whole[5:])
    assert ask(served, "/data/dataset.json", Range=f"bytes=0-{10**9}")[:2] == (206, whole)
    _, _, headers = ask(served, "/data/dataset.json", Range="bytes=0-0")
    assert headers["Content-Range"] == f"bytes 0-0/{len(whole)}"
    assert ask(served, "/data/dataset.json", Range=f"bytes={len(whole)}-")[0] == 416


@pytest.mark.parametrize(
    "path",
    [
        "/data/../conftest.py",
        "/data/%2e%2e/%2e%2e/etc/passwd",
        "/data/images.zarr/../../secret",
        "/data//etc/passwd",
        "/data/staging/x",
        "/data/build.lock",
        "/data/files.parquet/..%2f..%2fsecret",
        "/data/images.zarr/none",
        "/data/images.zarr/images",
        "/data/images.zarr/images/",
        "/data/images.zarr/" + "a" * 300,
        "/data/images.zarr/zarr.json/c",
        "/nothing",
    ],
)
def test_nothing_but_the_dataset_is_served(known: Known, served: ViewerServer, path: str) -> None:
    (known.path.parent / "secret").write_text("secret")
    assert ask(served, path)[0] == 404


def test_a_part_of_a_folder_is_none(served: ViewerServer) -> None:
    assert ask(served, "/data/images.zarr/images", Range="bytes=0-3")[0] == 404


def test_a_storage_that_fails_is_told_from_an_object_that_is_missing(
    known: Known, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def failing(*_: Any) -> list[OSError]:
        return [OSError(errno.EIO, os.strerror(errno.EIO))]

    with running(ViewerServer(str(known.path))) as server:
        monkeypatch.setattr(type(server.storage), "_read_ranges", failing)
        assert ask(server, "/data/dataset.json")[0] == 502
    assert capfd.readouterr() == ("", "")


def test_it_is_served_to_this_machine_alone_and_guessed_at_by_nobody(served: ViewerServer) -> None:
    assert served.server_address[0] == "127.0.0.1"
    for path in ("/", "/data/dataset.json", "/none"):
        assert ask(served, path)[2]["X-Content-Type-Options"] == "nosniff"


def test_a_foreign_name_for_this_machine_is_refused(served: ViewerServer) -> None:
    assert ask(served, "/data/dataset.json", Host="attacker.example:80")[0] == 403


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoDatasetError):
        ViewerServer(str(tmp_path))
    with pytest.raises(NoDatasetError):
        export_page(str(tmp_path), tmp_path / "page")


@pytest.mark.browser
def test_the_wall_and_its_filters(
    known: Known, served: ViewerServer, chromium: webdriver.Chrome
) -> None:
    show(chromium, served.url)
    total = sum(images(data) for *_, data in known.shown())
    assert status(chromium).startswith(f"{total:,} images of")
    wait(chromium, lambda b: script(b, "document.getElementById('wall').dataset.state") == "drawn")
    assert script(chromium, "document.querySelectorAll('.tile').length") == min(total, 120)
    Select(chromium.find_element("id", "language")).select_by_value("Python")
    python = sum(
        images(data) for _, path, data in known.shown() if identify(path, data).language == "Python"
    )
    assert status(chromium).startswith(f"{python:,} images of")
    Select(chromium.find_element("id", "license")).select_by_value("mit")
    both = sum(
        images(data)
        for record, path, data in known.shown()
        if identify(path, data).language == "Python" and known.rows[record]["license"] == "mit"
    )
    expected = f"{both:,} images of" if both else "no image fits"
    assert status(chromium).startswith(expected)
    assert chromium.current_url.endswith("#language=Python&license=mit")
    show(chromium, f"{served.url}#record=112")  # withdrawn
    assert status(chromium) == "no image fits"


@pytest.mark.browser
def test_code_beside_its_pixels_for_every_image_of_a_record(
    known: Known, served: ViewerServer, chromium: webdriver.Chrome
) -> None:
    show(chromium, f"{served.url}#record=103")
    script(chromium, "document.querySelector('.tile').click()")
    files = known.files[103]
    expected = [
        "\n".join(line.rstrip() for line in data.decode().split("\n")[:-1][i : i + 80])
        for path, data in sorted(files.items())
        for i in range(0, len(data.decode().split("\n")[:-1]) if images(data) else 0, 80)
    ]
    assert len(expected) > 10
    for number, text in enumerate(expected):
        assert opened(chromium) == text, number
        ActionChains(chromium).send_keys(Keys.ARROW_RIGHT).perform()
    ink = """(() => { const c = document.getElementById('pixels');
        const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        let n = 0; for (let i = 0; i < d.length; i += 4) n += d[i] < 255; return n; })()"""
    last = expected[-1]
    drawn = sum(len(line[:80].replace(" ", "")) for line in last.split("\n"))
    assert script(chromium, ink) == drawn
    facts = script(chromium, "document.getElementById('facts').textContent")
    assert "10.5072/zenodo.103" in facts
    ActionChains(chromium).send_keys(Keys.ESCAPE).perform()
    wait(chromium, lambda b: not script(b, "document.getElementById('detail').open"))


@pytest.mark.browser
def test_hostile_names_are_only_text(
    known: Known, served: ViewerServer, chromium: webdriver.Chrome
) -> None:
    show(chromium, f"{served.url}#record=101")
    buttons = script(chromium, "document.querySelectorAll('.tile').length")
    seen = set()
    script(chromium, "document.querySelector('.tile').click()")
    for _ in range(buttons):
        opened(chromium)
        seen.add(script(chromium, "document.getElementById('path').textContent"))
        ActionChains(chromium).send_keys("n").perform()
    assert {name.replace("\u202e", "\\u{202e}") for name in HOSTILE} <= seen
    assert script(chromium, "window.hacked") is None
    assert (
        script(chromium, "document.querySelectorAll('#detail img, #detail script, b').length") == 0
    )
    loaded = script(chromium, "performance.getEntriesByType('resource').map(e => e.name)")
    assert loaded
    assert all(name.startswith(served.url) for name in loaded)
    assert [e for e in chromium.get_log("browser") if e["level"] == "SEVERE"] == []  # type: ignore[no-untyped-call]


@pytest.mark.browser
def test_every_view_has_an_address(served: ViewerServer, chromium: webdriver.Chrome) -> None:
    show(chromium, served.url)
    ActionChains(chromium).send_keys(Keys.ARROW_RIGHT).perform()
    wait(chromium, lambda b: "page 2 of" in status(b))
    assert chromium.current_url.endswith("#page=2")
    chromium.back()
    wait(chromium, lambda b: "page 1 of" in status(b))
    show(chromium, f"{served.url}#page=2")
    wait(chromium, lambda b: "page 2 of" in status(b))
    show(chromium, f"{served.url}#image=4")
    code = opened(chromium)
    show(chromium, f"{served.url}#language=nonsense&page=-3&image=zzz")
    assert status(chromium) == "no image fits"
    show(chromium, f"{served.url}#image=4")
    assert opened(chromium) == code


@pytest.mark.browser
def test_arrows_move_the_code_where_it_has_the_focus(
    served: ViewerServer, chromium: webdriver.Chrome
) -> None:
    show(chromium, f"{served.url}#image=4")
    opened(chromium)
    chromium.execute_script("document.getElementById('code').focus()")
    ActionChains(chromium).send_keys(Keys.ARROW_RIGHT).perform()
    assert chromium.current_url.endswith("#image=4")
    ActionChains(chromium).send_keys("n").perform()
    wait(chromium, lambda b: b.current_url.endswith("image=5"))


@pytest.mark.browser
def test_a_page_opened_from_the_disk_says_what_it_needs(
    known: Known, chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    page = export_page(str(known.path), tmp_path / "viewer")
    chromium.get(page.as_uri())
    assert "zml-dask view DATASET" in status(chromium)


@pytest.mark.browser
def test_static_export_on_an_ordinary_web_host(
    known: Known, tmp_path: Path, chromium: webdriver.Chrome
) -> None:
    site = tmp_path / "site"
    shutil.copytree(known.path, site / "dataset")
    page = export_page(str(site / "dataset"), site / "viewer")
    assert 'content="../dataset/"' in page.read_text()
    app = Flask("site")
    app.add_url_rule("/<path:name>", view_func=lambda name: send_from_directory(site, name))
    host = make_server("127.0.0.1", 0, app, threaded=True)
    with running(host):
        show(chromium, f"http://127.0.0.1:{host.server_port}/viewer/index.html#image=2")
        assert opened(chromium)


def test_a_name_that_urls_read_otherwise(known: Known, tmp_path: Path) -> None:
    shutil.copytree(known.path, tmp_path / "my set#1 100%41?")
    page = export_page(str(tmp_path / "my set#1 100%41?"), tmp_path / "viewer")
    found = re.search('name="dataset" content="([^"]*)"', page.read_text())
    assert found
    url = urlsplit(urljoin("http://host/viewer/index.html", html.unescape(found[1])))
    assert unquote(url.path) == "/my set#1 100%41?/"


def test_export_of_a_bucket_needs_its_public_address(known: Known, tmp_path: Path) -> None:
    page = export_page(str(known.path), tmp_path / "p", "https://data.example/zenodo-ml")
    assert "connect-src 'self' https://data.example;" in page.read_text().replace("&#x27;", "'")
    storage = Storage.open("memory://viewer/known")
    storage.write("dataset.json", (known.path / "dataset.json").read_bytes())
    with pytest.raises(DataUrlError):
        export_page("memory://viewer/known", tmp_path / "q")


@pytest.mark.browser
@pytest.mark.slow
def test_a_million_images(tmp_path: Path, chromium: webdriver.Chrome) -> None:
    """Tables of a million images; their shards are missing, which means blank."""
    n = 1_000_000
    storage = Storage.open(tmp_path / "million")
    numbers = np.arange(n)
    fixed = {
        "file_id": numbers,
        "record_id": numbers // 100,
        "path": [f"r/f{i}.py" for i in range(n)],
        "name": ["f.py"] * n,
        "extension": ["py"] * n,
        "language": np.where(numbers % 3 == 0, "Python", "C"),
        "size": numbers * 0 + 9,
        "status": ["ok"] * n,
        "n_lines": numbers * 0 + 80,
        "n_cut": numbers * 0,
        "first_image": numbers,
        "n_images": numbers * 0 + 1,
    }
    files = pa.table(
        {f.name: pa.array(fixed.get(f.name, [None] * n), f.type) for f in FILES_SCHEMA},
        FILES_SCHEMA,
    )
    rows = [{"record_id": i, "n_files": 100, "n_images": 100} for i in range(n // 100)]
    parts = {
        "files": (write_part(storage, "files", 0, [files]),),
        "records": (
            write_part(storage, "records", 0, [pa.Table.from_pylist(rows, RECORDS_SCHEMA)]),
        ),
    }
    group = zarr.open_group(tmp_path / "million" / "images.zarr", mode="w")
    group.create_array(
        "images",
        shape=(n, 80, 80),
        dtype="uint32",
        chunks=(64, 80, 80),
        shards=(4096, 80, 80),
        fill_value=32,
    )
    info = DatasetInfo(counts=Counts(n, n, n // 100, 0), tables=parts)
    storage.write("dataset.json", info.to_bytes())
    with running(ViewerServer(str(tmp_path / "million"))) as server:
        show(chromium, f"{server.url}#language=C&page=5000")
        assert status(chromium).startswith(f"{n - -(-n // 3):,} images of")
        show(chromium, f"{server.url}#record=9999&image=999950")
        opened(chromium)
        assert "r/f999950.py" in script(chromium, "document.getElementById('path').textContent")


@pytest.mark.browser
@pytest.mark.parametrize("page", ["viewer", "report"])
def test_a_page_fits_a_phone(
    chromium: webdriver.Chrome, known: Known, served: ViewerServer, tmp_path: Path, page: str
) -> None:
    report = tmp_path / "report.html"
    report.write_text(render(str(known.path), count(str(known.path))), encoding="utf-8")
    phone = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        if page == "viewer":
            show(chromium, served.url)
        else:
            chromium.get(report.as_uri())
        assert script(chromium, "document.documentElement.scrollWidth") == 360
    finally:
        chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

"""The viewer in a real browser, and the server and the static export behind it."""

from __future__ import annotations

import errno
import html
import http.client
import os
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import pandas as pd
import pytest
from flask import Flask, send_from_directory
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select
from werkzeug.serving import make_server

import zml_dask as zml
from zml_dask.analysis.counts import count
from zml_dask.analysis.report import render
from zml_dask.errors import UsageError
from zml_dask.publish.viewer import ViewerServer, export_page
from zml_dask.raster.language import identify
from zml_dask.store.storage import Storage

from .browsing import opened, running, script, show, shows, status, tiles, violations, wait
from .conftest import HOSTILE, Known
from .test_report import images


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
    with pytest.raises(UsageError, match="no committed dataset"):
        ViewerServer(str(tmp_path))
    with pytest.raises(UsageError, match="no committed dataset"):
        export_page(str(tmp_path), tmp_path / "page")


@pytest.mark.browser
def test_the_wall_and_its_filters(
    known: Known, served: ViewerServer, chromium: webdriver.Chrome
) -> None:
    show(chromium, served.url)
    total = sum(images(data) for *_, data in known.shown())
    assert status(chromium).startswith(f"{total:,} images")
    wait(chromium, lambda b: script(b, "document.getElementById('wall').dataset.state") == "drawn")
    assert script(chromium, "document.querySelectorAll('.tile').length") == min(total, 120)
    Select(chromium.find_element("id", "language")).select_by_value("Python")
    python = sum(
        images(data) for _, path, data in known.shown() if identify(path, data).language == "Python"
    )
    shows(chromium, f"{python:,} images")
    Select(chromium.find_element("id", "license")).select_by_value("mit")
    both = sum(
        images(data)
        for record, path, data in known.shown()
        if identify(path, data).language == "Python" and known.rows[record]["license"] == "mit"
    )
    shows(chromium, f"{both:,} images" if both else "no matching image")
    assert chromium.current_url.endswith("#language=Python&license=mit")
    show(chromium, f"{served.url}#record=112")  # withdrawn
    assert status(chromium) == "no matching image"


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
    ink = """(() => { const c = document.querySelector('.picture.current canvas');
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
def test_every_filter_chooses_what_sql_chooses(
    known: Known, served: ViewerServer, chromium: webdriver.Chrome
) -> None:
    dataset = zml.open_dataset(known.path)
    questions = {
        "extension=md": "extension == 'md'",
        "group=Python": "language_group == 'Python'",
        "path=SRC/": "path.contains('src/')",
        "license=mit": "license == 'mit'",
        "license=mit&extension=py": "license == 'mit' and extension == 'py'",
        "record=104": "record_id == 104",
        "path=f1&language=Python": "path.contains('f1') and language == 'Python'",
        "size=1k-3k": "size >= 1000 and size <= 3000",
        "size=-100&language=Python": "size <= 100 and language == 'Python'",
        "size=5K": "size >= 5000",
        "keyword=ASTRO&year=2014": "'astronomy' in keywords and year(publication_date) == 2014",
        "keyword=botany": "'botany' in keywords",
    }
    for address, where in questions.items():
        images = len(dataset.select(where))
        show(chromium, f"{served.url}#{address}")
        shows(chromium, f"{images:,} images" if images else "no matching image")
        shown = tiles(chromium)
        chosen = set(dataset.select(where).rows.positions().tolist())
        assert set(shown) <= chosen, address
        assert len(shown) == min(len(chosen), 120), address


@pytest.mark.browser
def test_the_wall_in_order(known: Known, served: ViewerServer, chromium: webdriver.Chrome) -> None:
    dataset = zml.open_dataset(known.path)
    files = dataset.files[dataset.files.n_images > 0]
    dates = dataset.records.set_index("record_id").publication_date
    files = files.assign(date=files.record_id.map(dates))
    for order, (column, ascending) in {
        "largest": ("size", False),
        "smallest": ("size", True),
        "newest": ("date", False),
        "oldest": ("date", True),
    }.items():
        for language in ("", "Python") if order == "newest" else ("Python",):
            chosen = files[files.language == language] if language else files
            show(chromium, f"{served.url}#sort={order}&language={language}")
            shown = pd.Series(tiles(chromium))
            at = chosen.first_image.searchsorted(shown, side="right") - 1
            values = chosen[column].iloc[at].tolist()
            assert (
                values
                == sorted(chosen[column].repeat(chosen.n_images), reverse=not ascending)[
                    : len(shown)
                ]
            ), order
            assert len(shown) == min(120, chosen.n_images.sum())


@pytest.mark.browser
def test_a_size_that_cannot_be_read(served: ViewerServer, chromium: webdriver.Chrome) -> None:
    chromium.get("about:blank")
    chromium.get(f"{served.url}#size=large")
    shows(chromium, "Cannot show it: large: write a size as 10k-1M")


@pytest.mark.browser
def test_a_cut_line_does_not_turn_the_colours_of_the_rest(
    served: ViewerServer, chromium: webdriver.Chrome
) -> None:
    long = '    """' + "Words " * 20 + '"""'
    code = [
        "def f(x):",
        long[:80],
        "    return g(x)",
        "",
        "def g(x):",
        long[:80],
        "",
        "    More words.",
        '    """',
        "    return 1",
        "",
        f"def h({'parameter, ' * 9}last):"[:80],
        "    y = g(2)",
        "    return y",
    ]
    show(chromium, served.url)
    found = chromium.execute_async_script(
        "import(new URL('highlight.js', location.href)).then(({ highlighted }) => arguments[1]("
        "highlighted(arguments[0], 'Python', 80)))",
        "\n".join(code),
    )
    kinds = [{kind.removeprefix("hljs-") for kind, _ in line} for line in found]
    assert ["".join(text for _, text in line) for line in found] == code
    for row in (0, 2, 4, 9):
        assert "keyword" in kinds[row], code[row]
    for row in (1, 5, 7, 8):
        assert "string" in kinds[row], code[row]
        assert "keyword" not in kinds[row], code[row]
    assert "params" in kinds[11]
    assert "params" not in kinds[12] | kinds[13]


@pytest.mark.browser
def test_shuffling_shows_every_image_once(
    known: Known, served: ViewerServer, chromium: webdriver.Chrome
) -> None:
    total = len(zml.open_dataset(known.path))
    seen: list[int] = []
    for page in range(1, -(-total // 40) + 1):
        show(chromium, f"{served.url}#seed=5&page={page}")
        shows(chromium, f"{total} images; page {page} of")
        seen += tiles(chromium)
    assert sorted(set(seen)) == sorted(seen)
    assert len(seen) == len(zml.open_dataset(known.path))
    assert seen != sorted(seen)
    show(chromium, f"{served.url}#seed=6")
    other = tiles(chromium)
    assert other != seen[: len(other)]


@pytest.mark.browser
def test_an_empty_answer_offers_less(served: ViewerServer, chromium: webdriver.Chrome) -> None:
    show(chromium, f"{served.url}#language=Python&license=nonsense")
    shows(chromium, "no matching image")
    offers = script(
        chromium, "[...document.querySelectorAll('#empty button')].map(b => b.textContent)"
    )
    assert offers == [
        "without language = Python",
        "without license = nonsense",
        "without any filter",
    ]
    chromium.execute_script("document.querySelectorAll('#empty button')[1].click()")
    wait(chromium, lambda b: "images" in status(b))
    assert chromium.current_url.endswith("#language=Python")


@pytest.mark.browser
def test_what_is_in_the_dataset_can_be_clicked(
    known: Known, served: ViewerServer, chromium: webdriver.Chrome
) -> None:
    show(chromium, served.url)
    chromium.execute_script("document.querySelector('#statistics > summary').click()")
    wait(chromium, lambda b: script(b, "document.querySelectorAll('#bars button').length"))
    counts = zml.open_dataset(known.path).counts("language").images
    name = str(counts.index[0])
    bar = "[...document.querySelectorAll('#bars section')][1].querySelector('button')"
    assert script(chromium, f"{bar}.textContent") == f"{name}{counts.iloc[0]:,}"
    chromium.execute_script(f"{bar}.click()")
    shows(chromium, f"{counts.iloc[0]:,} images")


@pytest.mark.browser
def test_a_pixel_and_its_line_light_up_together(
    known: Known, served: ViewerServer, chromium: webdriver.Chrome
) -> None:
    show(chromium, f"{served.url}#record=103")
    chromium.execute_script("document.querySelector('.tile').click()")
    code = opened(chromium).split("\n")
    row = next(i for i, line in enumerate(code) if line.strip())
    column = len(code[row]) - len(code[row].lstrip())
    move = """const canvas = document.querySelector('.picture.current canvas');
        const box = canvas.getBoundingClientRect();
        canvas.dispatchEvent(new MouseEvent('mousemove', {
            clientX: box.left + (arguments[0] + .5) * box.width / 80,
            clientY: box.top + (arguments[1] + .5) * box.height / 80 }));"""
    chromium.execute_script(move, column, row)
    said = script(chromium, "document.getElementById('pixel').textContent")
    char = code[row][column]
    assert said.endswith(f"column {column + 1}: {char} U+{ord(char):04X}")
    assert (
        script(chromium, "document.querySelector('.line.lit').textContent.trimEnd()") == code[row]
    )
    line = "document.querySelector('#code .current .line')"
    chromium.execute_script(f"{line}.dispatchEvent(new MouseEvent('mouseenter'))")
    assert script(chromium, "document.querySelector('.picture.current .marker').hidden") is False
    # A click on a line's number makes a link to it.
    chromium.execute_script(f"{line}.dispatchEvent(new MouseEvent('click', {{ clientX: 0 }}))")
    number = script(chromium, f"{line}.dataset.line")
    assert chromium.current_url.endswith(f"&line={number}")
    show(chromium, chromium.current_url)
    opened(chromium)
    marked = "[...document.querySelectorAll('.line.marked')].map(l => l.dataset.line)"
    assert script(chromium, marked) == [number]


@pytest.mark.browser
def test_the_files_of_a_record_lead_to_their_images(
    known: Known, served: ViewerServer, chromium: webdriver.Chrome
) -> None:
    show(chromium, f"{served.url}#record=103")
    chromium.execute_script("document.querySelector('.tile').click()")
    opened(chromium)
    chromium.execute_script("document.querySelector('#tree > summary').click()")
    wait(chromium, lambda b: script(b, "document.querySelectorAll('#files a').length"))
    files = zml.open_dataset(known.path).select("record_id == 103 and n_images > 0").files
    assert script(chromium, "document.querySelectorAll('#files a').length") == len(files)
    chromium.execute_script("[...document.querySelectorAll('#files a')].at(-1).click()")
    wait(chromium, lambda b: f"image={files.first_image.iloc[-1]}" in b.current_url)
    opened(chromium)


@pytest.mark.browser
def test_back_returns_to_the_wall_and_stays_there(
    served: ViewerServer, chromium: webdriver.Chrome
) -> None:
    show(chromium, f"{served.url}#language=Python")
    chromium.execute_script("document.querySelector('.tile').click()")
    opened(chromium)
    ActionChains(chromium).send_keys(Keys.ESCAPE).perform()
    wait(chromium, lambda b: b.current_url.endswith("#language=Python"))
    chromium.back()  # and does not open the image again
    wait(chromium, lambda b: b.current_url == "about:blank")


@pytest.mark.browser
def test_a_missing_chunk_is_damage_and_not_a_blank_image(
    known: Known, tmp_path: Path, chromium: webdriver.Chrome
) -> None:
    shutil.copytree(known.path, tmp_path / "damaged")
    for shard in (tmp_path / "damaged" / "images.zarr" / "images" / "c").rglob("0"):
        if shard.is_file():
            shard.unlink()
    with running(ViewerServer(str(tmp_path / "damaged"))) as server:
        chromium.get("about:blank")
        chromium.get(server.url)
        wait(chromium, lambda b: script(b, "document.body.dataset.state"))
        wait(chromium, lambda b: "damaged" in status(b))


@pytest.mark.browser
@pytest.mark.parametrize(
    "address", ["", "#record=103&image=", "#language=nonsense", "#sql=SELECT 1 AS one"]
)
def test_nothing_that_axe_finds_is_left(
    known: Known, served: ViewerServer, chromium: webdriver.Chrome, address: str
) -> None:
    if address.endswith("image="):
        files = zml.open_dataset(known.path).select("record_id == 103 and n_images > 0").files
        address += str(files.first_image.iloc[0])
    show(chromium, f"{served.url}{address}")
    if "image=" in address:
        opened(chromium)
    assert violations(chromium) == []


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
    assert status(chromium) == "no matching image"
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
def test_a_line_gets_its_link_by_keys_too(
    known: Known, served: ViewerServer, chromium: webdriver.Chrome
) -> None:
    files = zml.open_dataset(known.path).select("n_lines > 240").files
    show(chromium, f"{served.url}#image={files.first_image.iloc[0]}")
    opened(chromium)
    marked = "[...document.querySelectorAll('.line.marked')].map(l => l.dataset.line)"
    for keys, line in (("j", "1"), ("jjj", "4"), ("k", "3"), ("kkkk", "1")):
        ActionChains(chromium).send_keys(*keys).perform()
        assert chromium.current_url.endswith(f"&line={line}")
        assert script(chromium, marked) == [line]
        said = script(chromium, "document.getElementById('pixel').textContent")
        assert said.startswith(f"line {line}, and the address leads to it: ")
    # Without a mark it begins where the code was scrolled to.
    show(chromium, f"{served.url}#image={files.first_image.iloc[0] + 1}")
    opened(chromium)
    ActionChains(chromium).send_keys("j").perform()
    assert script(chromium, marked) == ["81"]


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
    with pytest.raises(UsageError, match="public address with --data-url"):
        export_page("memory://viewer/known", tmp_path / "q")


@pytest.mark.browser
@pytest.mark.slow
def test_a_million_images(
    tmp_path: Path, chromium: webdriver.Chrome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "store")
    from large_dataset import IMAGES_A_FILE, write_large_dataset

    write_large_dataset(tmp_path / "million")
    dataset = zml.open_dataset(tmp_path / "million")
    n = len(dataset)
    fortran = dataset.select("language == 'Fortran'")
    with running(ViewerServer(str(tmp_path / "million"))) as server:
        show(chromium, server.url)
        assert status(chromium).startswith(f"{n:,} images; page 1 of")
        asked = script(chromium, "performance.getEntriesByType('resource').map(e => e.name)")
        tables = {name.split("/data/")[1].split("/")[0] for name in asked if ".parquet" in name}
        assert tables == {"summary.parquet"}  # the first page looks at no file
        show(chromium, f"{server.url}#language=Fortran&page=50")
        assert status(chromium).startswith(f"{len(fortran):,} images")
        first = int(script(chromium, "document.querySelector('.tile').dataset.image"))
        assert first == fortran.files.first_image.iloc[49 * 120 // IMAGES_A_FILE]
        # The largest and the smallest come in order, whatever was read to know them.
        files = dataset.files
        for order, ascending in (("largest", False), ("smallest", True)):
            show(chromium, f"{server.url}#sort={order}&page=9")
            assert status(chromium).startswith(f"{n:,} images")
            found = files["size"].iloc[[image // IMAGES_A_FILE for image in tiles(chromium)]]
            expected = files["size"].sort_values(ascending=ascending).repeat(IMAGES_A_FILE)
            assert found.tolist() == expected.iloc[8 * 120 : 9 * 120].tolist()
        last = n - IMAGES_A_FILE
        show(chromium, f"{server.url}#record={dataset.records.record_id.iloc[-1]}&image={last}")
        opened(chromium)
        path = script(chromium, "document.getElementById('path').textContent")
        assert path == dataset.files.path.iloc[-1]


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

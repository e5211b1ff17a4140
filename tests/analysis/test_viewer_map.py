"""The viewer's map of records: points that are pointed at, clicked, coloured and drawn around."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

import zml_dask as zml
from zml_dask.publish.viewer import ViewerServer
from zml_dask.store.storage import Storage

from .browsing import running, script, show, shows, status, violations, wait
from .conftest import Known

pytestmark = pytest.mark.browser

PLACES = {
    # record -> x, y, language; 106 has no words, and 112 is withdrawn
    101: (-0.8, 0.8, "Python"),
    102: (-0.7, 0.7, "Python"),
    103: (-0.8, 0.6, "Python"),
    104: (0.8, -0.8, "C"),
    105: (0.7, -0.7, '"><img src=x onerror=alert(1)>'),
    106: (None, None, None),
    107: (0.0, 0.0, None),
    108: (0.8, 0.8, "C"),
    109: (0.5, 0.5, "R"),
    110: (-0.5, -0.5, "R"),
    111: (0.2, -0.9, "R"),
    112: (0, 0, "R"),
}
NEAR = {103: [112, 102, 101]}


@pytest.fixture(scope="module")
def mapped(known: Known, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ViewerServer]:
    """Serve the dataset with a table of places, as `derive` writes it."""
    folder = tmp_path_factory.mktemp("mapped") / "known"
    shutil.copytree(known.path, folder)
    rows = [
        {
            "record_id": record,
            "x": x,
            "y": y,
            "language": language,
            "neighbours": NEAR.get(record, []),
            "similarity": [0.9 - 0.1 * i for i in range(len(NEAR.get(record, [])))],
            "error": None,
        }
        for record, (x, y, language) in PLACES.items()
    ]
    schema = pa.schema(
        {
            "record_id": pa.int64(),
            "x": pa.float32(),
            "y": pa.float32(),
            "language": pa.string(),
            "neighbours": pa.list_(pa.int64()),
            "similarity": pa.list_(pa.float32()),
            "error": pa.string(),
        }
    )
    (folder / "derived" / "record_map.parquet").mkdir(parents=True)
    local = folder / "derived" / "record_map.parquet" / "part"
    pq.write_table(pa.Table.from_pylist(rows, schema), local, compression="zstd")
    digest = hashlib.sha256(local.read_bytes()).hexdigest()
    part = local.rename(local.with_name(f"part-00000-{digest[:12]}.parquet"))
    info = json.loads((folder / "dataset.json").read_text())
    info["tables"]["derived/record_map"] = [
        {
            "path": part.relative_to(folder).as_posix(),
            "rows": len(rows),
            "size": part.stat().st_size,
            "sha256": digest,
        }
    ]
    # What the map was computed with: a table without records, which no question may name.
    words = part.with_name("words.parquet")
    pq.write_table(pa.table({"word": ["loop"]}), words, compression="zstd")
    path, size = words.relative_to(folder).as_posix(), words.stat().st_size
    info["tables"]["derived/words"] = [{"path": path, "rows": 1, "size": size, "sha256": ""}]
    info["derived"] = {"words": {"of": "nothing"}, "record_map": {"of": "records"}}
    (folder / "dataset.json").write_text(json.dumps(info))
    with running(ViewerServer(str(known.path))) as server:
        server.storage = Storage.open(folder)
        yield server


def text(chromium: webdriver.Chrome, name: str) -> str:
    return str(script(chromium, f"document.getElementById('{name}').textContent"))


def drawn(chromium: webdriver.Chrome, server: ViewerServer, address: str) -> tuple[int, int, float]:
    """Open the map; return where its middle lies on the screen, and pixels per unit."""
    show(chromium, f"{server.url}{address}")
    state = "document.getElementById('points').dataset.state"
    wait(chromium, lambda b: script(b, state) == "drawn")
    chromium.execute_script("document.getElementById('points').scrollIntoView({block: 'center'})")
    box: dict[str, Any] = script(
        chromium, "document.getElementById('points').getBoundingClientRect().toJSON()"
    )
    inner = script(chromium, "[points.clientWidth, points.clientHeight]")
    return (
        round(box["x"] + box["width"] / 2),
        round(box["y"] + box["height"] / 2),
        min(inner) / 2.2,
    )


def pointer(chromium: webdriver.Chrome) -> ActionChains:
    return ActionChains(chromium, duration=0)


def test_points_are_named_and_lead_to_their_neighbours(
    known: Known, mapped: ViewerServer, chromium: webdriver.Chrome
) -> None:
    x, y, unit = drawn(chromium, mapped, "#map=language")
    place = (round(x - 0.8 * unit), round(y - 0.6 * unit))
    move = pointer(chromium)
    move.w3c_actions.pointer_action.move_to_location(*place)
    move.perform()
    title = str(known.rows[103]["title"])
    wait(chromium, lambda b: text(b, "place").startswith(f"{title}, Python"))
    assert script(chromium, "document.querySelectorAll('#mapped b, #mapped img').length") == 0
    wait(chromium, lambda b: b.find_element("id", "glance").is_displayed())
    click = pointer(chromium)
    click.w3c_actions.pointer_action.move_to_location(*place).click()
    click.perform()
    links = "[...document.querySelectorAll('#near a')].map(a => a.getAttribute('href'))"
    wait(chromium, lambda b: script(b, links))
    assert script(chromium, links) == [
        f"#record={record}&map=language" for record in (103, 102, 101)
    ], "112 is withdrawn"
    assert text(chromium, "near").rstrip().endswith("0.70")
    assert violations(chromium) == []
    # The point, and where one looks, are in the address, which shows the same again.
    chromium.find_element("id", "points").send_keys("+", Keys.ARROW_LEFT)
    seen = f"#map=language&near=103&at={-60 / 1.5 / unit:.6f},0,1.5"
    wait(chromium, lambda b: unquote(b.current_url).endswith(seen))
    chromium.execute_script("document.querySelectorAll('#near a')[1].click()")
    images = int(zml.open_dataset(known.path).select(record_id=102).counted["images"])
    shows(chromium, f"{images} images")
    address = chromium.current_url
    assert unquote(address).endswith(seen.replace("#", "#record=102&"))
    drawn(chromium, mapped, address.removeprefix(mapped.url))
    wait(chromium, lambda b: len(script(b, links)) == 3)
    assert chromium.current_url == address
    chromium.find_element("id", "points").send_keys("0")
    wait(chromium, lambda b: "at=" not in b.current_url)


def test_back_returns_to_the_place_the_colour_and_the_point(
    mapped: ViewerServer, chromium: webdriver.Chrome
) -> None:
    *_, unit = drawn(chromium, mapped, "#map=language&near=103&at=-0.5,0.5,2")
    links = "document.querySelectorAll('#near a').length"
    wait(chromium, lambda b: script(b, links) == 3)
    Select(chromium.find_element("id", "colour")).select_by_value("year")
    wait(chromium, lambda b: "map=year" in b.current_url)
    chromium.find_element("id", "points").send_keys("0")
    wait(chromium, lambda b: "at=" not in b.current_url)
    chromium.execute_script("document.querySelector('#map > summary').click()")
    wait(chromium, lambda b: b.current_url == mapped.url + "#")
    chromium.back()
    wait(chromium, lambda b: b.current_url.endswith("#map=year&near=103"))
    chromium.back()
    wait(chromium, lambda b: script(b, "document.getElementById('colour').value") == "language")
    wait(chromium, lambda b: script(b, links) == 3)
    chromium.find_element("id", "points").send_keys(Keys.ARROW_RIGHT)
    seen = f"at={-0.5 + 60 / 2 / unit:.6f},0.5,2"
    wait(chromium, lambda b: unquote(b.current_url).endswith(seen))


def test_drawing_around_records_chooses_them_and_is_a_link(
    known: Known, mapped: ViewerServer, chromium: webdriver.Chrome
) -> None:
    x, y, unit = drawn(chromium, mapped, "#map=year")
    chromium.execute_script("document.getElementById('lasso-start').click()")
    corners = [(-1, 1), (-0.6, 1), (-0.6, 0.4), (-1, 0.4)]
    drag = pointer(chromium)
    at = [(round(x + a * unit), round(y - b * unit)) for a, b in corners]
    drag.w3c_actions.pointer_action.move_to_location(*at[0]).pointer_down()
    for corner in at[1:]:
        drag.w3c_actions.pointer_action.move_to_location(*corner)
    drag.w3c_actions.pointer_action.pointer_up()
    drag.perform()
    chosen = zml.open_dataset(known.path).select(record_id=[101, 102, 103])
    shows(chromium, f"{len(chosen)} images")
    assert "lasso=" in chromium.current_url
    show(chromium, chromium.current_url + "&language=Python")
    python = len(chosen.select(language="Python"))
    wait(chromium, lambda b: status(b).startswith(f"{python} images"))
    chromium.execute_script("document.getElementById('lasso-clear').click()")
    every = len(zml.open_dataset(known.path).select(language="Python"))
    shows(chromium, f"{every} images")


def test_colours_are_named_and_chosen(
    known: Known, mapped: ViewerServer, chromium: webdriver.Chrome
) -> None:
    drawn(chromium, mapped, "#map=language")
    legend = "[...document.querySelectorAll('#legend button')].map(b => b.textContent)"
    languages = [language for record, (x, _, language) in PLACES.items() if x is not None]
    found = dict(entry.rsplit(" ", 1) for entry in script(chromium, legend))
    assert found["Python"] == "3"
    assert found["R"] == "3", "112 is withdrawn"
    assert found["(none)"] == "1"
    assert len(found) == len(set(languages))
    Select(chromium.find_element("id", "colour")).select_by_value("license")
    wait(chromium, lambda b: b.current_url.endswith("#map=license"))
    wait(chromium, lambda b: any(entry.startswith("mit ") for entry in script(b, legend)))
    chromium.execute_script(
        "[...document.querySelectorAll('#legend button')]"
        ".find(b => b.textContent.startsWith('mit ')).click()"
    )
    shows(chromium, f"{len(zml.open_dataset(known.path).select(license='mit'))} images")
    # Of the points, those that fit are not faint; the legend counts them.
    placed = {record for record, (x, *_) in PLACES.items() if x is not None and record != 112}
    mit = {record for record in placed if known.rows[record]["license"] == "mit"}
    wait(chromium, lambda b: text(b, "sampled") == f"{len(mit)} of {len(placed)} points fit.")
    assert {e for e in script(chromium, legend) if not e.endswith(" 0")} == {f"mit {len(mit)}"}
    chromium.execute_script("document.querySelector('#legend [aria-pressed=true]').click()")
    wait(chromium, lambda b: not text(b, "sampled"))
    Select(chromium.find_element("id", "language")).select_by_value("Python")
    python = {r for r, path, _ in known.shown() if path.endswith(".py")} & placed
    wait(chromium, lambda b: text(b, "sampled") == f"{len(python)} of {len(placed)} points fit.")
    drawn(chromium, mapped, "#map=language&record=106")  # which has no point
    wait(chromium, lambda b: text(b, "sampled") == f"0 of {len(placed)} points fit.")
    loaded = script(chromium, "performance.getEntriesByType('resource').map(e => e.name)")
    assert all(name.startswith(mapped.url) for name in loaded)
    log = chromium.get_log("browser")  # type: ignore[no-untyped-call]
    assert [entry for entry in log if entry["level"] == "SEVERE"] == []


def test_the_map_is_a_table_of_questions(mapped: ViewerServer, chromium: webdriver.Chrome) -> None:
    where = "FROM record_map JOIN records USING (record_id) WHERE x < -0.6 ORDER BY record_id"
    show(chromium, f"{mapped.url}#map=year&sql={quote(f'SELECT record_id, x, title {where}')}")
    wait(chromium, lambda b: text(b, "answer") == "3 rows")
    wait(chromium, lambda b: text(b, "sampled").startswith("3 of "))
    links = "[...document.querySelectorAll('#result a')].map(a => a.textContent)"
    assert script(chromium, links) == ["101", "102", "103"]
    tables = "[...document.querySelectorAll('#tables dt')].map(t => t.textContent)"
    assert script(chromium, tables) == ["files", "records", "failures", "record_map"]


def test_without_a_map_the_page_says_what_makes_one(
    served: ViewerServer, chromium: webdriver.Chrome
) -> None:
    show(chromium, served.url)
    chromium.execute_script("document.querySelector('#map > summary').click()")
    wait(chromium, lambda b: b.find_element("id", "no-map").is_displayed())
    assert "zml-dask derive DATASET record_map" in text(chromium, "no-map")
    loaded = script(chromium, "performance.getEntriesByType('resource').map(e => e.name)")
    assert not any(name.endswith("map.js") for name in loaded)

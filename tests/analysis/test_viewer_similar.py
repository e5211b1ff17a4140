"""The viewer's map finds what is like a pasted text, by Python's numbers, and shows files."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

import zml_dask as zml
from zml_dask.learning.words import count_words
from zml_dask.publish import viewer
from zml_dask.publish.viewer import ViewerServer
from zml_dask.query.dataset import Dataset
from zml_dask.raster.images import rasterize
from zml_dask.store.commit import commit
from zml_dask.store.layout import ImageShape
from zml_dask.store.staging.stager import RecordStager
from zml_dask.store.storage import Storage

from .browsing import running, script, show, shows, tiles, violations, wait
from .conftest import Known, add
from .test_viewer_map import drawn, pointer, text

pytestmark = pytest.mark.browser

TEXTS = {
    "Python": Path(zml.__file__).parent.joinpath("query", "dataset.py").read_text("utf-8"),
    "JavaScript": Path(viewer.__file__).with_name("page").joinpath("viewer.js").read_text("utf-8"),
    "CSS": Path(viewer.__file__).with_name("page").joinpath("viewer.css").read_text("utf-8"),
    "HTML": Path(viewer.__file__).with_name("page").joinpath("index.html").read_text("utf-8"),
    "C header": Path(np.get_include(), "numpy", "ndarrayobject.h").read_text("utf-8"),
    "C++ header": Path(pa.get_include(), "arrow", "type.h").read_text("utf-8"),
    "C": "\t#define SQ(x) ((x)*(x))\nint main(void){return SQ(0x1F)+1e-3f;}\r\n\r\n" * 90,
    "Fortran": "      SUBROUTINE A(N)\n      DO 10 I=1,N\n10    CONTINUE\n      END\n",
    "beyond ASCII": "переменная = größe + 变量 * π²  # café\nfür\u00a0alle 😀x😀 e\u0301\n",
    "a long line": "word_1 2word ." * 400 + "\n" + "é" * 200 + " cut",
    "marks": "".join(map(chr, range(1, 128))) + "\u200b\u2028\ufeff\x85",
}
LINKS = "[...document.querySelectorAll('#near a')].map(a => a.getAttribute('href'))"


@pytest.fixture(scope="module")
def derived(
    known: Known, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Dataset, ViewerServer]]:
    """Serve the dataset with one more record, of these texts, and its maps."""
    scratch = tmp_path_factory.mktemp("similar")
    folder = scratch / "known"
    shutil.copytree(known.path, folder)
    storage = Storage.open(folder)
    with RecordStager(scratch, 200, ImageShape()) as stager:
        for name, one in TEXTS.items():
            add(stager, name, one.encode())
        stager.finish(storage, {"title": "texts", "metadata": "{}"})
    commit(storage)
    zml.derive(str(folder), "record_map")
    ds = zml.derive(str(folder), "file_map")
    with running(ViewerServer(str(folder))) as server:
        yield ds, server


def vector_of(ds: Dataset, path: str) -> bytes:
    found = ds.sql(f"SELECT vector FROM embedding JOIN files USING (file_id) WHERE path = '{path}'")
    return bytes(found.fetchall()[0][0])


def find(chromium: webdriver.Chrome, pasted: str) -> str:
    """Paste a text, and return what the address then says that is searched for."""
    chromium.execute_script(
        "document.getElementById('near').replaceChildren();"
        "document.getElementById('like-text').value = arguments[0];"
        "document.getElementById('like').requestSubmit();",
        pasted,
    )
    wait(chromium, lambda b: text(b, "near"))
    return parse_qs(urlsplit(chromium.current_url).fragment)["like"][0]


def test_a_text_has_the_numbers_that_python_gives_it(
    derived: tuple[Dataset, ViewerServer], chromium: webdriver.Chrome
) -> None:
    ds, server = derived
    drawn(chromium, server, "#map=language")
    counting = "import('./map.js').then(m => arguments[1]([...m.countWords(arguments[0], 80)]))"
    for name, one in TEXTS.items():
        pages = rasterize(one)[0]
        _, buckets, counts = count_words(pages, [0, len(pages)], patterns=True)
        found = chromium.execute_async_script(counting, one)
        assert found == np.column_stack([buckets, counts]).tolist(), name
        vector = base64.urlsafe_b64decode(find(chromium, one).partition(".")[2])
        assert vector == vector_of(ds, name), name
    chromium.execute_script("document.getElementById('like-text').value = ' \\n\\t'")
    chromium.execute_script("document.getElementById('like').requestSubmit()")
    wait(chromium, lambda b: text(b, "place").startswith("there is no word in it"))
    log = chromium.get_log("browser")  # type: ignore[no-untyped-call]
    assert [entry for entry in log if entry["level"] == "SEVERE"] == []


def test_what_is_like_a_text_is_listed_marked_and_a_link(
    derived: tuple[Dataset, ViewerServer], chromium: webdriver.Chrome
) -> None:
    ds, server = derived
    file = ds.select("extension = 'f90'").files.iloc[0]
    code = ds.text(int(file.file_id))
    drawn(chromium, server, "#map=language&of=files")
    chromium.execute_script("document.getElementById('like-text').value = arguments[0]", code)
    chromium.find_element("id", "like-text").send_keys(Keys.CONTROL, Keys.ENTER)
    wait(chromium, lambda b: script(b, LINKS))
    links = [parse_qs(link[1:]) for link in script(chromium, LINKS)]
    expected = ds.similar(text=code, k=10)
    found = [float(n) for n in re.findall(r" (\d\.\d\d)(?!\d)", text(chromium, "near"))]
    assert found == pytest.approx(expected.similarity.tolist(), abs=0.006)
    files = ds.select("extension = 'f90'").files
    assert {int(link["image"][0]) for link in links[: len(files)]} == set(files.first_image[:10])
    assert all(link["of"] == ["files"] for link in links)
    assert violations(chromium) == []
    # The same address shows the same, and of the records too.
    address = chromium.current_url
    show(chromium, address)
    wait(chromium, lambda b: script(b, LINKS))
    assert [parse_qs(link[1:]) for link in script(chromium, LINKS)] == links
    show(chromium, address.replace("&of=files", ""))
    wait(chromium, lambda b: script(b, LINKS))
    records = [int(parse_qs(link[1:])["record"][0]) for link in script(chromium, LINKS)]
    rows = ds.sql("SELECT record_id, vector FROM record_embedding ORDER BY record_id").df()
    vectors = np.stack([np.frombuffer(v, np.int8) for v in rows.vector.dropna()]).astype(float)
    one = np.frombuffer(vector_of(ds, file.path), np.int8).astype(float)
    likeness = vectors @ one / np.linalg.norm(vectors, axis=1)
    ranked = rows.record_id[rows.vector.notna()].to_numpy()[np.argsort(-likeness, kind="stable")]
    assert records == [number for number in ranked.tolist() if number != 112][:10]
    # A vector that was made by other weights cannot be compared.
    show(chromium, re.sub("like=[0-9a-f]{8}", "like=00000000", address))
    wait(chromium, lambda b: text(b, "place").startswith("the vectors were computed again"))


def test_files_are_points_too(
    derived: tuple[Dataset, ViewerServer], chromium: webdriver.Chrome
) -> None:
    ds, server = derived
    x, y, unit = drawn(chromium, server, "#map=language")
    chromium.execute_script(
        "const of = document.getElementById('of');"
        "of.value = 'files'; of.dispatchEvent(new Event('change'));"
    )
    wait(chromium, lambda b: "of=files" in b.current_url)
    frame = ds.sql(
        "SELECT file_id, record_id, path, language_group, first_image, n_images, x, y "
        "FROM file_map JOIN files USING (file_id, record_id) ORDER BY file_id"
    ).df()
    placed = frame[frame.x.notna()]
    legend = "[...document.querySelectorAll('#legend button')].map(b => b.textContent)"
    counts = placed.language_group.fillna("(none)").value_counts().astype(str).to_dict()
    wait(chromium, lambda b: f"Python {counts['Python']}" in script(b, legend))
    found = dict(entry.rsplit(" ", 1) for entry in script(chromium, legend))
    assert found.items() <= counts.items()
    assert len(found) == min(10, len(counts))
    wait(chromium, lambda b: script(b, "points.dataset.state") == "drawn")
    one = placed[placed.language_group == "R"].iloc[0]
    at = (round(x + one.x * unit), round(y - one.y * unit))
    click = pointer(chromium)
    click.w3c_actions.pointer_action.move_to_location(*at).click()
    click.perform()
    wait(chromium, lambda b: script(b, LINKS))
    links = [parse_qs(link[1:]) for link in script(chromium, LINKS)]
    # Points may lie on one another: the first link says which was the uppermost.
    shown = frame[frame.first_image == int(links[0]["image"][0])].iloc[0]
    assert np.hypot(shown.x - one.x, shown.y - one.y) * unit < 6
    assert text(chromium, "near").count(f"record {shown.record_id}") == 1, "its own is left out"
    likeness = ds.similar(file=int(shown.file_id), k=10).similarity.tolist()
    listed = [float(n) for n in re.findall(r" (\d\.\d\d)(?!\d)", text(chromium, "near"))]
    assert listed == pytest.approx(likeness, abs=0.006)
    # Names of files are text, whatever is in them.
    find(chromium, "x = 1\n" * 81)
    for part in ("\\u{202e}", "<img src=x", "{{7*7}}"):
        assert part in text(chromium, "near")
    assert "\u202e" not in text(chromium, "near")
    assert script(chromium, "document.querySelectorAll('#near :not(h2, ol, li, a)').length") == 0
    # Drawing around points chooses these files.
    # A line through Python, where there is most space between two points.
    across = np.unique(placed.x[placed.language_group == "Python"])
    wide = int(np.diff(across).argmax())
    middle = float(across[wide : wide + 2].mean())
    box = placed.x < middle
    lasso = f"-2,2,{middle},2,{middle},-2,-2,-2"
    images = int(placed[box].n_images.sum())
    assert 0 < images < placed.n_images.sum()
    chosen_by = f"#map=language&of=files&sort=largest&lasso={lasso}"  # in order, so all are read
    show(chromium, f"{server.url}{chosen_by}")
    shows(chromium, f"{images:,} images of {int(box.sum()):,} files")
    chosen = {
        image
        for file in placed[box].itertuples()
        for image in range(file.first_image, file.first_image + file.n_images)
    }
    assert set(tiles(chromium)) <= chosen
    python = placed[box & (placed.language_group == "Python")]
    show(chromium, f"{server.url}{chosen_by}&group=Python")
    assert 0 < len(python) < int(counts["Python"])
    shows(chromium, f"{int(python.n_images.sum()):,} images of {len(python)} files")


def test_of_too_many_files_some_are_drawn_and_those_of_near_records_compared(
    derived: tuple[Dataset, ViewerServer], chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    ds, server = derived
    folder = tmp_path / "many"
    shutil.copytree(server.storage.url, folder)
    info = json.loads((folder / "dataset.json").read_text())
    (vectors,), (places,) = (info["tables"][f"derived/{n}"] for n in ("embedding", "file_map"))
    # As many as it says there are would take the test an hour to write.
    vectors["rows"], places["rows"] = 1_000_001, 4_000_000
    table = pq.read_table(folder / places["path"])
    pq.write_table(table, folder / places["path"], row_group_size=50, compression="zstd")
    places["size"] = (folder / places["path"]).stat().st_size
    (folder / "dataset.json").write_text(json.dumps(info))
    code = ds.text(int(ds.select("extension = 'R'").files.file_id.iloc[0]))
    expected = ds.similar(text=code, k=10).similarity.tolist()
    drawn_rows = [row for row in range(len(table)) if row // 50 % 2 == 0]
    shown = [row for row in table.take(drawn_rows).to_pylist() if row["x"] is not None]
    shown = [row for row in shown if row["record_id"] != 112]
    with running(ViewerServer(server.storage)) as many:
        many.storage = Storage.open(folder)
        drawn(chromium, many, "#map=language&of=files")
        assert text(chromium, "sampled") == f"{len(shown)} of 4,000,000 files are drawn."
        find(chromium, code)
        found = [float(n) for n in re.findall(r" (\d\.\d\d)(?!\d)", text(chromium, "near"))]
        assert found == pytest.approx(expected, abs=0.006)


def test_the_map_by_keyboard(
    derived: tuple[Dataset, ViewerServer], chromium: webdriver.Chrome
) -> None:
    ds, server = derived
    drawn(chromium, server, "#map=language")
    place = "document.getElementById('place').textContent"
    points = chromium.find_element("id", "points")
    page = script(chromium, "document.getElementById('page').value")
    # Towards a point, and then as near as it needs to be the one in the middle.
    one = ds.sql("SELECT record_id, x, y FROM record_map WHERE record_id = 104").df().iloc[0]
    unit = min(script(chromium, "[points.clientWidth, points.clientHeight]")) / 2.2
    across, up = round(one.x * unit / 60), round(one.y * unit / 60)
    points.send_keys("+-0", *[Keys.ARROW_RIGHT if across > 0 else Keys.ARROW_LEFT] * abs(across))
    points.send_keys(*[Keys.ARROW_UP if up > 0 else Keys.ARROW_DOWN] * abs(up) or [Keys.SHIFT])
    points.send_keys("-----")
    wait(chromium, lambda b: script(b, place).startswith("Record"))
    points.send_keys(Keys.ENTER)
    wait(chromium, lambda b: script(b, LINKS))
    assert script(chromium, "document.getElementById('page').value") == page, "no page was turned"
    assert violations(chromium) == []

"""Take the pictures of the viewer and the report: ``python docs/make_screenshots.py zenodo-ml``.

The dataset is one of ``zml-dask demo`` with the derived tables ``near_duplicates``,
``license_detected``, ``record_map`` and ``file_map``. Chromium and its
driver take the pictures; ``make_screenshots.py zenodo-ml FOLDER NAME...`` puts some elsewhere.
"""

from __future__ import annotations

import base64
import io
import shutil
import sys
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

import zml_dask as zml
from zml_dask.analysis.counts import count
from zml_dask.analysis.report import render
from zml_dask.publish.viewer import ViewerServer

IMAGES = Path(__file__).parent / "images"
QUESTION = (
    "SELECT language, count(*) AS files, sum(n_images) AS images, min(first_image) AS image "
    "FROM files WHERE n_images > 0 GROUP BY ALL ORDER BY images DESC"
)
DRAWN = "document.body.dataset.state === 'ready' && {}.dataset.state === '{}'"
WALL = DRAWN.format("document.getElementById('wall')", "drawn")
FILE = DRAWN.format("document.getElementById('detail')", "drawn")
MAP = DRAWN.format("document.getElementById('points')", "drawn")
ANSWER = DRAWN.format("document.getElementById('sql')", "answered")


FIT = "document.getElementById('sampled').textContent.endsWith('fit.')"
FOUND = "document.getElementById('place').textContent.startsWith('The cross')"
PASTE = """
    document.getElementById('like-text').value = `def fit(x, y, steps=100):
    weights = np.zeros(x.shape[1])
    for step in range(steps):
        gradient = x.T @ (x @ weights - y) / len(y)
        weights -= 0.1 * gradient
    return weights`;
    document.getElementById('like').requestSubmit();"""


class Shot(NamedTuple):
    """A picture: of which page, once what is there, how large, and in which mode."""

    page: str
    there: str = "true"
    phone: bool = False
    dark: bool = False
    of: str = ""
    """Selector of the element that is shown alone."""
    then: tuple[str, str] = ("", "true")
    """What is done on the page, and what is there afterwards."""


def shots(viewer: str, report: str, image: int) -> dict[str, Shot]:
    """Return the pictures by the names of their files."""
    asked = f"{viewer}#sql={quote(QUESTION)}"
    file = f"{viewer}#image={image}"
    return {
        "viewer-wall": Shot(viewer, WALL),
        "viewer-dark": Shot(viewer, WALL, dark=True),
        "viewer-image": Shot(file, FILE),
        "viewer-image-dark": Shot(file, FILE, dark=True),
        "viewer-phone": Shot(file, FILE, phone=True),
        "viewer-sql": Shot(asked, ANSWER),
        "viewer-map": Shot(f"{viewer}#map=language&of=files", MAP, then=(PASTE, FOUND)),
        "viewer-map-dark": Shot(
            f"{viewer}#map=language&of=files&year=2018", f"{MAP} && {FIT}", dark=True
        ),
        "viewer-map-phone": Shot(f"{viewer}#map=language", MAP, phone=True),
        "report": Shot(report),
        "report-dark": Shot(report, dark=True),
        "report-phone": Shot(report, phone=True),
        "report-records": Shot(report, of="#records"),
        "report-mosaic": Shot(report, of="#mosaic"),
    }


def take(browser: webdriver.Chrome, shot: Shot) -> Image.Image:
    """Open a page and picture it."""
    width, height = (390, 844) if shot.phone else (1300, 900)
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": shot.phone}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if shot.dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
    browser.get("about:blank")
    browser.get(shot.page)
    WebDriverWait(browser, 300, 0.1).until(lambda b: b.execute_script(f"return {shot.there}"))
    browser.execute_script(shot.then[0])
    WebDriverWait(browser, 300, 0.1).until(lambda b: b.execute_script(f"return {shot.then[1]}"))
    options: dict[str, object] = {"format": "png"}
    if shot.of:
        box = browser.execute_script(
            f"const box = document.querySelector('{shot.of}').getBoundingClientRect();"
            "return [box.x - 12, box.y + scrollY - 2, box.width + 24, box.height + 14]"
        )
        clip = dict(zip(("x", "y", "width", "height"), box, strict=True), scale=1)
        options |= {"clip": clip, "captureBeyondViewport": True}
    data = browser.execute_cdp_cmd("Page.captureScreenshot", options)["data"]
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def main(dataset: str, folder: str = str(IMAGES), *names: str) -> None:
    """Take all pictures, or those of some names."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("headless", "no-sandbox", "disable-gpu", "enable-unsafe-swiftshader"):
        options.add_argument(f"--{flag}")
    server = ViewerServer(dataset)
    file = (
        zml.open_dataset(dataset)
        .select("language = 'Python' AND n_cut = 0 AND n_images BETWEEN 3 AND 8")
        .read("first_image", "n_images", "path")
        .sort_values(["n_images", "path"], ascending=[False, True])
        .iloc[0]
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "report.html")
        report.write_text(render(dataset, count(dataset), server.url), encoding="utf-8")
        browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            wanted = shots(server.url, report.as_uri(), int(file["first_image"]))
            for name in names or wanted:
                picture = take(browser, wanted[name]).quantize(255, dither=Image.Dither.NONE)
                picture.save(Path(folder, f"{name}.png"), optimize=True)
        finally:
            browser.quit()
            server.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])

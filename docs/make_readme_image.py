"""Draw the README's picture from a dataset: ``python docs/make_readme_image.py zenodo-ml``."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

import zml_dask as zml

WHERE = Path(__file__).parent / "images" / "code-as-image.png"
ROWS, COLUMNS = 14, 40


def main(dataset: str) -> None:
    mpl.use("agg")
    ds = zml.open_dataset(dataset)
    file = ds.select("path.contains('dask/array/slicing.py')").files.iloc[0]
    first = int(file.first_image)
    images = np.asarray(ds.images[first : first + 9])
    shades = np.where(images == ord(" "), np.nan, images.clip(33, 126))
    colours = mpl.colormaps["viridis"].with_extremes(bad="#f4f4f2")
    figure, (letters, wall) = plt.subplots(
        1, 2, figsize=(12, 4.4), width_ratios=[1.75, 1], layout="constrained"
    )
    letters.imshow(shades[0, :ROWS, :COLUMNS], cmap=colours, vmin=33, vmax=126, aspect="auto")
    for row in range(ROWS):
        for column in range(COLUMNS):
            point = int(images[0, row, column])
            if point != ord(" "):
                colour = "black" if shades[0, row, column] > 95 else "white"
                letters.text(
                    *(column, row, chr(point)),
                    family="monospace",
                    size=8.5,
                    color=colour,
                    ha="center",
                    va="center",
                )
    letters.set_title(f"a pixel is a character: the beginning of {file['name']}", size=10)
    mosaic = np.full((3 * 84, 3 * 84), np.nan)
    for number, image in enumerate(shades):
        top, left = number // 3 * 84, number % 3 * 84
        mosaic[top : top + 80, left : left + 80] = image
    background = mpl.colormaps["viridis"].with_extremes(bad="#f4f4f2")
    wall.imshow(mosaic, cmap=background, vmin=33, vmax=126, interpolation="nearest")
    wall.set_title("its first nine images of 80 lines by 80 characters", size=10)
    for axes in (letters, wall):
        axes.set_axis_off()
    WHERE.parent.mkdir(exist_ok=True)
    figure.savefig(WHERE, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1])

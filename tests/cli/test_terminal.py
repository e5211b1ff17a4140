"""What is printed of others' text, and images in a terminal."""

from __future__ import annotations

import io

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from zml_dask.cli.drawing import draw
from zml_dask.text_safety import escape_lines, escape_text


@given(st.text())
def test_nothing_that_is_printed_can_move_the_cursor(text: str) -> None:
    assert escape_text(text).isprintable()
    shown = escape_lines(text)
    assert all(char == "\n" or char.isprintable() for char in shown)
    assert shown.count("\n") == text.count("\n")


@given(st.text(st.characters(categories=["L", "N", "P"])))
def test_what_is_visible_is_printed_as_it_is(text: str) -> None:
    assert escape_text(text) == text


def test_an_image_is_drawn_with_and_without_colour() -> None:
    image = np.full((80, 80), 32, np.uint32)
    image[0, :4] = [ord("a"), ord("7"), ord("("), 0x4E2D]
    plain, coloured = io.StringIO(), io.StringIO()
    draw(image, Console(file=plain))
    draw(image, Console(file=coloured, force_terminal=True, color_system="truecolor"))
    lines = plain.getvalue().splitlines()
    assert len(lines) == 40
    assert lines[0] == "▀" * 4 + " " * 76
    styles = {part.split("m")[0] for part in coloured.getvalue().split("\x1b[") if "▀" in part}
    assert len(styles) == 5, "blank, letter, digit, punctuation and beyond ASCII"

"""rasterize and to_text: every edge of the rules, and the properties that hold for any text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zml_dask.errors import UsageError
from zml_dask.raster.images import n_lines_dtype, rasterize, rasterize_into, to_text

TEXTS = st.text(
    st.one_of(
        st.sampled_from("ab \t\r\n\f\v\0\x85\u2028é"),
        st.characters(),  # any code point, lone surrogates included
    ),
    max_size=400,
)
SIDES = st.integers(1, 9)


def reference_lines(text: str) -> list[str]:
    """Rules 3 and 4 of the design, in the plainest words."""
    normalized = text.replace("\r\n", "\n").replace("\r", "\n").replace("\t", "    ")
    lines = normalized.split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def reference_images(text: str, width: int, height: int) -> tuple[list[list[list[int]]], list[int]]:
    """Rules 5 and 6, a pixel at a time."""
    lines = reference_lines(text)
    images, n_lines = [], []
    for start in range(0, len(lines), height):
        part = lines[start : start + height]
        n_lines.append(len(part))
        rows = part + [""] * (height - len(part))
        images.append([[ord(c) for c in row[:width].ljust(width)] for row in rows])
    return images, n_lines


@given(TEXTS, SIDES, SIDES)
def test_lines_need_not_be_given(text: str, width: int, height: int) -> None:
    """Then all is there but for blank lines at the end of the last image."""
    images, n_lines = rasterize(text, width, height)
    whole = to_text(images, n_lines)
    read = to_text(images)
    assert whole.startswith(read)
    assert not whole[len(read) :].strip("\n")
    if images.shape[0]:
        assert to_text(images[0]) == to_text(images[:1])


@given(TEXTS, SIDES, SIDES)
def test_equals_the_plain_reference(text: str, width: int, height: int) -> None:
    images, n_lines = rasterize(text, width, height)
    expected, expected_lines = reference_images(text, width, height)
    assert images.dtype == np.uint32
    assert images.shape == (len(expected), height, width)
    assert images.tolist() == expected
    assert n_lines.tolist() == expected_lines


@given(TEXTS, SIDES, SIDES)
def test_to_text_inverts_up_to_trailing_spaces_and_cut_lines(
    text: str, width: int, height: int
) -> None:
    back = to_text(*rasterize(text, width, height))
    assert back == "".join(line[:width].rstrip(" ") + "\n" for line in reference_lines(text))


@given(TEXTS, SIDES, SIDES)
def test_images_of_the_text_read_back_are_the_images(text: str, width: int, height: int) -> None:
    images, n_lines = rasterize(text, width, height)
    again, again_lines = rasterize(to_text(images, n_lines), width, height)
    assert np.array_equal(again, images)
    assert np.array_equal(again_lines, n_lines)


@given(st.lists(TEXTS, max_size=6), SIDES, SIDES, st.data())
def test_any_window_of_several_files_can_be_drawn(
    texts: list[str], width: int, height: int, data: st.DataObject
) -> None:
    """A shard begins in the middle of one file and ends in the middle of another."""
    each = [rasterize(text, width, height) for text in texts]
    whole = np.concatenate([images for images, _ in each] or [np.empty((0, height, width))])
    counts = np.concatenate([lines for _, lines in each] or [np.empty(0)])
    encoded = [to_text(*pair).encode("utf-8", "surrogatepass") for pair in each]
    first = len(each[0][0]) if each else 0
    skip = data.draw(st.integers(0, first))
    n_images = data.draw(st.integers(0, len(whole) + 2))
    images = np.full((n_images, height, width), 7, np.uint32)
    n_lines = np.full(n_images, 99, np.uint8)
    drawn = rasterize_into(encoded, images, n_lines, skip=skip)
    assert drawn == min(n_images, len(whole) - skip)
    assert np.array_equal(images[:drawn], whole[skip : skip + drawn])
    assert np.array_equal(n_lines[:drawn], counts[skip : skip + drawn])
    assert (images[drawn:] == 7).all()
    assert (n_lines[drawn:] == 99).all()


@pytest.mark.parametrize(
    ("text", "n_lines"),
    [
        ("", []),
        ("\n", [1]),
        ("a", [1]),
        ("a\n", [1]),
        ("a\n\n", [2]),
        ("a\nb", [2]),
        ("\r", [1]),
        ("a\rb\r", [2]),
        ("a\r\nb\r\n", [2]),
        ("a\r\n\rb", [3]),
        ("x\n" * 79, [79]),
        ("x\n" * 80, [80]),  # 2018 added an empty segment here
        ("x\n" * 79 + "x", [80]),
        ("x\n" * 80 + "x", [80, 1]),  # 2018 lost this line, or made a row of each character
        ("x\n" * 160, [80, 80]),
    ],
)
def test_lines_end_only_at_a_line_end(text: str, n_lines: list[int]) -> None:
    images, counted = rasterize(text)
    assert counted.tolist() == n_lines
    assert images.shape == (len(n_lines), 80, 80)


@pytest.mark.parametrize("separator", ["\f", "\v", "\x1c", "\x85", "\u2028", "\u2029"])
def test_other_separators_are_pixels(separator: str) -> None:
    """Python's splitlines would end a line at each of these."""
    images, n_lines = rasterize(f"a{separator}b")
    assert n_lines.tolist() == [1]
    assert images[0, 0, :3].tolist() == [ord("a"), ord(separator), ord("b")]


def test_a_tab_is_four_spaces_not_a_tab_stop() -> None:
    images, _ = rasterize("a\tb")
    assert "".join(map(chr, images[0, 0, :6])) == "a    b"


def test_a_long_line_is_cut_and_a_short_one_padded() -> None:
    images, _ = rasterize("x" * 80 + "y\nz")
    assert (images[0, 0] == ord("x")).all()
    assert images[0, 1].tolist() == [ord("z")] + [32] * 79
    assert (images[0, 2:] == 32).all()


def test_nothing_is_clipped() -> None:
    points = [0, 0x7F, 0x80, 0x7FF, 0x800, 0xFFFF, 0x10000, 0x10FFFF]
    images, _ = rasterize("".join(map(chr, points)))
    assert images[0, 0, : len(points)].tolist() == points


def test_n_lines_is_as_small_as_the_height_allows() -> None:
    assert rasterize("a", height=255)[1].dtype == np.uint8
    assert rasterize("a", height=256)[1].dtype == np.uint16
    assert n_lines_dtype(80) is np.uint8


def test_what_is_no_code_point_is_no_text() -> None:
    with pytest.raises(UsageError, match="at most 1,114,111"):
        to_text(np.full((1, 2, 2), 0x110000, np.uint32))


def test_to_text_takes_one_image_and_any_integer_type() -> None:
    images, n_lines = rasterize("a\nb\n")
    assert to_text(images[0], 2) == "a\nb\n"
    assert to_text(images.astype(np.int64).tolist(), n_lines.tolist()) == "a\nb\n"
    assert to_text(images[:0], n_lines[:0]) == ""


@pytest.mark.parametrize(("width", "height"), [(0, 80), (80, 0), (-1, 80), (70_000, 80)])
def test_impossible_sides_are_refused(width: int, height: int) -> None:
    with pytest.raises(UsageError, match="both sides must be between 1 and 65,535"):
        rasterize("a", width, height)


def test_to_text_refuses_what_does_not_go_together() -> None:
    images, _ = rasterize("a\nb\n")
    with pytest.raises(UsageError, match="do not go together"):
        to_text(images, [1, 2])
    with pytest.raises(UsageError, match="between 0 and the height"):
        to_text(images, [81])


def test_bytes_are_no_text() -> None:
    with pytest.raises(UsageError, match=r"to be text, not b'pass.*'; .*normalize_text"):
        rasterize(b"pass\n")  # type: ignore[arg-type]

"""Segments back to text: the same images, and every change of 2018's oddities noted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zml_dask.legacy.import_record import NotTextError, compact, recover_text
from zml_dask.raster.images import rasterize_utf8

from .reference import segments_2018

lines = st.text(st.characters(exclude_characters="\n\r\t", exclude_categories=["Cs"]), max_size=90)


def drawn(segments: list[np.ndarray]) -> list[np.ndarray]:
    recovered = recover_text(segments)
    images, n_lines = rasterize_utf8(recovered.text, recovered.n_lines)
    return [image[:n] for image, n in zip(images, n_lines, strict=True)]


@given(st.lists(lines, max_size=200))
def test_what_2018_drew_from_lines_is_drawn_again(rows: list[str]) -> None:
    segments = segments_2018("".join(f"{row}\n" for row in rows).encode())
    again = drawn([compact(segment) for segment in segments])
    kept = [segment for segment in segments if segment.size]
    assert len(again) == len(kept)
    for ours, theirs in zip(again, kept, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@given(st.binary(max_size=20_000))
def test_what_2018_drew_from_any_bytes_is_drawn_again(data: bytes) -> None:
    segments = [segment for segment in segments_2018(data) if segment.size]
    again = drawn(segments)
    # A last line of more than 80 characters that stood alone is taller than an image.
    assert np.array_equal(
        np.concatenate([np.empty((0, 80)), *again]), np.concatenate([np.empty((0, 80)), *segments])
    )


def test_a_row_a_character_is_drawn_again() -> None:
    data = b"x\n" * 80 + b"abc"
    segments = segments_2018(data)
    assert [segment.shape for segment in segments] == [(80, 80), (3, 80)]
    assert [ours.tolist() for ours in drawn(segments)] == [seg.tolist() for seg in segments]
    assert recover_text(segments).note is None


def test_empty_segments_are_left_out_and_noted() -> None:
    segments = segments_2018(b"x\n" * 160)
    assert [segment.shape for segment in segments] == [(80, 80), (80, 80), (0, 0)]
    recovered = recover_text(segments)
    assert (recovered.n_lines, recovered.note) == (160, "1 empty segment left out")


def test_a_short_segment_in_the_middle_keeps_its_image() -> None:
    short, last = np.full((3, 80), 97), np.full((80, 80), 98)
    recovered = recover_text([short, last])
    images, n_lines = rasterize_utf8(recovered.text, recovered.n_lines)
    assert (images[0, :3] == 97).all()
    assert (images[0, 3:] == 32).all()
    assert (images[1] == 98).all()
    assert n_lines.tolist() == [80, 80]
    assert recovered.note == "1 segment padded with blank lines to 80"


def test_a_tall_segment_goes_on_in_the_next_image() -> None:
    tall = np.full((100, 80), 97)
    assert [part.shape for part in drawn([tall])] == [(80, 80), (20, 80)]
    assert recover_text([tall]).note == "1 segment of over 80 rows divided"


@pytest.mark.parametrize("pixel", [0, 9, 13, 32, 0xD800, 0xFFFF, 0x10FFFF])
def test_every_code_point_but_the_newline_is_drawn_again(pixel: int) -> None:
    segment = np.full((2, 80), pixel)
    segment[0, -1] = 97
    assert drawn([segment])[0].tolist() == segment.tolist()


def test_rows_that_the_old_loader_padded_are_read_too() -> None:
    assert drawn([np.full((2, 10), 97.0)])[0][:, :11].tolist() == [[97] * 10 + [32]] * 2


@pytest.mark.parametrize(
    ("segment", "why"),
    [
        (np.full((2, 80), 10), "a newline"),
        (np.full((2, 80), -1), "not code points"),
        (np.full((2, 80), 0x110000), "not code points"),
        (np.full((2, 80), 97.5), "not code points"),
        (np.full((2, 80), np.nan), "not code points"),
        (np.full((2, 81), 97), "80 wide"),
        (np.full((2, 80, 3), 97), "80 wide"),
        (np.full((2, 80), "a"), "not code points"),
    ],
)
def test_what_no_text_draws_is_refused(segment: np.ndarray, why: str) -> None:
    with pytest.raises(NotTextError, match=why):
        recover_text([segment])


def test_compacting_keeps_what_it_cannot_judge() -> None:
    for odd in (np.full((1, 80), -1), np.full((1, 80), 2.5), np.empty((0, 0))):
        np.testing.assert_array_equal(compact(odd), odd)

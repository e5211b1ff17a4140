"""Bytes to normalised text: encodings, binaries, line ends, counts."""

from __future__ import annotations

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zml_dask.raster.text import BinaryFileError, normalize_text

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


def normalize_reference(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\t", "    ")


@given(ANY_TEXT)
def test_utf8_is_settled_and_counted(text: str) -> None:
    data = text.encode()
    if "\0" in text or data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE)):
        return
    normalized = normalize_text(data, width=7)
    expected = normalize_reference(text)
    assert normalized.text.decode() == expected
    lines = expected.split("\n")
    lines = lines[:-1] if lines[-1] == "" else lines
    assert normalized.n_lines == len(lines)
    assert normalized.n_cut == sum(len(line) > 7 for line in lines)
    assert normalized.encoding == ("ascii" if text.isascii() else "utf-8")


@given(st.binary(max_size=300))
def test_no_character_of_any_bytes_is_lost(data: bytes) -> None:
    """Whatever the bytes, they are read in full or refused by name."""
    try:
        normalized = normalize_text(data)
    except BinaryFileError:
        assert b"\0" in data
        return
    if normalized.encoding.startswith("windows-1252") and normalized.note is None:
        expected = "".join(bytes([b]).decode("cp1252", "ignore") or chr(b) for b in data)
        assert normalized.text.decode() == normalize_reference(expected)


@pytest.mark.parametrize(
    ("mark", "encoding", "recorded"),
    [
        (codecs.BOM_UTF8, "utf-8", "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16-le", "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be", "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le", "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be", "utf-32-be"),
    ],
)
@given(text=ANY_TEXT)
def test_a_byte_order_mark_decides(mark: bytes, encoding: str, recorded: str, text: str) -> None:
    if recorded == "utf-16-le" and text.startswith("\0"):
        return  # these bytes begin with UTF-32's mark
    normalized = normalize_text(mark + text.encode(encoding))
    assert normalized.encoding == recorded
    assert normalized.text.decode() == normalize_reference(text)


def test_utf16_that_begins_with_a_nul_is_not_mistaken_for_utf32() -> None:
    normalized = normalize_text(codecs.BOM_UTF16_LE + "\0a".encode("utf-16-le"))
    assert (normalized.encoding, normalized.text) == ("utf-16-le", b"\0a")


def test_a_wrong_mark_is_noted_and_costs_nothing() -> None:
    found = normalize_text(codecs.BOM_UTF8 + b"a\xff")
    assert (found.text.decode(), found.encoding) == ("aÿ", "windows-1252 (assumed)")
    assert found.note == "its byte order mark says utf-8, which its bytes are not"


def test_binaries_are_refused_unless_kept() -> None:
    with pytest.raises(BinaryFileError):
        normalize_text(b"GIF89a\0\xff")
    kept = normalize_text(b"GIF89a\0\xff", keep_binary=True)
    assert (kept.encoding, kept.text.decode()) == ("windows-1252 (assumed)", "GIF89a\0ÿ")


def test_line_ends_of_every_age() -> None:
    assert normalize_text(b"unix\ndos\r\nmac\rend").text == b"unix\ndos\nmac\nend"
    assert normalize_text(b"a\r\r\nb").n_lines == 3


def test_a_form_feed_stays() -> None:
    assert normalize_text(b"a\x0cb\n").text == b"a\x0cb\n"


def test_cut_lines_are_counted_in_characters_after_tabs() -> None:
    assert normalize_text("é".encode() * 80).n_cut == 0
    assert normalize_text("é".encode() * 81).n_cut == 1
    assert normalize_text(b"\t" * 20).n_cut == 0
    assert normalize_text(b"\t" * 20 + b"x").n_cut == 1


def test_nothing_is_an_empty_text() -> None:
    normalized = normalize_text(b"")
    assert (normalized.text, normalized.n_lines, normalized.n_images()) == (b"", 0, 0)
    assert normalize_text(b"x\n" * 81).n_images() == 2

"""No character of a text is lost, whatever encoding it is in."""

from __future__ import annotations

import codecs
from array import array

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from zml_dask.encodings import decode, decode_names

GERMAN = "// Größe der Matrix für die Lösung\n"
FRENCH = "% Méthode des éléments finis, créée par “Gérard” – 10 €\n"  # noqa: RUF001
RUSSIAN = "c     программа для решения уравнения\nc     начальные условия\n"
JAPANESE = "/* 行列の積を計算する関数 */\nint f(int a){return a;}\n// 初期化\n"
CHINESE = "// 初始化函数，返回值为零\nint main(){}\n/* 读取文件中的数据 */\n"  # noqa: RUF001
KOREAN = "/* 행렬의 곱을 계산하는 함수 */ int f;\n// 초기화\n"
GREEK = "# Υπολογισμός του γινομένου των πινάκων, παράδειγμα χρήσης\n"


def read(data: bytes) -> tuple[str, str, str | None]:
    found = decode(data)
    assert found is not None
    return found.utf8.decode(), found.encoding, found.note


@pytest.mark.parametrize(
    ("text", "codec", "encoding"),
    [
        ("x = 1\n", "ascii", "ascii"),
        (GERMAN, "utf-8", "utf-8"),
        (GERMAN, "utf-8-sig", "utf-8-sig"),
        (GERMAN, "cp1252", "windows-1252 (assumed)"),
        (FRENCH, "cp1252", "windows-1252 (assumed)"),
        (GERMAN, "latin-1", "windows-1252 (assumed)"),
        ("x\xe9\n", "latin-1", "windows-1252 (assumed)"),
        (RUSSIAN, "koi8-r", "koi8-r (detected)"),
        (RUSSIAN, "cp1251", "windows-1251 (detected)"),
        (RUSSIAN, "cp866", "ibm866 (detected)"),
        (JAPANESE, "shift_jis", "shift_jis (detected)"),
        (JAPANESE, "euc-jp", "euc-jp (detected)"),
        (JAPANESE, "iso2022_jp", "iso-2022-jp (detected)"),
        (CHINESE, "gbk", "gbk (detected)"),
        (CHINESE, "gb18030", "gbk (detected)"),
        (KOREAN, "euc-kr", "euc-kr (detected)"),
        (GREEK, "cp1253", "windows-1253 (detected)"),
        ("int x;\r\n", "utf-16-le", "utf-16-le (detected)"),
        ("int x;\r\n", "utf-16-be", "utf-16-be (detected)"),
        (GERMAN, "utf-16-le", "utf-16-le (detected)"),
        (RUSSIAN, "utf-16-be", "utf-16-be (detected)"),
        (GERMAN, "utf-32-le", "utf-32-le (detected)"),
        (CHINESE, "utf-32-be", "utf-32-be (detected)"),
        (KOREAN, "iso2022_kr", "iso-2022-kr (detected)"),
    ],
)
def test_each_encoding_is_found(text: str, codec: str, encoding: str) -> None:
    assert read(text.encode(codec)) == (text, encoding, None)


@pytest.mark.parametrize("codec", ["mac_roman", "cp437", "cp850"])
@pytest.mark.parametrize(
    "text", [GERMAN, "# année: précédente, où l'élève a déjà été reçu à l'école\n"]
)
def test_a_line_that_has_symbols_within_words_is_not_windows_1252(text: str, codec: str) -> None:
    found = read(text.encode(codec))
    assert found[0] == text
    assert found[1].endswith("(detected)")


@pytest.mark.parametrize(
    "comment",
    [
        "@author Gérard Müller", "T = 25 °C ± 0.5 °C", "length [µm], 3 µg/m³ or W/m²", "© 2010",
        "matrice à inverser", "è la matrice", "ä", "°", "Fig. 3, it\u2019s a “test”",
        "§ 3 \u2013 4", "x² \xd7 y ÷ 2·z", "90º",
        "get_neueÜbersicht()", "l\xb4été", "n°x", "«où»", "¿qué?", "paral·lel", "Škoda, œuvre",
    ],
)  # fmt: skip
def test_a_western_word_or_sign_is_windows_1252(comment: str) -> None:
    text = f"x = 1\n# {comment}\ny = 2\n"
    assert read(text.encode("cp1252")) == (text, "windows-1252 (assumed)", None)


@pytest.mark.parametrize(
    ("head", "codec", "encoding"),
    [
        ("# -*- coding: latin-1 -*-\n", "latin-1", "iso-8859-1 (declared)"),
        ("#!/usr/bin/python\n# vim: set fileencoding=iso-8859-15 :\n", "iso-8859-15",
         "iso-8859-15 (declared)"),
        ("# encoding: cp1250\n", "cp1250", "windows-1250 (declared)"),
        ("// -*- coding: iso-8859-2-unix -*-\n", "iso-8859-2", "iso-8859-2 (declared)"),
        ("% -*- coding: iso-latin-2-dos -*-\n", "iso-8859-2", "iso-8859-2 (declared)"),
        ("\" vim: set ts=4 fenc=cp1250 :\n", "cp1250", "windows-1250 (declared)"),
        ("#!/usr/bin/perl\nuse encoding 'latin2';\n", "latin2", "iso-8859-2 (declared)"),
        ('msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=ISO-8859-2\\n"\n', "latin2",
         "iso-8859-2 (declared)"),
        ("% !TEX encoding = IsoLatin9\n", "iso-8859-15", "iso-8859-15 (declared)"),
        ("package X;\n\n=encoding latin2\n\n=head1 NAME\n", "latin2", "iso-8859-2 (declared)"),
        ("% licence\n\n\\name{f}\n\\encoding{latin2}\n", "latin2", "iso-8859-2 (declared)"),
        ("Package: x\nVersion: 1\nTitle: X\nEncoding: latin2\n", "latin2", "iso-8859-2 (declared)"),
        ('<%@ page contentType="text/html; charset=ISO-8859-2" %>\n', "latin2",
         "iso-8859-2 (declared)"),
        ("<%@ page language='java' pageEncoding='windows-1250'%>\n", "cp1250",
         "windows-1250 (declared)"),
        ('<?xml version="1.0" encoding="ISO-8859-2"?>\n', "iso-8859-2", "iso-8859-2 (declared)"),
        ("<?xml version='1.0' encoding='windows-1250' standalone='yes'?>\n", "cp1250",
         "windows-1250 (declared)"),
        ("<html><head><meta charset=mac_roman>\n", "mac-roman", "mac-roman (declared)"),
        ('<META http-equiv="Content-Type" content="text/html; charset=cp850">\n', "cp850",
         "cp850 (declared)"),
        ('@charset "iso-8859-10";\n', "iso-8859-10", "iso-8859-10 (declared)"),
        ('<meta charset="x-mac-roman">\n', "mac-roman", "mac-roman (declared)"),
        ("\\documentclass{article}\n\\usepackage[latin9]{inputenc}\n", "iso-8859-15",
         "iso-8859-15 (declared)"),
    ],
)  # fmt: skip
def test_each_declaration_is_followed(head: str, codec: str, encoding: str) -> None:
    text = f"{head}é ü ö\n"
    assert read(text.encode(codec)) == (text, encoding, None)


@pytest.mark.parametrize(
    "end",
    [
        "/* vim: set ts=4 fileencoding=iso-8859-2 : */\n",
        "% Local Variables:\n% mode: latex\n% coding: iso-latin-2-unix\n% End:\n",
    ],
)
def test_a_declaration_in_the_last_lines_is_followed(end: str) -> None:
    text = f"x = 1\né ü ö\n{'y = 2' * 900}\n{end}"
    assert read(text.encode("latin2")) == (text, "iso-8859-2 (declared)", None)


@pytest.mark.parametrize(
    "name", ["utf-8", "ascii", "utf-16", "rot13", "nonsense", "hex", "idna", "unicode_escape"]
)
def test_what_is_declared_in_vain_is_passed_over(name: str) -> None:
    text = f"# coding: {name}\n{FRENCH}x = '\\n'\n"
    assert read(text.encode("cp1252")) == (text, "windows-1252 (assumed)", None)


@pytest.mark.parametrize("name", ["latin-1", "cp1252", "shift_jis", "utf-8"])
def test_utf_8_is_utf_8_whatever_it_says(name: str) -> None:
    text = f"# coding: {name}\n{GERMAN}{JAPANESE}"
    assert read(text.encode()) == (text, "utf-8", None)


def test_a_few_invalid_bytes_cost_themselves() -> None:
    good = (GERMAN + JAPANESE).encode()
    for bad, expected in ((b"\xe9", "é"), (b"\x93\xff\x94", "“ÿ”"), (b"\x81", "\x81")):
        text, encoding, note = read(good + bad + b"\n" + good)
        assert text == f"{GERMAN}{JAPANESE}{expected}\n{GERMAN}{JAPANESE}"
        assert encoding == "utf-8 (repaired)"
        assert note is not None
        assert note.startswith(f"{len(bad)} of its bytes")
    text, encoding, _ = read(CHINESE.encode("gbk") * 9 + b"\xff\n")
    assert (text, encoding) == (CHINESE * 9 + "ÿ\n", "gbk (detected)")
    head = "# coding: euc-jp\n"
    text, encoding, _ = read((head + JAPANESE).encode("euc-jp") + b"\xff\n")
    assert (text, encoding) == (f"{head}{JAPANESE}ÿ\n", "euc-jp (declared, repaired)")


@pytest.mark.parametrize(
    ("data", "text", "encoding"),
    [
        (codecs.BOM_UTF8 + b"# Andr\xe9\n", "# André\n", "windows-1252 (assumed)"),
        (codecs.BOM_UTF8 + GERMAN.encode() + b"\xe9", GERMAN + "é", "utf-8 (repaired)"),
        (codecs.BOM_UTF8 + RUSSIAN.encode("koi8-r"), RUSSIAN, "koi8-r (detected)"),
        ("int x;\r\n".encode("utf-16") + b"\n", "int x;\r\n\n", "utf-16-le (repaired)"),
        (codecs.BOM_UTF16_BE + "a\n".encode("utf-16-be") + b"\xd8\x3d" + "b".encode("utf-16-be"),
         "a\n\ufffdb", "utf-16-be (repaired)"),
        (codecs.BOM_UTF32_LE + "a\n".encode("utf-32-le") + b"\xe9", "a\né", "utf-32-le (repaired)"),
        ("ÿþetta er orð\n".encode("latin-1"), "ÿþetta er orð\n", "windows-1252 (assumed)"),
        ("ÿþetta er\n".encode("latin-1"), "ÿþetta er\n", "windows-1252 (assumed)"),
        ("þÿ\xe9".encode("latin-1"), "þÿé", "windows-1252 (assumed)"),
    ],
)  # fmt: skip
def test_a_wrong_mark_costs_nothing(data: bytes, text: str, encoding: str) -> None:
    found, how, note = read(data)
    assert (found, how) == (text, encoding)
    assert note is not None


@pytest.mark.parametrize(
    ("data", "text", "encoding"),
    [
        (b"; end\r\n\x1a" + bytes(100), "; end\r\n\x1a", "ascii"),
        (b"a\r\0", "a\r", "ascii"),
        (GERMAN.encode() + bytes(7), GERMAN, "utf-8"),
        (
            GERMAN.encode("cp1252") + b"\x1a\x1a" + bytes(3),
            GERMAN + "\x1a\x1a",
            "windows-1252 (assumed)",
        ),
        (RUSSIAN.encode("koi8-r") + bytes(512), RUSSIAN, "koi8-r (detected)"),
        (codecs.BOM_UTF8 + b"# Andr\xe9\n" + bytes(9), "# André\n", "windows-1252 (assumed)"),
    ],
)
def test_nul_bytes_that_fill_a_block_are_left_out(data: bytes, text: str, encoding: str) -> None:
    found, how, note = read(data)
    assert (found, how) == (text, encoding)
    assert note is not None
    assert data.startswith(codecs.BOM_UTF8) or note.endswith("NUL bytes at its end are left out")


@pytest.mark.parametrize(
    ("first", "codec", "encoding"),
    [
        ("*.log\r\n", "ascii", "ascii"),
        ("*.log", "ascii", "ascii"),  # its last line had no end
        (GERMAN, "cp1252", "windows-1252 (assumed)"),
        (GERMAN, "utf-8", "utf-8"),
    ],
)
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF16_LE])
def test_lines_that_powershell_appends(first: str, codec: str, encoding: str, mark: bytes) -> None:
    data = first.encode(codec) + mark + "données/\r\n".encode("utf-16-le")
    assert read(data) == (f"{first}données/\r\n", encoding, "its last 20 bytes are utf-16-le")


def test_lines_appended_to_what_powershell_wrote() -> None:
    data = "données/\r\n".encode("utf-16") + b"*.log\r\n"
    assert read(data) == ("données/\r\n*.log\r\n", "utf-16-le", "its last 7 bytes are ascii")


def test_a_second_mark_is_no_character() -> None:
    assert read(2 * codecs.BOM_UTF8 + GERMAN.encode()) == (GERMAN, "utf-8-sig", None)


def test_utf_16_of_chinese_has_a_few_nul_bytes_on_the_other_side() -> None:
    text = "// 一、\u3000初始化 x\r\nint x = 1;\r\n"
    for codec in ("utf-16-le", "utf-16-be"):
        assert read(text.encode(codec)) == (text, f"{codec} (detected)", None)


@pytest.mark.parametrize(
    "data",
    [
        b"line one\n\0" * 9,
        b"\x7fELF\x02\x01\x01" + bytes(9),
        b"; a\0b\r\n\x1a" + bytes(100),
        b"\x01 end" + bytes(4),
        b"\x01\x00\x02\x00\x03\x00\x04\x00\x05\x00",
        b"a\0",
        b"\x89PNG\0\0",
        bytes(64),
        "a\0b\0c".encode("utf-16-le") * 4,
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        array("i", range(32, 127)).tobytes(),
    ],
)
def test_other_nul_bytes_are_binary(data: bytes) -> None:
    assert decode(data) is None
    kept = decode(data, keep_nul=True)
    assert kept is not None
    assert len(kept.utf8.decode()) == len(data)


@given(st.binary(max_size=300))
@example(b"\xff\xfe\x00\x00\x00\xd8\x00\x00")
@example(b"\x1b$B\xff")
def test_every_byte_is_a_character(data: bytes) -> None:
    """In one byte each unless an encoding of several is found; never more, never an error."""
    found = decode(data.replace(b"\0", b" "))
    assert found is not None
    text = found.utf8.decode()
    assert len(text) <= len(data)
    if found.encoding.startswith("windows-1252") and not data.startswith(codecs.BOM_UTF8):
        assert len(text) == len(data)


@given(st.text())
def test_unicode_comes_back_in_every_form_with_a_mark(text: str) -> None:
    assume(not text.startswith("\ufeff"))
    for mark, codec in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ):
        # The bytes of UTF-32's mark are those of UTF-16's and of a NUL character.
        assume(codec != "utf-16-le" or not text.startswith("\0"))
        assert read(mark + text.encode(codec))[0] == text


WORDS = "えーと,フィラー,エート\nあの,フィラー,アノ\nまあ,名詞,マア\n"


@pytest.mark.parametrize(
    ("codec", "encoding"), [("euc_jp", "euc-jp (detected)"), ("cp932", "shift_jis (detected)")]
)
def test_single_words_of_japanese_are_found(codec: str, encoding: str) -> None:
    assert read(WORDS.encode(codec)) == (WORDS, encoding, None)


@pytest.mark.parametrize(
    "text",
    [
        "¤¤ ¥¥ ¤1 ¥2 ÿÿ\n",
        "100 ¥ is 1 ¤é\n" * 9,
        "‚a’ ƒA ƒz\n" * 9,  # noqa: RUF001
        "éÉ àÀ ÄÄÄÄ\n",
        "naïve café ¥é\n",
    ],
)
def test_western_text_is_not_taken_for_japanese(text: str) -> None:
    assert read(text.encode("cp1252")) == (text, "windows-1252 (assumed)", None)


def test_a_declared_file_is_read_as_its_encoding_is_named() -> None:
    """GB 2312 and GBK have other characters for two codes: the middle dot and the dash."""
    data = b"# coding: gb2312\n# \xd6\xd0\xce\xc4\xa1\xa4\xa1\xaa\n"
    assert read(data) == (data.decode("gb2312"), "gb2312 (declared)", None)
    wider = data.replace(b"\xa1\xa4", b"\x81\x40")  # a character of GBK alone
    assert read(wider) == (wider.decode("gbk"), "gbk (declared)", None)


CODECS = [
    *("latin-1", "iso-8859-2", "iso-8859-15", "cp1252", "cp1251", "koi8-r", "cp437", "mac-roman"),
    *("shift_jis", "cp932", "euc-jp", "gbk", "gb2312", "gb18030", "big5", "euc-kr", "cp949"),
]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    "declaration",
    ["# -*- coding: {} -*-\n", '<?xml version="1.0" encoding="{}"?>\n', '<meta charset="{}">\n'],
)
def test_no_character_of_a_declared_file_changes(codec: str, declaration: str) -> None:
    @given(st.text(st.characters(codec=codec, exclude_characters="\0\x1b¥‾¢£¬‖\u2212〜\u3164")))
    def holds(text: str) -> None:
        text = declaration.format(codec) + text
        try:
            data = text.encode(codec)
        except UnicodeEncodeError:
            assume(False)
        assume(data.decode(codec) == text)
        # UTF-8 comes first: many files declare what they once were. Bytes that are UTF-8 by
        # chance, all of them or all but a tenth, are rare but in texts of a few characters.
        rest = data.decode("utf-8", "replace")
        n_bad, n_high = rest.count("\ufffd"), sum(c > "\x7f" for c in rest)
        assume(n_high == 0 or n_bad > 0.3 * n_high)
        assert read(data)[0] == text

    holds()


def test_names_in_an_archive_share_an_encoding() -> None:
    names = ["データ/実験結果.csv", "データ/解析.py", "README"]
    assert decode_names([name.encode("cp932") for name in names], "cp437") == names
    names = ["Данные/результат.csv", "Данные/анализ.py"]
    assert decode_names([name.encode("cp866") for name in names], "cp437") == names
    mixed = [b"a/\x84.txt", "naïve".encode(), b"plain"]
    assert decode_names(mixed, "cp437") == ["a/ä.txt", "naïve", "plain"]

"""Bytes to text: which encoding a file or a name is in, so that no character is lost.

The rules are described in ``docs/format.md``, "Rasterising". Files in ASCII and UTF-8 are passed
on unchanged; all others are rare, and may take a few milliseconds.
"""

from __future__ import annotations

import codecs
import re
import threading
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import chain
from typing import Final

BYTE_ORDER_MARKS: Final = (
    # UTF-32 before UTF-16: its little-endian mark begins with UTF-16's.
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

FALLBACK: Final = "windows-1252"
"""Read where nothing says otherwise. Latin-1 fills its five gaps: every byte is a character."""

CONFIDENCE: Final = 0.17
"""Least confidence of the detector, from 0 to 1. Of Western text it is rarely above it, and there
what it finds is the fallback; text in other scripts reaches 0.25 to 0.6 with a comment or two."""

_LEAST_HIGH: Final = 3
"""Of one or two bytes beyond ASCII the detector says anything, at times with a high confidence."""

# Bytes that the fallback does not have, or has as symbols that stand in no word: such a text is in
# another encoding, and what the detector finds is right more often than not. Apostrophes, dashes,
# units and the middle dot do stand between letters.
_NO_FALLBACK: Final = re.compile(
    rb"[\x81\x8d\x8f\x90\x9d]|(?<=[A-Za-z\xc0-\xd6\xd8-\xf6\xf8-\xff])"
    rb"[\x80\x82\x84-\x8c\x8e\x93-\x95\x98\x99\x9b\x9f\xa1-\xa7\xa9\xab\xac\xae\xaf\xb6\xb8\xb9\xbb-\xbf]"
    rb"(?=[A-Za-z\xc0-\xd6\xd8-\xf6\xf8-\xff])"
)

_MARKED: Final = frozenset(mark[:1] for mark, _ in BYTE_ORDER_MARKS)

NAMES_CONFIDENCE: Final = 0.1
"""For names of files, which are few words; Western ones stay below 0.05."""

_NAMES_SHOWN: Final = 20
"""How many names decide together in which encoding those of a stream are."""

_RUN: Final = re.compile(rb"[\x80-\xff]{4}")
_RUN_CONFIDENCE: Final = 0.01
"""For names with four letters beyond ASCII in a row, which no Western one has."""

_DETECTED_BYTES: Final = 4096
_DECLARATION_BYTES: Final = 1024
_LEAST_UTF16_BYTES: Final = 6
_LEAST_KANA: Final = 4
_LEAST_SHARE_OF_KANA: Final = 1 / 30
_NOT_TEXT: Final = frozenset({"Cc", "Cn", "Co"})
_PRINTABLE: Final = bytes(range(32, 127)) + b"\t\n\f\r"
_NOT_PRINTABLE: Final = bytes(set(range(256)) - set(_PRINTABLE))
_END_OF_FILE: Final = b"\x1a"
_NOT_CONTROL: Final = _PRINTABLE + bytes(range(128, 256))
# How many bytes of a text may be wrong for its encoding to be believed all the same.
_FEW: Final = 0.1

_COOKIE: Final = re.compile(
    rb"(?:coding[:=][ \t]*|\bfenc=|\buse encoding[ \t]+|!TEX encoding[ \t]*=[ \t]*)"
    rb"[\"']?([-_.a-zA-Z0-9]+)"
)
_XML: Final = re.compile(rb"\s*<\?xml\b[^>]{0,200}?encoding\s*=\s*[\"']([-_.:a-zA-Z0-9]+)[\"']")
_HTML: Final = re.compile(rb"(?i)<meta\b[^>]{0,200}?charset\s*=\s*[\"']?([-_.:a-z0-9]+)")
_CSS: Final = re.compile(rb"@charset\s+[\"']([-_.:a-zA-Z0-9]+)[\"']")
_LATEX: Final = re.compile(rb"\\usepackage\s*\[([a-z0-9-]+)\]\s*\{inputenc\}")
_GETTEXT: Final = re.compile(rb'(?m)^"Content-Type: *text/[a-z]+; *charset=([-_.a-zA-Z0-9]+)')
_JSP: Final = re.compile(
    rb"(?i)<%@\s*page\b[^>]{0,200}?(?:pageEncoding\s*=\s*[\"']|charset=)([-_.:a-z0-9]+)"
)
# Perl's documentation, R's, R's packages, LaTeX.
_COMMAND: Final = re.compile(
    rb"(?m)^(?:=encoding[ \t]+|\\(?:input)?encoding\{|Encoding:[ \t]*)([-_.a-zA-Z0-9]+)"
)
# The last lines, as vim and Emacs read them.
_AT_END: Final = re.compile(
    rb"(?:\bvim?:[^\n]*?\b(?:fenc|fileencoding)=|Local Variables:(?s:.{0,400}?)\bcoding:[ \t]*)"
    rb"([-_.a-zA-Z0-9]+)"
)
# Names that LaTeX, TeXShop and Emacs have for encodings, and Python has not.
_OTHER_NAMES: Final = {
    "ansinew": "windows-1252", "latin9": "iso-8859-15", "applemac": "mac_roman",
    "isolatin": "latin-1", "isolatin2": "iso-8859-2", "isolatin9": "iso-8859-15",
    "iso-latin-1": "latin-1", "iso-latin-2": "iso-8859-2", "iso-latin-9": "iso-8859-15",
    "euc-japan": "euc_jp", "japanese-shift-jis": "shift_jis", "cyrillic-koi8": "koi8-r",
    "chinese-gbk": "gbk", "korean-iso-8bit": "euc_kr",
}  # fmt: skip

# Codecs that hold more than the standard of that name, as browsers read it. The labels are
# those of the Encoding Standard (https://encoding.spec.whatwg.org).
_WIDER: Final = {
    "shift_jis": "cp932", "gb2312": "gb18030", "gbk": "gb18030", "euc_kr": "cp949",
}  # fmt: skip
_LABELS: Final = {
    "cp932": "shift_jis", "gb18030": "gbk", "cp949": "euc-kr", "euc_kr": "euc-kr",
    "euc_jp": "euc-jp", "iso8859-1": "iso-8859-1", "cp866": "ibm866", "iso2022_jp": "iso-2022-jp",
}  # fmt: skip
_WESTERN: Final = frozenset({"ascii", "utf-8", "cp1252", "iso8859-1", "iso8859-15", "cp1254"})


@dataclass(frozen=True, slots=True)
class DecodedText:
    """A file's text."""

    utf8: bytes  # the text as UTF-8, without a byte order mark
    # What it was read as: "ascii", "utf-8", "utf-8-sig", "utf-16-le" and the like if the bytes
    # themselves prove it; else a name and, in brackets, how it was found: "euc-jp (declared)",
    # "koi8-r (detected)", "utf-8 (repaired)", "windows-1252 (assumed)".
    encoding: str
    # What is wrong with the file: its byte order mark, or some of its bytes.
    note: str | None = None


def decode(data: bytes, *, keep_nul: bool = False) -> DecodedText | None:
    r"""Decode a whole file; None for a binary one.

    `keep_nul` is whether NUL bytes are characters; else a file that holds any except at its end,
    and is not UTF-16 or UTF-32, is binary.

    Examples
    --------
    >>> decode("naïve".encode()).encoding, decode(b"na\xefve")
    ('utf-8', DecodedText(utf8=b'na\xc3\xafve', encoding='windows-1252 (assumed)', note=None))
    >>> decode(b"\0\1\2") is None
    True
    """
    # What nearly every file is comes first: the whole dataset passes through here.
    has_nul = b"\0" in data
    if not has_nul and b"\x1b" not in data and data[:1] not in _MARKED:
        if data.isascii():
            return DecodedText(data, "ascii")
        try:
            data.decode()
        except UnicodeDecodeError:
            pass
        else:
            return DecodedText(data, "utf-8")
    note = None
    for mark, encoding in BYTE_ORDER_MARKS:
        if data.startswith(mark):
            found = _decode_marked(data[len(mark) :], encoding)
            if found is not None:
                return found
            note = f"its byte order mark says {encoding}, which its bytes are not"
            if encoding == "utf-8":
                data = data[len(mark) :]
                break
    found = _decode_unmarked(data, has_nul=has_nul, keep_nul=keep_nul)
    if found is None or note is None:
        return found
    return DecodedText(found.utf8, found.encoding, note)


def decode_names(
    raw: Iterable[bytes], standard: str, *, like: Iterable[bytes] | None = None
) -> list[str]:
    r"""Decode the names in an archive, which are all in one encoding or UTF-8.

    `standard` is the encoding that such archives have by their standard, for names that are not
    UTF-8 if nothing else is detected. `like` are names of the archive that are not UTF-8 and show
    together what they are; by default `raw`.

    Examples
    --------
    >>> decode_names([b"a/\x84.txt", "naïve".encode()], "cp437")
    ['a/ä.txt', 'naïve']
    """
    names: list[str | bytes] = []
    for name in raw:
        try:
            names.append(name.decode("utf-8"))
        except UnicodeDecodeError:
            names.append(name)
    odd = [name for name in names if isinstance(name, bytes)]
    codec = _names_codec(b"\n".join(odd if like is None else like), standard) if odd else standard
    return [name if isinstance(name, str) else _decode_lenient(name, codec)[0] for name in names]


def decode_name(raw: bytes, standard: str, odd: list[bytes]) -> str:
    """Decode one name after the other, as `decode_names` does all together.

    `odd` holds the first names that are not UTF-8; this one is added to them.
    """
    try:
        return raw.decode()
    except UnicodeDecodeError:
        if len(odd) < _NAMES_SHOWN:
            odd.append(raw)
        return decode_names([raw], standard, like=odd)[0]


@lru_cache(maxsize=16)
def _names_codec(names: bytes, standard: str) -> str:
    least = NAMES_CONFIDENCE if _RUN.search(names) is None else _RUN_CONFIDENCE
    codec = _detect(names, least=least)
    # The letters of code page 437 come first, but for its sharp s; those of Windows last.
    high = {byte for byte in names if byte > 127 and byte != 0xE1}
    if codec is None and standard == "cp437" and min(high, default=0) >= 0xC0:
        return "cp1252"
    return codec or standard


def _decode_marked(data: bytes, encoding: str) -> DecodedText | None:
    """Decode what follows a byte order mark, unless the mark is wrong."""
    if encoding == "utf-8":
        try:
            data.decode()
        except UnicodeDecodeError:
            return None
        while data.startswith(codecs.BOM_UTF8):  # each of two tools has put one
            data = data[len(codecs.BOM_UTF8) :]
        return DecodedText(data, "utf-8-sig")
    if _is_eight_bit(data):
        return None
    # Lines of ASCII that were appended, as by ``>>`` to what PowerShell has written.
    tail = data[data.rfind(b"\n\0") + 2 :] if encoding == "utf-16-le" and b"\n\0" in data else b""
    if len(tail) > 2 and tail.endswith(b"\n") and not tail.translate(None, _PRINTABLE):
        text, n_bad = _decode_lenient(data[: -len(tail)], encoding)
        if not n_bad:
            note = f"its last {len(tail):,} bytes are ascii"
            return DecodedText(text.encode() + tail, encoding, note)
    try:
        return DecodedText(data.decode(encoding).encode(), encoding)
    except UnicodeDecodeError:
        pass
    if encoding.startswith("utf-32"):
        text, n_bad = _decode_lenient(data, encoding)
        # UTF-16 text may begin with a NUL character.
        if 2 * data.count(0) <= len(data) or n_bad > max(8, _FEW * len(data)):
            return None
        return DecodedText(text.encode(), f"{encoding} (repaired)", _bad_bytes(n_bad, encoding))
    # Half a pair, or a byte too many, costs no more than itself. Text in UTF-16 has line
    # ends or spaces, and so NUL bytes on one side.
    high = data[1::2] if encoding.endswith("le") else data[::2]
    text, n_bad = _decode_lenient(data, encoding)
    if b"\0" not in high or n_bad > max(2, _FEW * len(data)):
        return None
    return DecodedText(text.encode(), f"{encoding} (repaired)", _bad_bytes(n_bad, encoding))


def _is_eight_bit(data: bytes) -> bool:
    """Tell whether what follows a UTF-16 mark shows that it is none, but the letters ÿþ or þÿ."""
    printable = data.translate(None, _NOT_PRINTABLE)
    return len(data) >= _LEAST_UTF16_BYTES and (
        3 * len(printable) > 2 * len(data) and not data.translate(None, _NOT_CONTROL)
    )


def _decode_unmarked(data: bytes, *, has_nul: bool, keep_nul: bool) -> DecodedText | None:
    if has_nul and not keep_nul:
        return _decode_alternating(data) or _decode_padded(data) or _decode_appended(data)
    found = _decode_escapes(data)
    if found is not None:
        return found
    try:
        data.decode()
    except UnicodeDecodeError:
        pass
    else:
        return DecodedText(data, "ascii" if data.isascii() else "utf-8")
    if has_nul:
        return DecodedText(_western(data).encode(), f"{FALLBACK} (assumed)")
    declared = _declared_codec(data)
    repaired = _decode_repaired(data, is_declared=declared is not None)
    if repaired is not None:
        return repaired
    if declared is not None:
        text, n_bad = _decode_lenient(data, declared)
        if n_bad and declared in _WIDER:
            declared = _WIDER[declared]
            text, n_bad = _decode_lenient(data, declared)
        if n_bad <= _FEW * _n_high(data):
            how = "declared, repaired" if n_bad else "declared"
            note = _bad_bytes(n_bad, _label(declared)) if n_bad else None
            return DecodedText(text.encode(), f"{_label(declared)} ({how})", note)
    detected = None
    if _n_high(data) >= _LEAST_HIGH:
        detected = _detect(data) or _japanese(data)
    if detected is None and _NO_FALLBACK.search(data) is not None:
        detected = _detect(data, least=0.0)
    if detected is not None:
        text, n_bad = _decode_lenient(data, detected)
        note = _bad_bytes(n_bad, _label(detected)) if n_bad else None
        return DecodedText(text.encode(), f"{_label(detected)} (detected)", note)
    return DecodedText(_western(data).encode(), f"{FALLBACK} (assumed)")


def _decode_alternating(data: bytes) -> DecodedText | None:
    """Decode UTF-16 without a mark, where every other byte may be NUL and no other is; UTF-32."""
    if len(data) % 4 == 0 and len(data) >= 2 * _LEAST_UTF16_BYTES:
        # The highest byte of four is always NUL, the next one but for rare characters.
        for encoding, nul in (("utf-32-le", data[3::4]), ("utf-32-be", data[::4])):
            if not any(nul):
                with suppress(UnicodeDecodeError):
                    text = data.decode(encoding)
                    if "\n" in text and all(map(_is_in_text, set(text))):
                        return DecodedText(text.encode(), f"{encoding} (detected)")
    even, odd = data[::2].count(0), data[1::2].count(0)
    fewer, more = sorted((even, odd))
    if 4 * fewer >= more or more < max(_LEAST_UTF16_BYTES // 2, len(data) // 16):
        return None
    if 3 * more < len(data) and not data.translate(None, _PRINTABLE + b"\0"):
        return None  # lines that end with NUL bytes
    encoding = "utf-16-le" if odd > even else "utf-16-be"
    text, n_bad = _decode_lenient(data, encoding)
    if n_bad > 2 or not all(map(_is_in_text, set(text))):
        return None  # numbers of two bytes look the same, but are not letters
    if fewer and "\n" not in text:
        return None  # a few characters of Chinese (U+4E00, U+3000) have NUL on the other side
    note = _bad_bytes(n_bad, encoding) if n_bad else None
    how = "detected, repaired" if n_bad else "detected"
    return DecodedText(text.encode(), f"{encoding} ({how})", note)


def _decode_padded(data: bytes) -> DecodedText | None:
    """Decode text that NUL bytes fill up to a whole block, as tools of CP/M and DOS left it."""
    text = data.rstrip(b"\0")
    has_lines = b"\n" in text or b"\r" in text
    if not has_lines or text.translate(None, _NOT_CONTROL).strip(_END_OF_FILE):
        return None
    found = decode(text)
    if found is None:
        return None
    note = f"{len(data) - len(text):,} NUL bytes at its end are left out"
    return DecodedText(found.utf8, found.encoding, note)


def _decode_appended(data: bytes) -> DecodedText | None:
    """Decode lines that PowerShell has appended in UTF-16 to a file of another encoding."""
    start = data.index(b"\0") - 1
    if start < 1 or data[:start].removesuffix(codecs.BOM_UTF16_LE).translate(None, _NOT_CONTROL):
        return None
    rest = _decode_alternating(data[start:])
    if rest is None or not (rest.encoding.startswith("utf-16-le") and rest.utf8.endswith(b"\n")):
        return None
    first = decode(data[:start].removesuffix(codecs.BOM_UTF16_LE))
    if first is None:
        return None
    note = f"its last {len(data) - start:,} bytes are utf-16-le"
    return DecodedText(first.utf8 + rest.utf8, first.encoding, note)


def _decode_escapes(data: bytes) -> DecodedText | None:
    """Decode ISO-2022-JP and -KR, whose bytes are all ASCII: escapes announce the characters."""
    forms = {b"\x1b$B": ["jp", "jp_ext"], b"\x1b$@": ["jp", "jp_ext"], b"\x1b$)C": ["kr"]}
    for name in chain.from_iterable(names for mark, names in forms.items() if mark in data):
        try:
            text = data.decode(f"iso2022_{name}")
            return DecodedText(text.encode(), f"iso-2022-{name[:2]} (detected)")
        except UnicodeDecodeError:
            continue
    return None


def _decode_repaired(data: bytes, *, is_declared: bool) -> DecodedText | None:
    """Decode UTF-8 with a few invalid bytes: only where it has valid ones beyond ASCII, too."""
    text, n_bad = _decode_lenient(data, "utf-8")
    n_valid = sum(map(len, re.findall(r"[^\x00-\x7f]+", text))) - n_bad
    # Two bytes in another encoding may look like UTF-8 by chance; ten times that is none.
    if n_bad > (_FEW if is_declared else 1.0) * n_valid:
        return None
    return DecodedText(text.encode(), "utf-8 (repaired)", _bad_bytes(n_bad, "UTF-8"))


def _decode_lenient(data: bytes, codec: str) -> tuple[str, int]:
    """Decode `data`; what is invalid is read as the fallback. Also the number of invalid bytes."""
    try:
        return data.decode(codec), 0
    except UnicodeDecodeError:
        pass
    _invalid.count = 0
    return data.decode(codec, _HANDLER), _invalid.count


class _Invalid(threading.local):
    """Invalid bytes in what this thread decodes."""

    count = 0


_invalid = _Invalid()
_HANDLER: Final = "zml-western"


def _replace(error: UnicodeError) -> tuple[str, int]:
    """Read what is invalid as the fallback; half a pair of UTF-16 is no character at all."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    _invalid.count += error.end - error.start
    bad = error.object[error.start : error.end]
    is_half = len(bad) > 1 and error.encoding.replace("-", "").startswith("utf16")
    return ("\ufffd" if is_half else _western(bad)), error.end


codecs.register_error(_HANDLER, _replace)


@cache
def _fallback_table() -> dict[int, str]:
    """What the fallback has in the place of Latin-1's control characters; its gaps stay."""
    return {b: bytes([b]).decode("cp1252", "ignore") or chr(b) for b in range(0x80, 0xA0)}


def _western(data: bytes) -> str:
    return data.decode("latin-1").translate(_fallback_table())


def _n_high(data: bytes) -> int:
    return len(data) - len(data.translate(None, bytes(range(128, 256))))


def _is_in_text(character: str) -> bool:
    return character in "\t\n\v\f\r\x1a\x1b" or unicodedata.category(character) not in _NOT_TEXT


def _bad_bytes(n: int, encoding: str) -> str:
    return f"{n:,} of its bytes {'is' if n == 1 else 'are'} not {encoding}"


def _declared_codec(data: bytes) -> str | None:
    """Return the codec that a file names; None for none, or one unknown."""
    head = data[:_DECLARATION_BYTES]
    lines = head.split(b"\n", 2)[:2]
    names = [match[1] for form in (_XML, _CSS) if (match := form.match(head)) is not None]
    names += [match[1] for line in lines if (match := _COOKIE.search(line)) is not None]
    names += [match[1] for match in _HTML.finditer(head)][:1]
    for form in (_LATEX, _GETTEXT, _COMMAND, _JSP):  # behind a licence, as a rule
        if (match := form.search(data[: 4 * _DECLARATION_BYTES])) is not None:
            names.append(match[1])
    names += [match[1] for match in _AT_END.finditer(data[-_DECLARATION_BYTES:])][-1:]
    return next((codec for codec in map(_codec, names) if codec is not None), None)


def _codec(name: bytes) -> str | None:
    """Return Python's name of an encoding that a file can be in and still name it in ASCII."""
    text = name.decode("ascii").lower()
    # Emacs and vim say how lines end as well.
    text = re.sub(r"[-_](unix|dos|mac)$", "", text)
    try:
        codec = codecs.lookup(_OTHER_NAMES.get(text, text.removeprefix("x-"))).name
        probe = b"coding: \x7e".decode(codec)
    except (LookupError, UnicodeError, TypeError, AssertionError, ValueError):
        return None
    if not isinstance(probe, str) or not probe.startswith("coding: ") or codec.startswith("utf"):
        return None
    if codec in {"unicode-escape", "raw-unicode-escape", "punycode", "idna", "ascii", "hz"}:
        return None
    return codec


def _detect(data: bytes, *, least: float = CONFIDENCE) -> str | None:
    """Return the codec that a detector finds in the lines beyond ASCII, if it is sure enough."""
    from chardet import detect

    lines, left = [], _DETECTED_BYTES
    for line in data.split(b"\n"):
        if not line.isascii():
            lines.append(line[:left])
            left -= len(lines[-1]) + 1
            if left <= 0:
                break
    found = detect(b"\n".join(lines))
    name, confidence = found["encoding"], found["confidence"]
    if name is None or confidence < least:
        return None
    codec = _codec(name.encode())
    if codec is None or codec in _WESTERN:
        return None
    codec = _WIDER.get(codec, codec)
    # What is cut off may be half a character; what is wrong beyond that, is.
    _, n_bad = _decode_lenient(data, codec)
    return codec if n_bad <= _FEW * _n_high(data) else None


def _japanese(data: bytes) -> str | None:
    """Return the codec in which all bytes are Japanese; a detector is not sure of single words.

    Accented letters stand alone, so that hardly any other text decodes, and none to kana.
    """
    for codec in ("euc_jp", "cp932"):
        with suppress(UnicodeDecodeError):
            letters = [letter for letter in data.decode(codec) if letter > "\x7f"]
            n_kana = sum("ぁ" <= letter <= "ヶ" for letter in letters)
            if n_kana >= _LEAST_KANA and n_kana >= _LEAST_SHARE_OF_KANA * len(letters):
                return codec
    return None


def _label(codec: str) -> str:
    label = _LABELS.get(codec, codec)
    if label.startswith("cp125"):
        return f"windows-{label[2:]}"
    return label.replace("iso8859-", "iso-8859-") if label.startswith("iso8859") else label

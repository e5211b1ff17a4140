"""Words and pairs of words of a page, as counts in hashed buckets, directly from its pixels.

A word is a run of letters, digits and ``_`` (every character beyond ASCII counts as a letter);
all numbers are the same word, and every other visible character is a word by itself. A pair is
two neighbouring words of a line, whatever is between them; the beginning of the line counts as a
word. Words and pairs fall into one of 262,144 buckets by a hash of their code points, which is the
same on every machine, so that learnt weights remain usable.

A language also shows in how words are combined: in *patterns* of three and four consecutive
words, in which all names are the same, a mark is itself, and spaces before a word and the
indentation of a line count. Patterns do not depend on a project's vocabulary; they are counted on
request.
"""

from __future__ import annotations

import threading
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zml_dask.compiled import compiled
from zml_dask.errors import UsageError
from zml_dask.raster.images import Images, rasterize

N_BUCKETS: Final = 2**18
N_KINDS: Final = 4
"""Words, pairs, patterns of three and of four."""

MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)
ONE: Final = np.uint64(1)
_MIX_1 = np.uint64(0xFF51AFD7ED558CCD)
_MIX_2 = np.uint64(0xC4CEB9FE1A85EC53)
_SHIFT = np.uint64(33)
_TO_BUCKET = np.uint64(64 - 18)
_NUMBER = np.uint64(48)
_LINE_START = np.uint64(0x5851F42D4C957F2D)

_NONE = np.uint64(0)
_BASE = np.uint64(4099)
"""Greater than all shapes: the code of an ASCII mark, or one of the following numbers."""
_SHAPES = np.uint64(500)
_AFTER_SPACE = np.uint64(1000)
_INDENT = np.uint64(3000)
_DEEPEST = 9
_THREE = np.uint64(3)
_FOUR = np.uint64(4)

_OUTSIDE, _MARK, _LETTER, _DIGIT = 0, 1, 2, 3
_CLASS = np.array(
    [
        _OUTSIDE if code <= 32 or code == 127
        else _DIGIT if chr(code).isdigit()
        else _LETTER if chr(code).isalpha() or chr(code) == "_"
        else _MARK
        for code in range(128)
    ],
    np.uint8,
)  # fmt: skip

_SCRATCH = threading.local()


class WordCounts(NamedTuple):
    """Counts of words and pairs, as the rows of a sparse matrix.

    Row `i` has the counts ``counts[indptr[i]:indptr[i + 1]]`` in the buckets with the same
    positions, each of them once, in the order of their first occurrence.
    """

    indptr: NDArray[np.int64]
    buckets: NDArray[np.uint32]
    counts: NDArray[np.uint32]


class Words(NamedTuple):
    """The words of some pages.

    `places`, int32, (words, 4): page, row, first column, and the column after the last. `buckets`,
    uint32, (words, 4): the word's, and those of the pair and the patterns of three and four that
    end with it.
    """

    places: NDArray[np.int32]
    buckets: NDArray[np.uint32]


@compiled
def mixed(number: np.uint64) -> np.uint64:  # pragma: no cover - compiled
    """Mix the bits of a 64-bit number."""
    number ^= number >> _SHIFT
    number *= _MIX_1
    number ^= number >> _SHIFT
    number *= _MIX_2
    return number ^ (number >> _SHIFT)


@compiled
def _find(
    image: NDArray[np.uint32],
    classes: NDArray[np.uint8],
    places: NDArray[np.int32],
    buckets: NDArray[np.uint32],
) -> int:  # pragma: no cover - compiled
    """Find the words of a page: row and columns, and buckets. Returns their number."""
    height, width = image.shape
    n = 0
    for row in range(height):
        line = image[row]
        before = _LINE_START
        one = two = three = _NONE  # shapes of the words before, the last one first
        column = end = 0
        while column < width:
            point = line[column]
            kind = classes[point] if point < 128 else _LETTER
            if kind == _OUTSIDE:
                column += 1
                continue
            start = column
            column += 1
            word = (np.uint64(point) + ONE) * MULTIPLIER
            shape = np.uint64(point)
            if kind != _MARK:
                while column < width:
                    point = line[column]
                    if point < 128 and classes[point] < _LETTER:
                        break
                    word = (word + np.uint64(point) + ONE) * MULTIPLIER
                    column += 1
                if kind == _DIGIT:
                    word = (_NUMBER + ONE) * MULTIPLIER
                shape = _SHAPES + np.uint64(kind)
            word = mixed(word)
            if before == _LINE_START:
                one = _INDENT + np.uint64(min(start, _DEEPEST))
            elif start > end:
                shape += _AFTER_SPACE
            of_three = (two * _BASE + one) * _BASE + shape
            of_four = three * _BASE * _BASE * _BASE + of_three
            places[n, 0] = row
            places[n, 1] = start
            places[n, 2] = column
            buckets[n, 0] = word >> _TO_BUCKET
            buckets[n, 1] = mixed(before * MULTIPLIER + word) >> _TO_BUCKET
            buckets[n, 2] = mixed(of_three * MULTIPLIER + _THREE) >> _TO_BUCKET
            buckets[n, 3] = mixed(of_four * MULTIPLIER + _FOUR) >> _TO_BUCKET
            before = word
            three, two, one = two, one, shape
            end = column
            n += 1
    return n


@compiled
def _count(
    images: NDArray[np.uint32],
    starts: NDArray[np.int64],
    classes: NDArray[np.uint8],
    n_kinds: int,
    seen: NDArray[np.uint32],
) -> tuple[
    NDArray[np.int64], NDArray[np.uint32], NDArray[np.uint32]
]:  # pragma: no cover - compiled
    """Count the first `n_kinds` buckets of words on the pages ``starts[k]:starts[k + 1]``.

    `seen` has a zero for each bucket before and after the call; in between, the position + 1 of
    the bucket's entry in the row.
    """
    n_rows = starts.size - 1
    most = images.shape[1] * images.shape[2]
    places = np.empty((most, 3), np.int32)
    words = np.empty((most, N_KINDS), np.uint32)
    indptr = np.zeros(n_rows + 1, np.int64)
    buckets = np.empty(4096, np.uint32)
    counts = np.empty(4096, np.uint32)
    size = 0
    for k in range(n_rows):
        first = size
        for page in range(starts[k], starts[k + 1]):
            n = _find(images[page], classes, places, words)
            if size + n_kinds * n > buckets.size:
                capacity = 2 * (size + n_kinds * n)
                more = np.empty(capacity, np.uint32)
                more[:size] = buckets[:size]
                buckets = more
                more = np.empty(capacity, np.uint32)
                more[:size] = counts[:size]
                counts = more
            for i in range(n):
                for j in range(n_kinds):
                    bucket = words[i, j]
                    place = seen[bucket]
                    if place == 0:
                        buckets[size] = bucket
                        counts[size] = 1
                        size += 1
                        seen[bucket] = size - first
                    else:
                        counts[first + place - 1] += np.uint32(1)
        for i in range(first, size):
            seen[buckets[i]] = 0
        indptr[k + 1] = size
    return indptr, buckets[:size].copy(), counts[:size].copy()


def pages_of(source: ArrayLike | str) -> Images:
    """Return images, (n, height, width) or (height, width), or the pages of a text in 3 dimensions.

    `UsageError` if an array has another shape, or no integers.
    """
    if isinstance(source, str):
        return rasterize(source)[0]
    pages = np.asarray(source)
    if pages.ndim == 2:
        pages = pages[np.newaxis]
    if pages.ndim != 3 or pages.dtype.kind not in "iu":
        raise UsageError(
            f"images are integers of shape (n, height, width), not {pages.dtype} of shape "
            f"{pages.shape}; give such an array, or a text"
        )
    return np.ascontiguousarray(pages, np.uint32)


def count_words(
    source: ArrayLike | str, starts: ArrayLike | None = None, *, patterns: bool = False
) -> WordCounts:
    r"""Count the words and pairs of words of each page, in about 30 microseconds per page.

    `source` is a text, or images of shape (n, height, width). With `starts`, pages are counted
    together: row `i` is of the pages ``starts[i]`` to ``starts[i + 1] - 1``, such as those of one
    file; otherwise each page is a row. With `patterns`, those of three and four words are counted
    too. `UsageError` if images have another shape, or `starts` is out of range or decreases.

    Examples
    --------
    >>> indptr, buckets, counts = count_words("let x = 1\nlet y = 2\n")
    >>> indptr.tolist(), counts.tolist()  # let, ^let, x, let x, =, x =, 1, = 1, y, let y, y =
    ([0, 11], [2, 2, 1, 1, 2, 1, 2, 2, 1, 1, 1])
    """
    pages = pages_of(source)
    edges = np.arange(len(pages) + 1) if starts is None else np.asarray(starts, np.int64)
    is_valid = edges.ndim == 1 and edges.size > 0 and edges[0] >= 0 and edges[-1] <= len(pages)
    if not is_valid or (np.diff(edges) < 0).any():
        raise UsageError(
            f"starts are ascending page numbers, 0 to {len(pages)} at most, one more than rows; "
            f"not {np.array2string(edges, threshold=6)}"
        )
    if not hasattr(_SCRATCH, "seen"):  # clearing a megabyte takes longer than counting a page
        _SCRATCH.seen = np.zeros(N_BUCKETS, np.uint32)
    n_kinds = N_KINDS if patterns else 2
    return WordCounts(*_count(pages, edges.astype(np.int64), _CLASS, n_kinds, _SCRATCH.seen))


def find_words(source: ArrayLike | str) -> Words:
    r"""Find the places and buckets of all words of some pages, (n, height, width), or of a text.

    Examples
    --------
    >>> found = find_words("if (x1):\n")
    >>> found.places[:, 1:].tolist()
    [[0, 0, 2], [0, 3, 4], [0, 4, 6], [0, 6, 7], [0, 7, 8]]
    """
    pages = pages_of(source)
    most = pages.shape[1] * pages.shape[2]
    places, buckets = np.empty((most, 3), np.int32), np.empty((most, N_KINDS), np.uint32)
    found = [(np.empty((0, 4), np.int32), buckets[:0])]
    for number, page in enumerate(pages):
        n = _find(page, _CLASS, places, buckets)
        numbered = np.column_stack([np.full(n, number, np.int32), places[:n]])
        found.append((numbered, buckets[:n].copy()))
    return Words(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

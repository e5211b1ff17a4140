"""Words and pairs of words: what counts as one, where it is, and the same bucket everywhere."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

import zml_dask as zml
from zml_dask.errors import UsageError
from zml_dask.learning.words import N_BUCKETS, count_words, find_words

CODE = 'def f(x_1):\n    return "naïve", 10.5e3, x_1  # 42\n\n'


def spelled(text: str) -> list[str]:
    found = find_words(text)
    lines = text.split("\n")
    return [lines[page * 80 + row][start:stop] for page, row, start, stop in found.places]


def test_words_are_runs_of_letters_and_single_marks() -> None:
    assert spelled(CODE) == [
        *("def", "f", "(", "x_1", ")", ":", "return", '"', "naïve", '"', ",", "10", ".", "5e3"),
        *(",", "x_1", "#", "42"),
    ]


def test_all_numbers_are_one_word_and_names_are_not_numbers() -> None:
    buckets = dict(zip(spelled(CODE), find_words(CODE).buckets[:, 0], strict=True))
    assert buckets["10"] == buckets["5e3"] == buckets["42"]
    assert len({buckets["x_1"], buckets["10"], buckets["f"]}) == 3


def test_pairs_are_within_a_line_and_know_where_it_begins() -> None:
    def pairs(text: str) -> set[int]:
        return set(find_words(text).buckets[:, 1].tolist())

    assert pairs("a b") == pairs("  a    b") == pairs("a b\na b")
    assert pairs("a b") != pairs("b a")
    assert pairs("a\nb") != pairs("a b")
    assert pairs("a\nb") == pairs("b\na")


def test_patterns_know_marks_spaces_and_indentation_but_no_names() -> None:
    def patterns(text: str) -> list[list[int]]:
        return find_words(text).buckets[:, 2:].tolist()

    assert patterns("foo(bar, 1)") == patterns("x(y, 234)")
    assert patterns("f(x,1)") != patterns("f(x, 1)")
    assert patterns("  f(x)")[0] != patterns("f(x)")[0]
    assert patterns("a.b.c\n")[-1] != patterns("a:b.c\n")[-1]


@pytest.mark.parametrize("n_kinds", [2, 4])
def test_counts_are_those_of_the_words_that_are_found(n_kinds: int) -> None:
    text = CODE * 70
    found = find_words(text)
    expected = [
        Counter(found.buckets[mine, :n_kinds].ravel().tolist())
        for mine in (found.places[:, 0] == page for page in range(3))
    ]
    indptr, buckets, counts = count_words(text, patterns=n_kinds == 4)
    for page, (start, stop) in enumerate(pairwise(indptr)):
        pairs = zip(buckets[start:stop].tolist(), counts[start:stop].tolist(), strict=True)
        assert dict(pairs) == expected[page]
    assert buckets.max() < N_BUCKETS
    whole = count_words(text, [0, 3], patterns=n_kinds == 4)
    together = dict(zip(whole.buckets.tolist(), whole.counts.tolist(), strict=True))
    assert together == expected[0] + expected[1] + expected[2]


def test_images_and_texts_count_the_same() -> None:
    images, _ = zml.rasterize(CODE)
    for source in (images, images[0], images.astype(np.int64)):
        for one, other in zip(count_words(source), count_words(CODE), strict=True):
            assert np.array_equal(one, other)


def test_buckets_never_change() -> None:
    """What is learnt from them is shipped; another hash would make it worthless."""
    assert find_words("let Ünder_1 = 42;").buckets.T.tolist() == [
        [250138, 232036, 124681, 107614, 217281],
        [58506, 78634, 14560, 4395, 203724],
        [122766, 190128, 41104, 18538, 121110],
        [121703, 157505, 148635, 175571, 83478],
    ]


def test_nothing_has_no_words() -> None:
    assert [part.tolist() for part in count_words("")] == [[0], [], []]
    assert count_words(np.full((2, 80, 80), 32)).indptr.tolist() == [0, 0, 0]
    assert find_words("").places.shape == (0, 4)


@pytest.mark.parametrize("starts", [[], [-1, 1], [0, 2], [1, 0, 1], [[0, 1]]])
def test_rows_must_lie_within_the_pages(starts: list[int]) -> None:
    with pytest.raises(UsageError, match="starts are ascending page numbers"):
        count_words("a", starts)


@pytest.mark.parametrize("images", [np.zeros((2, 2)), np.zeros(5, np.uint32), [["a"]]])
def test_what_is_no_image_is_refused(images: object) -> None:
    with pytest.raises(UsageError, match="integers of shape"):
        count_words(images)  # type: ignore[arg-type]

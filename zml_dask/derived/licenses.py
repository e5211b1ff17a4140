"""The licence that a file contains: a licence's text, or an SPDX tag.

The text of a file with a name for licences (``LICENSE``, ``COPYING``) is compared with all texts
of SPDX's list by the Dice coefficient of their pairs of neighbouring words, as in GitHub's
licensee and askalono. SPDX's texts come from osslili, which is small and follows SPDX's
releases; scanners that recognise notices and fragments too take a thousand times as long.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zml_dask.errors import require
from zml_dask.query.file_images import FileRow

LICENSE: Final = "license_detected"
COLUMNS: Final = {"license": "string", "how": "string", "similarity": "float"}

_IS_TEXT: Final = 0.9
"""Dice coefficient from which a text is a licence's."""
_MOST_CHARACTERS: Final = 200_000
_NAMED: Final = re.compile(
    r"(?i)(^|[-_.])(un)?(licen[sc]es?|copying|copyright|ofl|bsd|mit|gpl|lgpl|agpl|apache|mpl|cc0)"
    r"v?\d?([-_.]|$)"
)
_TAG: Final = re.compile(r"SPDX-License-Identifier:[ \t]*([A-Za-z0-9.+() \t-]+)")
_WORD: Final = re.compile(r"\w+")
_OWN: Final = re.compile(
    r"(?im)^\W*(copyright(?! (notice|holder|owner|law|statement|licen[sc]e|and|or|in|is)\b)|©|\(c\)"
    r"|all rights reserved).*$"
)


def license_detected(text: str, row: FileRow) -> dict[str, Any] | None:
    """Identify the licence of a file: its name by SPDX, how that is known, and how surely.

    A text that lines were cut off, since they are longer than an image is wide, is compared
    by the pairs of words that are left.
    """
    at = text.find("SPDX-License-Identifier:")
    if at >= 0 and (tag := _TAG.match(text, at)) and (words := tag[1].strip(" \t-")):
        return {"license": words, "how": "tag", "similarity": None}
    if not _NAMED.search(row.name) or len(text) > _MOST_CHARACTERS:
        return None
    name, similarity = nearest_license(text, is_cut=bool(row.n_cut))
    if similarity < _IS_TEXT:
        return None
    return {"license": name, "how": "text", "similarity": similarity}


class _Texts(NamedTuple):
    """Pairs of words of all licences.

    `names` may repeat where a licence has several texts, `sizes` are the numbers of different
    pairs, and `holders` are the licences that contain each pair.
    """

    names: list[str]
    sizes: NDArray[np.int64]
    holders: dict[tuple[str, str], NDArray[np.int64]]


def nearest_license(text: str, *, is_cut: bool = False) -> tuple[str, float]:
    """Return the SPDX identifier whose text is nearest, and the Dice coefficient.

    With `is_cut`, ends of lines are missing: the number returned is the share of the text's pairs
    that are in the licence. `UsageError` if osslili is not installed.
    """
    texts = _texts()
    pairs = _cut_pairs(text) if is_cut else _pairs(text)
    held = [texts.holders[pair] for pair in pairs if pair in texts.holders]
    if not held:
        return "", 0.0
    common = np.bincount(np.concatenate(held), minlength=len(texts.names))
    dice = 2 * common / (texts.sizes + len(pairs))
    best = int(np.argmax(dice))
    if is_cut:
        share = common / len(pairs)
        return texts.names[best], float(share[best])
    return texts.names[best], float(dice[best])


def _pairs(text: str) -> set[tuple[str, str]]:
    words = [word.lower() for word in _WORD.findall(_OWN.sub("", text))]
    return set(pairwise(words))


def _cut_pairs(text: str) -> set[tuple[str, str]]:
    """Return the pairs of words, without those across the ends of lines that were cut."""
    lines = text.split("\n")
    width = max(map(len, lines))
    found: set[tuple[str, str]] = set()
    whole: list[str] = []
    for line in lines:
        if len(line) < width - 1:
            whole.append(line)
            continue
        # The last word may be half of one.
        found |= _pairs("\n".join([*whole, line.rpartition(" ")[0]]))
        whole = []
    return found | _pairs("\n".join(whole))


@lru_cache(maxsize=1)
def _texts() -> _Texts:
    # SPDX's texts are in it. Its code is not needed and slow to import.
    package = require("osslili", "licenses", "the recognition of licences")
    source = Path(str(package.origin)).parent / "data" / "spdx_licenses.json"
    licenses = json.loads(source.read_text(encoding="utf-8"))["licenses"]
    names: list[str] = []
    sizes: list[int] = []
    holders: dict[tuple[str, str], list[int]] = {}
    for name, of_license in sorted(licenses.items()):
        # GNU's licences have the same text for "only" and "or later".
        if of_license["isDeprecatedLicenseId"] or name.endswith("-or-later"):
            continue
        text = of_license["text"] or ""
        # Files often leave out how to apply a licence; an Apache licence would then be nearer to
        # one derived from it. SPDX's text of the LGPL 3 ends with the GPL's, which software
        # keeps in another file.
        shorter = text.partition("END OF TERMS AND CONDITIONS")[0]
        alone = text.partition("GNU GENERAL PUBLIC LICENSE")[0] if "LGPL" in name else text
        for pairs in {frozenset(_pairs(one)) for one in (text, shorter, alone) if one}:
            for pair in pairs:
                holders.setdefault(pair, []).append(len(names))
            names.append(name)
            sizes.append(len(pairs))
    return _Texts(
        names, np.array(sizes), {pair: np.array(of_pair) for pair, of_pair in holders.items()}
    )

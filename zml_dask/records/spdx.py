"""SPDX identifiers of licences, from what records say of theirs.

Spelling and expressions (``apache-2.0 and mit``) are left to ``packaging``, which
holds SPDX's list and is installed wherever Dask is.
"""

from __future__ import annotations

import re
from functools import lru_cache

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

# Zenodo's former identifiers, and other names that are clear although no list has them.
_ALIASES = {
    "agpl": "AGPL-3.0-only",
    "apache": "Apache-2.0",
    "apache2": "Apache-2.0",
    "apache2.0": "Apache-2.0",
    "apache-license": "Apache-2.0",
    "apache-license-2.0": "Apache-2.0",
    "artistic-license-2.0": "Artistic-2.0",
    "boost-license": "BSL-1.0",
    "bsd-license": "BSD-3-Clause",
    "cc0": "CC0-1.0",
    "cc-zero": "CC0-1.0",
    "cc-by": "CC-BY-4.0",
    "cc-by-sa": "CC-BY-SA-4.0",
    "cc-by-nc": "CC-BY-NC-4.0",
    "gplv2": "GPL-2.0-only",
    "gplv3": "GPL-3.0-only",
    "isc-license": "ISC",
    "lgplv3": "LGPL-3.0-only",
    "mit-license": "MIT",
    "mozilla-public-license-2.0": "MPL-2.0",
    "zlib-license": "Zlib",
}
_SEPARATORS = re.compile(r"\s+(?:and|or|with)\s+|[()]|\s*[,;/|&]\s*", re.IGNORECASE)
# SPDX's former names of GNU's licences: `GPL-3.0` is now `GPL-3.0-only`, `GPL-3.0+` `-or-later`.
_FORMER = re.compile(r"((?:A|L)?GPL-\d\.\d|GFDL-\d\.\d)(\+?)")


@lru_cache(maxsize=4096)
def _identifiers(text: str) -> tuple[str, ...]:
    found = []
    for name in _SEPARATORS.split(text):
        word = re.sub(r"[\s_]+", "-", name.strip()).lower()
        if not word:
            continue
        try:
            spdx = str(canonicalize_license_expression(_ALIASES.get(word, word)))
        except InvalidLicenseExpression:
            continue
        former = _FORMER.fullmatch(spdx)
        if former:
            spdx = former[1] + ("-or-later" if former[2] else "-only")
        found.append(spdx)
    return tuple(dict.fromkeys(found))


def spdx_ids(license: str | None) -> list[str]:  # noqa: A002 - the column's name
    """Return the SPDX identifiers in a record's licence, in order; of a compound, each.

    It is empty if nothing in it is on SPDX's list.

    Examples
    --------
    >>> spdx_ids("apache-2.0 and mit"), spdx_ids("gpl-3.0"), spdx_ids("other-open")
    (['Apache-2.0', 'MIT'], ['GPL-3.0-only'], [])
    """
    return list(_identifiers(license)) if license else []

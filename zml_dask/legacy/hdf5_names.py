r"""Names of HDF5 datasets for segments: ``<path>__<i>``, as in 2018, and back.

The folders of a path become groups, so a path that HDF5 would read otherwise
than it is written is told apart by escapes, which :func:`split_name` undoes:

=========  =========================================================================
``%2E``    a part that is ``.``, which HDF5 drops
``%00``    a NUL, which ends a name in HDF5
``%2F``    a slash that opens or ends the path or follows another slash, which HDF5
           drops; and one below 200 folders
``%5F_``   the two underscores of a name ``x__<i>`` that is wanted both as a folder
           and as a segment
``%25``    a percent sign that stands where one of these escapes would be read
=========  =========================================================================

All other names, with other percent signs too, are those of 2018.
"""

from __future__ import annotations

import re

from zml_dask.query.tree import MAX_DEPTH

_ESCAPES = {"%00": "\0", "%25": "%", "%2E": ".", "%2F": "/", "%5F": "_"}
_ESCAPE = re.compile("|".join(_ESCAPES))
_FALSE_ESCAPE = re.compile(f"%(?={'|'.join(escape[1:] for escape in _ESCAPES)})")
_NUMBER = re.compile(r"[0-9]{1,9}")
_LOST_SLASH = re.compile(r"\A/|(?<=/)/|/\Z")


def split_path(path: str) -> tuple[list[str], str]:
    """Split a path into the names of its groups and the stem of its segments' names.

    Examples
    --------
    >>> split_path("src/./a.py"), split_path("/etc//motd")
    ((['src', '%2E'], 'a.py'), (['%2Fetc'], '%2Fmotd'))
    """
    escaped = _FALSE_ESCAPE.sub("%25", path).replace("\0", "%00")
    escaped = _LOST_SLASH.sub("%2F", escaped)
    *folders, stem = escaped.split("/", MAX_DEPTH)
    return (
        ["%2E" if folder == "." else folder for folder in folders],
        stem.replace("/", "%2F"),
    )


def told_apart(name: str) -> str:
    """Return another spelling of a name ``x__<i>`` that is taken.

    Examples
    --------
    >>> told_apart("a__0"), split_name(told_apart("a__0"))
    ('a%5F_0', ('a', 0))
    """
    stem, _, number = name.rpartition("__")
    return f"{stem}%5F_{number}"


def split_name(name: str) -> tuple[str, int] | None:
    """Read path and number of a segment from its full name within the HDF5 file.

    Examples
    --------
    >>> split_name("src/%2E/a.py__12"), split_name("src/a.py")
    (('src/./a.py', 12), None)
    """
    plain = _ESCAPE.sub(lambda found: _ESCAPES[found[0]], name)
    path, underscores, number = plain.rpartition("__")
    if not underscores or not _NUMBER.fullmatch(number):
        return None
    return path, int(number)

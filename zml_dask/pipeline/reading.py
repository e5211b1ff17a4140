"""Members of an archive to staged files: the hot path, run once for every file there is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Protocol

from zml_dask.fetch.members import Member
from zml_dask.pipeline.options import BuildOptions
from zml_dask.raster.identifiers import IDENTIFIERS, Identifier
from zml_dask.raster.language import identify
from zml_dask.raster.text import BinaryFileError, UndecodableFileError, settle_text
from zml_dask.store.layout import FileStatus, extension_of
from zml_dask.store.staging import StagedFile

_HEAD = 4096
"""Bytes of a file's text that its language is told by."""

_EMPTY = "the file holds no line"


class FileSink(Protocol):
    """Where read files go."""

    def add(self, file: StagedFile, text: bytes | None) -> None:
        """Take one file and, where it is text, its settled text."""
        ...


def read_into(members: Iterable[Member], sink: FileSink, options: BuildOptions) -> None:
    """Read every member of a record, one at a time, and hand it on.

    Parameters
    ----------
    members : iterable of Member
    sink : FileSink
        The record's staging.
    options : BuildOptions
        Of which the image's size, `keep_binary` and `language` matter here.
    """
    width, keep_binary = options.shape.width, options.keep_binary
    named = IDENTIFIERS[options.language]
    for member in members:
        file, text = read_member(member, width=width, keep_binary=keep_binary, identify=named)
        sink.add(file, text)


def read_member(
    member: Member, *, width: int, keep_binary: bool, identify: Identifier = identify
) -> tuple[StagedFile, bytes | None]:
    r"""Read one member: its text settled, its language named, its fate decided.

    Parameters
    ----------
    member : Member
    width : int
        Characters a line holds before it counts as cut.
    keep_binary : bool
        Whether a file with NUL bytes is text all the same.
    identify : callable
        Names the language of a path and the head of its settled text.

    Returns
    -------
    file : StagedFile
    text : bytes or None
        Settled text where the file's status is ``"ok"``.

    Examples
    --------
    >>> member = Member("p/a.py", 6, b"x = 1\r", "ok", None)
    >>> file, text = read_member(member, width=80, keep_binary=False)
    >>> file.language, file.n_lines, text
    ('Python', 1, b'x = 1\n')
    """
    path = member.path
    name = path.rpartition("/")[2]
    data = member.data
    if data is None:
        return _unread(member, name, member.status, member.reason), None
    digests = hashlib.sha256(data).hexdigest(), _git_id(data)
    try:
        settled = settle_text(data, width=width, keep_binary=keep_binary)
    except BinaryFileError as error:
        return _unread(member, name, "binary", str(error), *digests), None
    except UndecodableFileError as error:
        return _unread(member, name, "undecodable", str(error), *digests), None
    identity = identify(path, settled.text[:_HEAD])
    has_lines = settled.n_lines > 0
    file = StagedFile(
        path,
        name,
        extension_of(name),
        identity.language,
        identity.kind,
        len(data),
        digests[0],
        settled.encoding,
        "ok" if has_lines else "empty",
        member.reason if has_lines else _EMPTY,
        settled.n_lines,
        settled.n_cut,
        digests[1],
    )
    return file, settled.text if has_lines else None


def _git_id(data: bytes) -> str:
    """Return the id that git gives a file of these bytes: archives of software know it by that.

    Examples
    --------
    >>> _git_id(b"")
    'e69de29bb2d1d6434b8b29ae775ad8c2e48c5391'
    """
    digest = hashlib.sha1(b"blob %d\0" % len(data), usedforsecurity=False)
    digest.update(data)
    return digest.hexdigest()


def _unread(
    member: Member,
    name: str,
    status: FileStatus,
    reason: str | None,
    sha256: str | None = None,
    sha1_git: str | None = None,
) -> StagedFile:
    """Return the row of a file that is listed, not rasterised."""
    identity = identify(member.path, b"")
    return StagedFile(
        member.path,
        name,
        extension_of(name),
        identity.language,
        identity.kind,
        member.size,
        sha256,
        None,
        status,
        reason,
        0,
        None,
        sha1_git,
    )

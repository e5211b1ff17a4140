"""The members of an archive of any kind: recognised by content, streamed, bounded.

Nothing is ever written under a member's name: a member is a path, and its bytes or
the reason why they cannot be read. Archives within an archive are opened to one level
only, so that a nested bomb does no harm.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, cast

from zml_dask.encodings import decode, decode_name
from zml_dask.errors import RecordError
from zml_dask.fetch.foreign import (
    ForeignReader,
    MissingLibraryError,
    PieceStream,
    plain,
    rar5_extras,
)
from zml_dask.fetch.git import GitLimits, unbundle
from zml_dask.fetch.member import (
    BrokenStreamError,
    FetchLimits,
    Member,
    MemberStatus,
    Meter,
    OverLimitError,
    TrailingBytesError,
    hard_link_member,
    is_version_control,
    link_member,
    unread,
)
from zml_dask.fetch.streams import (
    ARCHIVE_SUFFIXES,
    CONTAINERS,
    HEAD_BYTES,
    PAYLOAD_WITHIN,
    SUFFIXES,
    Kind,
    Layer,
    format_name,
    is_nested_archive,
    misnamed,
    payload_start,
    recognise,
    spool,
    strip_compression,
)
from zml_dask.fetch.tar import tar_members
from zml_dask.fetch.zip import (
    BrokenDirectoryError,
    Slices,
    ZipDirectory,
    find_directory,
    forget_pages,
    iter_positions,
    mapped,
    zip_members,
)
from zml_dask.fetch.zip_salvage import salvaged_members
from zml_dask.text_safety import escape_path

_MOST_MAPPED: Final = 64 * 1024 * 1024

_DOCUMENT_TYPES: Final = (
    b"mimetypeapplication/epub",
    b"mimetypeapplication/vnd.oasis.opendocument",
    b"mimetypeapplication/vnd.sun.xml",
)
_DOCUMENT_MARKS: Final = rb"\[Content_Types\]\.xml|META-INF/container\.xml"
_OFFICE_PARTS: Final = frozenset(
    {b"word/document.xml", b"word/document2.xml", b"xl/workbook.xml", b"xl/workbook.bin",
     b"ppt/presentation.xml", b"visio/document.xml"}
)  # fmt: skip
_OFFICE_FOLDERS: Final = frozenset(
    {b"word", b"xl", b"ppt", b"visio", b"docProps", b"_rels", b"customXml", b"customUI",
     b"[Content_Types].xml", b"docMetadata", b"userCustomization"}
)  # fmt: skip


def read_members(
    archive: Path,
    *,
    name: str,
    limits: FetchLimits | None = None,
    first: int | None = None,
    scratch: Path | None = None,
) -> Iterator[Member]:
    """Yield every regular file of an archive, with its content or the reason why there is none.

    Folders, links within the archive and the insides of version control folders
    give no member. Zip files come in path order, others in their own. An archive
    within the archive is followed by its own members, below its path.

    Parameters
    ----------
    archive : Path
        An archive of any kind, one compressed file, or any other file, which is
        then its own only member.
    name : str
        What the archive is called: the path of a bare file, and of rows about
        the archive as a whole.
    first : int, optional
        Look at no more than so many entries of a zip file's directory.
    scratch : Path, optional
        Folder for archives within the archive, by default where it lies itself.

    Raises
    ------
    RecordError
        Where reading takes too long.
    NetworkError
        Where `scratch` cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "whatever"
    ...     _ = file.write_text("print(1)")
    ...     list(read_members(file, name="run.py"))
    [Member(path='run.py', size=8, data=b'print(1)', status='ok', reason=None, spooled=None)]
    """
    limits = FetchLimits() if limits is None else limits
    meter = Meter(limits, archive.stat().st_size, escape_path(name)[0])
    scratch = archive.parent if scratch is None else scratch
    with archive.open("rb") as file, _opened(file, meter, scratch) as opened:
        for member in opened.members(first):
            try:
                meter.add_lines(member.data)
            except OverLimitError as error:
                yield unread(member.path, member.size, "refused", str(error))
                continue
            content = member.spooled
            if member.data and is_nested_archive(member.path, member.data):
                content = spool(Slices(memoryview(member.data)), scratch, meter)
            if content is None:
                yield member
                continue
            with content:
                yield from _nested(member, content, meter, scratch)


def is_text(member: Member) -> bool:
    """Whether the bytes of a member are text to make images of."""
    data = member.data
    if not data or not data.strip() or recognise(data[:HEAD_BYTES]) != "bare":
        return False
    # The mark of the format of a deb, which is a file to ar.
    return member.path.rpartition("/")[2] != "debian-binary" and decode(data) is not None


def kind_of(archive: Path, *, limits: FetchLimits | None = None) -> Kind:
    """Recognise an archive under its compressions; see `has_members`.

    ``"unsupported"`` is a known format that is not read; everything else is one file.
    """
    limits = FetchLimits() if limits is None else limits
    meter = Meter(limits, archive.stat().st_size, archive.name)
    with archive.open("rb") as file, _opened(file, meter, archive.parent) as opened:
        return opened.kind


def has_members(kind: Kind) -> bool:
    """Whether an archive of a kind has members, rather than being one file."""
    return kind in CONTAINERS


def is_sound(archive: Path, kind: Kind) -> bool:
    """Whether an archive has members that can be listed: of a zip, whether it has its directory."""
    if kind != "zip":
        return kind in CONTAINERS
    meter = Meter(FetchLimits(), archive.stat().st_size, archive.name)
    with archive.open("rb") as file, _opened(file, meter, archive.parent) as opened:
        try:
            find_directory(mapped(cast("BinaryIO", opened.file)))
        except (BrokenDirectoryError, BrokenStreamError, OverLimitError, ValueError):
            return False
    return True


@dataclass(slots=True)
class _Opened:
    """A file whose compressions are removed."""

    kind: Kind
    layer: Layer  # its innermost stream
    depth: int  # number of compressions
    size: int
    source: IO[bytes] | None  # None if something precedes the archive in it
    meter: Meter
    scratch: Path
    stack: ExitStack  # closes what had to be put on disk

    @property
    def file(self) -> IO[bytes]:
        """The content as a file that can be sought in."""
        if self.depth == 0 and self.source is not None:
            return self.source
        return self.stack.enter_context(spool(self.layer, self.scratch, self.meter))

    def members(self, first: int | None = None) -> Iterator[Member]:
        """Members of the archive, or the one file as its only member."""
        try:
            if self.kind == "tar":
                yield from tar_members(self.layer, self.meter, self.scratch)
            elif self.kind == "zip":
                yield from _zip(self.file, self.meter, self.scratch, first)
            elif self.kind == "foreign":
                name = format_name(self.layer.peek())
                yield from _foreign(self.file, name, self.meter, self.scratch)
            elif self.kind == "bundle":
                yield from _bundle(self.file, self.meter, self.scratch)
            else:
                member = _single(self)
                yield member
                if member.status == "ok" and member.path != self.meter.name:
                    with suppress(TrailingBytesError):  # which its reason notes
                        self.layer.check()
        except OverLimitError as error:
            yield unread(self.meter.name, None, "refused", str(error))
        except BrokenStreamError as error:
            reason = f"it does not decompress ({error})"
            yield unread(self.meter.name, None, "damaged", reason)


@contextmanager
def _opened(file: IO[bytes], meter: Meter, scratch: Path) -> Iterator[_Opened]:
    size = file.seek(0, 2)
    file.seek(0)
    outer = Layer(file, meter, counted=False)
    kind, layer, depth = strip_compression(outer, file, meter, scratch)
    source: IO[bytes] | None = file
    if depth == 0 and size > 0 and kind in {"zip", "bare"}:
        buffer = mapped(cast("BinaryIO", file))
        kind = _zip_or_bare(buffer, kind)
        start = payload_start(bytes(buffer[:PAYLOAD_WITHIN])) if kind == "bare" else None
        if start is not None:
            source, outer = None, Layer(Slices(buffer[start:]), meter, counted=False)
            kind, layer, depth = strip_compression(outer, None, meter, scratch)
    with ExitStack() as stack:
        yield _Opened(kind, layer, depth, size, source, meter, scratch, stack)


def _zip_or_bare(buffer: memoryview, kind: Kind) -> Kind:
    """Check the end of a file: a zip may follow other bytes, and a document may be a zip."""
    try:
        directory = find_directory(buffer)
    except BrokenDirectoryError:
        return kind
    if kind == "bare" and directory.count == 0:
        return kind
    return "bare" if _is_document(buffer, directory) else "zip"


def _is_document(buffer: memoryview, directory: ZipDirectory) -> bool:
    """Whether a zip file is an office document or an e-book, by what it contains.

    Toolboxes and extensions are made in the same way (they, too, may begin with
    ``[Content_Types].xml``), and are full of code.
    """
    head = bytes(buffer[directory.shift : directory.shift + HEAD_BYTES])
    if head[30:].startswith(_DOCUMENT_TYPES):
        return True
    listing = buffer[directory.start : directory.stop]
    if re.search(_DOCUMENT_MARKS, listing) is None:
        return False
    names: set[bytes] = set()
    with suppress(BrokenDirectoryError):
        names.update(raw for _, raw, _, _ in islice(iter_positions(buffer, directory), 100_000))
    if b"META-INF/container.xml" in names:
        return any(name.endswith(b".opf") for name in names)
    folders = [name.partition(b"/")[0] for name in names]
    n_parts = sum(folder in _OFFICE_FOLDERS for folder in folders)
    return not names.isdisjoint(_OFFICE_PARTS) and 2 * n_parts > len(folders)


def _zip(file: IO[bytes], meter: Meter, scratch: Path, first: int | None) -> Iterator[Member]:
    buffer = mapped(cast("BinaryIO", file))
    try:
        directory = find_directory(buffer)
    except BrokenDirectoryError as error:
        yield from salvaged_members(buffer, meter, scratch, str(error))
        return
    salvage = partial(salvaged_members, buffer, meter, scratch)
    held = 0
    for member in zip_members(buffer, directory, meter, scratch, salvage, first):
        yield member
        held += len(member.data or b"")
        if held > _MOST_MAPPED:
            forget_pages(buffer)
            held = 0


def _bundle(file: IO[bytes], meter: Meter, scratch: Path) -> Iterator[Member]:
    """Yield the members of the commit that a git bundle has as its head."""
    limits = GitLimits(meter.limits.max_seconds, meter.limits.max_archive_bytes)
    with tempfile.TemporaryDirectory(dir=scratch, prefix="bundle-") as folder:
        try:
            tar = unbundle(file, Path(folder), limits)
        except RecordError as error:
            yield unread(meter.name, None, "damaged", str(error))
            return
        with tar.open("rb") as opened:
            yield from tar_members(Layer(opened, meter, counted=False), meter, scratch)


def _foreign(file: IO[bytes], name: str, meter: Meter, scratch: Path) -> Iterator[Member]:
    """Yield the members of an archive that another process reads."""
    reader = ForeignReader(file, meter, archives=ARCHIVE_SUFFIXES)
    seen, listed, n_entries = set[int](), set[int](), 0
    extras = rar5_extras(file, meter)
    entry: dict[str, Any] | None = None
    odd: list[bytes] = []
    try:
        while True:
            kind, body = reader.frame()
            if kind == b"F":
                reader.finish(body)
                if not n_entries:
                    reason = f"the {name} archive holds no entry"
                    yield unread(meter.name, None, "damaged", reason)
                return
            n_entries += 1
            entry = reader.json_of(body)
            path = str(entry.get("path") or meter.name)
            if path in extras:
                target = extras[path]
                entry |= {"encrypted": True} if target is None else {"type": "hard", "link": target}
            with suppress(UnicodeEncodeError):  # half a pair of UTF-16, which is in no encoding
                path = decode_name(path.encode("utf-8", "surrogateescape"), "latin-1", odd)
            meter.add_member(len(path))
            member = _foreign_member(entry, path, reader, meter, seen, listed, scratch)
            if member is not None:
                yield member
            entry = None
    except MissingLibraryError as error:
        yield unread(meter.name, None, "unsupported", f"{name} archives: {error}")
    except (OverLimitError, BrokenStreamError) as error:
        said = str(error)
        path = meter.name if entry is None else str(entry.get("path") or meter.name)
        status = "refused" if isinstance(error, OverLimitError) else _status_of(said)
        yield unread(path, None, status, f"the rest of the {name} archive cannot be read: {said}")
    finally:
        reader.close()


def _foreign_member(
    entry: dict[str, Any],
    path: str,
    reader: ForeignReader,
    meter: Meter,
    seen: set[int],
    listed: set[int],
    scratch: Path,
) -> Member | None:
    """Read one entry from another process, to the end of its content."""
    stated = entry.get("size")
    size = stated if isinstance(stated, int) and 0 <= stated < 2**63 else None
    wrong: list[str] = []
    content = PieceStream(_content(reader, meter, wrong))
    head = content.read(512)
    kind = entry.get("type")
    refusal = meter.limits.refusal(path, size or 0)
    spooled: IO[bytes] | None = None
    data = b""
    is_large = size is None or refusal is not None
    if is_large and is_nested_archive(path, head, is_large=True):
        content.unread(head)
        spooled = spool(content, scratch, meter)
    else:
        data = head
        while len(data) <= meter.limits.max_file_bytes and (piece := content.read(-1)):
            data += piece
        while content.read(-1):
            pass
    if len(data) < (size or 0) and not wrong and spooled is None:
        # It was skipped by the other process, but had to be unpacked all the same.
        meter.add_unpacked((size or 0) - len(data))
    if is_version_control(path) or kind == "folder":
        return None
    if kind == "link":
        return link_member(path, str(entry.get("link")))
    link = str(entry.get("link"))
    if kind == "hard" and not data:
        is_listed = hash(link.removeprefix("./")) in listed
        return hard_link_member(path, link, is_listed=is_listed)
    if kind == "file" and entry.get("is_linked"):
        # As in cpio and what is made of it.
        reason = "a hard link: what it holds, if anything, is listed under the last path of it"
        return unread(path, size, "refused", reason)
    if kind not in {"file", "hard"}:
        return unread(path, size, "refused", "a device, pipe or socket")
    listed.add(hash(path.removeprefix("./")))
    if entry.get("encrypted"):
        return unread(path, size, "encrypted", "encrypted")
    if wrong:
        return unread(path, size, _status_of(wrong[0]), wrong[0])
    if len(data) > meter.limits.max_file_bytes:
        refusal = refusal or meter.limits.too_large
    elif refusal is None and size is not None and spooled is None and len(data) != size:
        refusal = "damaged", "its content is not as long as its header says"
    if refusal is None and hash(path) in seen:
        refusal = "duplicate", "an earlier member has the same path"
    seen.add(hash(path))
    if refusal is not None:
        return unread(path, size, *refusal, spooled)
    shown, note = escape_path(path)
    if spooled is not None:
        return unread(path, size, *meter.limits.too_large, spooled)
    return Member(shown, len(data), data, "ok", note)


def _status_of(said: str) -> MemberStatus:
    """Return the status that a message of libarchive means."""
    if "ncrypt" in said or "assphrase" in said:
        return "encrypted"
    is_unread = re.search(
        "unavailable|not supported|is unsupported|n(supported|known|expected) (pack|codec|comp)",
        said,
    )
    return "damaged" if is_unread is None else "unsupported"


def _content(reader: ForeignReader, meter: Meter, wrong: list[str]) -> Iterator[bytes]:
    """Yield the content of one entry of another process; what is wrong with it goes to `wrong`."""
    while True:
        kind, body = reader.frame()
        if kind != b"D":
            said = reader.json_of(body).get("error")
            if said is not None:
                wrong.append(plain(said))
            return
        meter.add_unpacked(len(body))
        yield body


def _single(opened: _Opened) -> Member:
    """Return the only member of a file that is not an archive."""
    name, limits = opened.meter.name, opened.meter.limits
    if opened.kind == "unsupported":
        reason = f"{format_name(opened.layer.peek())} archives are not read"
        return unread(name, opened.size, "unsupported", reason)
    if opened.kind != "bare":
        return unread(name, opened.size, "unsupported", "too many compressions")
    size = opened.size if opened.depth == 0 else None
    path = name
    if size is not None and (wrong := misnamed(name, opened.layer.peek())) is not None:
        return unread(name, size, "damaged", wrong)
    if size is None:
        end = next((end for end in SUFFIXES if name.lower().endswith(end)), "")
        path = name[: len(name) - len(end)] if len(end) < len(name) else name
    elif size > limits.max_file_bytes:
        return unread(path, size, *limits.too_large)
    note = None
    data = b""
    try:
        data = opened.layer.read(limits.max_file_bytes + 1)
        if len(data) > limits.max_file_bytes:
            return unread(path, size, *limits.too_large)
        opened.layer.check()
    except OverLimitError as error:
        return unread(path, size, "refused", str(error))
    except MissingLibraryError as error:
        return unread(name, opened.size, "unsupported", str(error))
    except TrailingBytesError as error:
        note = f"{error}; they are not read"
    except BrokenStreamError as error:
        if not data:
            return unread(path, size, "damaged", f"it does not decompress ({error})")
        note = f"what follows its first {len(data):,} bytes does not decompress ({error})"
    return Member(path, len(data), data, "ok", note)


def _nested(member: Member, content: IO[bytes], meter: Meter, scratch: Path) -> Iterator[Member]:
    """Yield a member that is an archive, and its members below its path."""
    try:
        meter.add_nested()
    except OverLimitError as error:
        yield unread(member.path, member.size, "unsupported", str(error))
        return
    with _opened(content, meter.within(member.path), scratch) as opened:
        is_archive = has_members(opened.kind)
        if is_archive:
            status: MemberStatus = "binary" if member.data is not None else member.status
            reason = "an archive within the archive: its files are listed below its path"
            yield unread(member.path, member.size, status, reason)
        else:
            yield member._replace(spooled=None)
        for inner in opened.members():
            if inner.path == member.path:
                if is_archive or inner.status == "damaged":
                    yield inner if inner.data is not None else inner._replace(size=member.size)
                continue
            path = f"{member.path}/{inner.path}"
            if not is_archive:
                # One compressed file: a text is worth a row of its own.
                path = f"{member.path}/{inner.path.rpartition('/')[2]}"
                if inner.data is None or b"\0" in inner.data:
                    continue
            if inner.spooled is not None:
                inner.spooled.close()
            if inner.spooled is not None or is_nested_archive(inner.path, inner.data or b""):
                reason = "an archive within an archive within an archive is not opened"
                yield unread(path, inner.size, "unsupported", reason)
                continue
            try:
                meter.add_lines(inner.data)
                yield inner._replace(path=path)
            except OverLimitError as error:
                yield unread(path, inner.size, "refused", str(error))

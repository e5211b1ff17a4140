"""Zenodo's view into zip files, and all files of a record as one zip."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from io import BytesIO
from typing import Any, Final

from zml_dask.sandbox.answers import (
    Answer,
    content_answer,
    error_answer,
    internal_error,
    json_answer,
)
from zml_dask.sandbox.content import Content, Settled

_MOST_NODES: Final = 1000


def container_answer(key: str, settled: Settled, inner: str) -> Answer:
    """Answer a listing of a zip's members (`inner` empty), or with one member's bytes."""
    if not key.endswith(".zip"):
        # As Zenodo does for every other format.
        return internal_error()
    try:
        with zipfile.ZipFile(_stream(settled)) as archive:
            if not inner:
                return json_answer(200, _listing(archive))
            member = archive.read(inner.removeprefix("/"))
    except zipfile.BadZipFile:
        return internal_error()
    except KeyError:
        return error_answer(404, f"The container has no entry '{inner.removeprefix('/')}'.")
    # A Range header is ignored here.
    return content_answer(Content(member).settle(), None)


def files_archive(files: Mapping[str, Content]) -> Content:
    """Give a zip of all files of a record."""
    target = BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for key in sorted(files):
            settled = files[key].settle()
            archive.writestr(zipfile.ZipInfo(key), settled.read(0, settled.size))
    return Content(target.getvalue())


def _listing(archive: zipfile.ZipFile) -> dict[str, Any]:
    members = [one for one in archive.infolist() if not one.is_dir()]
    entries = [
        {
            "key": one.filename,
            "size": one.file_size,
            "compressed_size": one.compress_size,
            "mimetype": "application/octet-stream",
            "crc": one.CRC,
        }
        for one in members[:_MOST_NODES]
    ]
    folders = {one.filename.rpartition("/")[0] for one in members[:_MOST_NODES]} - {""}
    return {
        "entries": entries,
        "directories": [{"key": folder} for folder in sorted(folders)],
        "total": len(members),
        "truncated": len(members) > _MOST_NODES,
    }


def _stream(settled: Settled) -> Any:
    return BytesIO(settled.source) if isinstance(settled.source, bytes) else settled.source

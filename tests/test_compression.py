"""The same content gives the same bytes: in every thread, in every process.

What hangs on where memory lies shows between processes only.
"""

from __future__ import annotations

import subprocess
import sys

COMPRESS_ALL = """
import hashlib, io, sys, tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa

from zml_dask.legacy.hdf5 import ChunkEncoder, Hdf5Writer
from zml_dask.legacy.record import Canvas
from zml_dask.publish.png import encode_png
from zml_dask.store.layout import ArraySpec
from zml_dask.store.shards import ShardBuilder
from zml_dask.store.staging.frames import compress
from zml_dask.store.storage import Storage
from zml_dask.store.tables import write_part

text = Path(ChunkEncoder.encode.__code__.co_filename).read_text()
codes = np.frombuffer(text[: len(text) // 80 * 80].encode("utf-32-le"), np.uint32).reshape(-1, 80)
images = [codes[i : i + rows] for rows in (1, 2, 7, 10, 80) for i in range(0, len(codes) - 80, 9)]
small = [image[:, :8] for image in images]


def hdf5_chunks():
    encoder = ChunkEncoder()
    return b"".join(encoder.encode(image) for image in images + small)


def hdf5_file():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "images.h5")
        with Hdf5Writer(path) as writer:
            for number in range(20):
                writer.add(Canvas().file(f"{number:02}.py", text.encode()))
        return path.read_bytes()


def shard():
    builder = ShardBuilder(ArraySpec("images", "uint32", chunk=16, shard=128), (80, 80))
    builder.extend(np.stack([image for image in images if len(image) == 80]))
    return builder.finish()


def staged():
    return compress(codes.tobytes() * 4)


def table():
    schema = pa.schema([("path", pa.string()), ("line", pa.string())])
    rows = pa.table({"path": ["a.py"] * 4000, "line": (text.splitlines() * 20)[:4000]}, schema)
    with tempfile.TemporaryDirectory() as folder:
        part = write_part(Storage.open(folder), "t", 0, [rows], schema=schema)
        return Path(folder, part.path).read_bytes()


def png():
    return b"".join(encode_png(image) for image in images)


with ThreadPoolExecutor(6) as threads:
    for make in (hdf5_chunks, hdf5_file, shard, staged, table, png):
        made = threads.map(lambda _: make(), range(6))
        found = {hashlib.sha256(data).hexdigest() for data in made}
        print(make.__name__, *sorted(found))
"""


def test_what_is_compressed_is_the_same_in_every_thread_and_process() -> None:
    command = [sys.executable, "-c", COMPRESS_ALL]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0] * 3
    assert [len(line.split()) for line in said[0].splitlines()] == [2] * 6, said[0]
    assert len(set(said)) == 1, said

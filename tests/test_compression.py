"""The same content gives the same bytes: in every thread, in every process, wherever it lies.

Each compressor that writes what is committed or exported is given the same content by several
threads at once: at every alignment, among other neighbours in memory, after other content each
time. What depends on where the compressor's own memory lies shows between processes only. (ISA-L,
which deflated HDF5 exports once, comes out otherwise in most runs of this.)
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

import zml_dask
from zml_dask.legacy.hdf5 import Hdf5Writer, encode_chunk
from zml_dask.legacy.legacy_record import Canvas
from zml_dask.publish.png import encode_png
from zml_dask.store.layout import ArraySpec
from zml_dask.store.shards import ShardBuilder
from zml_dask.store.staging.frames import compress
from zml_dask.store.storage import Storage
from zml_dask.store.tables import write_part

sources = Path(zml_dask.__file__).parent.rglob("*.py")
text = "".join(path.read_text() for path in sorted(sources))[:1_200_000]
TURNS = 17  # one more than the widest vector has bytes
pixels = np.frombuffer(text[: len(text) // 80 * 80].encode("utf-32-le"), np.uint32)


class Content:
    # The same pixels, images and bytes in another place of memory, other values around them.

    def __init__(self, turn):
        random = np.random.default_rng(turn)
        around = random.integers(0, 2**31, pixels.size + 64, dtype=np.uint32)
        around[turn : turn + pixels.size] = pixels
        self.turn = turn
        self.codes = around[turn : turn + pixels.size].reshape(-1, 80)
        around = bytearray(random.bytes(pixels.nbytes + 64))
        around[turn : turn + pixels.nbytes] = pixels.tobytes()
        self.raw = memoryview(around)[turn : turn + pixels.nbytes]

    def images(self, count):
        heights = (1, 2, 7, 10, 33, 80)
        return [self.codes[9 * n : 9 * n + heights[n % 6]] for n in range(count)]

    def in_another_order(self, encode, items):
        # Returned in the order of the items, but encoded in an order of this turn.
        made = {}
        for n in np.random.default_rng(self.turn).permutation(len(items)):
            made[n] = encode(items[n])
        return b"".join(made[n] for n in range(len(items)))


def hdf5_chunks(content):
    return content.in_another_order(encode_chunk, content.images(1500))


def hdf5_file(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "images.h5")
        with Hdf5Writer(path) as writer:
            for number in range(20):
                writer.add(Canvas().file(f"{number:02}.py", text[: number * 1000].encode()))
        return path.read_bytes()


def shard(content):
    builder = ShardBuilder(ArraySpec("images", "uint32", chunk=16, shard=128), (80, 80))
    builder.extend(np.stack([image for image in content.images(400) if len(image) == 80]))
    return builder.finish()


def staged(content):
    texts = [content.raw[n : 9 * n] for n in range(1, 40_000, 1999)]
    return content.in_another_order(compress, texts)


def table(content):
    schema = pa.schema([("path", pa.string()), ("line", pa.string())])
    rows = pa.table({"path": ["a.py"] * 4000, "line": (text.splitlines() * 20)[:4000]}, schema)
    with tempfile.TemporaryDirectory() as folder:
        part = write_part(Storage.open(folder), "t", 0, [rows], schema=schema)
        return Path(folder, part.path).read_bytes()


def png(content):
    return content.in_another_order(encode_png, content.images(60))


with ThreadPoolExecutor(6) as threads:
    for make in (hdf5_chunks, hdf5_file, shard, staged, table, png):
        made = threads.map(make, map(Content, range(TURNS)))
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

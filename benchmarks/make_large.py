"""Write a dataset with the tables of many records, to measure what using it costs.

    python benchmarks/make_large.py FOLDER RECORDS [SHARDS]

Records have 130 files and 700 images each, as Zenodo's have on average. The tables,
the index arrays and the metadata are whole. So many shards of images (default: 16) are
drawn, and the others are hard links to them: file *n* has the text of file *n* + 760 or so
for each, though the tables have another hash of it (``verify`` says so). Three texts of ten
are near-copies of another. Memory is bounded whatever the number of records.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zml_dask.raster.images import rasterize
from zml_dask.raster.language import language_group
from zml_dask.records.spdx import spdx_ids
from zml_dask.store.commit.plan import FILES_PER_PART, FILES_PER_SORTED_PART, RECORDS_PER_PART
from zml_dask.store.commit.tasks import in_language_order, index_columns, rows_digest
from zml_dask.store.info import Counts, DatasetInfo, Part, WrittenObject
from zml_dask.store.layout import (
    DATASET_JSON,
    FILES_BY_LANGUAGE_SCHEMA,
    FILES_SCHEMA,
    ImageShape,
    image_arrays,
    row_shape,
    shard_path,
)
from zml_dask.store.shards import ShardBuilder, ShardReader, zarr_objects
from zml_dask.store.storage import Storage
from zml_dask.store.summary import RECORD_COLUMNS, add_up, summarise
from zml_dask.store.tables import (
    digest_of,
    records_table,
    write_manifest,
    write_part,
)

FILES_PER_RECORD = 130
IMAGES_PER_FILE = 5.4
FIRST_RECORD = 1_000_000
# Language, extension, and how many of 92 files.
LANGUAGES = (
    ("Python", "py", 18), ("C", "c", 8), ("C++", "cpp", 9), ("JavaScript", "js", 10), ("R", "R", 5),
    ("Java", "java", 8), ("Markdown", "md", 6), ("JSON", "json", 6), ("Text", "txt", 5),
    ("HTML", "html", 5), ("MATLAB", "m", 4), ("Jupyter Notebook", "ipynb", 2), ("Shell", "sh", 3),
    ("Fortran", "f90", 1), ("Julia", "jl", 1), ("YAML", "yml", 3), ("XML", "xml", 2),
    ("CSV", "csv", 2), (None, "bin", 2),
)  # fmt: skip
LICENSES = ("mit", "apache-2.0", None, "gpl-3.0-or-later", "bsd-3-clause", "cc-by-4.0")
STEMS = ("data", "model", "core", "test", "util", "io", "plot", "fit", "run", "solve", "mesh",
         "grid", "node", "graph", "map")  # fmt: skip
WORDS = np.array([f"{stem}{number}" for stem in STEMS for number in range(60)])
SHAPE = ImageShape()
INFO = DatasetInfo(arrays=image_arrays(SHAPE, level=1))
"""The level that is written fastest."""
NEAR_COPIES = 0.3
CHANGED = 0.03
"""Lines of a near-copy that differ."""
LINES = 2**16
LINES_OF_A_FILE = 60
"""What a file repeats; three lines of ten are others."""


def hexes(random: np.random.Generator, count: int, size: int) -> pa.StringArray:
    """Return hashes of `size` bytes, as hex."""
    text = random.bytes(size * count).hex().encode()
    stops = np.arange(0, 2 * size * count + 1, 2 * size, dtype=np.int32)
    return pa.StringArray.from_buffers(count, pa.py_buffer(stops), pa.py_buffer(text))


class Texts:
    """The texts of some shards: how long they are, and their images."""

    def __init__(self, shards: int) -> None:
        drawn = [self._lengths(shard) for shard in range(shards)]
        self.shards = shards
        self.chosen, self.images, self.lines, self._source = (
            np.concatenate(columns) for columns in zip(*drawn, strict=True)
        )
        self._stops = np.cumsum([len(images) for _, images, *_ in drawn])
        random = np.random.default_rng(1)
        words = WORDS[random.integers(0, len(WORDS), (LINES, 5))]
        indent = np.array([" " * 4 * depth for depth in range(4)])[random.integers(0, 4, LINES)]
        forms = ("{} = {}({}, {})", "if {}.{} == {}:", "for {} in {}({}):", "return {} + {} * {}",
                 "{}.{}({}, {}=[{}, 1])", "# {} {} {} {} {}", "")  # fmt: skip
        chosen = random.integers(0, len(forms), LINES)
        text = "\n".join(
            before + forms[form].format(*several)
            for before, form, several in zip(indent, chosen, words.tolist(), strict=True)
        )
        self._pool = rasterize(text + "\n", SHAPE.width, SHAPE.height)[0].reshape(-1, SHAPE.width)
        self._pool[LINES - 1 :] = ord(" ")

    def _lengths(self, shard: int) -> tuple[NDArray[np.int64], ...]:
        """Draw languages, images and lines of files that fill a shard, and what they copy."""
        random, room = np.random.default_rng((1, shard)), INFO.array("images").shard
        weights = np.array([weight for *_, weight in LANGUAGES], float)
        chosen = random.choice(len(LANGUAGES), room, p=weights / weights.sum())
        images = np.minimum(random.geometric(1 / IMAGES_PER_FILE, room), 40).astype(np.int64)
        images[chosen == len(LANGUAGES) - 1] = 0
        lines = images * SHAPE.height - random.integers(0, SHAPE.height - 1, room) * (images > 0)
        source = np.arange(room)
        copies = np.flatnonzero(random.random(room) < NEAR_COPIES)[1:]
        for copy, back in zip(copies, random.integers(1, 20, copies.size), strict=True):
            source[copy] = source[max(copy - back, 0)]
        images, lines = images[source], lines[source]
        chosen = chosen[source]
        count = int(np.searchsorted(np.cumsum(images), room)) + 1
        images[count - 1] -= images[:count].sum() - room
        lines[count - 1] = images[count - 1] * SHAPE.height
        source[count - 1] = count - 1
        return chosen[:count], images[:count], lines[:count], source[:count]

    def of(self, files: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """Return languages, images and lines of some files."""
        row = files % len(self.images)
        return self.chosen[row], self.images[row], self.lines[row]

    def shard(self, shard: int) -> bytes:
        """Write a shard's lines, each file's among those that it repeats."""
        random, spec = np.random.default_rng((2, shard)), INFO.array("images")
        several = slice(self._stops[shard - 1] if shard else 0, self._stops[shard])
        images, lines, source = self.images[several], self.lines[several], self._source[several]
        builder = ShardBuilder(spec, (SHAPE.height, SHAPE.width))
        written: dict[int, NDArray[np.int64]] = {}
        for file in range(len(images)):
            rows = images[file] * SHAPE.height
            number = random.integers(0, LINES - 1, rows)
            if source[file] == file:
                own = random.integers(0, LINES - 1, LINES_OF_A_FILE)
                repeated = random.random(rows) < 0.7
                number[repeated] = own[random.integers(0, own.size, repeated.sum())]
            else:
                kept = random.random(rows) >= CHANGED
                number[kept] = written[source[file]][kept]
            number[lines[file] :] = LINES - 1
            written[file] = number
            builder.extend(self._pool[number].reshape(-1, SHAPE.height, SHAPE.width))
        return builder.finish()


def files_of(
    random: np.random.Generator, texts: Texts, first_record: int, records: int,
    first_file: int, first_image: int,
) -> pa.Table:  # fmt: skip
    """Make the rows of the files of some records."""
    n = records * FILES_PER_RECORD
    chosen, images, lines = texts.of(np.arange(first_file, first_file + n))
    folder, inner, stem = (WORDS[random.integers(0, len(WORDS), n)] for _ in range(3))
    extension = np.array([extension for _, extension, _ in LANGUAGES])[chosen]
    name = np.char.add(np.char.add(stem, "."), extension)
    slash = np.char.add(np.char.add(folder, "/"), np.char.add(inner, "/"))
    languages = [language for language, *_ in LANGUAGES]
    ids = np.repeat(np.arange(first_record, first_record + records), FILES_PER_RECORD)
    columns = {
        "file_id": np.arange(first_file, first_file + n),
        "record_id": ids + FIRST_RECORD,
        "path": np.char.add(slash, name),
        "name": name,
        "extension": extension,
        "language": pa.array(languages).take(pa.array(chosen)),
        "language_group": pa.array(map(language_group, languages)).take(pa.array(chosen)),
        "kind": pa.repeat("programming", n),
        "size": lines * 30,
        "sha256": hexes(random, n, 32),
        "sha1_git": hexes(random, n, 20),
        "text_sha256": hexes(random, n, 32),
        "encoding": pa.repeat("utf-8", n),
        "status": pa.array(["ok", "binary"]).take(pa.array((images == 0).astype(int))),
        "n_lines": lines,
        "n_cut": np.zeros(n, np.int32),
        "first_image": first_image + np.cumsum(images) - images,
        "n_images": images,
    }
    arrays = [
        pa.array(columns[field.name]).cast(field.type)
        if field.name in columns
        else pa.nulls(n, field.type)
        for field in FILES_SCHEMA
    ]
    return pa.table(arrays, FILES_SCHEMA)


def records_of(first: int, images: NDArray[np.int64]) -> pa.Table:
    """Make the rows of some records, whose metadata takes 3 kB each, 1 kB compressed."""
    random = np.random.default_rng((3, first))
    words = random.integers(0, len(WORDS), (len(images), 500))
    return records_table(
        {
            "record_id": i + FIRST_RECORD,
            "concept_id": i // 2,
            "doi": f"10.5281/zenodo.{i + FIRST_RECORD}",
            "title": f"record number {i} of something",
            "license": LICENSES[i % len(LICENSES)],
            "licenses": spdx_ids(LICENSES[i % len(LICENSES)]),
            "keywords": ["science", f"k{i % 997}"],
            "creators": [f"Name, {i % 5000}"],
            "repository": f"https://github.com/o{i % 9999}/r{i}",
            "publication_date": f"{2013 + i % 13}-0{1 + i % 9}-11",
            "n_files": FILES_PER_RECORD,
            "n_images": count,
            "metadata": f'{{"description": "{" ".join(WORDS[described])}", "id": {i}}}',
        }
        for i, count, described in zip(
            range(first, first + len(images)), images.tolist(), words, strict=True
        )
    )


class Arrays:
    """Writes the index arrays as their rows come, and links shards of images."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.objects: list[WrittenObject] = []
        self._builders = {spec.name: ShardBuilder(spec) for spec in INFO.arrays[1:]}
        self._shards = dict.fromkeys(self._builders, 0)

    def extend(self, files: pa.Table) -> None:
        columns = index_columns(
            *(
                files[name].to_numpy().astype(np.int64)
                for name in ("record_id", "file_id", "n_images", "n_lines")
            ),
            SHAPE.height,
        )
        for name, rows in columns.items():
            size = INFO.array(name).shard
            while len(rows):
                taken = size - self._builders[name].rows
                self._builders[name].extend(rows[:taken])
                rows = rows[taken:]
                if self._builders[name].rows == size:
                    self._end(name)

    def _end(self, name: str) -> None:
        spec, builder = INFO.array(name), self._builders[name]
        rows = builder.rows
        if rows:
            data = builder.finish()
            path = shard_path(name, self._shards[name], 1)
            self.storage.write(path, data, durable=False)
            self.objects.append(described(path, data, name, rows))
        self._builders[name] = ShardBuilder(spec)
        self._shards[name] += 1

    def finish(self, images: int, texts: Texts) -> None:
        for name in self._builders:
            self._end(name)
        spec = INFO.array("images")
        drawn: list[WrittenObject] = []
        for shard in range(-(-images // spec.shard)):
            path = shard_path("images", shard, 3)
            rows = min(spec.shard, images - shard * spec.shard)
            if shard < texts.shards:
                data = texts.shard(shard)
                self.storage.write(path, data, durable=False)
                drawn.append(described(path, data, "images", spec.shard))
            source = drawn[shard % texts.shards]
            if shard >= texts.shards and not self._is_linked(source.path, path):
                self.storage.write(path, self.storage.read(source.path), durable=False)
                drawn[shard % texts.shards] = replace(source, path=path)
            self.objects.append(
                replace(source, path=path)
                if rows == spec.shard
                else described(path, self.storage.read(path), "images", rows)
            )

    def _is_linked(self, source: str, path: str) -> bool:
        """Link a shard; False where the file system allows no more links to it."""
        target = Path(self.storage.url, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(Path(self.storage.url, source), target)
        except OSError:
            return False
        return True


def described(path: str, data: bytes, name: str, rows: int) -> WrittenObject:
    """Describe a shard as a commit does."""
    spec = INFO.array(name)
    written = WrittenObject(path, len(data), hashlib.sha256(data).hexdigest(), rows)
    if rows == spec.shard:
        return written
    reader = ShardReader(spec, row_shape(spec, SHAPE), data)
    digests = (rows_digest(reader, spec, rows, last_chunk=last) for last in (False, True))
    return WrittenObject(path, written.size, written.sha256, rows, *digests)


def main(folder: str, records: int, shards: int = 16) -> None:
    """Write the dataset, piece by piece."""
    storage, random, started = Storage.open(folder), np.random.default_rng(1), time.time()
    if storage.exists(DATASET_JSON):
        sys.exit(f"{folder} holds a dataset already; remove it or choose another folder")
    tables: dict[str, list[Part]] = {
        name: [] for name in ("files", "files_by_language", "records", "failures", "withdrawn")
    }
    arrays, texts = Arrays(storage), Texts(shards)
    summaries: list[pa.Table] = []
    waiting: list[pa.Table] = []
    images_of: list[NDArray[np.int64]] = []
    n_files = n_images = 0

    def write_sorted() -> None:
        joined = pa.concat_tables(waiting).unify_dictionaries().combine_chunks()
        number = len(tables["files_by_language"])
        part = write_part(storage, "files_by_language", number, in_language_order(joined))
        tables["files_by_language"].append(part)
        waiting.clear()

    def write_records(least: int) -> None:
        """Write parts of the records table as long as there are so many rows."""
        gathered = np.concatenate([np.empty(0, np.int64), *images_of])
        while gathered.size >= max(least, 1):
            done = sum(part.rows for part in tables["records"])
            rows = records_of(done, gathered[:RECORDS_PER_PART])
            part = write_part(storage, "records", len(tables["records"]), [rows])
            tables["records"].append(part)
            gathered = gathered[RECORDS_PER_PART:]
        images_of[:] = [gathered]

    piece = FILES_PER_PART // FILES_PER_RECORD
    for first in range(0, records, piece):
        count = min(piece, records - first)
        files = files_of(random, texts, first, count, n_files, n_images)
        tables["files"].append(write_part(storage, "files", len(tables["files"]), [files]))
        arrays.extend(files)
        columns = files.select(FILES_BY_LANGUAGE_SCHEMA.names)
        encoded = [
            column.dictionary_encode() if pa.types.is_string(column.type) else column
            for column in columns.columns
        ]
        if sum(map(len, waiting)) + len(files) > FILES_PER_SORTED_PART:
            write_sorted()
        waiting.append(pa.table(encoded, names=columns.schema.names))
        own = files["n_images"].to_numpy().reshape(count, FILES_PER_RECORD).sum(1).astype(np.int64)
        summaries.append(summarise(columns, records_of(first, own).select(RECORD_COLUMNS)))
        images_of.append(own)
        write_records(RECORDS_PER_PART)
        n_files += len(files)
        n_images += int(own.sum())
        print(
            f"{first + count:,} of {records:,} records, {time.time() - started:.0f} s", flush=True
        )
    write_sorted()
    write_records(1)
    arrays.finish(n_images, texts)
    summary = write_part(storage, "summary", 0, [add_up(summaries)])
    for path, data in zarr_objects(INFO.arrays, INFO.shape, n_images):
        storage.write(path, data)
        arrays.objects.append(WrittenObject(path, len(data), digest_of(data)))
    counts = Counts(n_images, n_files, records, 0)
    info = DatasetInfo(
        counts=counts,
        tables={name: tuple(parts) for name, parts in tables.items()} | {"summary": (summary,)},
        manifest=(write_manifest(storage, 0, arrays.objects),),
        boundary_shards=tuple(shard for shard in arrays.objects if shard.last_rows_sha256),
        commits=(counts,),
        next_part={name: len(parts) for name, parts in tables.items() if parts}
        | {"summary": 1, "manifest": 1},
    )
    storage.write(DATASET_JSON, info.to_bytes())
    print(
        f"{records:,} records, {n_files:,} files, {n_images:,} images "
        f"in {time.time() - started:.0f} s"
    )


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))

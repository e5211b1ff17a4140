"""Files that are nearly the same: signatures of their texts, and clusters of these.

Two texts are near-duplicates where the sets of their runs of five words have a Jaccard index of
at least 0.7. It is estimated by MinHash signatures of 128 numbers from one permutation: the
share of equal numbers in two signatures is about the index. Files whose signatures agree in four
neighbouring numbers anywhere are compared, and near-duplicates are joined, so that a cluster may
be a chain.

Signatures are a derived table like others, so that an update computes only those of new files.
The clusters are computed again as a whole, on the driver: 13 million signatures take 3.3 GB, in a
temporary file.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zml_dask.compiled import compiled
from zml_dask.derived.compute import Recipe, Whole, in_blocks
from zml_dask.engine.progress import BuildProgress, ProgressCounts, SilentProgress
from zml_dask.engine.temporary import temporary_folder
from zml_dask.learning.words import MULTIPLIER, ONE, mixed, pages_of
from zml_dask.query.counting import NEAR_DUPLICATES as NAME
from zml_dask.raster.images import Images
from zml_dask.store.layout import derived_table
from zml_dask.store.snapshot import Snapshot

UInt16 = NDArray[np.uint16]
Int64 = NDArray[np.int64]

BINS: Final = 128
"""Numbers of a signature; the top bits of a hash select one of them."""
SHINGLE: Final = 5
"""Consecutive words that are one element of a text's set."""
_ACCEPTED: Final = 0.66
"""Share of equal numbers from which two files are joined. An estimate of 0.7 has a standard error
of 0.04, so a limit of 0.7 would miss half of the pairs at that overlap."""
_ROWS_PER_BAND: Final = 4
"""One 64-bit number; at an overlap of 0.7 all but 2 in 10,000 pairs agree in one of 32 bands."""
_MOST_LEADERS: Final = 64
"""Different files of a bucket that the next one is compared with, at most."""

SIGNATURES: Final = "signatures"

TO_BIN: Final = np.uint64(57)
EMPTY: Final = np.uint64(0xFFFFFFFFFFFFFFFF)
_LOW = np.uint64(0xFFFF)
_ZERO = np.uint64(0)

_IS_WORD = np.array([chr(code).isalnum() or chr(code) == "_" for code in range(128)])


@compiled
def fill_empty(least: NDArray[np.uint64], signature: UInt16) -> None:  # pragma: no cover - compiled
    """Write the signature for the least hash of each bin; at least one bin is not empty."""
    for place in range(BINS):
        # An empty bin takes the number of a pseudo-random one, the same in every file.
        source = np.uint64(place)
        attempt = _ZERO
        while least[source] == EMPTY:
            attempt += ONE
            source = mixed(np.uint64(place) * MULTIPLIER + attempt) >> TO_BIN
        signature[place] = np.uint16(least[source] & _LOW)


@compiled
def sign(
    images: Images, is_word: NDArray[np.bool_], signature: UInt16
) -> int:  # pragma: no cover - compiled
    """Write the signature of a file's images, and return the number of its runs of words.

    Without any, nothing is written.
    """
    least = np.full(BINS, EMPTY, np.uint64)
    words = np.zeros(SHINGLE, np.uint64)
    n_words = 0
    pages, height, width = images.shape
    for page in range(pages):
        for row in range(height):
            line = images[page, row]
            column = 0
            while column < width:
                point = line[column]
                column += 1
                if point < 128 and not is_word[point]:
                    continue
                word = (np.uint64(point) + ONE) * MULTIPLIER
                while column < width:
                    point = line[column]
                    column += 1
                    if point < 128 and not is_word[point]:
                        break
                    word = (word + np.uint64(point) + ONE) * MULTIPLIER
                words[n_words % SHINGLE] = mixed(word)
                n_words += 1
                if n_words >= SHINGLE:
                    run = _ZERO
                    for k in range(SHINGLE):
                        run = (run + words[(n_words + k) % SHINGLE]) * MULTIPLIER
                    run = mixed(run)
                    own = run >> TO_BIN
                    if run < least[own]:
                        least[own] = run
    if n_words < SHINGLE:
        return 0
    fill_empty(least, signature)
    return n_words - SHINGLE + 1


def signature_of(images: Images | str) -> bytes | None:
    """Return the signature of a file's images, or of a text: 128 numbers of 16 bits.

    None where it has under five words.

    Examples
    --------
    >>> one = signature_of("to be or not to be, that is the question")
    >>> len(one), signature_of("to be or not")
    (256, None)
    """
    signature = np.empty(BINS, np.uint16)
    if not sign(pages_of(images), _IS_WORD, signature):
        return None
    return signature.astype("<u2", copy=False).tobytes()


@compiled
def _root(parent: Int64, node: int) -> int:  # pragma: no cover - compiled
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@compiled
def _join_buckets(
    signatures: UInt16, keys: NDArray[np.uint64], order: Int64, parent: Int64, needed: int
) -> None:  # pragma: no cover - compiled
    """Join near-duplicates among rows with equal keys, which are neighbours in `order`."""
    leaders = np.empty(_MOST_LEADERS, np.int64)
    start = 0
    while start < order.size:
        stop = start + 1
        while stop < order.size and keys[order[stop]] == keys[order[start]]:
            stop += 1
        n_leaders = 0
        for position in range(start, stop):
            node = order[position]
            root = _root(parent, node)
            known = False
            for k in range(n_leaders):
                other = _root(parent, leaders[k])
                if other != root:
                    equal = 0
                    for place in range(BINS):
                        equal += signatures[node, place] == signatures[leaders[k], place]
                    if equal < needed:
                        continue
                    # A cluster is named by its smallest file number.
                    parent[max(root, other)] = min(root, other)
                    root = min(root, other)
                known = True
            if not known and n_leaders < _MOST_LEADERS:
                leaders[n_leaders] = node
                n_leaders += 1
        start = stop


def cluster(signatures: UInt16, progress: BuildProgress | None = None) -> Int64:
    """Return the smallest row of each row's cluster, (n,), for signatures of shape (n, 128)."""
    n = len(signatures)
    parent = np.arange(n, dtype=np.int64)
    bands = signatures.view(np.uint64)
    needed = int(np.ceil(_ACCEPTED * BINS))
    progress = progress or SilentProgress()
    n_bands = BINS // _ROWS_PER_BAND
    for band in range(n_bands):
        progress.update("bands", ProgressCounts(band, n_bands))
        keys = np.ascontiguousarray(bands[:, band])
        order = np.argsort(keys, kind="stable")
        _join_buckets(signatures, keys, order, parent, needed)
    while (above := parent[parent] != parent).any():
        parent[above] = parent[parent[above]]
    return parent


def _clusters(snapshot: Snapshot, progress: BuildProgress) -> list[pa.Array]:
    """Return each file's cluster, null for none, and the cluster's size."""
    progress.say(f"finding the clusters of {snapshot.info.counts.files:,} files")
    total = snapshot.rows(derived_table(SIGNATURES))
    file_id: list[Int64] = []
    with temporary_folder("signatures") as scratch:
        path = scratch / "signatures"
        with path.open("wb") as target:
            for rows, found in in_blocks(snapshot, derived_table(SIGNATURES), ["minhash"]):
                signed = found["minhash"].is_valid().to_numpy()
                file_id.append(rows[signed])
                for chunk in found["minhash"].drop_null().chunks:
                    target.write(b"".join(chunk.to_pylist()))
        files = np.concatenate([np.empty(0, np.int64), *file_id])
        signatures = np.empty((0, BINS), np.uint16)
        if files.size:
            signatures = np.asarray(np.memmap(path, "<u2", "r", shape=(files.size, BINS)))
        roots = cluster(signatures, progress)
        del signatures
    clusters = np.full(total, -1, np.int64)
    clusters[files] = files[roots]
    sizes = np.bincount(roots, minlength=roots.size)[roots].astype(np.int32)
    size = np.zeros(total, np.int32)
    size[files] = sizes
    missing = clusters < 0
    return [pa.array(clusters, mask=missing), pa.array(size, mask=missing)]


SIGNED: Final = Recipe.of(SIGNATURES, signature_of, {"minhash": "binary"})
CLUSTERS: Final = Whole(
    NAME,
    SIGNED,
    (("cluster", "int64"), ("size", "int32")),
    _clusters,
    "files",
    f"2 {BINS} {SHINGLE} {_ACCEPTED} {_ROWS_PER_BAND} {_MOST_LEADERS}",
)
"""``cluster``, the smallest file number of a file's cluster, and ``size``, its number of files;
null for a file with fewer than five words."""

"""Which records go together in one task, and which go first."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np

from zml_dask.pipeline.options import BuildOptions
from zml_dask.pipeline.partition import Partition
from zml_dask.records.refs import RefTable

_SHARES = 16
"""Partitions a worker gets at least, where there are enough records. An archive's size says
little of its source: with four, one partition may hold two fifths of all the work."""


def plan_partitions(
    refs: RefTable, options: BuildOptions, *, workers: int, attempts: Mapping[int, int]
) -> list[Partition]:
    """Cut records into partitions, the largest archives first.

    Parameters
    ----------
    refs : RefTable
        What is to be built.
    options : BuildOptions
        Whose `partition_records` and `partition_bytes` bound a partition.
    workers : int
        How many there are, for an even share of a few records.
    attempts : mapping of int to int
        How often records failed before.

    Returns
    -------
    list of Partition
        A large archive is alone in its partition; those that begin the list are
        to be started first, so that no worker is left alone with one at the end.

    Examples
    --------
    >>> from zml_dask.records.refs import RecordRef
    >>> refs = RefTable.of(RecordRef(i, 0, 0, size) for i, size in enumerate([5, 900, 7], 1))
    >>> plan = plan_partitions(refs, BuildOptions(partition_bytes=100), workers=1, attempts={})
    >>> [[ref.record_id for ref in partition.refs] for partition in plan]
    [[2], [3], [1]]
    """
    most = min(options.partition_records, max(1, -(-len(refs) // (_SHARES * max(1, workers)))))
    return [
        make_partition(refs.take(group), attempts)
        for group in _groups(refs, most, options.partition_bytes)
    ]


def make_partition(refs: RefTable, attempts: Mapping[int, int]) -> Partition:
    """Name a partition after its records, so that packing it twice gives one pack."""
    digest = hashlib.sha256(refs.record_ids.tobytes()).hexdigest()[:16]
    known = {ref.record_id: attempts[ref.record_id] for ref in refs if ref.record_id in attempts}
    return Partition(f"{refs[0].record_id}-{digest}", refs, known)


def _groups(refs: RefTable, most: int, most_bytes: int) -> Iterator[list[int]]:
    """Yield positions in `refs`, largest archives first, in groups within both bounds."""
    sizes = refs.archive_bytes
    # Stable, by falling size: equal catalogues give equal partitions.
    order = np.argsort(-sizes, kind="stable")
    group: list[int] = []
    held = 0
    for position in order.tolist():
        size = int(sizes[position])
        if group and (len(group) >= most or held + size > most_bytes):
            yield group
            group, held = [], 0
        group.append(position)
        held += size
    if group:
        yield group

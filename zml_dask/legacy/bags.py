"""Dask bags over records, their results taken partition by partition."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

import dask.bag as db

Item = TypeVar("Item")

Compute: TypeAlias = Callable[[Any], Iterable[list[Any]]]
"""Computes a Dask bag and gives the results of its partitions, in any order, as they
come: what chooses between this process, several, and a cluster."""


def default_compute(bag: Any) -> Iterator[list[Any]]:
    """Compute with the scheduler that is set, all partitions at once."""
    yield bag.compute()


def in_this_process(bag: Any) -> Iterator[list[Any]]:
    """Compute one partition after the other, here."""
    for partition in bag.to_delayed():
        yield list(partition.compute(scheduler="synchronous"))


def map_partitions(
    task: Callable[[Any], list[Any]], items: Sequence[Any], partition_size: int, compute: Compute
) -> Iterator[list[Any]]:
    """Run a task over partitions of a sequence, as a bag; yield what it gives for each.

    The size of the partitions is chosen on purpose: Dask's default caps their
    number at about a hundred, however long the sequence.

    Parameters
    ----------
    task : callable
        Given a partition; returns what it came to.
    items : sequence
    partition_size : int
        Items a partition.
    compute : Compute
        Computes a bag, and yields its partitions as they come.

    Examples
    --------
    >>> list(map_partitions(lambda part: [sum(part)], [1, 2, 3], 2, in_this_process))
    [[3], [3]]
    """
    if not items:
        return
    bag: Any = db
    yield from compute(bag.from_sequence(items, partition_size=partition_size).map_partitions(task))


def dealt(items: Sequence[Item], partition_size: int) -> list[Item]:
    """Order sorted items so that every partition gets some from the front, as cards are dealt.

    Examples
    --------
    >>> dealt([9, 8, 7, 3, 2, 1], 2)  # partitions (9, 3), (8, 2), (7, 1)
    [9, 3, 8, 2, 7, 1]
    """
    n = -(-len(items) // partition_size)
    return [item for first in range(n) for item in items[first::n]]

"""Dask bags over records, computed some partitions at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeAlias, TypeVar

import dask.bag as db

Item = TypeVar("Item")

Compute: TypeAlias = Callable[[Any], list[Any]]
"""Computes a Dask bag: what chooses between this process, several, and a cluster."""


def default_compute(bag: Any) -> list[Any]:
    """Compute with the scheduler that is set: a cluster's, where a client is connected."""
    done: list[Any] = bag.compute()
    return done


def in_this_process(bag: Any) -> list[Any]:
    """Compute one partition after the other, here."""
    done: list[Any] = bag.compute(scheduler="synchronous")
    return done


def map_partitions(
    task: Callable[[Any], list[Any]], items: Sequence[Any], partition_size: int, compute: Compute
) -> list[Any]:
    """Run a task over partitions of a sequence, as a bag; return what it gives, concatenated.

    The size of the partitions is chosen on purpose: Dask's default caps their
    number at about a hundred, however long the sequence.

    Examples
    --------
    >>> map_partitions(lambda part: [sum(part)], [1, 2, 3], 2, in_this_process)
    [3, 3]
    """
    bag: Any = db
    return compute(bag.from_sequence(items, partition_size=partition_size).map_partitions(task))


def rounds(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    """Divide a sequence, so that progress is told between the parts.

    Examples
    --------
    >>> list(rounds([1, 2, 3], 2))
    [[1, 2], [3]]
    """
    waiting = iter(items)
    while part := list(islice(waiting, size)):
        yield part

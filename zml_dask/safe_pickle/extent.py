"""How much there is to what a pickle holds, were it written out."""

from __future__ import annotations

from typing import Any

_VALUE = 16
"""What a value takes beside its letters, in the same measure; roughly."""


def within(value: Any, limit: int) -> bool:
    """Tell whether plain data would stay within a limit if it were written out as JSON, say.

    A pickle names what it holds twice at hardly a cost. A few hundred bytes of
    lists that hold the next list twice come to more than any memory, and to no
    end at all where one holds itself.

    Parameters
    ----------
    value : object
    limit : int
        Bytes, roughly: the letters of texts, and 16 for each value.

    Examples
    --------
    >>> shared = ["x" * 10] * 10
    >>> within([shared] * 10, 10_000), within([shared] * 100, 10_000)
    (True, False)
    """
    spent = _VALUE
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            spent += 2 * _VALUE * len(item)
        elif isinstance(item, list | tuple | set | frozenset):
            spent += _VALUE * len(item)
        elif isinstance(item, str | bytes | bytearray):
            spent += len(item)
        if spent > limit:
            return False
        if isinstance(item, dict):
            waiting += item.keys()
            waiting += item.values()
        elif isinstance(item, list | tuple | set | frozenset):
            waiting += item
    return True

"""What a search that found nothing may have meant: the nearest values that there are."""

from __future__ import annotations

import ast
import difflib
from typing import Final

from zml_dask.query.counting import count_by
from zml_dask.query.expression import parse
from zml_dask.query.view import View

_NAMED: Final = frozenset(
    {"language", "kind", "license", "extension", "encoding", "status", "origin"}
)
"""Columns of few values, which a person writes from memory."""


def suggest(view: View, expression: str) -> str | None:
    """Name the values nearest to the first that no file of a view has.

    Parameters
    ----------
    view : View
    expression : str
        One that nothing in it matches, as of `View.select`.

    Returns
    -------
    str or None
        A line; None where every value that is asked for is there.
    """
    for condition in parse(expression):
        match condition.node:
            case ast.Compare(
                left=ast.Name(id=name), ops=[ast.Eq()], comparators=[ast.Constant(value=str(text))]
            ) if name in _NAMED:
                counts = count_by(view.snapshot, view.selection, [name])
                known = [value for value in counts.index if isinstance(value, str)]
                if text not in known:
                    return f"no file has {name} {text!r}{_nearest(text, known)}"
    return None


def _nearest(text: str, known: list[str]) -> str:
    by_folded = {value.casefold(): value for value in reversed(known)}
    near = difflib.get_close_matches(text.casefold(), by_folded, n=3)
    choices = " or ".join(repr(by_folded[folded]) for folded in near)
    return f"; did you mean {choices}?" if near else ""

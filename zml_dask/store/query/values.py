"""What stands in an expression: values that may be missing, tests of lists, and refusals."""

from __future__ import annotations

import ast
import operator
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from zml_dask.errors import UsageError
from zml_dask.store.query.columns import Column

_MAX_SHOWN = 200

Kind = Literal["text", "number", "list", "none"]


class ExpressionError(UsageError):
    """An expression cannot be read."""


@dataclass(frozen=True, slots=True)
class ListTest:
    """Whether any item of a list equals (``in``) or matches (``contains``) a text."""

    column: Column
    test: Literal["in", "contains"]
    text: str

    @property
    def key(self) -> str:
        """Name of the column that holds its answers."""
        return f"{self.column.key} {self.test} {self.text!r}"

    def answers(self, lists: pa.ChunkedArray) -> pa.Array:
        """Ask it of every list; bool, false for a missing list."""
        column = lists.combine_chunks()
        items = pc.list_flatten(column)
        if self.test == "in":
            found = pc.equal(items, self.text)
        else:
            found = pc.match_substring_regex(items, self.text)
        parents = pc.list_parent_indices(column).filter(found)
        return pc.is_in(pa.array(range(len(column)), pa.int64()), value_set=parents)


@dataclass(frozen=True, slots=True)
class Value:
    """What stands on a side of a comparison.

    `valid` says where it is not missing, None for everywhere; `constant` is the
    value itself where it was written out.
    """

    expression: pc.Expression
    kind: Kind
    valid: pc.Expression | None = None
    constant: Any = None
    column: Column | None = None


def where_valid(condition: pc.Expression, *values: Value) -> pc.Expression:
    """Make a condition false where one of the values it is about is missing.

    As a conjunction and not by `coalesce`, which no row group's statistics see through.
    """
    return reduce(operator.and_, (v.valid for v in values if v.valid is not None), condition)


def valid(value: Value) -> pc.Expression:
    """Where a value is not missing."""
    if value.valid is not None:
        return value.valid
    return pc.scalar(value.kind != "none")


def text_of(node: ast.expr) -> str:
    """Text that was written out; anything else is refused."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise refusal(node, "should be text in quotes")


def number_of(node: ast.expr) -> int | float:
    """Number that was written out, with its sign; anything else is refused."""
    if isinstance(node, ast.UnaryOp):
        number = number_of(node.operand)
        return -number if isinstance(node.op, ast.USub) else number
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        if isinstance(node.value, int) and abs(node.value) >= 2**63:
            raise refusal(node, "is a larger number than any column holds")
        return node.value
    raise refusal(node, "is not a number")


def quoted(text: str) -> str:
    """Regular expression that matches a text and nothing else."""
    return "".join(rf"\x{{{ord(char):x}}}" for char in text)


def ensure_text(node: ast.expr, value: Value) -> None:
    """Refuse what is not text."""
    if value.kind != "text":
        raise refusal(node, "is not text")


def ensure_comparable(left: ast.expr, one: Value, right: ast.expr, other: Value) -> None:
    """Refuse to compare text with a number, or a list with anything.

    Parameters
    ----------
    left, right : ast.expr
        The sides, as they are named in the message.
    one, other : Value
        What they stand for.

    Raises
    ------
    ExpressionError
    """
    if "list" in (one.kind, other.kind):
        raise refusal(
            left if one.kind == "list" else right, "holds lists; write \"'word' in column\""
        )
    if one.kind == other.kind:
        return
    column, literal = (left, right) if one.column is not None else (right, left)
    kind = one.kind if one.column is not None else other.kind
    raise refusal(
        literal,
        f"does not go with {spell(column)}, which is {'text' if kind == 'text' else 'a number'}",
    )


def spell(node: ast.expr) -> str:
    """Write a part of an expression as a user would, in quotes."""
    text = ast.unparse(node).replace(" @ ~", " !~ ").replace(" @ ", " =~ ")
    return repr(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}...")


def refusal(node: ast.expr, why: str) -> ExpressionError:
    """Make the error that says why a part of an expression cannot be."""
    return ExpressionError(f"{spell(node)} {why}")

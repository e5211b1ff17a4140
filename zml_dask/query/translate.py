"""Python's syntax trees of expressions into Arrow's compute expressions."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from zml_dask.query.columns import Column, UnknownColumnError, find_column
from zml_dask.query.values import (
    ExpressionError,
    Kind,
    ListTest,
    Value,
    as_float,
    ensure_comparable,
    ensure_text,
    number_of,
    quoted,
    refusal,
    text_of,
    valid,
    where_valid,
)

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: pc.divide,  # a file without lines has an infinite ratio; that is no error
}
_CASES = {"lower": pc.utf8_lower, "upper": pc.utf8_upper}
_OPTIONS = {
    "contains": ("case", "regex"),
    **dict.fromkeys(("startswith", "endswith", "match", "fullmatch"), ()),
    **dict.fromkeys(("isin", "isna", "isnull", "notna", "notnull", "len", *_CASES), ()),
}
"""Method -> what it may be given by name: true or false, and true where it is not given."""


class Translator:
    """Translates one condition; gathers which columns and tests of lists it needs.

    Parameters
    ----------
    name : callable
        Column -> what it is called in the table.
    """

    def __init__(self, name: Callable[[Column], str]) -> None:
        self._name = name
        self.columns: set[Column] = set()
        self.list_tests: set[ListTest] = set()

    def condition(self, node: ast.expr) -> pc.Expression:
        """Translate what is true or false, and never missing."""
        match node:
            case ast.BoolOp(op=ast.And(), values=values):
                return reduce(operator.and_, map(self.condition, values))
            case ast.BoolOp(op=ast.Or(), values=values):
                return reduce(operator.or_, map(self.condition, values))
            case ast.BinOp(left=left, op=ast.BitAnd(), right=right):
                return self.condition(left) & self.condition(right)
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return self.condition(left) | self.condition(right)
            case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=operand):
                return ~self.condition(operand)
            case ast.BinOp(left=left, op=ast.MatMult(), right=right):
                return self._matches(left, right)
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                sides = [left, *comparators]
                return reduce(operator.and_, map(self._compare, ops, sides, comparators))
            case ast.Call():
                return self._call(node)
            case ast.Constant(value=bool(value)):
                return pc.scalar(value)
        raise refusal(node, "is not a condition; compare it with something")

    def _matches(self, left: ast.expr, right: ast.expr) -> pc.Expression:
        if isinstance(right, ast.UnaryOp) and isinstance(right.op, ast.Invert):
            return ~self._matches(left, right.operand)
        return self._search(left, text_of(right))

    def _compare(self, op: ast.cmpop, left: ast.expr, right: ast.expr) -> pc.Expression:
        if isinstance(op, (ast.In, ast.NotIn)):
            found = self._among(left, right)
            return found if isinstance(op, ast.In) else ~found
        one, other = self._value(left), self._value(right)
        if isinstance(op, (ast.Is, ast.IsNot, ast.Eq, ast.NotEq)) and "none" in (
            one.kind,
            other.kind,
        ):
            missing = ~valid(other if one.kind == "none" else one)
            return missing if isinstance(op, (ast.Is, ast.Eq)) else ~missing
        if isinstance(op, (ast.Is, ast.IsNot)):
            raise refusal(right, "cannot stand after 'is'; only None can")
        ensure_comparable(left, one, right, other)
        if one.fractional or other.fractional:
            one, other = as_float(one), as_float(other)
        compare = _COMPARISONS[type(op)]
        if isinstance(op, ast.NotEq):  # a missing value differs from every other
            return ~where_valid(one.expression == other.expression, one, other)
        return where_valid(compare(one.expression, other.expression), one, other)

    def _among(self, left: ast.expr, right: ast.expr) -> pc.Expression:
        if isinstance(right, (ast.List, ast.Tuple, ast.Set)):
            return self._is_one_of(left, right)
        if isinstance(right, ast.Constant):
            raise refusal(right, "can hold nothing; give a list: in ['a', 'b']")
        container = self._value(right)
        if container.kind == "list" and container.column is not None:
            return self._test(ListTest(container.column, "in", text_of(left)))
        if container.kind != "text":
            raise refusal(right, "can hold nothing; give a list or a column of text or of lists")
        return pc.match_substring(container.expression, text_of(left)) & valid(container)

    def _is_one_of(self, left: ast.expr, right: ast.List | ast.Tuple | ast.Set) -> pc.Expression:
        value = self._value(left)
        items = [self._value(item) for item in right.elts]
        for item, node in zip(items, right.elts, strict=True):
            if item.constant is None and item.kind != "none":
                raise refusal(node, "cannot stand in a list; only text and numbers can")
            if item.kind != "none":
                ensure_comparable(left, value, node, item)
        missing_too = any(item.kind == "none" for item in items)
        if not value.fractional:  # then it is none of the fractions
            items = [item for item in items if not item.fractional]
        constants = [item.constant for item in items if item.kind != "none"]
        found = pc.scalar(False)
        if constants:
            found = value.expression.isin(constants) & valid(value)
        return found | ~valid(value) if missing_too else found

    def _search(self, node: ast.expr, pattern: str, *, case: bool = True) -> pc.Expression:
        try:
            pc.match_substring_regex(pa.array([""]), pattern)
        except pa.ArrowInvalid as error:
            raise ExpressionError(
                f"cannot read the regular expression {pattern!r}: {error}; the syntax is RE2's"
            ) from error
        value = self._value(node)
        if value.kind == "list" and value.column is not None:
            return self._test(
                ListTest(value.column, "contains", pattern if case else f"(?i){pattern}")
            )
        ensure_text(node, value)
        return pc.match_substring_regex(value.expression, pattern, ignore_case=not case) & valid(
            value
        )

    def _test(self, test: ListTest) -> pc.Expression:
        self.list_tests.add(test)
        return pc.field(test.key)

    def _call(self, node: ast.Call) -> pc.Expression:
        owner, method = _method(node)
        options = _options(node, method)
        match method, node.args:
            case "contains", [pattern]:
                text = text_of(pattern)
                searched = text if options.get("regex", True) else quoted(text)
                return self._search(owner, searched, case=options.get("case", True))
            case "match", [pattern]:
                return self._search(owner, rf"\A(?:{text_of(pattern)})")
            case "fullmatch", [pattern]:
                return self._search(owner, rf"\A(?:{text_of(pattern)})\z")
            case (("startswith" | "endswith"), [ast.Tuple(elts=texts)]):
                calls = [ast.Call(node.func, [text], []) for text in texts]
                return reduce(operator.or_, map(self._call, calls), pc.scalar(False))
            case (("startswith" | "endswith"), [text]):
                value = self._value(owner)
                ensure_text(owner, value)
                find = pc.starts_with if method == "startswith" else pc.ends_with
                return find(value.expression, text_of(text)) & valid(value)
            case "isin", [ast.List() | ast.Tuple() | ast.Set() as items]:
                return self._is_one_of(owner, items)
            case (("isna" | "isnull"), []):
                return ~valid(self._value(owner))
            case (("notna" | "notnull"), []):
                return valid(self._value(owner))
        raise refusal(
            node,
            "is no condition that is known; there are contains, startswith, endswith, match, "
            "fullmatch, isin, isna and notna, each of a column",
        )

    def _value(self, node: ast.expr) -> Value:
        match node:
            case ast.Constant(value=None):
                return Value(pc.scalar(None), "none")
            case ast.Constant(value=str(text)):
                return Value(pc.scalar(text), "text", constant=text)
            case ast.Constant(value=bool()):
                raise refusal(node, "is no value of any column; use text, a number or None")
            case ast.Constant(value=int() | float()) | ast.UnaryOp(op=ast.USub() | ast.UAdd()):
                number = number_of(node)
                fractional = isinstance(number, float)
                return Value(pc.scalar(number), "number", constant=number, fractional=fractional)
            case ast.Name(id=name):
                return self._column(_named(name))
            case ast.Attribute(value=ast.Name(id="files" | "records" | "images" as level)):
                return self._column(find_column(node.attr, level))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return self._calculate(_ARITHMETIC[type(op)], left, right)
            case ast.Call(func=ast.Name(id="len"), args=[argument], keywords=[]):
                return self._length(argument)
            case ast.Call():
                owner, method = _method(node)
                _options(node, method)
                if method == "len" and not node.args:
                    return self._length(owner)
                if method in _CASES and not node.args:
                    value = self._value(owner)
                    ensure_text(owner, value)
                    return Value(_CASES[method](value.expression), "text", value.valid)
        raise refusal(node, "cannot be compared; use a column, text, a number or None")

    def _column(self, column: Column) -> Value:
        self.columns.add(column)
        field = pc.field(self._name(column))
        if pa.types.is_list(column.type):
            return Value(field, "list", field.is_valid(), column=column)
        if pa.types.is_date(column.type):  # compared with text, in ISO's form
            return Value(field.cast("string"), "text", field.is_valid(), column=column)
        kind: Kind = "text" if pa.types.is_string(column.type) else "number"
        return Value(field, kind, field.is_valid(), column=column)

    def _calculate(
        self, calculate: Callable[[Any, Any], Any], left: ast.expr, right: ast.expr
    ) -> Value:
        one, other = self._value(left), self._value(right)
        for node, side in ((left, one), (right, other)):
            if side.kind != "number":
                raise refusal(node, "is not a number to calculate with")
        # As floating point: whole numbers would overflow, or divide to whole ones.
        result = calculate(as_float(one).expression, as_float(other).expression)
        return Value(result, "number", valid(one) & valid(other), fractional=True)

    def _length(self, node: ast.expr) -> Value:
        value = self._value(node)
        if value.kind == "list":
            return Value(pc.list_value_length(value.expression), "number", value.valid)
        ensure_text(node, value)
        return Value(pc.utf8_length(value.expression), "number", value.valid)


def _method(node: ast.Call) -> tuple[ast.expr, str]:
    """Return what a method is called of, without pandas' ``.str``, and its name."""
    if not isinstance(node.func, ast.Attribute):
        raise refusal(node, "calls a function; only methods of columns and len() are known")
    owner = node.func.value
    if isinstance(owner, ast.Attribute) and owner.attr == "str":
        owner = owner.value
    return owner, node.func.attr


def _options(node: ast.Call, method: str) -> dict[str, bool]:
    """Read what a method is given by name; what would not be heeded is refused."""
    options: dict[str, bool] = {}
    known = _OPTIONS.get(method, ())
    for word in node.keywords if method in _OPTIONS else ():
        if word.arg is None or word.arg not in known:
            has = f"has {' and '.join(known)}" if known else "has none"
            raise refusal(node, f"gives {method} an option {word.arg or '**'!r}; it {has}")
        match word.value:
            case ast.Constant(value=bool(value)):
                options[word.arg] = value
            case _:
                raise refusal(word.value, f"is no value of {word.arg}; write True or False")
    return options


def _named(name: str) -> Column:
    """Find the column of a bare name; the shell may have taken a text's quotes away."""
    if name.lower() in ("null", "nan", "none"):
        raise ExpressionError(f"{name!r} is written None here: 'license is None'")
    try:
        return find_column(name)
    except UnknownColumnError as error:
        if str(error).endswith("?"):
            raise
        raise UnknownColumnError(f"{error}; text is written in quotes") from None

"""Checks arithmetic that a model wrote: its syntax, and the size of its value."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Set

LONGEST = 4096
"""Most characters of an expression."""
MOST_BITS = 4096
"""Most bits of a value: of its numerator, of its denominator, and of each part on the way."""
FUNCTIONS = frozenset(
    {
        *("Abs", "Integral", "Rational", "erf", "exp", "ln", "log", "sqrt"),
        *("acos", "acosh", "acot", "asin", "asinh", "atan", "atanh"),
        *("cos", "cosh", "cot", "csc", "sec", "sin", "sinh", "tan", "tanh"),
    }
)
"""The functions of calculus, by their names in SymPy."""


class RefusedError(ValueError):
    """Text that is neither a literal nor arithmetic of a bearable size."""


def check_arithmetic(text: str, functions: Set[str] = FUNCTIONS) -> ast.expr:
    """Returns the syntax tree of an expression whose value is small enough to compute.

    functions  those that may be called; their values may have few more bits than their arguments

    Raises RefusedError or SyntaxError for anything else.
    """
    if len(text) > LONGEST:
        raise RefusedError(f"an expression of {len(text)} characters")
    check_exponents(text)
    try:
        body = ast.parse(text.strip(), mode="eval").body
        _count_bits(body, functions)
    except (RecursionError, MemoryError) as error:
        raise RefusedError("an expression that is nested too deeply") from error
    return body


def check_exponents(text: str) -> None:
    """Raises RefusedError for a number in the text that no float could hold."""
    for exponent in re.findall(r"[\d.]e[+-]?([\d_]+)", text, re.IGNORECASE):
        if int(exponent[:9].replace("_", "") or 0) > 308:
            raise RefusedError("a number that is too large, or too small")


def _count_bits(node: ast.expr, functions: Set[str]) -> float:
    """An upper bound of the bits of the value's numerator and denominator."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            if not abs(value) < 2**MOST_BITS or value in (math.inf, -math.inf):
                raise RefusedError("a number that is too large")
            return max(1, abs(int(value)).bit_length())
        case ast.Name(id=name) if not name.startswith("_"):
            return 1
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
            return _count_bits(operand, functions)
        case ast.BinOp(left=left, op=op, right=right):
            bits = _combine(op, _count_bits(left, functions), _count_bits(right, functions))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in functions:
            bits = 8 + sum(_count_bits(one, functions) for one in args)
        case ast.Call(func=ast.Name(id=name)):
            raise RefusedError(f"an expression with the function {name!r}")
        case ast.Constant():
            raise RefusedError("an expression with something else than numbers")
        case _:
            raise RefusedError(f"an expression with {type(node).__name__}")
    if bits > MOST_BITS:
        raise RefusedError("a value that is too large")
    return bits


def _combine(op: ast.operator, left: float, right: float) -> float:
    match op:
        case ast.Add() | ast.Sub():
            return max(left, right) + 1
        case ast.Mult() | ast.Div() | ast.FloorDiv() | ast.Mod():
            return left + right
        case ast.Pow():
            return float(left * 2.0 ** min(right, 64))
    raise RefusedError(f"an expression with {type(op).__name__}")

"""Answers that a library would evaluate as code: read as plain data or arithmetic instead.

Some scorers of reasoning-gym call `eval` or SymPy's `parse_expr`, which is `eval` too, on what a
model wrote. `disarm` puts the functions of this module in their place, under the same names and in
those modules only. They raise what the scorers already expect of an answer that cannot be read.

    eval         a literal: numbers, texts, lists, …; or operations on whole numbers
    parse_expr   arithmetic with numbers, symbols and the functions of calculus, whose value cannot
                 have more than `MOST_BITS` bits
    Fraction     no exponent beyond those of a float
    complex      finite
"""

from __future__ import annotations

import ast
import importlib
import math
import operator
import re
import types
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any

LONGEST = 4096
"""Most characters of an expression."""
MOST_BITS = 4096
FUNCTIONS = frozenset(
    {
        *("Abs", "Integral", "Rational", "erf", "exp", "ln", "log", "sqrt"),
        *("acos", "acosh", "acot", "asin", "asinh", "atan", "atanh"),
        *("cos", "cosh", "cot", "csc", "sec", "sin", "sinh", "tan", "tanh"),
    }
)
_Replacements = dict[str, Callable[..., Any]]


counts: Counter[str] = Counter()
"""How many answers were `refused` in this process."""


class RefusedError(ValueError):
    """Text that is neither a literal nor arithmetic of a bearable size."""


def check_arithmetic(text: str) -> None:
    """Raises RefusedError or SyntaxError for anything but arithmetic of a bearable size."""
    if len(text) > LONGEST:
        raise _refuse(f"an expression of {len(text)} characters")
    _check_exponents(text)
    try:
        _count_bits(ast.parse(text.strip(), mode="eval").body)
    except (RecursionError, MemoryError) as error:
        raise _refuse("an expression that is nested too deeply") from error


@lru_cache
def disarm() -> None:
    """Replaces what evaluates text in the scorers of reasoning-gym, once."""
    for name, replacements in _REPLACED.items():
        module = importlib.import_module(f"reasoning_gym.{name}")
        vars(module).update(replacements)
    for name, alias in _CALLERS_OF_SYMPY.items():
        module = importlib.import_module(f"reasoning_gym.{name}")
        sympy = vars(importlib.import_module("sympy"))
        vars(module)[alias] = types.SimpleNamespace(**sympy | {"parse_expr": _parse_expr})


def _refuse(what: str) -> RefusedError:
    counts["refused"] += 1
    return RefusedError(what)


def _count_bits(node: ast.expr) -> float:
    """An upper bound of the bits of the value's numerator and denominator."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            if not abs(value) < 2**MOST_BITS or value in (math.inf, -math.inf):
                raise _refuse("a number that is too large")
            return max(1, abs(int(value)).bit_length())
        case ast.Name(id=name) if not name.startswith("_"):
            return 1
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
            return _count_bits(operand)
        case ast.BinOp(left=left, op=op, right=right):
            bits = _combine(op, _count_bits(left), _count_bits(right))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
            bits = 8 + sum(map(_count_bits, args))
        case _:
            raise _refuse(f"an answer with {type(node).__name__}")
    if bits > MOST_BITS:
        raise _refuse("a value that is too large")
    return bits


def _combine(op: ast.operator, left: float, right: float) -> float:
    match op:
        case ast.Add() | ast.Sub():
            return max(left, right) + 1
        case ast.Mult() | ast.Div() | ast.FloorDiv() | ast.Mod():
            return left + right
        case ast.Pow():
            return float(left * 2.0 ** min(right, 64))
    raise _refuse(f"an answer with {type(op).__name__}")


def _parse_expr(text: str, local_dict: dict[str, Any] | None = None) -> Any:
    check_arithmetic(text)
    sympy = importlib.import_module("sympy")
    return sympy.parse_expr(text, local_dict=local_dict)


def _integer(text: str) -> int:
    """The value of operations on whole numbers."""
    return _evaluate(ast.parse(text.strip(), mode="eval").body)


def _evaluate(node: ast.expr) -> int:
    match node:
        case ast.Constant(value=int() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            a, b = _evaluate(left), _evaluate(right)
            if isinstance(op, ast.LShift) and b > MOST_BITS:
                raise _refuse("a value that is too large")
            return _OPERATIONS[type(op)](a, b)
    raise _refuse(f"an answer with {type(node).__name__}")


def _fraction(text: str) -> Fraction:
    _check_exponents(text)
    return Fraction(text)


def _check_exponents(text: str) -> None:
    for exponent in re.findall(r"[\d.]e[+-]?([\d_]+)", text, re.IGNORECASE):
        if int(exponent[:9].replace("_", "") or 0) > 308:
            raise _refuse("a number that is too large, or too small")


def _complex(*parts: Any) -> complex:
    value = complex(*parts)
    if not (math.isfinite(value.real) and math.isfinite(value.imag)):
        raise _refuse("a number that is not finite")
    return value


_OPERATIONS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
}
_LITERAL: _Replacements = {"eval": ast.literal_eval}
_ARITHMETIC: _Replacements = {"parse_expr": _parse_expr}
_REPLACED: dict[str, _Replacements] = {
    "algorithmic.binary_matrix": _LITERAL,
    "algorithmic.number_sorting": _LITERAL,
    "algorithmic.spiral_matrix": _LITERAL,
    "algorithmic.string_insertion": _LITERAL,
    "arithmetic.bitwise_arithmetic": {"eval": _integer},
    "games.n_queens": _LITERAL,
    "games.countdown": _ARITHMETIC,
    "games.puzzle24": _ARITHMETIC,
    "probability.coin_flip": {"Fraction": _fraction},
    "algebra.complex_arithmetic": {"complex": _complex},
}
_CALLERS_OF_SYMPY = {
    "algebra.intermediate_integration": "sympy",
    "algebra.polynomial_multiplication": "sp",
    "algebra.simple_integration": "sympy",
}
"""Their name for SymPy, whose `parse_expr` they call."""

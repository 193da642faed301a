"""Answers that a library would evaluate as code: read as plain data or arithmetic instead.

Some scorers of reasoning-gym call `eval` or SymPy's `parse_expr`, which is `eval` too, on what a
model wrote. `disarm` puts the functions of this module in their place, under the same names and in
those modules only. They raise what the scorers already expect of an answer that cannot be read.

    eval         a literal: numbers, texts, lists, …; or operations on whole numbers
    parse_expr   arithmetic with numbers, symbols and the functions of calculus, whose value cannot
                 have more than `expressions.MOST_BITS` bits
    Fraction     no exponent beyond those of a float
    complex      finite
"""

from __future__ import annotations

import ast
import importlib
import math
import operator
import types
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from typing import Any

from drpo_cli.expressions import MOST_BITS, RefusedError, check_arithmetic, check_exponents

_Replacements = dict[str, Callable[..., Any]]

counts: Counter[str] = Counter()
"""How many answers were `refused` in this process."""


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


@contextmanager
def _counting() -> Iterator[None]:
    try:
        yield
    except RefusedError:
        counts["refused"] += 1
        raise


@_counting()
def _parse_expr(text: str, local_dict: dict[str, Any] | None = None) -> Any:
    check_arithmetic(text)
    sympy = importlib.import_module("sympy")
    return sympy.parse_expr(text, local_dict=local_dict)


@_counting()
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
                raise RefusedError("a value that is too large")
            return _OPERATIONS[type(op)](a, b)
    raise RefusedError(f"an answer with {type(node).__name__}")


@_counting()
def _fraction(text: str) -> Fraction:
    check_exponents(text)
    return Fraction(text)


@_counting()
def _complex(*parts: Any) -> complex:
    value = complex(*parts)
    if not (math.isfinite(value.real) and math.isfinite(value.imag)):
        raise RefusedError("a number that is not finite")
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

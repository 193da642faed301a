"""The tool `calculator`: arithmetic, without running code.

Numbers are Python's: whole ones are exact, others have 12 significant digits. The size of a value
is bounded before it is computed (`drpo_cli.expressions`).
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

from drpo_cli.environments.toolkit.answers import ToolError
from drpo_cli.expressions import RefusedError, check_arithmetic

_NAMES = {"pi": math.pi, "e": math.e, "tau": math.tau}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(math, name) for name in ("sqrt", "exp", "log", "log2", "log10", "gcd", "lcm")},
    **{name: getattr(math, name) for name in ("sin", "cos", "tan", "asin", "acos", "atan")},
    **{name: getattr(math, name) for name in ("sinh", "cosh", "tanh", "degrees", "radians")},
    **{name: getattr(math, name) for name in ("floor", "ceil", "hypot")},
    **{"ln": math.log, "abs": abs, "min": min, "max": max, "round": round},
}
_OPERATIONS: dict[type, Callable[..., Any]] = {
    **{ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul},
    **{ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod},
    **{ast.Pow: operator.pow, ast.USub: operator.neg, ast.UAdd: operator.pos},
}
_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-"})
_KNOWN = f"+ - * / // % ** ( ), {', '.join(_NAMES)}, {', '.join(_FUNCTIONS)}"


def calculator(expression: str) -> str:
    """Computes an arithmetic expression, such as `(3 + 4) * 2 ** 5 / sqrt(2)`.

    Args:
        expression: Numbers, the operators + - * / // % **, parentheses, pi, e, and functions such
            as sqrt, log, sin, abs, round, min, max.
    """
    try:
        tree = check_arithmetic(expression.translate(_SIGNS), frozenset(_FUNCTIONS))
        value = _evaluate(tree)
    except SyntaxError as error:
        raise ToolError(f"{expression!r} is not an expression; write it with {_KNOWN}") from error
    except RefusedError as error:
        raise ToolError(f"not computed: {error}{_hint(expression)}; known are {_KNOWN}") from error
    except ZeroDivisionError as error:
        raise ToolError("division by zero") from error
    except OverflowError as error:
        raise ToolError("the value is too large") from error
    except (ValueError, TypeError) as error:  # the functions' own words
        raise ToolError(f"not computed: {error}") from error
    if isinstance(value, complex):
        raise ToolError("the value is not a real number")
    if not math.isfinite(value):
        raise ToolError("the value is too large")
    return str(value) if isinstance(value, int) else f"{value:.12g}"


def _evaluate(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.UnaryOp(op=op, operand=operand):
            return _OPERATIONS[type(op)](_evaluate(operand))
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATIONS[type(op)](_evaluate(left), _evaluate(right))
        case ast.Call(func=ast.Name(id=name), args=args):
            return _FUNCTIONS[name](*map(_evaluate, args))
        case ast.Name(id=name):
            raise RefusedError(f"an unknown name {name!r}")
    raise RefusedError(f"an expression with {type(node).__name__}")


def _hint(expression: str) -> str:
    if "^" in expression:
        return " (write ** for powers)"
    return " (write numbers without commas)" if "," in expression else ""

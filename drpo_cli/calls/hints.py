"""Reads annotations of the user's functions, and whether they can hold what the function gets.

Only a type that cannot hold the value is refused. `Any`, no annotation, and a name that exists for
type checkers only are accepted.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from drpo_cli.settings import Settings


def place(function: Callable[..., Any]) -> str:
    """`file.py:line` of a function written in Python, else its name."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return repr(function)
    return f"{Path(code.co_filename)}:{code.co_firstlineno}"


def resolve(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations that resolve, each on its own: one bad name must not hide the others."""
    function = inspect.unwrap(function)
    known = getattr(function, "__globals__", {})
    hints: dict[str, Any] = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        alone = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            hints |= typing.get_type_hints(alone, globalns=known)
        except (NameError, AttributeError, TypeError, SyntaxError):
            continue  # a type checker reports it
    return hints


def holds(hint: Any, given: Any) -> bool:
    """Whether a value of type `given` may be one of type `hint`."""
    if (members := alternatives(given)) is not None:
        return all(holds(hint, one) for one in members if one is not types.NoneType)
    if (members := alternatives(hint)) is not None:
        return any(holds(one, given) for one in members)
    wanted, actual = origin(hint), origin(given)
    if not isinstance(wanted, type) or wanted is Any:
        return True
    if issubclass(actual, Settings):
        # it may be its own class, a nested one or a protocol; only built-ins are wrong
        return wanted is object or wanted.__module__ != "builtins"
    kinds = (list, tuple) if actual in (list, tuple) else (actual,)
    if not any(is_subclass(kind, wanted) for kind in kinds):
        return False
    mine, theirs = typing.get_args(hint), typing.get_args(given)
    return actual is dict or not (mine and theirs) or holds(mine[0], theirs[0])


def alternatives(hint: Any) -> tuple[Any, ...] | None:
    """The members of a union, the types of a literal's values, the supertype of a NewType."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return tuple({type(value) for value in typing.get_args(hint)})
    if isinstance(hint, typing.NewType):
        return (hint.__supertype__,)
    return None


def origin(hint: Any) -> Any:
    """The class of a parametrized type: list of `list[int]`."""
    return typing.get_origin(hint) or hint


def is_subclass(kind: type, of: type) -> bool:
    """Whether a class is a subclass; true where it has no answer."""
    try:
        return issubclass(kind, of)
    except TypeError:  # a protocol with data members has no answer
        return True


def spell(hint: Any) -> str:
    """The annotation as one writes it."""
    if hint is types.NoneType:
        return "None"
    return hint.__qualname__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)

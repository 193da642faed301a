"""Checks a reward's annotations against the arguments it gets and the scores it returns.

Only a type that cannot hold the value is refused. `Any`, no annotation, and a name that exists for
type checkers only are accepted.
"""

from __future__ import annotations

import inspect
import numbers
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from drpo_cli.settings import RewardSettings

SHARED: dict[str, Any] = {
    "prompt": str,
    "answer": str | None,
    "metadata": dict[str, Any],
    "config": RewardSettings,
}
SAMPLE: dict[str, Any] = SHARED | {
    "completion": str,
    "truncated": bool,
    "tokens": tuple[int, ...],
    "messages": list[dict[str, Any]],
    "group": list[str],
}
GROUP: dict[str, Any] = SHARED | {
    "completions": list[str],
    "truncations": list[bool],
    "tokens": list[tuple[int, ...]],
    "messages": list[list[dict[str, Any]]],
}
"""Type of each argument. A list is accepted for a tuple, and a tuple for a list."""

WORDS = {
    "metadata": "a mapping of the row's other columns",
    "config": "its Config",
    "tokens": "the token ids, tuple[int, ...]",
}


def problem(function: Callable[..., Any], whole_group: bool) -> str | None:
    """What is wrong with the annotations, one line each with file and line; None if nothing is.

    `function` is what is called: a function, async or not, or an object's `__call__`;
    `whole_group` says whether it returns the scores of a group.
    """
    lines = [f"{place(function)}: {line}" for line in _problems(function, whole_group)]
    return "\n".join(lines) or None


def place(function: Callable[..., Any]) -> str:
    """`file.py:line` of a function written in Python, else its name."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return repr(function)
    return f"{Path(code.co_filename)}:{code.co_firstlineno}"


def _problems(function: Callable[..., Any], whole_group: bool) -> Iterator[str]:
    given = GROUP if whole_group else SAMPLE
    hints = _hints(function)
    for name, hint in hints.items():
        if name in given and not _holds(hint, given[name]):
            gets = WORDS.get(name, _spell(given[name]))
            if name == "tokens" and whole_group:
                gets = f"{_spell(given[name])}, one tuple of token ids per sample"
            yield (
                f"{name!r} is annotated {_spell(hint)}, but the reward gets {gets}; "
                f"write {name}: {_wanted(name, given)}"
            )
    if "return" in hints and not whole_group and not _may_be_score(hints["return"]):
        yield (
            f"returns {_spell(hints['return'])}, which is not a score; return one number "
            "(-> float), or the scores of a whole group (-> list[float])"
        )


def _wanted(name: str, given: Mapping[str, Any]) -> str:
    return {"metadata": "dict", "config": "Config"}.get(name) or _spell(given[name])


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
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


def _holds(hint: Any, given: Any) -> bool:
    """Whether a value of type `given` may be one of type `hint`."""
    if (alternatives := _alternatives(given)) is not None:
        return all(_holds(hint, one) for one in alternatives if one is not types.NoneType)
    if (alternatives := _alternatives(hint)) is not None:
        return any(_holds(one, given) for one in alternatives)
    wanted, actual = _origin(hint), _origin(given)
    if not isinstance(wanted, type) or wanted is Any:
        return True
    if issubclass(actual, RewardSettings):
        # it may be its own class, a nested one or a protocol; only built-ins are wrong
        return wanted is object or wanted.__module__ != "builtins"
    kinds = (list, tuple) if actual in (list, tuple) else (actual,)
    if not any(_is_subclass(kind, wanted) for kind in kinds):
        return False
    mine, theirs = typing.get_args(hint), typing.get_args(given)
    return actual is dict or not (mine and theirs) or _holds(mine[0], theirs[0])


def _may_be_score(hint: Any) -> bool:
    if (alternatives := _alternatives(hint)) is not None:
        return any(_may_be_score(one) for one in alternatives)
    kind = _origin(hint)
    if not isinstance(kind, type) or kind is Any:
        return True
    return _is_subclass(kind, numbers.Real) or any(_is_subclass(k, kind) for k in (float, bool))


def _alternatives(hint: Any) -> tuple[Any, ...] | None:
    """The members of a union, the types of a literal's values, the supertype of a NewType."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return tuple({type(value) for value in typing.get_args(hint)})
    if isinstance(hint, typing.NewType):
        return (hint.__supertype__,)
    return None


def _origin(hint: Any) -> Any:
    return typing.get_origin(hint) or hint


def _is_subclass(kind: type, of: type) -> bool:
    try:
        return issubclass(kind, of)
    except TypeError:  # a protocol with data members has no answer
        return True


def _spell(hint: Any) -> str:
    if hint is types.NoneType:
        return "None"
    return hint.__qualname__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)

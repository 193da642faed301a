"""Checks a reward's annotations against the arguments it gets and the scores it returns.

Only a type that cannot hold the value is refused. `Any`, no annotation, and a name that exists for
type checkers only are accepted.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from drpo_cli.calls.hints import alternatives, holds, is_subclass, origin, place, resolve, spell
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


def _problems(function: Callable[..., Any], whole_group: bool) -> Iterator[str]:
    given = GROUP if whole_group else SAMPLE
    hints = resolve(function)
    for name, hint in hints.items():
        if name in given and not holds(hint, given[name]):
            gets = WORDS.get(name, spell(given[name]))
            if name == "tokens" and whole_group:
                gets = f"{spell(given[name])}, one tuple of token ids per sample"
            yield (
                f"{name!r} is annotated {spell(hint)}, but the reward gets {gets}; "
                f"write {name}: {_wanted(name, given)}"
            )
    if "return" in hints and not whole_group and not _may_be_score(hints["return"]):
        yield (
            f"returns {spell(hints['return'])}, which is not a score; return one number "
            "(-> float), or the scores of a whole group (-> list[float])"
        )


def _wanted(name: str, given: Mapping[str, Any]) -> str:
    return {"metadata": "dict", "config": "Config"}.get(name) or spell(given[name])


def _may_be_score(hint: Any) -> bool:
    if (members := alternatives(hint)) is not None:
        return any(_may_be_score(one) for one in members)
    kind = origin(hint)
    if not isinstance(kind, type) or kind is Any:
        return True
    return is_subclass(kind, numbers.Real) or any(is_subclass(k, kind) for k in (float, bool))

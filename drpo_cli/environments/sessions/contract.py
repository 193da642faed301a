"""Reads what the class of an environment has, and how to call it."""

from __future__ import annotations

import inspect
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from drpo_cli import secrets
from drpo_cli.calls.hints import alternatives, holds, is_subclass, origin, place, resolve, spell
from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected, short_name
from drpo_cli.settings import EnvironmentSettings
from drpo_cli.types import Action, Row, Step

WRITE = {
    "start": "def start(self, row, rng)",
    "step": "def step(self, action)",
    "close": "def close(self)",
}
"""Its methods; `close` may be absent."""
ARGUMENTS = {"start": ("row", "rng"), "step": ("action",), "close": ()}
_GIVEN: dict[str, Any] = {"row": Row, "rng": random.Random}


@dataclass(frozen=True)
class Environment:
    """An environment that a spec selects.

    entry         its class
    is_async      whether a method is awaited, so that a process has several episodes
    whole_action  whether `step` gets the `Action`, not only its text
    takes_config  whether `__init__` gets the options
    own_tools     whether it brings tools, whose calls `step` gets
    """

    selected: Selected[EnvironmentSettings]
    name: str
    entry: type
    config: EnvironmentSettings
    is_async: bool
    whole_action: bool
    takes_config: bool
    own_tools: bool

    def make(self) -> Any:
        """Makes the instance of an episode; raises what its `__init__` raises."""
        return self.entry(self.config) if self.takes_config else self.entry()

    def place(self, method: str) -> str:
        """`file.py:line` of a method, for messages."""
        return place(getattr(self.entry, method))


def prepare_all(selected: Sequence[Selected[EnvironmentSettings]]) -> list[Environment]:
    """Checks the environments of a spec without calling them.

    Raises UserError for one that cannot be called, and for two with one name.
    """
    environments = [prepare(one) for one in selected]
    for name, count in Counter(one.name for one in environments).items():
        if count > 1:
            raise UserError(
                f"{count} environments are called {name!r}", "give each a `name` of its own"
            )
    return environments


def prepare(selected: Selected[EnvironmentSettings]) -> Environment:
    """Reads the class of an environment; raises UserError for what cannot be called."""
    config, entry = selected.config, selected.plugin.entry
    secrets.keep(config.needs_environment())  # a config that was pickled did not say so here
    name = config.name or short_name(selected.type)
    if not inspect.isclass(entry):
        where = f" ({place(entry)})" if callable(entry) else ""
        raise UserError(
            f"environment {name!r}: {selected.type!r} is not a class{where}",
            "name a class that has `start` and `step`",
        )
    if problems := [*_problems(entry), *_tool_problems(entry, config)]:
        raise UserError("\n".join(f"environment {name!r}: {line}" for line in problems))
    methods = [getattr(entry, one) for one in WRITE if hasattr(entry, one)]
    return Environment(
        selected=selected,
        name=name,
        entry=entry,
        config=config,
        is_async=any(inspect.iscoroutinefunction(inspect.unwrap(one)) for one in methods),
        whole_action=_wants_whole_action(entry),
        takes_config=_set_up(entry) == ["config"],
        own_tools=_brings_tools(entry),
    )


def _problems(entry: type) -> Iterator[str]:
    """What is wrong with the class, one line each, with file and line where there is one."""
    for method, write in WRITE.items():
        function = getattr(entry, method, None)
        if function is None and method == "close":
            continue
        if function is None:
            yield f"{_class_place(entry)}: {entry.__name__} has no `{method}`; write `{write}`"
        elif not callable(function):
            yield f"{_class_place(entry)}: `{method}` is not a function; write `{write}`"
        else:
            lines = _call_problems(entry, method, function)
            yield from (f"{place(function)}: {line}" for line in lines)
    needed = _set_up(entry)
    if needed not in ([], ["config"]):
        yield (
            f"{place(entry.__init__)}: its __init__ asks for {', '.join(needed)}; "  # type: ignore[misc]
            "write `def __init__(self, config)`, or `def __init__(self)`"
        )


def _tool_problems(entry: type, config: EnvironmentSettings) -> Iterator[str]:
    """What is wrong with the tools that the class brings."""
    if not _brings_tools(entry):
        return
    where = place(getattr(entry, "tools"))  # noqa: B009
    try:
        inspect.Signature(_parameters(entry, "tools")).bind("config")
    except TypeError:
        yield f"{where}: `tools` does not take the options; write `def tools(config)`"
    if hasattr(entry, "step") and not _wants_whole_action(entry):
        write = "def step(self, action: Action)"
        yield f"{where}: has `tools`, but `step` would not get their calls; write `{write}`"
    if config.tools:
        yield f"{where}: brings its own tools, so the spec cannot add others; remove `tools` there"


def _brings_tools(entry: type) -> bool:
    """Whether it has a static method or class method `tools`; others are its own business."""
    return isinstance(inspect.getattr_static(entry, "tools", None), staticmethod | classmethod)


def _call_problems(entry: type, method: str, function: Callable[..., Any]) -> Iterator[str]:
    write, names = WRITE[method], ARGUMENTS[method]
    plain = inspect.unwrap(function)
    if inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain):
        yield f"`{method}` has a `yield`; return one value per call instead"
    asked = _parameters(entry, method)
    try:
        inspect.Signature(asked).bind(*names)
    except TypeError:
        listed = ", ".join(one.name for one in asked) or "nothing"
        gets = " and ".join(names) or "nothing"
        yield f"`{method}` takes {listed}, but it gets {gets}; write `{write}`"
        return
    hints = resolve(function)
    for given, parameter in zip(names, asked, strict=False):
        hint = hints.get(parameter.name)
        if hint is None:
            continue
        if given == "action" and not (holds(hint, str) or holds(hint, Action)):
            yield f"{parameter.name!r} is annotated {spell(hint)}; write `str`, or `Action`"
        elif given in _GIVEN and not holds(hint, _GIVEN[given]):
            gets = spell(_GIVEN[given])
            yield f"{parameter.name!r} is annotated {spell(hint)}, but `{method}` gets {gets}"
    if "return" in hints and not _may_return(hints["return"], method):
        wanted = {"start": "str` or `-> list[Message]", "step": "Step", "close": "None"}[method]
        yield f"`{method}` returns {spell(hints['return'])}; write `-> {wanted}`"


def _may_return(hint: Any, method: str) -> bool:
    """Whether a value of the annotated type may be what the method has to return."""
    if method == "close":
        return True
    if (members := alternatives(hint)) is not None:
        return any(_may_return(one, method) for one in members)
    kind = origin(hint)
    if not isinstance(kind, type) or kind is Any:
        return True
    wanted = (Step,) if method == "step" else (str, dict, list, tuple)
    return any(is_subclass(one, kind) or is_subclass(kind, one) for one in wanted)


def _wants_whole_action(entry: type) -> bool:
    """Whether `step` annotates its action as `Action`."""
    function = inspect.unwrap(getattr(entry, "step"))  # noqa: B009
    first = next(iter(_parameters(entry, "step")), None)
    if first is None:
        return False
    hint = resolve(function).get(first.name)
    if hint is None:  # no annotation, or a name for type checkers only
        return str(first.annotation).rpartition(".")[2] == "Action"
    members = alternatives(hint) or (hint,)
    return Action in members


def _parameters(entry: type, method: str) -> list[inspect.Parameter]:
    """The parameters of a method of an instance, without `self`."""
    raw = inspect.getattr_static(entry, method)
    parameters = list(inspect.signature(getattr(entry, method)).parameters.values())
    return parameters if isinstance(raw, staticmethod | classmethod) else parameters[1:]


def _set_up(entry: type) -> list[str]:
    """The arguments that `__init__` must get; also `config`, where it may."""
    parameters = inspect.signature(entry).parameters.values()
    fixed = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return [p.name for p in fixed if p.default is p.empty or p.name == "config"]


def _class_place(entry: type) -> str:
    try:
        file, line = inspect.getsourcefile(entry), inspect.getsourcelines(entry)[1]
    except (OSError, TypeError):
        return entry.__module__
    return f"{file}:{line}"

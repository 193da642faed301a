"""Objects of another process, and what can be done to them. Standard library only."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

from drpo_cli.sandbox.values import CLASSES, base_of

_CHANGING = ("list", "set", "dict", "deque", "bytearray")
_NAMES = ("__name__", "__qualname__", "__doc__", "__dict__", "__module__")  # the rest is Python's


async def wait(what: Any) -> Any:
    """Waits for what the code made to be awaited."""
    return await what


def _run_coroutine(what: Any) -> Any:
    import asyncio  # slow to import, and seldom needed

    return asyncio.run(wait(what))


COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
_ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or")
ARITHMETIC = (*_ARITHMETIC, "xor", "lshift", "rshift")
_UNARY = ("neg", "pos", "abs", "invert", "index")
OPERATIONS: dict[str, Callable[..., Any]] = {
    "call": lambda what, *given, **named: what(*given, **named),
    "get": getattr,
    "set": setattr,
    "base": base_of,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "delitem": operator.delitem,
    "contains": operator.contains,
    "isinstance": isinstance,
    "await": _run_coroutine,
    "enter": lambda what: what.__enter__(),
    "exit": lambda what, *why: what.__exit__(*why),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{kind.__name__: kind for kind in (bool, int, float, complex, str, bytes)},
    **{
        function.__name__: function
        for function in (len, iter, next, reversed, repr, hash, format, round)
    },
    **{name: getattr(operator, f"__{name}__") for name in (*COMPARISONS, *ARITHMETIC, *_UNARY)},
}


_ANSWERS = frozenset(
    name
    for kind in (str, bytes, set)
    for name in vars(kind)
    if name.startswith("is") or name in ("startswith", "endswith")
)
"""Methods of built-in values that answer yes or no: an object of the code would answer yes."""


class Undecided(TypeError):
    """An operator between an object of the code's own class and a value of the test."""


class Remote:
    """An object of the other side. What is done to it is done there.

    Operators between it and a value of this side are not, unless the peer `decides`: an object
    whose class agrees with everything would pass every test. Where its class is derived from a
    built-in one, they are applied here, to the built-in value that it holds.
    """

    __slots__ = ("_bases", "_kind", "_peer", "_place")

    def __init__(self, peer: Any, place: int, kind: str | None) -> None:
        given = {"_peer": peer, "_place": place, "_kind": kind, "_bases": []}
        for name, value in given.items():
            object.__setattr__(self, name, value)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return next((kind for kind in CLASSES if kind.__name__ == self._kind), Remote)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in _NAMES:
            raise AttributeError(name)
        if not self._peer.decides:
            kind = self.__class__
            if (
                kind is not Remote
                and hasattr(kind, name)
                and (name in _ANSWERS or self._kind not in _CHANGING)
            ):
                return getattr(self._base(), name)
            if name in _ANSWERS:
                raise AttributeError(f"{name} is a method of built-in values here")
        return self._peer.ask("get", self, name)

    def _base(self) -> Any:
        """The built-in value that it holds: one and the same, if it is of a kind that is."""
        if self._kind in _CHANGING or not self._bases:
            self._bases[:] = [self._peer.ask("base", self)]
        return self._bases[0]

    def __setattr__(self, name: str, value: Any) -> None:
        self._peer.ask("set", self, name, value)

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self._peer.ask("call", self, *given, **named)

    def __instancecheck__(self, instance: Any) -> bool:
        return type(instance) is Remote and bool(self._peer.ask("isinstance", instance, self))

    def __contains__(self, item: Any) -> bool:
        if type(item) is Remote or self._peer.decides:
            return bool(self._peer.ask("contains", self, item))
        return any(part is item or part == item for part in iter(self))

    def __await__(self) -> Any:
        return self._peer.ask("await", self)
        yield

    def __exit__(self, *why: Any) -> Any:
        return self._peer.ask("exit", self, None, None, None)


def _forward(operation: str) -> Callable[..., Any]:
    def forward(self: Remote, *given: Any) -> Any:
        return self._peer.ask(operation, self, *given)

    return forward


def _decide(operation: str, swapped: bool = False) -> Callable[..., Any]:
    def decide(self: Remote, other: Any) -> Any:
        left, right = (other, self) if swapped else (self, other)
        if type(other) is Remote or self._peer.decides:
            return self._peer.ask(operation, left, right)
        if self._kind is not None and self._kind != "coroutine":
            base = self._base()
            return OPERATIONS[operation](*((other, base) if swapped else (base, other)))
        if operation in ("eq", "ne"):
            return operation == "ne"
        raise Undecided(f"{operation} between an object of the code's class and {type(other)}")

    return decide


for _name in ("iter", "next", "len", "bool", "str", "repr", "hash", "format", "int", "float"):
    setattr(Remote, f"__{_name}__", _forward(_name))
for _name in ("complex", "bytes", "round", "reversed", "getitem", "setitem", "delitem", "enter"):
    setattr(Remote, f"__{_name}__", _forward(_name))
for _name in (*_UNARY, "copy", "deepcopy"):
    setattr(Remote, f"__{_name}__", _forward(_name))
for _name in COMPARISONS:
    setattr(Remote, f"__{_name}__", _decide(_name))
for _name in ARITHMETIC:
    setattr(Remote, f"__{_name}__", _decide(_name))
    setattr(Remote, f"__r{_name}__", _decide(_name, swapped=True))

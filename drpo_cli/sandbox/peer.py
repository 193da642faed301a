"""The two ends of the socket between the tests and the code that they test.

Both sides speak the same protocol, one line of JSON a message:

    ["ask", operation, arguments, keywords, streams]   to apply OPERATIONS[operation]
    ["answer", value, changed, printed]                what it gave, and arguments that it changed
    ["raise", error, changed, printed]                 or raised

While one side waits for an answer it serves what the other asks. Standard library only.
"""

from __future__ import annotations

import builtins
import contextlib
import copy
import io
import json
import socket
import sys
import threading
from collections.abc import Callable
from types import BuiltinFunctionType, CoroutineType
from typing import Any

from drpo_cli.sandbox.remote import OPERATIONS, Remote, wait
from drpo_cli.sandbox.values import MUTABLE, Decoder, Encoder, base_name

LARGEST = 16 << 20  # bytes of a message
_MALFORMED = (LookupError, TypeError, ValueError, AttributeError, RecursionError, StopIteration)
_STDIN, _STDOUT, _INPUT = sys.stdin, sys.stdout, input


class Gone(BaseException):
    """The other side has ended, or breaks the protocol."""


class Peer:
    """One end.

    serves    whether the other side may apply an operation to objects of this side; None for all
    decides   whether an object of the other side may decide operators on values of this side
    name      gives objects of this side by name, for the operation `name`
    """

    def __init__(
        self,
        connection: socket.socket,
        serves: Callable[[str, list[Any]], bool] | None,
        decides: bool,
        name: Callable[[str], Any] | None = None,
    ) -> None:
        self._reader, self._connection = connection.makefile("rb"), connection
        self._serves, self.decides = serves, decides
        self._operations = OPERATIONS | ({"name": name} if name else {})
        self._lock = threading.RLock()
        self._kept: list[Any] = []  # objects of this side that the other one has handles of
        self._places: dict[int, int] = {}  # of those, by id
        self._remotes: dict[int, Remote] = {}
        self._errors: dict[int, type[BaseException]] = {}
        self.broken = self.ended = False

    def renew(self) -> Peer:
        """The same end without the handles, for the next test."""
        fresh = copy.copy(self)
        fresh._kept, fresh._places, fresh._remotes, fresh._errors = [], {}, {}, {}
        fresh.broken = fresh.ended = False
        return fresh

    def send(self, *message: Any) -> None:
        """Raises Gone where nobody reads."""
        try:
            self._connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise Gone from error

    def receive(self) -> list[Any]:
        """Raises Gone at the end, and for a malformed message."""
        try:
            line = self._reader.readline(LARGEST)
            message = json.loads(line) if line.endswith(b"\n") else None
        except (OSError, ValueError, RecursionError) as error:
            raise Gone from error
        if not isinstance(message, list) or not message:
            raise Gone
        return message

    def ask(self, operation: str, *given: Any, **named: Any) -> Any:
        """What the operation gives on the other side. Raises what it raises there."""
        with self._lock:
            try:
                return self._ask(operation, given, named)
            except Gone:
                self.broken = True
                raise

    def serve(self, message: list[Any]) -> None:
        """Answers one `ask`. Raises Gone for another message."""
        if message[0] != "ask" or len(message) != 5:
            raise Gone
        shared: list[Any] = []
        try:
            operation, given, named, streams = message[1:]
            read = Decoder(self._find, shared)
            given = [read.decode(one) for one in given]
            named = {name: read.decode(one) for name, one in named.items()}
            streams = read.decode(streams)
            before = self._contents(shared)
            if self._serves is not None and not self._serves(operation, given):
                raise PermissionError(f"{operation} is not allowed")
        except (*_MALFORMED, PermissionError) as error:
            self.send("raise", self._describe(error), [], "")
            return
        printed = io.StringIO() if "print" in streams else None
        try:
            with _streams(streams, printed):
                value = self._operations[operation](*given, **named)
            if operation == "name" and type(value) in MUTABLE:
                encoded = self._handle(value)  # a copy would not show what a call does to it
            else:
                encoded = self._encode(value, shared)
            kind = "answer"
        except Gone:
            raise
        except BaseException as error:
            kind, encoded = "raise", self._describe(error)
        changed = [
            [place, now]
            for place, (was, now) in enumerate(zip(before, self._contents(shared), strict=True))
            if was != now
        ]
        self.send(kind, encoded, changed, printed.getvalue() if printed else "")

    def _ask(self, operation: str, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if self.broken:
            raise Gone
        write = Encoder(self._keep, share=True)
        self.send(
            "ask",
            operation,
            [write.encode(one) for one in given],
            {name: write.encode(one) for name, one in named.items()},
            write.encode(_redirected()),
        )
        while (message := self.receive())[0] == "ask":
            self.serve(message)
        try:
            self.ended = message == ["gone"]
            kind, encoded, changed, printed = message
            shared = write.met
            read = Decoder(self._find, shared)
            for place, contents in changed:
                read.fill(shared[place], contents)
            if printed:
                sys.stdout.write(printed)
            if kind == "answer":
                return read.decode(encoded)
            raised = self._error(encoded, read)
        except _MALFORMED as error:
            raise Gone from error
        if isinstance(raised, StopIteration) and operation != "next":
            # Or `all(map(f, …))` of a function that raises it would be true.
            raise RuntimeError("the code raised StopIteration")
        raise raised

    def _contents(self, shared: list[Any]) -> list[Any]:
        places = {id(one): place for place, one in enumerate(shared)}
        return [Encoder(self._keep, places).encode_parts(one) for one in shared]

    def _encode(self, value: Any, shared: list[Any]) -> Any:
        places = {id(one): place for place, one in enumerate(shared)}
        return Encoder(self._keep, places).encode(value)

    def _keep(self, value: Any) -> list[Any]:
        """The handle of a value that is not copied."""
        if isinstance(value, Remote):
            if object.__getattribute__(value, "_peer") is not self:
                raise ValueError("an object of another test")
            return ["yours", object.__getattribute__(value, "_place")]
        if isinstance(value, type) and issubclass(value, BaseException):
            return ["error", self._line_of(value)]
        if type(value) in (BuiltinFunctionType, type) and self._serves is not None:
            name = value.__name__
            if vars(builtins).get(name) is value:
                return ["builtin", name]
        return self._handle(value)

    def _handle(self, value: Any) -> list[Any]:
        kind = "coroutine" if type(value) is CoroutineType else base_name(value)
        return ["mine", self._place_of(value), kind]

    def _place_of(self, value: Any) -> int:
        place = self._places.setdefault(id(value), len(self._kept))
        if place == len(self._kept):
            self._kept.append(value)
        return place

    def _find(self, found: list[Any]) -> Any:
        """The value of a handle."""
        if found[0] == "yours":
            return self._kept[found[1]]
        if found[0] == "builtin" and self._serves is None:
            # Not for the tests: eval, for one, would run there what the code sends.
            return vars(builtins)[found[1]]
        if found[0] == "error":
            return self._class_of(found[1])
        if found[0] != "mine" or not isinstance(found[1], int):
            raise ValueError("not a value")
        remote = self._remotes.setdefault(found[1], Remote(self, found[1], found[2]))
        return wait(remote) if found[2] == "coroutine" else remote

    def _line_of(self, kind: type[BaseException]) -> list[Any]:
        """The names and handles of an error's class and those above it, up to a built-in one."""
        line: list[Any] = []
        for one in kind.__mro__:
            if vars(builtins).get(one.__name__) is one:
                return [*line, one.__name__]
            if issubclass(one, BaseException):
                line.append([self._place_of(one), one.__name__])
        return line

    def _class_of(self, line: list[Any]) -> type[BaseException]:
        """A class of this side for the error's class of the other."""
        kind: type[BaseException] = vars(builtins)[line[-1]]
        if not issubclass(kind, BaseException):
            raise ValueError("not an error")
        for place, name in reversed(line[:-1]):
            kind = self._errors.setdefault(int(place), type(str(name), (kind,), {}))
        return kind

    def _describe(self, error: BaseException) -> list[Any]:
        given: list[Any] = [self._encode_or_text(one) for one in error.args]
        extra = {name: self._encode_or_text(one) for name, one in vars(error).items()}
        return [self._line_of(type(error)), given, extra]

    def _encode_or_text(self, value: Any) -> Any:
        try:
            return Encoder(self._keep).encode(value)
        except (ValueError, RecursionError):
            return type(value).__name__

    def _error(self, found: list[Any], read: Decoder) -> BaseException:
        kind, given = self._class_of(found[0]), [read.decode(one) for one in found[1]]
        try:
            error = kind(*given)
        except TypeError:
            error = kind.__new__(kind, *given)
        for name, value in found[2].items():
            if not name.startswith("_"):
                setattr(error, name, read.decode(value))
        return error


def _redirected() -> dict[str, Any]:
    """The standard streams that a test has replaced, for the code that it calls."""
    found: dict[str, Any] = {}
    if sys.stdout is not _STDOUT:
        found["print"] = True
    if sys.stdin is not _STDIN:
        found["stdin"] = sys.stdin.read()
    if builtins.input is not _INPUT:
        found["input"] = builtins.input
    return found


@contextlib.contextmanager
def _streams(given: dict[str, Any], printed: io.StringIO | None) -> Any:
    kept = sys.stdin, sys.stdout, builtins.input
    if printed is not None:
        sys.stdout = printed
    if "stdin" in given:
        sys.stdin = io.StringIO(given["stdin"])
    if "input" in given:
        builtins.input = given["input"]
    try:
        yield
    finally:
        sys.stdin, sys.stdout, builtins.input = kept

"""Messages between the trainer, a server of calls and its workers, and how they travel.

    trainer → server   Setup, then a Request per call
    server → trainer   Imported, then a Reply per call
    server → worker    a Request per call
    worker → server    Ready, then a Reply per call

A message travels as MessagePack behind its length. A worker runs code that nobody has read, so what
comes from it is never unpickled: it is decoded as plain values of exactly the types below, up to
`LONGEST_REPLY`. Only what the trainer sends has pickled parts: options and arguments.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from drpo_cli.calls.failures import Outcome

M = TypeVar("M")
R = TypeVar("R", bound=Outcome)
LONGEST_REPLY = 1 << 24  # bytes; a million scores take nine of it
_LONGEST_REQUEST = (1 << 32) - 1
_LENGTH = 4  # bytes
_encode = msgspec.msgpack.Encoder().encode


class GarbledError(ConnectionError):
    """The other side sent something that is not a message; it counts as dead."""


class Setup(NamedTuple):
    """What the server imports, and how patient it is; the first two are pickled.

    search_path    the trainer's `sys.path`
    chosen         type and pickled options of each reward or environment; the options may hold
                   objects of a class in its own module, so the module is imported before they are
                   unpickled
    setup_seconds  longest time to set one up in a worker
    grace_seconds  time beyond `timeout_s` in which an async worker stops a late call by itself
    """

    search_path: bytes
    chosen: bytes
    setup_seconds: float
    grace_seconds: float


class Imported(NamedTuple):
    """The server has imported what was chosen, or says why it could not.

    described  what the trainer needs to know of each, as JSON
    """

    problem: str | None = None
    described: tuple[str, ...] = ()


class Ready(NamedTuple):
    """A worker has set itself up, or says why it could not."""

    problem: str | None = None


class Request(NamedTuple):
    """A call, pickled, since only its worker needs to read it.

    target    index of the reward or environment
    expected  how many results the outcome must have
    session   the episode that it belongs to, for calls that do not stand alone
    verb      what is asked of the episode
    """

    number: int
    target: int
    expected: int
    call: bytes
    session: int = 0
    verb: str = ""

    def unpack(self) -> Any:
        """Returns the call itself."""
        return pickle.loads(self.call)


class Reply(NamedTuple, Generic[R]):
    """The outcome of the call with this number, or why there can be none: a set-up failed."""

    number: int
    outcome: R | None
    problem: str | None = None


_DECODERS: dict[Any, msgspec.msgpack.Decoder[Any]] = {}


def frame(message: Any) -> bytes:
    """The message as bytes to send."""
    data = _encode(message)
    return len(data).to_bytes(_LENGTH, "big") + data


def send(to: socket.socket, message: Any) -> None:
    """Sends a message; waits until the other side has room for it."""
    to.sendall(frame(message))


def receive(source: socket.socket, kind: type[M]) -> M:
    """Waits for a message of this kind.

    Raises EOFError or ConnectionError when the other side is gone, GarbledError when it sent
    something else.
    """
    length = _check_length(_read(source, _LENGTH), kind)
    return _decode(_read(source, length), kind)


async def receive_async(reader: asyncio.StreamReader, kind: type[M]) -> M:
    """The same for an event loop."""
    length = _check_length(await reader.readexactly(_LENGTH), kind)
    return _decode(await reader.readexactly(length), kind)


def _check_length(data: bytes | bytearray, kind: type) -> int:
    length = int.from_bytes(data, "big")
    if length > (_LONGEST_REQUEST if kind in (Setup, Request) else LONGEST_REPLY):
        raise GarbledError(f"a message of {length} bytes")
    return length


def _decode(data: bytes | bytearray, kind: type[M]) -> M:
    if kind not in _DECODERS:
        _DECODERS[kind] = msgspec.msgpack.Decoder(kind)
    try:
        message: M = _DECODERS[kind].decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise GarbledError(f"not a message: {error}") from error
    return message


def _read(source: socket.socket, size: int) -> bytearray:
    data = bytearray()
    while len(data) < size:
        chunk = source.recv(min(size - len(data), 1 << 20))
        if not chunk:
            raise EOFError
        data += chunk
    return data

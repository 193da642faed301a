"""Messages between the trainer, the grading server and its workers, and how they travel.

    trainer → server   Setup, then a Request per call
    server → trainer   Imported, then an Answer per call
    server → worker    a Request per call
    worker → server    Ready, then an Answer per call

A message is pickled and sent over a socket behind its length.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
from typing import Any, NamedTuple

from drpo_cli.rewards.grading.contract import Call
from drpo_cli.rewards.grading.score import Outcome

_LENGTH = 8  # bytes


class Setup(NamedTuple):
    """What the server imports, and how patient it is.

    search_path    the trainer's `sys.path`
    rewards        type and pickled options of each reward; the options may hold objects of a class
                   in the reward's own module, so the module is imported before they are unpickled
    setup_seconds  longest time to set a reward up
    grace_seconds  time beyond `timeout_s` in which an async worker stops a late call by itself
    """

    search_path: list[str]
    rewards: list[tuple[str, bytes]]
    setup_seconds: float
    grace_seconds: float


class Imported(NamedTuple):
    """The server has imported the rewards, or says why it could not."""

    problem: str | None = None


class Ready(NamedTuple):
    """A worker has set its reward up, or says why it could not."""

    problem: str | None = None


class Request(NamedTuple):
    """A call of the reward with this index; pickled, since only its worker needs to read it."""

    number: int
    reward: int
    call: bytes

    def unpack(self) -> Call:
        """Returns the call itself."""
        call: Call = pickle.loads(self.call)
        return call


class Answer(NamedTuple):
    """The outcome of the call with this number, or why its reward could not be set up."""

    number: int
    outcome: Outcome | None
    problem: str | None = None


def frame(message: Any) -> bytes:
    """The message as bytes to send."""
    data = pickle.dumps(message)
    return len(data).to_bytes(_LENGTH, "big") + data


def send(to: socket.socket, message: Any) -> None:
    """Sends a message; waits until the other side has room for it."""
    to.sendall(frame(message))


def receive(source: socket.socket) -> Any:
    """Waits for a message. Raises EOFError (or ConnectionError) when the other side is gone."""
    length = int.from_bytes(_read(source, _LENGTH), "big")
    return pickle.loads(_read(source, length))


async def receive_async(reader: asyncio.StreamReader) -> Any:
    """The same for an event loop."""
    length = int.from_bytes(await reader.readexactly(_LENGTH), "big")
    return pickle.loads(await reader.readexactly(length))


def _read(source: socket.socket, size: int) -> bytearray:
    data = bytearray()
    while len(data) < size:
        chunk = source.recv(min(size - len(data), 1 << 20))
        if not chunk:
            raise EOFError
        data += chunk
    return data

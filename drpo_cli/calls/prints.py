"""What a worker prints: passed on to this process's stderr, cut and counted."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

from drpo_cli import secrets
from drpo_cli.terminal import printable

OF_CALL = 1 << 12
"""Most bytes of one call that are passed on."""
IN_ALL = 1 << 20
"""Most bytes of one reward or environment that are passed on."""
_PIPE = 1 << 16


class Allowance:
    """What a reward or environment may still print; its workers share it.

    name  as in messages: `reward 'tidy'`
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.left = IN_ALL


class Prints:
    """What one worker prints, as Python or natively: it writes to a pipe, read from here."""

    def __init__(self, pipe: int, allowance: Allowance) -> None:
        self._pipe, self._allowance = pipe, allowance
        self._kept, self._size, self._closed = bytearray(), 0, False
        os.set_blocking(pipe, False)
        asyncio.get_running_loop().add_reader(pipe, self._read)

    def take(self) -> int:
        """Passes on what was printed since the last call of this; returns its size in bytes."""
        self._drain()
        size, text = self._size, bytes(self._kept[: self._allowance.left])
        self._kept, self._size = bytearray(), 0
        shown = self._allowance.left > 0
        self._allowance.left -= len(text)
        if shown and size:
            _write(_printable(text) + self._explain(size - len(text)))
        return size

    def close(self) -> None:
        """Reads what is left in the pipe, and closes it."""
        self._drain()
        if not self._closed:
            self._closed = True
            asyncio.get_running_loop().remove_reader(self._pipe)
            os.close(self._pipe)

    def _drain(self) -> None:
        # Twice what a pipe holds: a thread of the user's code may go on printing for ever
        for _ in range(32):
            if self._closed or not self._read():
                return

    def _read(self) -> bool:
        try:
            data = os.read(self._pipe, _PIPE)
        except BlockingIOError:
            return False
        if not data:
            asyncio.get_running_loop().remove_reader(self._pipe)
        self._size += len(data)
        self._kept += data[: OF_CALL - len(self._kept)]
        return bool(data)

    def _explain(self, cut: int) -> str:
        name = self._allowance.name
        if self._allowance.left <= 0:
            return f"\n[{name} has printed {IN_ALL} bytes: more is counted, not shown]\n"
        return f"\n[{name} printed {cut} more bytes in this call]\n" if cut else ""


def _printable(data: bytes) -> str:
    """The text without secrets, and without what would steer a terminal: it may be a completion."""
    text = data.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    return printable(secrets.mask(text))


def _write(text: str) -> None:
    with suppress(OSError):  # whoever reads it may be gone
        os.write(2, text.encode())

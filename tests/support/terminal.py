"""Runs a command on its own terminal, and reads its screen through an emulator."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pyte

PATIENCE = 120
QUIET = 0.05  # seconds without output, after which a frame is whole: frames are further apart


class Terminal:
    """A running command, and the screen in front of it."""

    def __init__(
        self, process: subprocess.Popen[bytes], master: int, columns: int, rows: int
    ) -> None:
        self.process = process
        self.master = master
        self.screen = pyte.HistoryScreen(columns, rows, history=10_000)
        self.written = b""
        self._stream = pyte.ByteStream(self.screen)

    @property
    def text(self) -> str:
        """What is on the screen now."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    def until(self, met: Callable[[str], bool]) -> str:
        """Reads until the screen meets a condition, and the rest of its frame; returns the screen.

        A read ends anywhere: the first lines may be those of a frame whose last are still to come.
        """
        deadline = time.monotonic() + PATIENCE
        while not met(self.text):
            assert time.monotonic() < deadline, self.text
            assert self._read(0.2), f"ended with this on the screen:\n{self.text}"
        while select.select([self.master], [], [], QUIET)[0] and self._read(0):
            assert time.monotonic() < deadline, self.text
        return self.text

    def end(self) -> int:
        """Reads until the command has ended; returns its exit code."""
        deadline = time.monotonic() + PATIENCE
        while self._read(0.2):
            assert time.monotonic() < deadline, self.text
        return self.process.wait(timeout=PATIENCE)

    def type(self, keys: bytes) -> None:
        """Types keys as on a keyboard: b"\\x03" is Ctrl-C."""
        os.write(self.master, keys)

    def resize(self, columns: int, rows: int) -> None:
        """Changes the window's size; the system sends SIGWINCH to the foreground group."""
        self.screen.resize(rows, columns)
        _set_size(self.master, columns, rows)

    def _read(self, seconds: float) -> bool:
        # False once the other end is closed
        if not select.select([self.master], [], [], seconds)[0]:
            return True
        try:
            found = os.read(self.master, 65536)
        except OSError:  # how Linux reports a closed end
            return False
        self.written += found
        self._stream.feed(found)
        return bool(found)


@contextmanager
def on_terminal(
    *arguments: object, size: tuple[int, int] = (80, 24), environment: Mapping[str, str] = {}
) -> Iterator[Terminal]:
    """Runs `drpo` with a terminal of so many columns and rows as its stdin, stdout and stderr."""
    master, slave = pty.openpty()
    _set_size(slave, *size)
    process = subprocess.Popen(
        [sys.executable, "-m", "drpo_cli", *map(str, arguments)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "TERM": "xterm-256color", **environment},
        start_new_session=True,
        preexec_fn=_control_terminal,
    )
    os.close(slave)
    try:
        yield Terminal(process, master, *size)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(master)


def _control_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C is a signal
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background job starts with it ignored


def _set_size(terminal: int, columns: int, rows: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

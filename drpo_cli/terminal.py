"""The edge to the terminal: text of others becomes harmless, and streams that are missing exist.

What a program prints can command a terminal: clear the screen, fill the clipboard, or show a line
that was never written. So everything that this process prints goes through `printable`, also the
messages of libraries; only the styles of our own views are written as they are.
"""

from __future__ import annotations

import io
import os
import re
import sys
from typing import TextIO, cast

# Control characters but newline and tab, half surrogate pairs, and characters without a width of
# their own that turn or hide text. Joiners stay: Persian, Hindi and emoji are spelled with them.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e007f\ud800-\udfff]"
)


class OutputError(OSError):
    """A stream that this process prints to takes no more; `cause` says why.

    It has no errno, by which typer would end the process without a word.
    """

    def __init__(self, cause: OSError):
        super().__init__(f"the output: {cause.strerror}")
        self.cause = cause


def escape(character: str) -> str:
    r"""A character as `\u001b`, which JSON reads too."""
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def printable(text: str) -> str:
    """The text with every character that could command a terminal as an escape."""
    return _HIDDEN.sub(lambda found: escape(found[0]), text)


class Printable(io.TextIOWrapper):
    """A stream that writes everything as `printable` gives it, and any encoding.

    Once it fails, it takes all that follows and drops it. A stream that is `optional` fails without
    an error: there is no other place to say so. The progress bars of libraries rewrite their line:
    there, a text may begin and end with a carriage return.
    """

    def __init__(self, handle: int, encoding: str, lines: bool, optional: bool = False):
        super().__init__(
            os.fdopen(handle, "wb", closefd=handle > 2),
            encoding=encoding,
            errors="backslashreplace",
            line_buffering=lines,
        )
        self._optional = optional

    def write(self, text: str) -> int:
        """Writes a text, printable."""
        if self._optional and text.startswith("\r"):
            end = "\r" if len(text) > 1 and text.endswith("\r") else ""
            return self.write_styled(f"\r{printable(text[1 : len(text) - len(end)])}{end}")
        return self.write_styled(printable(text))

    def write_styled(self, text: str) -> int:
        """Writes a text as it is: one that `console` made, with its styles."""
        try:
            return super().write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        """Flushes what was written."""
        try:
            super().flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self.fileno())
        os.close(nothing)
        if not self._optional:
            raise OutputError(error) from error


class _Styled:
    """A `Printable` that takes texts as they are."""

    def __init__(self, stream: Printable):
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write_styled(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def styled(stream: TextIO) -> TextIO:
    """The stream for texts with styles of our own."""
    return cast(TextIO, _Styled(stream)) if isinstance(stream, Printable) else stream


def guard_streams() -> None:
    """Makes stdout and stderr printable, and opens the standard streams that are closed."""
    open_missing_streams()
    sys.stdout = _guard(sys.stdout, 1)
    sys.stderr = _guard(sys.stderr, 2)


def open_missing_streams() -> None:
    """Opens the standard streams that are closed, on nothing.

    A service may start a program without them. Then the first file that it opens would be where
    everything prints to, and Python has None for the stream.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            nothing = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            os.set_inheritable(nothing, True)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    if sys.stdout is None:
        sys.stdout = Printable(1, "utf-8", lines=False)
    if sys.stderr is None:
        sys.stderr = Printable(2, "utf-8", lines=False, optional=True)


def _guard(stream: TextIO, number: int) -> Printable:
    if isinstance(stream, Printable):
        return stream
    stream.flush()
    lines = bool(getattr(stream, "line_buffering", False))
    return Printable(number, stream.encoding, lines, optional=number == 2)

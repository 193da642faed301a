"""The console that all verbs print tables and views with."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from drpo_cli.terminal import printable, styled


class PlainConsole(Console):
    """A console that prints text as it is: no markup, no emoji by name, no control characters."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Makes a text of a plain one, whose escapes then count for its width."""
        return super().render_str(printable(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Renders as rich does, with the text of every segment printable."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)


def open_console(
    stream: TextIO | None = None, width: int | None = None, **options: Any
) -> PlainConsole:
    """A console for a stream, by default stdout; `options` are those of rich."""
    if width is None and os.environ.get("COLUMNS") == "0":  # as some programs leave it
        width = 80
    return PlainConsole(
        file=styled(sys.stdout if stream is None else stream),
        width=width,
        markup=False,
        emoji=False,
        highlight=False,
        **options,
    )

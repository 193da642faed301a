"""Treats SIGINT and SIGTERM as requests: the current step is finished and saved first."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

from drpo_cli.dist import World


class StopRequest:
    """Remembers the first stop signal; all ranks agree on it before any of them acts.

    `heard` is called with the signal's name at once, wherever the process is at that moment.
    """

    def __init__(self, heard: Callable[[str], None]) -> None:
        self.signal = 0
        self._heard = heard
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._remember)

    def agree(self, world: World) -> bool:
        """Whether any rank was asked to stop. Collective.

        Consumes each rank's signal; produces the same `signal` on all of them.
        """
        self.signal = int(world.max([self.signal])[0])
        return self.signal != 0

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if not self.signal:
            self.signal = number
            self._heard(signal.Signals(number).name)

"""SIGINT and SIGTERM as requests: the step under way is finished and saved first."""

from __future__ import annotations

import signal
from types import FrameType

from drpo_cli.dist import World


class StopRequest:
    """Remembers the first stop signal; ranks agree on it before any of them acts."""

    def __init__(self) -> None:
        self.signal = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._remember)

    def agree(self, world: World) -> bool:
        """Whether any rank was asked to stop; collective. After it, `signal` is the same on all."""
        self.signal = int(world.max([self.signal])[0])
        return self.signal != 0

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or number

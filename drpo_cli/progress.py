"""The phase and the step of this process, and a count of what it has finished.

The heartbeat of the rank writes them down. To count costs an addition, so every room can do it in
its innermost loop. There is one progress per process, since a process is one rank.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Progress:
    """The place of a rank in its run.

    phase    what it is doing
    step     the step that it takes, 0 before the first
    entered  phases entered so far; ranks enter the same phases in the same order
    done     what it has finished so far: engine steps, responses, scores, micro-batches, …
    """

    phase: str = "start"
    step: int = 0
    entered: int = 0
    done: int = 0


OWN = Progress()


def enter(phase: str, step: int | None = None) -> None:
    """Enters a phase, and a step if one is given."""
    OWN.phase = phase
    OWN.step = OWN.step if step is None else step
    OWN.entered += 1


def tick() -> None:
    """Counts something that was finished. From any thread: a count that is lost does not matter."""
    OWN.done += 1

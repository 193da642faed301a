"""The score of a reasoning-gym task, from 0 to 1, for a text that a model wrote.

Some scorers (`countdown`, `n_queens`, integration, …) would evaluate the answer as Python code.
Here they get what is a literal or plain arithmetic; anything else, and a number of absurd size,
they cannot read, which `counts` has as `refused`. A scorer that computes for longer than 0.8
seconds scores 0, counted as `stopped`; one that takes more than 1 GiB cannot read the answer.
"""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

from drpo_cli.errors import UserError
from drpo_cli.gym import disarm

counts = disarm.counts
"""How many answers were `refused` and `stopped` in this process."""
CPU_S = 0.8
MEMORY = 1 << 30
_UNREADABLE = (
    ArithmeticError, AttributeError, LookupError, MemoryError, NameError, RecursionError,
    SyntaxError, TypeError, ValueError,
)  # fmt: skip
_WITH_TUPLES = ("arc_agi", "rearc")
"""Tasks whose scorers compare tuples, which a row of data holds as lists."""


def score(text: str, metadata: Mapping[str, Any], tag: str | None = None) -> float:
    """The task's own score. Raises UserError for a problem of another source.

    metadata  that of a row of the data source `reasoning_gym`
    tag       score only the text of the last `<tag>…</tag>`; the whole text if None
    """
    if not {"task", "options", "entry"} <= metadata.keys():
        raise UserError(
            "the problem is not from the data source 'reasoning_gym', so no task can score it",
            "use that source, or another way to score",
        )
    try:
        from reasoning_gym.utils import extract_answer
    except ImportError as error:
        raise UserError(str(error), "install it with: pip install reasoning-gym") from error
    found = text.strip() if tag is None else extract_answer(text, tag)
    entry = metadata["entry"]
    if metadata["task"] in _WITH_TUPLES:
        entry = _to_tuples(entry)
    scorer = _scorer(metadata["task"], json.dumps(metadata["options"], sort_keys=True, default=str))
    try:
        with _limits():
            return float(scorer.score_answer(found, entry))
    except _StoppedError:
        disarm.counts["stopped"] += 1
        return 0.0
    except _UNREADABLE:
        # Some scorers raise for an answer in another form than theirs. That is a wrong answer,
        # unless they cannot score the right one either: then this raises, and the call fails.
        scorer.score_answer(entry["answer"], entry)
        return 0.0


def _to_tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _to_tuples(inner) for key, inner in value.items()}
    return tuple(_to_tuples(inner) for inner in value) if isinstance(value, list) else value


class _StoppedError(Exception):
    pass


@contextmanager
def _limits() -> Iterator[None]:
    """Stops what runs inside when it takes too much: raises _StoppedError, even if it is caught."""
    running, stopped = True, False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        if running:
            raise _StoppedError

    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGPROF, stop)
    resource.setrlimit(resource.RLIMIT_AS, (_memory_limit(*before), before[1]))
    signal.setitimer(signal.ITIMER_PROF, CPU_S, CPU_S / 10)  # again: a scorer may catch it
    try:
        yield
    finally:
        running = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)
    if stopped:
        raise _StoppedError


def _memory_limit(soft: int, hard: int) -> int:
    """The address space in use and MEMORY, within the limits that there are."""
    used = Path("/proc/self/statm")  # Linux only; elsewhere the limit stays as it is
    if not used.exists():
        return soft
    wanted = int(used.read_text().split()[0]) * resource.getpagesize() + MEMORY
    return min([wanted, *(one for one in (soft, hard) if one != resource.RLIM_INFINITY)])


@lru_cache(maxsize=256)
def _scorer(task: str, options: str) -> Any:
    from reasoning_gym.factory import create_dataset

    disarm.disarm()
    return create_dataset(task, size=1, seed=0, **json.loads(options))

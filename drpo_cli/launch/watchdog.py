"""Watches the heartbeats of all ranks: says who waits for whom, and ends a run that hangs.

Consumes      `logs/rankN.alive` of all ranks
Waits for     its own clock, once a second
Unblocked by  the launcher, which ends it after the last rank
Produces      events; after `run.hang_s` without progress: the stacks of this machine's ranks in
              their logs, `logs/rankN.error`, and the end of these ranks

A rank makes progress when it enters a phase or finishes something (`progress`). One that waits for
another does not, so a run hangs when no rank makes progress. Beats are compared with earlier beats
only, never with a clock of another machine.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from drpo_cli import processes
from drpo_cli.errors import EXIT_RUN_FAILED
from drpo_cli.launch.heartbeat import BEAT_S, END, Beat, read_beat
from drpo_cli.runs.events import ENDED, say_if_room, state
from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.spec import read_tables
from drpo_cli.settings import RewardSettings, RunSettings, TeacherSettings

WATCHED = "DRPO_WATCHED"
"""Set for ranks whose launcher watches them; where it is not, the first rank of a machine does."""
EVERY_S = 1.0
MUTE_S = 15 * BEAT_S  # after so long without a beat, a rank does not answer
DUMP_S = 1.0  # for the ranks to write their stacks
LEAVE_S, LOOK_S = 10.0, 0.2  # for the ranks to leave by themselves, and to see whether they did
ENDED_WELL = "has ended"
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def hang_limit(folder: RunFolder) -> float:
    """Seconds without progress after which the run hangs; infinite where the watch is off.

    A call of a reward, or of a teacher behind an endpoint, may take its own time-out on top of
    `run.hang_s`.
    """
    tables, _ = read_tables(folder)
    run: dict[str, Any] = tables.get("run", {})
    seconds = run.get("hang_s", RunSettings.model_fields["hang_s"].default)
    usual = RewardSettings.model_fields["timeout_s"].default
    calls = [table.get("timeout_s", usual) for table in tables.get("reward", [])]
    if "url" in (teacher := tables.get("teacher", {})):
        calls.append(teacher.get("timeout_s", TeacherSettings.model_fields["timeout_s"].default))
    return seconds + max(calls, default=0.0) if seconds else float("inf")


class Watchdog:
    """Watches the ranks of a run on `world` processes; `limit_s` as of `hang_limit`."""

    def __init__(
        self,
        folder: RunFolder,
        world: int,
        limit_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._world, self._limit_s = folder, world, limit_s
        self._clock, self._looked = clock, clock()
        self._now = 0.0  # seconds watched: those in which this process was halted do not count
        self._beats: list[Beat | None] = [None] * world
        self._heard, self._moved = [0.0] * world, [0.0] * world
        self._stopped: dict[int, int] = {}
        self._warned = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="drpo-watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        """Starts a thread that looks every second."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the thread."""
        self._over.set()
        self._thread.join()

    def look(self) -> None:
        """Reads the beats, says what changed, and ends this machine's ranks if the run hangs."""
        now = self._clock()
        self._now += min(now - self._looked, 2 * BEAT_S)
        self._looked = now
        for rank in range(self._world):
            self._listen(rank)
        self._look_for_stopped()
        idle = self._now - max(self._moved)
        if idle < self._limit_s / 2:
            self._warned = False
        elif not self._warned:
            self._warned = True
            if self._speaks():
                self._say(f"no progress: {self._describe()[0]}")
        if idle > self._limit_s:
            self._end()

    def _loop(self) -> None:
        while not self._over.wait(EVERY_S):
            self.look()

    def _listen(self, rank: int) -> None:
        old, beat = self._beats[rank], read_beat(self._folder, rank)
        if beat is None or beat == old:
            return
        self._heard[rank] = self._now
        if old is None or (old.entered, old.done) != (beat.entered, beat.done):
            self._moved[rank] = self._now
        self._beats[rank] = beat

    def _look_for_stopped(self) -> None:
        """Says which ranks a SIGSTOP halts, and continues one that a signal waits to end.

        Such a rank can act neither on its user's signal nor on the failure of another rank.
        """
        pids = self._own_ranks()
        now = {rank: pid for rank, pid in pids.items() if _is_stopped(pid)}
        for rank, pid in now.items() - self._stopped.items():
            self._say(
                f"rank {rank} is stopped (SIGSTOP), and the run waits for it; "
                f"`kill -CONT {pid}` continues it"
            )
        for rank in self._stopped.keys() - now.keys():
            self._say(f"rank {rank} is not stopped any more")
        self._stopped = now
        for pid in now.values():
            if _must_end(pid):
                _send(pid, signal.SIGCONT)

    def _own_ranks(self) -> dict[int, int]:
        """The process of every rank that runs on this machine."""
        here = socket.gethostname()
        return {
            rank: beat.process
            for rank, beat in enumerate(self._beats)
            if beat is not None and beat.host == here and _is_rank(beat.process, rank)
        }

    def _others(self) -> set[int]:
        return set(self._own_ranks().values()) - {os.getpid()}

    def _speaks(self) -> bool:
        """Whether the first rank runs here: of the watchdogs of several machines, one speaks."""
        first = next((beat for beat in self._beats if beat is not None), None)
        return first is None or first.host == socket.gethostname()

    def _describe(self) -> tuple[str, list[int]]:
        """Who waits for whom, in words; and the ranks that the others wait for."""
        now = self._now
        silent = {rank for rank, heard in enumerate(self._heard) if now - heard > MUTE_S}
        late = find_late(self._beats, silent | self._stopped.keys())
        minutes = (now - max(self._moved)) / 60
        since = f"{minutes:.0f} min" if minutes >= 2 else f"{60 * minutes:.0f} s"
        states = {rank: self._state(rank, rank in silent) for rank in range(self._world)}
        named = _group({rank: states[rank] for rank in late})
        others = {r: what for r, what in states.items() if r not in late and what != ENDED_WELL}
        if not others:
            return f"{'; '.join(f'{who} {what}' for who, what in named)}, since {since}", late
        waiting = "; ".join(f"{who} {what}" for who, what in _group(others, waits=True))
        causes = " and ".join(f"{who}, which {what}" for who, what in named)
        return f"{waiting} since {since} for {causes}", late

    def _state(self, rank: int, silent: bool) -> str:
        beat = self._beats[rank]
        if beat is None:
            return "has not started"
        where = f"in {beat.phase} ({f'step {beat.step}, ' if beat.step else ''}{beat.place})"
        if rank in self._stopped:
            return f"is stopped (SIGSTOP) {where}"
        if beat.phase == END:
            return ENDED_WELL
        if silent:
            return f"does not answer (process {beat.process} on {beat.host})"
        return f"is {where}"

    def _end(self) -> None:
        text, late = self._describe()
        own = self._own_ranks()
        for pid in own.values():
            _send(pid, signal.SIGUSR1)  # the rank's stacks, without the help of its threads
            _send(pid, signal.SIGCONT)
        time.sleep(DUMP_S)
        text = (
            f"the run hangs: {text}; the stack of every rank is in its log, "
            f"{self._folder.path}/logs/rankN.log; continue with --resume"
        )
        # First those that the others wait for: the first failure is the one that is shown
        for rank in sorted(own, key=lambda rank: (rank not in late, rank)):
            with suppress(OSError):
                self._folder.record_error(rank, EXIT_RUN_FAILED, text)
        if state(self._folder) not in ENDED:  # the watchdog of another machine was not faster
            self._say(text, failed=True)
        for _ in range(round(LEAVE_S / LOOK_S)):
            if self._over.wait(LOOK_S) or not self._others():
                break
        for pid in self._others():
            _send(pid, signal.SIGKILL)
        if os.getpid() in own.values():  # a rank that watches itself
            processes.exit_now(EXIT_RUN_FAILED)
        self._limit_s = float("inf")

    def _say(self, text: str, failed: bool = False) -> None:
        sys.stderr.write(say_if_room(self._folder, text, "failed" if failed else None))


def find_late(beats: Sequence[Beat | None], mute: Collection[int]) -> list[int]:
    """The ranks that the others wait for; all of them where that does not show.

    Those that do not beat, though they have not ended; else those that are behind by their phases;
    else those that are not in a collective.
    """
    known = {rank: beat for rank, beat in enumerate(beats) if beat is not None}
    ended = {rank for rank, beat in known.items() if beat.phase == END}
    lost = [r for r in range(len(beats)) if r not in known or (r in mute and r not in ended)]
    least = min((beat.entered for beat in known.values()), default=0)
    behind = [rank for rank, beat in known.items() if beat.entered == least]
    apart = [rank for rank, beat in known.items() if not beat.waits]
    some = (late for late in (lost, behind, apart) if 0 < len(late) < len(beats))
    return next(some, list(range(len(beats))))


def _group(states: dict[int, str], waits: bool = False) -> list[tuple[str, str]]:
    """Ranks with the same state together: their names, and the state."""
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for rank, what in states.items():
        groups[what].append(rank)
    return [(_name(ranks), _conjugate(what, len(ranks), waits)) for what, ranks in groups.items()]


def _name(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    if len(ranks) == ranks[-1] - ranks[0] + 1 > 2:
        return f"ranks {ranks[0]} to {ranks[-1]}"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"


def _conjugate(what: str, ranks: int, waits: bool) -> str:
    verb, _, rest = what.partition(" ")
    if waits and what.startswith("is in "):
        verb, rest = "waits", what.removeprefix("is ")
    plural = {"is": "are", "has": "have", "does": "do", "waits": "wait"}
    return f"{plural[verb] if ranks > 1 else verb} {rest}"


def _is_rank(pid: int, rank: int) -> bool:
    """Whether this process is that rank, and not a later one with its number."""
    with suppress(psutil.Error):
        return pid == os.getpid() or psutil.Process(pid).environ().get("RANK") == str(rank)
    return False


def _is_stopped(pid: int) -> bool:
    with suppress(psutil.Error):
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    return False


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _must_end(pid: int) -> bool:
    """Whether a signal that asks the process to end waits for it (Linux; elsewhere False)."""
    with suppress(OSError):
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
        pending = sum(int(bits, 16) for bits in re.findall(r"^ShdPnd:\s*(\w+)", text, re.M))
        return any(pending >> (number - 1) & 1 for number in _ENDING)
    return False

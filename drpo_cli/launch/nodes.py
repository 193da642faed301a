"""What several launchers agree on before their ranks start, and what those beside the first show.

Consumes      the place of this launcher, its spec and its versions
Waits for     the other launchers, as long as `Place.join_s` says; then for the first to prepare
Unblocked by  the others' facts; the end of the process that keeps the store
Produces      one run folder that all see, or one and the same message on every node
"""

from __future__ import annotations

import os
import platform
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import tomli

from drpo_cli.errors import UserError
from drpo_cli.launch.failures import Failures, first_failure
from drpo_cli.launch.heartbeat import has_left
from drpo_cli.launch.meeting import POLL_S, Meeting, meet
from drpo_cli.launch.place import Place
from drpo_cli.runs import locks
from drpo_cli.runs import versions as installed
from drpo_cli.runs.events import say_if_room, state
from drpo_cli.runs.folder import RunFolder, launcher_lock, write_whole

SHARED_S = 20.0  # a network file system may show a new file late
ANSWER_S = 10.0
STATE_S = 1.0
MARK = ".nodes"
MOST_SHOWN = 3


@contextmanager
def gather(place: Place | None, spec: str, processes: int | None) -> Iterator[Meeting | None]:
    """Meets the others and requires that all bring the same; None for a machine on its own.

    Raises UserError, the same everywhere, when they do not come or differ.
    """
    if place is None:
        yield None
        return
    with meet(place) as meeting:
        own = describe_self(place, tomli.loads(spec), processes)
        require_agreement(meeting.share("facts", own, place.join_s), place.noun)
        yield meeting


def describe_self(place: Place, spec: Mapping[str, Any], processes: int | None) -> dict[str, Any]:
    """What this node brings, to be compared with the others.

    processes  how many it runs; None where each brings itself
    """
    return {
        "host": socket.gethostname(),
        "size": place.size,
        "processes": processes,
        "versions": {"Python": platform.python_version(), **installed.versions()},
        "spec": spec,
    }


def require_agreement(facts: Sequence[Mapping[str, Any]], noun: str) -> None:
    """Raises UserError, the same on every node, for the first that differs from node 0."""
    first = facts[0]
    for rank, other in enumerate(facts):
        name, origin = f"{noun} {rank} ({other['host']})", f"{noun} 0 ({first['host']})"
        if other["size"] != first["size"]:
            raise UserError(
                f"{name} expects {other['size']} {noun}s, {origin} expects {first['size']}",
                "give the same --nodes everywhere",
            )
        if other["processes"] != first["processes"]:
            raise UserError(
                f"{name} runs {other['processes']} processes, {origin} runs {first['processes']}",
                "all nodes run equally many: give --nproc",
            )
        for key, cure in (
            ("versions", "install the same versions on all nodes"),
            ("spec", "start all nodes with the same spec, the same --set, from the same folder"),
        ):
            if differences := list(_compare(other[key], first[key])):
                more = len(differences) - MOST_SHOWN
                shown = "; ".join(differences[:MOST_SHOWN])
                raise UserError(
                    f"{name} and {origin} differ: {shown}{f'; {more} more' if more > 0 else ''}",
                    cure,
                )


def _compare(other: Any, first: Any, path: str = "") -> Iterator[str]:
    if isinstance(other, dict) and isinstance(first, dict):
        for key in [*first, *(key for key in other if key not in first)]:
            inner = f"{path}.{key}" if path else str(key)
            yield from _compare(other.get(key), first.get(key), inner)
    elif isinstance(other, list) and isinstance(first, list) and len(other) == len(first):
        for at, (left, right) in enumerate(zip(other, first, strict=True)):
            yield from _compare(left, right, f"{path}[{at}]")
    elif other != first:
        yield f"{path} is {_show(other)}, there {_show(first)}"


def _show(value: object) -> str:
    return "not set" if value is None else str(value)


def prepare_together(
    meeting: Meeting | None, folder: RunFolder, prepare: Callable[[], object]
) -> None:
    """Has the first prepare the run folder, and proves that all see what it wrote.

    Consumes: the folder, the same path everywhere; `prepare`, which only the first calls.
    Waits for: the first to prepare; the others to find its mark in the folder.
    Produces: the prepared folder. Raises UserError, on all nodes, when the first cannot prepare it
        or a node does not see it.
    """
    if meeting is None:
        prepare()
        return
    place, mark = meeting.place, uuid.uuid4().hex
    if place.rank == 0:
        outcome = {"error": "it was stopped"}
        try:
            prepare()
            write_whole(folder.path / MARK, mark)
            outcome = {"mark": mark}
        except UserError as error:
            outcome = {"error": str(error)}
            raise
        finally:
            meeting.tell("prepared", outcome)
    else:
        outcome = meeting.hear("prepared")
        if "error" in outcome:
            raise UserError(f"{place.noun} 0 could not prepare the run: {outcome['error']}")
    sees = _sees(folder.path / MARK, outcome["mark"])
    seen = meeting.share("sees", [socket.gethostname(), sees], SHARED_S + ANSWER_S)
    blind = [
        f"{place.noun} {rank} ({host})" for rank, (host, found) in enumerate(seen) if not found
    ]
    if blind:
        raise UserError(
            f"{', '.join(blind)} does not see {folder.path} as {place.noun} 0 ({seen[0][0]}) "
            "wrote it: the run folder is not shared",
            "set run.folder to a folder that all nodes mount at the same path (NFS, Lustre)",
        )


def _sees(path: Path, mark: str) -> bool:
    until = time.monotonic() + SHARED_S
    while True:
        with suppress(OSError):
            os.listdir(path.parent)  # has a network file system ask its server
            if path.read_text(encoding="utf-8") == mark:
                return True
        if time.monotonic() > until:
            return False
        time.sleep(POLL_S)


def report_lost(failures: Failures, meeting: Meeting | None) -> str:
    """After a failure: says and records which nodes ended without a word; empty for none.

    A launcher that lives holds its lock, and one that ends by itself leaves an error of its ranks,
    or ranks that left because of that of another.
    """
    if meeting is None:
        return ""
    folder, size = failures.folder, meeting.place.size
    local = failures.world // size
    said = ""
    for node in range(size):
        ranks = range(node * local, (node + 1) * local)
        if first_failure(folder, ranks) or has_left(folder, ranks):
            continue
        if locks.holder(folder.path / launcher_lock(node)):
            continue
        meeting.forget(node)
        named = f"ranks {ranks[0]} to {ranks[-1]}" if local > 1 else f"rank {ranks[0]}"
        text = (
            f"node {node} ({meeting.addresses[node]}) is lost, with {named}: its launcher was "
            "killed, or the machine is down; continue with --resume, on the nodes that are left or "
            "on all"
        )
        said += f"error: {text}\n" + say_if_room(folder, text, "failed", rank=ranks[0])
    return said


class States:
    """The thread of a launcher that is not the first: prints the run's states and its failure.

    Consumes      the run's events and locks, `logs/rankN.error`
    Waits for     its own clock, once a second
    Unblocked by  the launcher, after the last rank of this node
    Produces      one line per state on the terminal
    """

    def __init__(self, failures: Failures, meeting: Meeting, out: TextIO, err: TextIO):
        self._failures, self._meeting, self._out, self._err = failures, meeting, out, err
        self._state = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> States:
        """Starts the thread."""
        place, folder = self._meeting.place, self._failures.folder
        self._print(self._out, f"{place}, {self._meeting.address}: {folder.path}\n")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the thread after a last look."""
        self._over.set()
        self._thread.join()

    def show(self, message: str) -> None:
        """Shows a message of the launcher."""
        self._print(self._err, message)

    def _loop(self) -> None:
        while not self._over.wait(STATE_S):
            self._look()
        self._look()

    def _look(self) -> None:
        self._print(self._err, self._failures.new_message())
        found = state(self._failures.folder)
        if found != self._state:
            self._state = found
            self._print(self._out, f"{self._meeting.place}: {found}\n")

    def _print(self, stream: TextIO, text: str) -> None:
        with suppress(OSError):  # its reader is gone; the run continues
            stream.write(text)
            stream.flush()

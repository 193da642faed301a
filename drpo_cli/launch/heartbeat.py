"""The heartbeat of a rank: a thread that writes down every few seconds where the rank is.

Consumes      `progress`, and the stack of the main thread
Waits for     its own clock
Unblocked by  the end of the rank
Produces      `logs/rankN.alive`; the stack of every thread in the rank's log, on SIGUSR1 and when
              the rank leaves because another has failed

The thread needs the interpreter for less than a millisecond per beat. A beat replaces the one
before it in place, which a full disk allows.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType

import msgspec
import psutil

from drpo_cli import processes, progress
from drpo_cli.launch.failures import first_failure
from drpo_cli.runs.folder import RunFolder

BEAT_S = 2.0
END, LEFT = "end", "left"  # phases of a rank that ended well, and because another had failed
SIZE = 512  # bytes of a beat
BUSY_BYTES = 2**20  # read or written between two beats: a model or a checkpoint on its way
PACKAGE = str(Path(progress.__file__).parent)
_STDERR = 2


class Beat(msgspec.Struct, frozen=True):
    """Where a rank was at its last beat.

    process  the rank's process on that host
    number   beats so far: one that does not change means that the process does not run
    place    the innermost function of this package that the main thread is in
    waits    whether that thread is in a collective
    """

    host: str
    process: int
    number: int
    phase: str
    step: int
    entered: int
    done: int
    place: str
    waits: bool


def read_beat(folder: RunFolder, rank: int) -> Beat | None:
    """The last beat of a rank; None when there is none, or it cannot be read."""
    try:
        return msgspec.json.decode(folder.beat(rank).read_bytes(), type=Beat)
    except (OSError, msgspec.DecodeError):  # a beat that is half written is read next time
        return None


def has_left(folder: RunFolder, ranks: Iterable[int]) -> bool:
    """Whether one of these ranks ended by itself, well or because another had failed."""
    beats = (read_beat(folder, rank) for rank in ranks)
    return any(beat is not None and beat.phase in (END, LEFT) for beat in beats)


class Heartbeat:
    """Beats while a rank runs, and ends the rank when another has failed.

    also  is called at every beat

    A rank whose neighbour is gone may wait in a collective for ever. It has nothing to save, so it
    leaves as soon as it finds that another rank has recorded a failure.
    """

    def __init__(
        self, folder: RunFolder, rank: int, world: int, also: Callable[[], object] = lambda: None
    ) -> None:
        self._folder, self._rank, self._others = folder, rank, set(range(world)) - {rank}
        self._also = also
        self._host = socket.gethostname()
        self._main = threading.main_thread().ident
        self._number = self._bytes = 0
        self._file: int | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="drpo-heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        """Starts to beat."""
        faulthandler.register(signal.SIGUSR1, file=_STDERR, all_threads=True)
        with suppress(OSError):
            self._file = os.open(self._folder.beat(self._rank), os.O_CREAT | os.O_WRONLY, 0o644)
        self.beat()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Writes the last beat."""
        self._over.set()
        self._thread.join()
        progress.enter(END)
        self.beat()
        if self._file is not None:
            os.close(self._file)

    def beat(self) -> None:
        """Writes where the rank is now."""
        self._count_bytes()
        self._number += 1
        own = progress.OWN
        place, waits = find_place(sys._current_frames().get(self._main or 0))
        beat = Beat(
            self._host,
            os.getpid(),
            self._number,
            own.phase,
            own.step,
            own.entered,
            own.done,
            place,
            waits,
        )
        if self._file is not None:
            with suppress(OSError):
                os.pwrite(self._file, msgspec.json.encode(beat).ljust(SIZE), 0)

    def _loop(self) -> None:
        while not self._over.wait(BEAT_S):
            self.beat()
            self._leave_if_another_failed()
            self._also()

    def _count_bytes(self) -> None:
        with suppress(psutil.Error, AttributeError, OSError):  # macOS does not count them
            counted = psutil.Process().io_counters()
            now = sum(counted[2:])
            if now - self._bytes > BUSY_BYTES:
                progress.tick()
            self._bytes = now

    def _leave_if_another_failed(self) -> None:
        failure = first_failure(self._folder, self._others) if self._others else None
        if failure is None:
            return
        progress.enter(LEFT)
        self.beat()
        with suppress(OSError):
            sys.stderr.write(f"rank {failure.rank} failed, so this one leaves; it was here:\n")
            sys.stderr.flush()
            faulthandler.dump_traceback(_STDERR, all_threads=True)
        processes.exit_now(failure.code)


def find_place(frame: FrameType | None) -> tuple[str, bool]:
    """The innermost function of this package in a stack, and whether it waits in a collective."""
    waits = False
    while frame is not None:
        waits |= frame.f_globals.get("__name__", "").startswith("torch.distributed.")
        if frame.f_code.co_filename.startswith(PACKAGE):
            return frame.f_code.co_qualname[:100], waits
        frame = frame.f_back
    return "", waits

"""Faults of a machine, put into a run that trains: real signals, real file systems, real limits."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import psutil

from drpo_cli.errors import UserError
from drpo_cli.launch import launcher
from drpo_cli.runs import checkpoints as saved
from drpo_cli.runs import locks
from drpo_cli.runs.folder import LAUNCHER_LOCK, RUN_LOCK, RunFolder
from drpo_cli.spec import load

CLOCK = """
import os, time
_real = time.time
def _jumping():
    try:
        with open(os.environ["SOAK_CLOCK"]) as file:
            return _real() + float(file.read())
    except (OSError, ValueError):
        return _real()
time.time = _jumping
"""
"""A `sitecustomize` that adds what a file says to the time; monotonic clocks stay as they are."""


@dataclass
class Attempt:
    """A run that trains, as the faults see it.

    pid    the process that ends with the run's exit code
    said   what it showed so far
    codes  exit codes that the fault may cause, 0 included
    words  one of these must be in the message of an exit code 2
    """

    folder: RunFolder
    pid: int
    is_over: Callable[[], bool]
    codes: set[int] = field(default_factory=lambda: {0})
    words: tuple[str, ...] = ()

    def ranks(self) -> list[int]:
        """The processes that train."""
        with suppress(psutil.Error):
            own = psutil.Process(self.pid)
            found = [c.pid for c in own.children() if "RANK" in c.environ()]
            return found or [self.pid]
        return []


Fault = Callable[[Attempt, Random], None]


def kill_rank(attempt: Attempt, random: Random) -> None:
    """SIGKILL to a rank, as the system does when memory runs out."""
    attempt.codes |= {1, -9}
    _signal(random.choice(attempt.ranks() or [attempt.pid]), signal.SIGKILL)


def kill_launcher(attempt: Attempt, random: Random) -> None:
    """SIGKILL to the command."""
    attempt.codes |= {-9}
    _signal(attempt.pid, signal.SIGKILL)


def ask_to_stop(attempt: Attempt, random: Random) -> None:
    """SIGTERM or SIGINT to the command."""
    attempt.codes |= {143, 130, -15, -2, 1}  # 1: before it had a handler
    _signal(attempt.pid, random.choice([signal.SIGTERM, signal.SIGINT]))


def stop_for_a_while(attempt: Attempt, random: Random) -> None:
    """SIGSTOP to a rank, and SIGCONT two seconds later."""
    for rank in attempt.ranks()[-1:]:
        _signal(rank, signal.SIGSTOP)
        time.sleep(2)
        _signal(rank, signal.SIGCONT)


def stop_and_end(attempt: Attempt, random: Random) -> None:
    """SIGSTOP to a rank for good; then the user ends the run, or its neighbour dies."""
    *others, last = attempt.ranks() or [attempt.pid]
    _signal(last, signal.SIGSTOP)
    time.sleep(0.5)
    if last == attempt.pid:  # no launcher: nobody else could continue it
        _signal(last, signal.SIGCONT)
    elif others and random.random() < 0.5:
        kill_rank(Attempt(attempt.folder, others[0], attempt.is_over), random)
        attempt.codes |= {1}
    else:
        ask_to_stop(attempt, random)


def limit_memory(attempt: Attempt, random: Random) -> None:
    """No more address space for a rank than it has."""
    attempt.codes |= {1, 2, -6, -7, -11}
    attempt.words = ("memory",)
    for rank in attempt.ranks()[:1]:
        with suppress(psutil.Error, ProcessLookupError):
            now = psutil.Process(rank).memory_info().vms
            resource.prlimit(rank, resource.RLIMIT_AS, (now + 2**20, resource.RLIM_INFINITY))


def limit_files(attempt: Attempt, random: Random) -> None:
    """No file of a rank may be larger than this."""
    attempt.codes |= {2}
    attempt.words = ("larger than allowed",)
    size = random.choice([50, 5_000, 50_000])
    for rank in attempt.ranks():
        with suppress(ProcessLookupError):
            resource.prlimit(rank, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def jump_clock(attempt: Attempt, random: Random) -> None:
    """The clock jumps by up to ten years, to and fro."""
    for _ in range(4):
        Path(os.environ["SOAK_CLOCK"]).write_text(str(random.uniform(-3e8, 3e8)))
        time.sleep(0.3)


def start_a_second(attempt: Attempt, random: Random) -> None:
    """A second `train` on the same folder is refused, and says who holds it.

    Says nothing of a run that let go of its folder meanwhile: one that has ended writes its report
    without the lock.
    """
    held, answer = _holders(attempt.folder), "two runs hold one folder"
    if not held:
        return
    try:
        launcher.prepare(load(attempt.folder.spec), resume=True, world=1)
    except UserError as error:
        answer = str(error)
    refused = any(f"is in use by a run that has not ended ({one})" in answer for one in held)
    assert refused or _holders(attempt.folder) != held, answer


def _holders(folder: RunFolder) -> set[locks.Holder]:
    """Of the locks of the run and of its launcher."""
    found = (locks.holder(folder.path / name) for name in (RUN_LOCK, LAUNCHER_LOCK))
    return {one for one in found if one}


def export_meanwhile(attempt: Attempt, random: Random) -> None:
    """An export while the run saves and deletes checkpoints."""
    out = attempt.folder.path.parent / f"exported-{random.randrange(10**9)}"
    command = [sys.executable, "-m", "drpo_cli", "export", str(attempt.folder.path), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 2) and "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 0 or "nor a run folder with one" in done.stderr, done.stderr
    assert done.returncode == 2 or (out / "model.safetensors").is_file()


def kill_helpers(attempt: Attempt, random: Random) -> None:
    """SIGKILL to the processes of trackers and of the page; they are not part of training."""
    with suppress(psutil.Error):
        for child in psutil.Process(attempt.pid).children():
            words = " ".join(child.cmdline())
            if "report.writer" in words or "launch.follower" in words:
                _signal(child.pid, signal.SIGKILL)


def fill_disk(attempt: Attempt, random: Random) -> None:
    """The disk of the run folder is full; only where it has a small one of its own."""
    attempt.codes |= {2}
    attempt.words = ("the disk is full", "GiB free")
    filler, room = attempt.folder.path.parent / "filler", random.choice([0, 1, 10])
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    os.truncate(filler, max(0, filler.stat().st_size - 4096 * room))


def write_protect(attempt: Attempt, random: Random) -> None:
    """The file system of the checkpoints turns read-only."""
    attempt.codes |= {2}
    attempt.words = ("the file system is read-only",)
    folder = attempt.folder.checkpoints
    if folder.is_dir():
        subprocess.run(["mount", "--bind", folder, folder], check=True)
        protect = ["mount", "-o", "remount,bind,ro", str(folder)]
        if subprocess.run(protect, capture_output=True, check=False).returncode:
            subprocess.run(["umount", "-l", folder], check=True)  # a file was open for writing


ANYWHERE: tuple[Fault, ...] = (
    kill_rank, kill_launcher, ask_to_stop, stop_for_a_while, stop_and_end, limit_memory,
    limit_files, jump_clock, start_a_second, export_meanwhile, kill_helpers,
)  # fmt: skip
ON_OWN_DISK: tuple[Fault, ...] = (fill_disk, write_protect)
"""Need the right to mount, and the run folder on a small disk of its own."""


def heal(folder: RunFolder) -> None:
    """Undoes what outlives the processes of a run."""
    (folder.path.parent / "filler").unlink(missing_ok=True)
    Path(os.environ["SOAK_CLOCK"]).unlink(missing_ok=True)
    mounts = Path("/proc/self/mounts").read_text().count(f" {folder.checkpoints} ")
    for _ in range(mounts):
        subprocess.run(["umount", "-l", folder.checkpoints], check=True)


def flip_bit(folder: RunFolder, random: Random) -> str:
    """Flips a bit in a file of the newest checkpoint, if there is one before it; its name."""
    whole = saved.complete(folder.checkpoints)
    if len(whole) < 2:
        return ""
    name = random.choice([*saved.file_names(whole[-1]), saved.MARKER])
    file = whole[-1] / name
    content = bytearray(file.read_bytes())
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    file.write_bytes(content)
    return str(file.relative_to(folder.path)) if saved.damage(whole[-1]) else ""


@contextmanager
def jumping_clock(folder: Path) -> Iterator[None]:
    """Lets `jump_clock` reach every process that is started inside."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(CLOCK)
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), before]))
    os.environ["SOAK_CLOCK"] = str(folder / "clock")
    try:
        yield
    finally:
        os.environ["PYTHONPATH"] = before


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)

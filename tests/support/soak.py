"""Soak: runs that faults disturb at random end as the undisturbed run does, bit for bit.

`python -m support.soak --minutes 10 --seed 0` (with tests/ on the path) trains tiny runs, puts a
random fault into each attempt at a random instant, resumes until the run is finished, compares it
with an undisturbed one, and prints what was injected. Exits 1 when a run differs, hangs, ends with
an exit code that its fault does not explain, or does not say why.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from drpo_cli.launch import launcher
from drpo_cli.launch.failures import first_failure
from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.metrics import Stepped
from drpo_cli.runs.reader import read
from drpo_cli.spec import load
from drpo_cli.tools.compare import server
from support import faults
from support.command import records, reproducible
from support.faults import Attempt, Fault
from support.models import tiny_model

STEPS = 6
HANG_S = 180.0
NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "--propagation", "private")
ATTEMPTS = 4  # with a fault, in one run
KILLS = 5
SPEC = f"""
[run]
name = "soak"
steps = {STEPS}
report_every = 1
[model]
path = "model"
dtype = "float32"
[[data]]
type = "arithmetic"
[rollout]
prompts_per_step = 4
samples_per_prompt = 4
max_new_tokens = 4
context_length = 32
[[reward]]
type = "length"
limit = 8
soft_limit = 1
[train]
updates_per_rollout = 2
learning_rate = 1e-3
[eval]
problems = 4
samples_per_prompt = 2
every = 2
[checkpoint]
every = 1
keep = 3
asynchronous = true
"""


@dataclass(frozen=True)
class Kind:
    """How a run is started: `warm` in a fork that has imported everything, else as a command."""

    engine: str
    world: int
    warm: bool

    def __str__(self) -> str:
        return f"{self.engine}, {self.world} rank{'s' * (self.world > 1)}" + ", fork" * self.warm


KINDS = {
    "warm": Kind("transformers", 1, warm=True),
    "two_ranks": Kind("transformers", 2, warm=False),
    "vllm": Kind("vllm", 1, warm=False),
}


@dataclass
class Soak:
    """The faults so far, and what was wrong.

    until  when to put in no more faults, by the monotonic clock
    rows   kind of run, fault, its effect
    """

    base: Path
    random: Random
    own_disk: bool
    until: float = math.inf
    rows: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    started: int = 0
    references: dict[Kind, RunFolder] = field(default_factory=dict)
    seconds: dict[Kind, float] = field(default_factory=dict)

    def run(self, kind: Kind, injected: Sequence[Fault]) -> None:
        """Trains one run to its end with these faults, one in each attempt, and compares it."""
        if kind not in self.references:
            self._train_reference(kind)
        folder = self._new_folder()
        for fault in injected:
            if finished(folder) or time.monotonic() > self.until:
                break
            self._disturb(kind, folder, fault)
            flip = self.random.random() < 0.3 and not finished(folder)
            if flip and faults.flip_bit(folder, self.random):
                self._note(kind, "flip_bit", "the one before is used")
        for _ in range(2):
            if not finished(folder):
                code, said = self._attempt(kind, folder, None)
                self._require(code == 0, folder, f"undisturbed, it ended with {code}: {said}")
        self._require(finished(folder), folder, "it is not finished")
        self._compare(kind, folder)

    def _note(self, kind: Kind, fault: str, effect: str) -> None:
        self.rows[str(kind), fault, effect] += 1
        sys.stderr.write(f"{kind}: {fault}: {effect}\n")

    def _train_reference(self, kind: Kind) -> None:
        folder, began = self._new_folder(), time.monotonic()
        code, said = self._attempt(kind, folder, None)
        self._require(code == 0, folder, f"the undisturbed run ended with {code}: {said}")
        self.references[kind], self.seconds[kind] = folder, time.monotonic() - began

    def _disturb(self, kind: Kind, folder: RunFolder, fault: Fault) -> None:
        code, _ = self._attempt(kind, folder, fault)
        effect = "continued" if code == 0 else f"ended with {code}, resumed"
        self._note(kind, fault.__name__, effect)
        faults.heal(folder)

    def _attempt(self, kind: Kind, folder: RunFolder, fault: Fault | None) -> tuple[int, str]:
        """Starts the run or continues it; its exit code, and its message."""
        until = time.monotonic() + HANG_S
        while folder.in_use() and time.monotonic() < until:
            time.sleep(0.05)  # after the death of its parent, a process is gone a moment later
        start = start_warm if kind.warm else start_command
        with start(kind, folder, self.base / "run.toml") as (attempt, wait):
            if fault is not None:
                self._wait_for_an_instant(kind, attempt)
                if not attempt.is_over():
                    try:
                        fault(attempt, self.random)
                    except AssertionError as error:
                        self._require(False, folder, f"{fault.__name__}: {error}")
            code = wait(HANG_S)
        failure = first_failure(folder, range(kind.world))
        said = failure.message if failure else ""
        if not kind.warm:
            said = (self.base / "said").read_text()
        name = fault.__name__ if fault else "no fault"
        self._require(code is not None, folder, f"{name}: it hangs")
        self._require(code in attempt.codes or code is None, folder, f"{name}: {code}: {said}")
        if code == 2:
            good = any(word in said for word in attempt.words) and "Traceback" not in said
            good = good or (kind.warm and not said)  # a full disk; a command says it
            self._require(good, folder, f"{name}: it says {said!r}")
        return (code if code is not None else -99), said

    def _wait_for_an_instant(self, kind: Kind, attempt: Attempt) -> None:
        """Until a random time, or until a random step is on record and a moment longer."""
        began, steps = time.monotonic(), len(read(attempt.folder.metrics, Stepped))
        until = began + self.random.uniform(0, self.seconds[kind])
        wanted = steps + self.random.randint(1, 2) if self.random.random() < 0.7 else 99
        moment = self.random.uniform(0, 0.3)
        while not attempt.is_over():
            if wanted == 99 and time.monotonic() > until:
                return
            if len(records(attempt.folder.metrics)) >= wanted:
                time.sleep(moment)
                return
            if time.monotonic() > began + HANG_S:
                return
            time.sleep(0.02)

    def _compare(self, kind: Kind, folder: RunFolder) -> None:
        reference = self.references[kind]
        self._require(
            reproducible(folder.metrics) == reproducible(reference.metrics), folder, "metrics"
        )
        for name in ("samples", "held_out"):
            own, other = getattr(folder, name), getattr(reference, name)
            self._require(records(own) == records(other), folder, f"{name} differ")

    def _new_folder(self) -> RunFolder:
        self.started += 1
        place = self.base / f"disk{self.started}"
        place.mkdir()
        if self.own_disk:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", place], check=True)
        return RunFolder(place / "soak")

    def _require(self, good: bool, folder: RunFolder, what: str) -> None:
        if not good:
            self.problems.append(f"{folder.path}: {what}")


def finished(folder: RunFolder) -> bool:
    """Whether the last step is on record and saved."""
    done = any(record["step"] == STEPS for record in read(folder.metrics, Stepped))
    return done and (folder.checkpoints / f"step-{STEPS:06d}" / "complete.json").is_file()


def overrides(kind: Kind, folder: RunFolder) -> list[str]:
    """What tells this run apart."""
    return [f'run.folder="{folder.path.parent}"', f'rollout.engine="{kind.engine}"']


@contextmanager
def start_warm(
    kind: Kind, folder: RunFolder, spec: Path
) -> Iterator[tuple[Attempt, Callable[[float], int | None]]]:
    """Starts a run in a fork of a process that has imported everything."""
    loaded = load(spec, overrides(kind, folder))
    context = server.open_server([loaded], threads=1)
    launcher.prepare(loaded, resume=True, world=kind.world)
    process = server.start(context, folder, server.Place(kind.world, 1, None))

    def wait(seconds: float) -> int | None:
        process.join(seconds)
        return process.exitcode

    assert process.pid is not None
    yield Attempt(folder, process.pid, lambda: not process.is_alive()), wait
    if process.is_alive():
        process.kill()
        process.join()


@contextmanager
def start_command(
    kind: Kind, folder: RunFolder, spec: Path
) -> Iterator[tuple[Attempt, Callable[[float], int | None]]]:
    """Starts `drpo train --resume`."""
    words = [sys.executable, "-m", "drpo_cli", "train", str(spec), "--resume"]
    words += ["--nproc", str(kind.world)]
    words += [word for line in overrides(kind, folder) for word in ("--set", line)]
    said = spec.parent / "said"
    with (
        said.open("wb") as file,
        subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=file) as child,
    ):

        def wait(seconds: float) -> int | None:
            try:
                return child.wait(seconds)
            except subprocess.TimeoutExpired:
                return None

        yield Attempt(folder, child.pid, lambda: child.poll() is not None), wait
        child.kill()


def soak(found: Soak, kinds: Sequence[Kind], known: Sequence[Fault], minutes: float) -> None:
    """Kills runs five times, then disturbs others for so long.

    Every fault comes once before any comes twice.
    """
    base = found.base
    tiny_model(base / "model", hidden_size=32, intermediate_size=32, num_hidden_layers=1)
    (base / "run.toml").write_text(SPEC)
    left: dict[Kind, list[Fault]] = {kind: [] for kind in kinds}
    with faults.jumping_clock(base / "clock"):
        while faults.kill_rank in known and _count_kills(found) < KILLS and not found.problems:
            found.run(kinds[0], [faults.kill_rank] * ATTEMPTS)
        found.until = time.monotonic() + 60 * minutes
        while time.monotonic() < found.until and not found.problems:
            kind = kinds[found.started % len(kinds)]
            while len(left[kind]) < ATTEMPTS:
                # vLLM compiles while it samples, and words what its compiler may not write
                fit = [one for one in known if kind.engine != "vllm" or one != faults.limit_files]
                left[kind] += found.random.sample(fit, len(fit))
            found.run(kind, [left[kind].pop(0) for _ in range(ATTEMPTS)])


def _count_kills(found: Soak) -> int:
    return sum(times for (_, _, effect), times in found.rows.items() if "resumed" in effect)


def show(found: Soak) -> str:
    """The table of what was injected."""
    lines = [f"{'run':24} {'fault':18} {'effect':32} times"]
    lines += [
        f"{kind:24} {fault:18} {effect:32} {times:5}"
        for (kind, fault, effect), times in sorted(found.rows.items())
    ]
    lines += [f"problem: {problem}" for problem in found.problems]
    same = "every run equals the undisturbed one" if not found.problems else "see the problems"
    return "\n".join([*lines, f"{sum(found.rows.values())} faults in {found.started} runs: {same}"])


def main(words: Sequence[str]) -> int:
    """Soaks for the time asked for; returns the exit code."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS])
    names = {fault.__name__: fault for fault in faults.ANYWHERE + faults.ON_OWN_DISK}
    parser.add_argument("--faults", nargs="+", choices=names, default=[*names])
    options = parser.parse_args(words)
    if "SOAK_DISK" not in os.environ:
        may_mount = not subprocess.run([*NAMESPACE, "true"], check=False).returncode
        os.environ["SOAK_DISK"] = "own" if may_mount else "shared"
        command = [*NAMESPACE * may_mount, sys.executable, "-m", "support.soak", *words]
        os.execvp(command[0], command)
    kinds = [KINDS[name] for name in options.kinds]
    own_disk = os.environ["SOAK_DISK"] == "own"
    with tempfile.TemporaryDirectory(prefix="drpo-soak-") as base:
        found = Soak(Path(base), Random(options.seed), own_disk)
        known = [names[name] for name in options.faults]
        known = [fault for fault in known if own_disk or fault not in faults.ON_OWN_DISK]
        soak(found, kinds, known, options.minutes)
        sys.stdout.write(show(found) + "\n")
        if own_disk:
            for place in Path(base).glob("disk*"):
                subprocess.run(["umount", "-l", place], check=False)
    return bool(found.problems)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

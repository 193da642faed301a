"""What `drpo compare` does: checks everything, runs what is missing, reports."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from drpo_cli.errors import EXIT_RUN_FAILED, UserError
from drpo_cli.runs.folder import RunFolder
from drpo_cli.tools.compare import grid, jobs, request, summaries

if TYPE_CHECKING:
    from drpo_cli.tools.compare.jobs import Job
    from drpo_cli.tools.compare.state import State


@dataclass(frozen=True)
class Asked:
    """The command line of `drpo compare`."""

    base: Path
    vary: Sequence[str] | None
    seeds: str
    jobs: int | None
    baseline: str | None
    target: float | None
    out: Path | None
    set_: Sequence[str] | None
    nproc: int | None

    def line(self) -> str:
        """The command as it could be given again."""
        words = ["drpo", "compare", str(self.base)]
        words += [word for text in self.vary or () for word in ("--vary", text)]
        words += ["--seeds", self.seeds]
        words += [word for text in self.set_ or () for word in ("--set", text)]
        for name in ("nproc", "baseline", "target", "out"):
            value = getattr(self, name)
            words += [f"--{name}", str(value)] if value is not None else []
        return shlex.join(words)


def compare(asked: Asked) -> int:
    """Runs the grid to its end and reports it; returns the exit code.

    Raises UserError for everything that can be known to be wrong before anything is computed.
    """
    axes, seeds = request.axes(asked.vary or ()), request.seeds(asked.seeds)
    baseline = summaries.baseline(asked.baseline, axes)
    if asked.target is not None and not 0 < asked.target <= 1:
        raise UserError(f"--target {asked.target:g}: is no held-out score; one is between 0 and 1")
    cells = grid.cells(axes)
    specs = jobs.specs(asked.base, asked.set_ or (), cells, asked.nproc or 1)
    out = (asked.out or specs[0].run.folder / f"compare-{asked.base.stem}").absolute()
    every = jobs.jobs(cells, specs, seeds, out)
    for warning in dict.fromkeys(warning for spec in specs for warning in spec.warnings):
        sys.stderr.write(f"warning: {warning}\n")
    from drpo_cli.tools.compare import files, report, tables

    with _held(out):
        (out / "grid.json").write_text(json.dumps(asdict(asked), indent=1, default=str))
        states, signal = _run(asked, every, out)
        if signal:
            sys.stdout.write("stopped; the same command goes on\n")
            return 128 + signal
        found = report.build(out.name, asked.line(), axes, states, baseline, asked.target)
        files.write(found, out)
    tables.show(found)
    sys.stdout.write(f"report: {out / 'report.html'}\n")
    return EXIT_RUN_FAILED if found.failed else 0


def _run(asked: Asked, every: Sequence[Job], out: Path) -> tuple[dict[Job, State], int]:
    """Runs what is not finished; returns where every run stands, and the signal that stopped it."""
    from drpo_cli import dist
    from drpo_cli.launch import launcher as launch
    from drpo_cli.runs import versions as installed
    from drpo_cli.tools.compare.runner import Runner
    from drpo_cli.tools.compare.screen import GridScreen
    from drpo_cli.tools.compare.state import on_disk

    for engine in {job.spec.rollout.type for job in every}:
        installed.require_engine(engine)
    world = launch.processes(asked.nproc or 1)
    slots = asked.jobs or max(1, dist.device_count() // world)
    states = {job: on_disk(job) for job in every}
    todo = [job for job, s in states.items() if s.status in ("unfinished", "not started")]
    finished = sum(state.status == "finished" for state in states.values())
    seeds = len({job.seed for job in every})
    sys.stdout.write(
        f"{len(every) // seeds} cells × {seeds} seeds = {len(every)} runs, {finished} finished; "
        f"{min(slots, max(1, len(todo)))} at a time, in {out}\n"
    )
    sys.stdout.flush()
    for model in {job.spec.model.path: job.spec.model for job in todo}.values():
        launch.prepare_model(model)
    with GridScreen(len(every), len(every) - len(todo)) as screen:
        ended, signal = Runner(todo, slots, world, screen).run()
    return states | dict(ended), signal


@contextmanager
def _held(out: Path) -> Iterator[None]:
    out.mkdir(parents=True, exist_ok=True)
    try:
        with RunFolder(out).lock():
            yield
    except UserError as error:
        raise UserError(
            f"{out} is in use by another `drpo compare`; wait for it, or give --out another folder"
        ) from error

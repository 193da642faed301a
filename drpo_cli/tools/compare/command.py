"""`drpo compare`: checks everything, runs what is missing, and writes the report."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from drpo_cli.errors import EXIT_RUN_FAILED, UserError
from drpo_cli.runs.folder import RunFolder, write_whole
from drpo_cli.spec import Spec, load
from drpo_cli.tools.compare import grid, jobs
from drpo_cli.tools.compare.grid import Axis
from drpo_cli.tools.compare.jobs import Job, State
from drpo_cli.tools.compare.lag import LAG
from drpo_cli.tools.compare.report import Report, make_report, read_report
from drpo_cli.tools.compare.summaries import choose_baseline


@dataclass(frozen=True)
class Request:
    """The command line of `drpo compare`, as `grid.json` records it."""

    base: Path
    vary: Sequence[str] | None
    seeds: str
    jobs: int | None
    baseline: str | None
    target: float | None
    out: Path | None
    set_: Sequence[str] | None
    nproc: int | None
    bases: str | None

    def command(self) -> str:
        """The command line that gives the same report."""
        words = ["drpo", "compare", str(self.base)]
        words += [word for text in self.vary or () for word in ("--vary", text)]
        words += ["--seeds", self.seeds]
        words += [word for text in self.set_ or () for word in ("--set", text)]
        for name in ("bases", "nproc", "baseline", "target", "out"):
            value = getattr(self, name)
            words += [f"--{name}", str(value)] if value is not None else []
        return shlex.join(words)


def compare(request: Request) -> int:
    """Runs the grid to its end and reports it; returns the exit code.

    Raises UserError for every mistake that can be found before anything is computed.
    """
    if request.base.suffix == ".json":
        return show_again(request)
    axes, seeds = grid.parse_axes(request.vary or ()), grid.parse_seeds(request.seeds)
    baseline = choose_baseline(request.baseline, axes)
    if request.target is not None and not 0 < request.target <= 1:
        what = f"--target {request.target:g}: is not a held-out score"
        raise UserError(what, "give a number between 0 and 1")
    bases = grid.parse_bases(request.bases or "", axes, request.set_ or ())
    cells = grid.put_on_bases(grid.make_cells(axes, _load_base(request, axes, bases)), bases)
    specs = jobs.load_specs(request.base, request.set_ or (), cells, request.nproc or 1)
    out = (request.out or specs[0].run.folder / f"compare-{request.base.stem}").absolute()
    all_jobs = jobs.make_jobs(cells, specs, seeds, out)
    for warning in dict.fromkeys(warning for spec in specs for warning in spec.warnings):
        sys.stderr.write(f"warning: {warning}\n")
    if any(spec.run.restarts for spec in specs):
        what = "run.restarts: has no effect in a comparison; give the command again with --resume"
        sys.stderr.write(f"warning: {what}\n")

    with _lock(out):
        write_whole(out / "grid.json", json.dumps(asdict(request), indent=1, default=str))
        states, signal = _run(request, all_jobs, out)
        if signal:
            sys.stdout.write("stopped; give the same command to continue\n")
            return 128 + signal
        command = request.command()
        report = make_report(out.name, command, axes, states, baseline, request.target, bases)
        write_report(report, out)
    from drpo_cli.tools.compare.tables import print_tables

    print_tables(report)
    sys.stdout.write(f"report: {out / 'report.html'}\n")
    return EXIT_RUN_FAILED if report.failed else 0


def show_again(request: Request) -> int:
    """Shows the report of a compare.json without its runs; `--out` writes it as well.

    Raises UserError for an option that has no effect on it.
    """
    for name in ("vary", "bases", "set_", "nproc", "jobs"):
        if getattr(request, name):
            what = f"--{name.rstrip('_')}: has no effect on the results of {request.base}"
            raise UserError(what, "remove it; --baseline, --target and --out may be given")
    report = read_report(request.base, request.baseline, request.target)
    if request.out is not None:
        request.out.mkdir(parents=True, exist_ok=True)
        write_report(report, request.out)
    from drpo_cli.tools.compare.tables import print_tables

    print_tables(report)
    return 0


def write_report(report: Report, out: Path) -> None:
    """Writes compare.json, table.md, the figures and report.html into the grid's folder."""
    from drpo_cli.tools.compare import figures, tables

    write_whole(out / "compare.json", report.to_json())
    write_whole(out / "table.md", tables.to_markdown(report))
    write_whole(out / "report.html", tables.to_page(report, figures.write(report, out)))


def _load_base(request: Request, axes: Sequence[Axis], bases: Sequence[str]) -> Spec | None:
    """The spec whose numbers a lag changes; None where none varies."""
    if LAG not in [axis.key for axis in axes]:
        return None
    model = [f"{grid.MODEL}={grid.to_toml(base)}" for base in bases[:1]]
    return load(request.base, [*(request.set_ or ()), *model])


def _run(request: Request, all_jobs: Sequence[Job], out: Path) -> tuple[dict[Job, State], int]:
    """Runs what is not finished; returns each run's state, and the signal that stopped them."""
    from drpo_cli import dist
    from drpo_cli.launch import launcher
    from drpo_cli.runs import versions as installed
    from drpo_cli.tools.compare.runner import Runner, Screen

    for engine in {job.spec.rollout.type for job in all_jobs}:
        installed.require_engine(engine)
    world = launcher.choose_world_size(request.nproc or 1)
    slots = request.jobs or max(1, dist.device_count() // world)
    states = {job: jobs.read_state(job) for job in all_jobs}
    todo = [job for job, s in states.items() if s.status in ("unfinished", "not started")]
    finished = sum(state.status == "finished" for state in states.values())
    cells, seeds = len({job.cell.point for job in all_jobs}), len({job.seed for job in all_jobs})
    bases = len({job.cell.base for job in all_jobs})
    on = f" × {bases} base models" if bases > 1 else ""
    sys.stdout.write(
        f"{cells} cells{on} × {seeds} seeds = {len(all_jobs)} runs, {finished} "
        f"finished; {min(slots, max(1, len(todo)))} at a time, in {out}\n"
    )
    sys.stdout.flush()
    for model in {job.spec.model.path: job.spec.model for job in todo}.values():
        launcher.prepare_model(model)
    with Screen(len(all_jobs), len(all_jobs) - len(todo)) as screen:
        ended, signal = Runner(todo, slots, world, screen).run()
    return states | dict(ended), signal


@contextmanager
def _lock(out: Path) -> Iterator[None]:
    out.mkdir(parents=True, exist_ok=True)
    try:
        with RunFolder(out).lock():
            yield
    except UserError as error:
        raise UserError(
            f"{out} is in use by another `drpo compare`", "wait for it, or give another --out"
        ) from error

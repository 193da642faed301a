"""`drpo compare`: checks everything, runs what is missing, and writes the report."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from drpo_cli.errors import EXIT_RUN_FAILED, UserError
from drpo_cli.runs.folder import RunFolder, write_whole
from drpo_cli.spec import Spec, load
from drpo_cli.spec.overrides import to_toml
from drpo_cli.tools.compare import grid, jobs, tuning
from drpo_cli.tools.compare.grid import Axis
from drpo_cli.tools.compare.jobs import Job, State
from drpo_cli.tools.compare.lag import LAG
from drpo_cli.tools.compare.report import Report, make_report, read_report
from drpo_cli.tools.compare.results import Result, read_result, require_same_problems
from drpo_cli.tools.compare.summaries import choose_baseline
from drpo_cli.tools.compare.tuning import DEFAULT_SEEDS, Trial


@dataclass(frozen=True)
class Request:
    """The command line of `drpo compare`, as `grid.json` records it."""

    base: Path
    vary: Sequence[str] | None
    seeds: str | None
    jobs: int | None
    baseline: str | None
    target: float | None
    out: Path | None
    set_: Sequence[str] | None
    nproc: int | None
    bases: str | None
    tune: Sequence[str] | None
    select_seeds: str | None
    report_seeds: str | None
    halve: bool = False

    def command(self) -> str:
        """The command line that gives the same report."""
        words = ["drpo", "compare", str(self.base)]
        words += [word for text in self.vary or () for word in ("--vary", text)]
        words += [word for text in self.tune or () for word in ("--tune", text)]
        words += [] if self.tune else ["--seeds", self.seeds or DEFAULT_SEEDS]
        words += [word for text in self.set_ or () for word in ("--set", text)]
        for name in ("select_seeds", "report_seeds", "bases", "nproc", "baseline", "target", "out"):
            value = getattr(self, name)
            words += [f"--{name.replace('_', '-')}", str(value)] if value is not None else []
        words += ["--halve"] if self.halve else []
        return shlex.join(words)


def compare(request: Request) -> int:
    """Runs the grid to its end and reports it; returns the exit code.

    Raises UserError for every mistake that can be found before anything is computed.
    """
    if request.target is not None and not 0 < request.target <= 1:
        what = f"--target {request.target:g}: is not a held-out score"
        raise UserError(what, "give a number between 0 and 1")
    if request.base.suffix == ".json":
        return show_again(request)
    axes = grid.parse_axes(request.vary or ())
    given = (request.seeds, request.select_seeds, request.report_seeds)
    select, seeds = tuning.read_seeds(bool(request.tune), *given, request.halve)
    baseline = choose_baseline(request.baseline, axes)
    bases = grid.parse_bases(request.bases or "", axes, request.set_ or ())
    base = _load_base(request, axes, bases)
    tuned = tuning.parse_tuning(request.tune or (), axes, base)
    candidates = tuning.make_candidates(grid.make_cells(axes, base), tuned)
    cells = grid.put_on_bases(candidates, bases)
    specs = jobs.load_specs(request.base, request.set_ or (), cells, request.nproc or 1)
    tuning.require_equal_tries(tuned, cells, specs)
    out = (request.out or specs[0].run.folder / f"compare-{request.base.stem}").absolute()
    trials, all_jobs = (jobs.make_jobs(cells, specs, some, out) for some in (select, seeds))
    for warning in dict.fromkeys(warning for spec in specs for warning in spec.warnings):
        sys.stderr.write(f"warning: {warning}\n")
    if any(spec.run.restarts for spec in specs):
        what = "run.restarts: has no effect in a comparison; give the command again with --resume"
        sys.stderr.write(f"warning: {what}\n")

    try:
        with _lock(out):
            write_whole(out / "grid.json", json.dumps(asdict(request), indent=1, default=str))
            chosen = _choose(request, trials, out) if request.tune else ()
            kept = {(one.point, one.candidate) for one in chosen if one.chosen}
            wanted = [j for j in all_jobs if not kept or (j.cell.point, j.cell.candidate) in kept]
            states = _run(request, wanted, out, "cells")
            command, target = request.command(), request.target
            report = make_report(out.name, command, axes, states, baseline, target, bases, chosen)
            write_report(report, out)
    except _EndedError as ended:
        sys.stdout.write(f"{ended}; give the same command to continue\n")
        return ended.code
    from drpo_cli.tools.compare.tables import print_tables

    print_tables(report)
    sys.stdout.write(f"report: {out / 'report.html'}\n")
    return EXIT_RUN_FAILED if report.failed else 0


def show_again(request: Request) -> int:
    """Shows the report of a compare.json without its runs; `--out` writes it as well.

    Raises UserError for an option that has no effect on it.
    """
    wrong = ("vary", "bases", "tune", "seeds", "select_seeds", "report_seeds", "halve")
    for name in (*wrong, "set_", "nproc", "jobs"):
        if getattr(request, name):
            option = name.rstrip("_").replace("_", "-")
            what = f"--{option}: has no effect on the results of {request.base}"
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
    model = [f"{grid.MODEL}={to_toml(base)}" for base in bases[:1]]
    return load(request.base, [*(request.set_ or ()), *model])


class _EndedError(Exception):
    """The command ends before there is anything to report."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(what)
        self.code = code


def _choose(request: Request, trials: Sequence[Job], out: Path) -> tuple[Trial, ...]:
    """Runs candidates on the selection seeds, and chooses one for each cell.

    Raises _EndedError when one of them failed for another than a numeric reason.
    """
    cells = [job.cell for job in trials]
    left = tuning.list_tried(cells)
    states: dict[Job, State] = {}
    results: list[Result] = []
    for number, together in enumerate(tuning.make_rounds(trials, request.halve)):
        if number:
            left = tuning.list_tried(tuning.keep_better_half(results, left))
        wanted = [job for job in together if job.cell in set(left)]
        states |= _run(request, wanted, out, "candidates") if wanted else {}
        require_same_problems(list(states))
        results = [read_result(job, state) for job, state in states.items()]
        unknown = sum(result.collapsed is None for result in results)
        if unknown:
            what = f"{unknown} runs on the selection seeds failed, so no candidate can be chosen"
            raise _EndedError(what, EXIT_RUN_FAILED)
    return tuning.choose(results, cells)


def _run(request: Request, all_jobs: Sequence[Job], out: Path, what: str) -> Mapping[Job, State]:
    """Runs what is not finished; returns each run's state.

    Raises _EndedError when a signal stopped them.
    """
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
    cells = len({(job.cell.point, job.cell.candidate) for job in all_jobs})
    seeds = len({job.seed for job in all_jobs})
    bases = len({job.cell.base for job in all_jobs})
    on = f" × {bases} base models" if bases > 1 else ""
    sys.stdout.write(
        f"{cells} {what}{on} × {seeds} seeds = {len(all_jobs)} runs, {finished} "
        f"finished; {min(slots, max(1, len(todo)))} at a time, in {out}\n"
    )
    sys.stdout.flush()
    for model in {job.spec.model.path: job.spec.model for job in todo}.values():
        launcher.prepare_model(model)
    with Screen(len(all_jobs), len(all_jobs) - len(todo)) as screen:
        ended, signal = Runner(todo, slots, world, screen).run()
    if signal:
        raise _EndedError("stopped", 128 + signal)
    return states | dict(ended)


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

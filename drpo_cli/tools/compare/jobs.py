"""The runs of a grid: a resolved spec and a folder each, all checked before any of them starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from drpo_cli.errors import UserError
from drpo_cli.plan import make_plan
from drpo_cli.plugins import Selected
from drpo_cli.runs import checkpoints as saved
from drpo_cli.runs.flat import flatten
from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.metrics import StepMetrics
from drpo_cli.runs.reader import read
from drpo_cli.spec import Spec, SpecError, load
from drpo_cli.spec.dumping import document
from drpo_cli.spec.lengths import room_for_responses
from drpo_cli.tools.compare.grid import Cell, run_name

MOST_SHOWN = 5
FOLLOWS = {"temperature", "max_new_tokens"}
"""Keys of `[eval]` that take the rollout's value when they are not set."""

Status = Literal["finished", "failed", "unfinished", "not started"]


@dataclass(frozen=True, eq=False)  # compared by identity: its spec may hold tables, and it is a key
class Job:
    """One run of a grid."""

    cell: Cell
    seed: int
    spec: Spec
    folder: RunFolder

    @property
    def label(self) -> str:
        """The run's name on the screen."""
        return f"{self.cell.label}, seed {self.seed}"


@dataclass(frozen=True)
class State:
    """How far a run is; `reason` says in one line why it failed."""

    status: Status
    reason: str = ""


def read_state(job: Job) -> State:
    """How far a run is by its folder. A run that failed before counts as unfinished."""
    if not job.folder.exists():
        return State("not started")
    steps = job.spec.run.steps
    whole = saved.complete(job.folder.checkpoints)
    if not whole or saved.step_of(whole[-1]) < steps:
        return State("unfinished")
    last = [r for r in read(job.folder.metrics, StepMetrics) if r["step"] == steps]
    if any(record.get("held_out") is not None for record in last):
        return State("finished")
    lost = "its last metrics have no held-out score"
    what = lost if last else "killed between its last checkpoint and its last metrics"
    return State("failed", f"{what}; remove {job.folder.path} to run it again")


def load_specs(
    base: Path, overrides: Sequence[str], cells: Sequence[Cell], world: int
) -> list[Spec]:
    """Loads the spec of every cell, and checks it on `world` processes.

    Raises UserError with everything that is wrong with any of them, each under its cell's label,
    and when the cells would be evaluated differently.
    """
    found: dict[Cell, Spec] = {}
    problems: dict[str, list[str]] = {}
    for cell in cells:
        try:
            found[cell] = load(base, [*overrides, *cell.overrides])
            make_plan(found[cell], world)
        except SpecError as error:
            problems[cell.label] = [str(one) for one in error.problems]
        except UserError as error:
            problems[cell.label] = [str(error)]
    if problems:
        raise UserError("\n".join(_list_by_cell(problems, len(cells))))
    require_same_evaluation(found)
    return list(found.values())


def make_jobs(
    cells: Sequence[Cell], specs: Sequence[Spec], seeds: Sequence[int], out: Path
) -> list[Job]:
    """A job for every cell and seed: all cells with the first seed, then with the next.

    Raises UserError when a folder holds a run of another spec.
    """
    found = [
        _make_job(cell, spec, seed, out)
        for seed in seeds
        for cell, spec in zip(cells, specs, strict=True)
    ]
    others = [line for job in found for line in _find_other_run(job)]
    if others:
        more = len(others) - MOST_SHOWN
        lines = [*others[:MOST_SHOWN], *([f"and {more} more like these"] if more > 0 else [])]
        lines.append(f"{out} holds another grid; give --out another folder")
        raise UserError("\n".join(lines))
    return found


def require_same_evaluation(specs: Mapping[Cell, Spec]) -> None:
    """Raises UserError when two specs evaluate different problems, or evaluate differently."""
    (first, base), *others = specs.items()
    expected = evaluation_settings(base, first.lag)
    for cell, spec in others:
        found = evaluation_settings(spec, cell.lag)
        different = [key for key in expected if expected[key] != found[key]]
        if different:
            shown = ", ".join(_show_values(key, expected, found) for key in different)
            raise UserError(
                f"--vary: {first.label} and {cell.label} differ in what they are evaluated on: "
                f"{shown}; a comparison of runs on different evaluation sets says nothing",
                _advise(different, base),
            )


def evaluation_settings(spec: Spec, lag: int) -> dict[str, Any]:
    """Everything that decides the held-out problems, how they are answered and scored, and when."""
    rollout = spec.rollout.config
    sources = spec.eval_data or spec.data
    found = {
        "eval.every": spec.eval.every * lag,
        "eval.problems": spec.eval.problems,
        "eval.samples_per_prompt": spec.eval.samples_per_prompt,
        "eval.temperature": spec.eval.temperature or rollout.temperature,
        "eval.max_new_tokens": spec.eval.max_new_tokens or rollout.max_new_tokens,
        "eval.threshold": spec.eval.threshold,
        "eval.data" if spec.eval_data else "data": _dump_plugins(sources),
        "environment": _dump_plugins(spec.environment),
        "reward": _dump_plugins(spec.reward),
        "rollout.stop": rollout.stop,
        "rollout.stop_token_ids": rollout.stop_token_ids,
    }
    if any(getattr(source.config, "too_long", "stop") == "skip" for source in sources):
        found["room for the prompt"] = (rollout.context_length, room_for_responses(spec))
    return found


def describe_differences(there: Spec, here: Spec) -> str:
    """The keys in which two specs differ, with both values."""
    was, now = (dict(flatten(document(spec))) for spec in (there, here))
    keys = [key for key in {**was, **now} if was.get(key) != now.get(key)]
    shown = [f"{k} is {was.get(k)!r} there, {now.get(k)!r} here" for k in keys[:MOST_SHOWN]]
    return ", ".join([*shown, *(["…"] if len(keys) > MOST_SHOWN else [])])


def _make_job(cell: Cell, spec: Spec, seed: int, out: Path) -> Job:
    name = run_name(cell, seed)
    run = spec.run.model_copy(update={"seed": seed, "name": name, "folder": out})
    return Job(cell, seed, replace(spec, run=run), RunFolder(out / name))


def _find_other_run(job: Job) -> list[str]:
    if not job.folder.exists():
        return []
    try:
        there = load(job.folder.spec)
    except SpecError as error:
        return [f"{job.folder.path}: its spec.toml does not load: {error.problems[0]}"]
    if there == job.spec:
        return []
    return [
        f"{job.folder.path}: has a run of another spec: {describe_differences(there, job.spec)}"
    ]


def _list_by_cell(problems: Mapping[str, Sequence[str]], cells: int) -> list[str]:
    """Problems that every cell has, once and without a label; then the others, with it."""
    times = Counter(line for lines in problems.values() for line in set(lines))
    common = [line for line in next(iter(problems.values())) if times[line] == cells]
    own = [
        f"{label}: {line}"
        for label, lines in problems.items()
        for line in lines
        if line not in common
    ]
    return [*common, *own]


def _dump_plugins(chosen: tuple[Selected[Any], ...]) -> list[Any]:
    return [(part.type, part.config.model_dump(mode="json")) for part in chosen]


def _show_values(key: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    is_number = isinstance(expected[key], int | float)
    return f"{key} ({expected[key]} and {found[key]})" if is_number else key


def _advise(different: list[str], base: Spec) -> str:
    unset = [
        f"eval.{name}"
        for name in sorted(FOLLOWS)
        if f"eval.{name}" in different and getattr(base.eval, name) is None
    ]
    if unset:
        return f"set {' and '.join(unset)}, which otherwise follow the rollout's"
    if "data" in different:
        return "give the held-out problems a source of their own, [[eval.data]]"
    return "leave these out of the grid"

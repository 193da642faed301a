"""`--tune`: every method chooses its options on some seeds, and is compared on others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import fmean
from typing import NamedTuple

from drpo_cli.errors import UserError
from drpo_cli.spec import Spec
from drpo_cli.tools.compare.grid import (
    FIXED,
    Axis,
    Cell,
    Point,
    normal_value,
    parse_axis,
    parse_seeds,
    safe_name,
    settings_of,
    short_keys,
)
from drpo_cli.tools.compare.jobs import Job
from drpo_cli.tools.compare.lag import LAG
from drpo_cli.tools.compare.results import DIGITS, Result

OBJECTIVE = "objective"
DEFAULT_SEEDS = "0-4"
OPTIONS = re.compile(r"\s*(\w+(?:\s*\+\s*\w+)*)\s*=(.*)", re.DOTALL)


class Value(NamedTuple):
    """One value of a `--tune`: how it reads, and what it sets in the spec."""

    label: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Tuning:
    """What is tuned.

    methods  for a value of the objective's axis, one list of values per `--tune METHOD:…`
    keys     one list of values per `--tune KEY=…`, for all methods
    """

    methods: Mapping[str, Sequence[Sequence[Value]]]
    keys: Sequence[Sequence[Value]]

    def of(self, cell: Cell) -> list[tuple[Value, ...]]:
        """Every combination of values for a cell; a single empty one where nothing is tuned."""
        own = self.methods.get(dict(cell.point).get(OBJECTIVE, ""), ())
        return list(product(*own, *self.keys))


@dataclass(frozen=True)
class Trial:
    """A candidate of a cell on the selection seeds.

    runs   of it that have an outcome; with `--halve`, fewer where it was dropped early
    score  the mean of their final scores, where a run that failed for a numeric reason counts as 0
    """

    point: Point
    candidate: str
    runs: int
    score: float
    chosen: bool


def parse_tuning(texts: Sequence[str], axes: Sequence[Axis], base: Spec | None) -> Tuning:
    """Reads every `METHOD:option=V1,V2` and `KEY=V1,V2`.

    METHOD is a value of the objective's axis; `option+option` sets two options to the same value.
    Raises UserError for a wrong one, and where it sets what varies as well.
    """
    taken = {k for a in axes for v in a.values for k in settings_of(a.key, v, base)}
    known = next((axis.values for axis in axes if axis.key == OBJECTIVE), ())
    methods: dict[str, list[list[Value]]] = {}
    keys: dict[str, list[Value]] = {}
    given: set[str] = set()
    for text in texts:
        if (found := _split_method(text, known)) is not None:
            method, options, values = found
            names = [f"{method}:{option}" for option in options]
            methods.setdefault(method, []).append(_method_values(text, options, values))
        else:
            axis = _parse_key(text, taken, known)
            names = [axis.key]
            keys[axis.key] = [_key_value(axis.key, value) for value in axis.values]
        for name in names:
            if name in given:
                raise UserError(f"--tune {name}: is given twice", "put all its values into one")
            given.add(name)
    return Tuning(methods, list(keys.values()))


def make_candidates(cells: Sequence[Cell], tuning: Tuning) -> tuple[Cell, ...]:
    """Each cell with each of its candidates; a cell for which nothing is tuned stays as it is."""
    return tuple(_try(cell, values) for cell in cells for values in tuning.of(cell))


def require_equal_tries(tuning: Tuning, cells: Sequence[Cell], specs: Sequence[Spec]) -> None:
    """Raises UserError where methods get unequal numbers of values.

    A method whose objective has no options has nothing to tune, and is left out.
    """
    if not tuning.methods:
        return
    tries: dict[str, int] = {}
    for cell, spec in zip(cells, specs, strict=True):
        method = cell.value(OBJECTIVE)
        if method in tuning.methods or type(spec.objective.config).model_fields:
            tries[method] = len(list(product(*tuning.methods.get(method, ()))))
    if len(set(tries.values())) > 1:
        shown = ", ".join(f"{method} {count}" for method, count in tries.items())
        raise UserError(
            f"--tune: methods get unequal numbers of values: {shown}",
            "give each as many: the best of five tries looks better than the first",
        )


def read_seeds(
    tuned: bool, seeds: str | None, select: str | None, report: str | None, halve: bool = False
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The seeds that candidates are chosen on, none without `--tune`, and those that are reported.

    Raises UserError for options that do not fit together, and for a seed in both lists.
    """
    if not tuned:
        if select or report or halve:
            option = "--select-seeds" if select else "--report-seeds" if report else "--halve"
            instead = "remove it" if option == "--halve" else "give --seeds"
            raise UserError(f"{option}: has no effect without --tune", instead)
        return (), parse_seeds(seeds or DEFAULT_SEEDS)
    if seeds:
        what = "--seeds: has no effect with --tune"
        raise UserError(what, "give --select-seeds and --report-seeds")
    if not select or not report:
        raise UserError(
            "--tune: needs --select-seeds and --report-seeds",
            "choose on some seeds and report others: --select-seeds 0-4 --report-seeds 5-14",
        )
    chosen_on, reported = (
        parse_seeds(select, "--select-seeds"),
        parse_seeds(report, "--report-seeds"),
    )
    if both := sorted(set(chosen_on) & set(reported)):
        raise UserError(
            f"--select-seeds and --report-seeds: both name seed {both[0]}",
            "report other seeds: the best of several candidates was lucky on its own",
        )
    return chosen_on, reported


def list_tried(cells: Sequence[Cell]) -> list[Cell]:
    """The cells that have another candidate: only these need the selection seeds."""
    candidates = {(cell.point, cell.candidate) for cell in cells}
    count = Counter(point for point, _ in candidates)
    return [cell for cell in cells if count[cell.point] > 1]


def make_rounds(trials: Sequence[Job], halve: bool) -> list[list[Job]]:
    """The runs on the selection seeds, in the order in which they are run.

    With `halve`, there is a round for every seed on every base model, and `keep_better_half` after
    each: sequential halving (Karnin et al., ICML 2013) with as many runs in each round as there are
    candidates left. Otherwise there is one round.
    """
    rounds: dict[tuple[int, str], list[Job]] = {}
    for job in trials:
        rounds.setdefault((job.seed, job.cell.base) if halve else (0, ""), []).append(job)
    return list(rounds.values())


def keep_better_half(results: Sequence[Result], left: Sequence[Cell]) -> list[Cell]:
    """Of each cell's candidates the half with the higher scores, rounded up."""
    trials = _score(results, left)
    kept = {
        (point, trial.candidate)
        for point, tried in trials.items()
        for trial in sorted(tried, key=_rank, reverse=True)[: (len(tried) + 1) // 2]
    }
    return [cell for cell in left if (cell.point, cell.candidate) in kept]


def choose(results: Sequence[Result], candidates: Sequence[Cell]) -> tuple[Trial, ...]:
    """Scores every candidate, and chooses the best of each cell: of equal ones, the first.

    `results` are those of the candidates on the selection seeds. One that has fewer of them than
    others was dropped, and is not chosen.
    """
    return tuple(
        replace(trial, chosen=trial is max(trials, key=_rank))
        for trials in _score(results, candidates).values()
        for trial in trials
    )


def _rank(trial: Trial) -> tuple[int, float]:
    return trial.runs, trial.score


def _score(results: Sequence[Result], candidates: Sequence[Cell]) -> dict[Point, list[Trial]]:
    labels = dict.fromkeys((cell.point, cell.candidate) for cell in candidates)
    found: dict[Point, list[Trial]] = {}
    for point, label in labels:
        own = [r for r in results if (r.point, r.candidate) == (point, label)]
        scores = [r.final if r.finished else 0.0 for r in own if r.collapsed is not None]
        score = round(fmean(scores), DIGITS) if scores else 0.0
        found.setdefault(point, []).append(Trial(point, label, len(scores), score, False))
    return found


def _split_method(text: str, known: Sequence[str]) -> tuple[str, list[str], str] | None:
    """The longest beginning that is a method, the options after it, and their values."""
    for match in reversed(list(re.finditer(":", text))):
        options = OPTIONS.fullmatch(text[match.end() :])
        if options is None or not text[: match.start()].strip():
            continue
        method = normal_value(OBJECTIVE, text[: match.start()])
        if method in known:
            return method, [name.strip() for name in options[1].split("+")], options[2]
    return None


def _method_values(text: str, options: Sequence[str], values: str) -> list[Value]:
    name = "+".join(options)
    axis = parse_axis("--tune", f"{name}={values}")
    return [
        Value(f"{name}={value}", tuple(f"{OBJECTIVE}.{option}={value}" for option in options))
        for value in axis.values
    ]


def _parse_key(text: str, taken: set[str], known: Sequence[str]) -> Axis:
    key = text.partition("=")[0].strip()
    if ":" in key or key == OBJECTIVE:
        methods = f"one of {', '.join(known)}" if known else "a value of --vary objective="
        raise UserError(f"--tune {text}: names no method of the grid", f"begin with {methods}")
    if key == LAG or key in FIXED:
        raise UserError(f"--tune {key}: cannot be tuned", FIXED.get(key, f"vary it: --vary {LAG}="))
    axis = parse_axis("--tune", text)
    for value in axis.values:
        if both := sorted(taken & settings_of(key, value).keys()):
            raise UserError(f"--tune {key}: sets {both[0]}, and so does a --vary", "drop one")
    return axis


def _key_value(key: str, value: str) -> Value:
    label = f"{short_keys([key])[key]}={value}"
    return Value(label, tuple(f"{k}={text}" for k, text in settings_of(key, value).items()))


def _try(cell: Cell, values: Sequence[Value]) -> Cell:
    if not values:
        return cell
    label = ", ".join(value.label for value in values)
    overrides = tuple(one for value in values for one in value.overrides)
    readable = re.sub(r", |\+", "-", label).replace("=", "").replace(":", "_")
    return replace(
        cell,
        label=f"{cell.label} with {label}",
        name=f"{cell.name}-{safe_name(readable, label)}",
        overrides=(*cell.overrides, *overrides),
        candidate=label,
    )

"""`--tune`: what it reads, what it refuses, and what it chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from drpo_cli.errors import UserError
from drpo_cli.spec import load
from drpo_cli.tools.compare import jobs
from drpo_cli.tools.compare.grid import Cell, Point, make_cells, parse_axes
from drpo_cli.tools.compare.results import Result
from drpo_cli.tools.compare.tuning import (
    Trial,
    choose,
    keep_better_half,
    list_tried,
    make_candidates,
    parse_tuning,
    read_seeds,
    require_equal_tries,
)
from support.specs import BUILT_IN, plugin_folder, write


def candidates(vary: str, *tune: str) -> list[Cell]:
    axes = parse_axes([vary])
    return list(make_candidates(make_cells(axes), parse_tuning(tune, axes, None)))


def test_a_method_and_a_key_are_tuned_together() -> None:
    found = candidates(
        "objective=none,dppo:divergence=kl",
        "dppo:divergence=kl:delta_low+delta_high=0.02,0.050",
        "train.learning_rate=1e-3,5e-4",
    )
    assert [(cell.value("objective"), cell.candidate) for cell in found] == [
        ("none", "learning_rate=0.001"),
        ("none", "learning_rate=0.0005"),
        ("dppo:divergence=kl", "delta_low+delta_high=0.02, learning_rate=0.001"),
        ("dppo:divergence=kl", "delta_low+delta_high=0.02, learning_rate=0.0005"),
        ("dppo:divergence=kl", "delta_low+delta_high=0.05, learning_rate=0.001"),
        ("dppo:divergence=kl", "delta_low+delta_high=0.05, learning_rate=0.0005"),
    ]
    assert found[2].overrides == (
        'objective={"type" = "dppo", "divergence" = "kl"}',
        "objective.delta_low=0.02",
        "objective.delta_high=0.02",
        "train.learning_rate=0.001",
    )
    assert found[2].name == "dppo_divergencekl-delta_low-delta_high0.02-learning_rate0.001"
    assert found[2].point == found[5].point and len({cell.name for cell in found}) == 6


def test_repeated_options_of_a_method_are_all_combined() -> None:
    found = candidates(
        "objective=ppo_clip", "ppo_clip:epsilon_low=0.1,0.2", "ppo_clip:epsilon_high=0.2,0.28"
    )
    assert [cell.candidate for cell in found] == [
        "epsilon_low=0.1, epsilon_high=0.2",
        "epsilon_low=0.1, epsilon_high=0.28",
        "epsilon_low=0.2, epsilon_high=0.2",
        "epsilon_low=0.2, epsilon_high=0.28",
    ]


def test_the_options_of_a_preset_can_be_tuned(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "1+1", "target": "2"}\n')
    found = candidates("objective=grpo", "grpo:epsilon_low+epsilon_high=0.1,0.3")
    specs = jobs.load_specs(write(tmp_path, BUILT_IN), [], found, 1)
    assert [spec.objective.config.model_dump()["epsilon_high"] for spec in specs] == [0.1, 0.3]
    assert {spec.advantage.type for spec in specs} == {"group_norm"}


def test_a_method_with_options_of_its_own_is_not_its_longer_namesake() -> None:
    found = candidates("objective=drpo,drpo:delta_low=0.1", "drpo:delta_low=0.1:delta=0.2,0.3")
    assert [cell.candidate for cell in found] == ["", "delta=0.2", "delta=0.3"]


@pytest.mark.parametrize(
    ("tune", "said"),
    [
        (["spo:epsilon=0.1,0.2"], "names no method of the grid; begin with one of drpo, dppo"),
        (["objective=drpo,spo"], "names no method of the grid"),
        (["drpo:delta=0.1,,0.2"], "has an empty value"),
        (["drpo:delta=0.1,0.10"], "names 0.1 twice"),
        (["drpo:delta=0.1,0.2", "drpo:delta=0.3"], "--tune drpo:delta: is given twice"),
        (["train.betas"], "--tune train.betas: has no key and values"),
        (["run.seed=1,2"], "--tune run.seed: cannot be tuned; give --seeds"),
        (["lag=1,4"], "--tune lag: cannot be tuned; vary it: --vary lag="),
        (["run.steps=4,5", "run.steps=6"], "--tune run.steps: is given twice"),
    ],
)
def test_wrong_tuning_is_refused(tune: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        candidates("objective=drpo,dppo", *tune)
    assert said in str(caught.value)


def test_what_varies_is_not_tuned(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"learning_rate: sets train\.learning_rate, and so does"):
        candidates("train.learning_rate=1e-3,1e-4", "train.learning_rate=1e-2,1e-3")
    plugin_folder(tmp_path)
    (tmp_path / "rows.jsonl").touch()
    base = load(write(tmp_path), ["train.updates_per_rollout=1", "eval.every=0"])
    with pytest.raises(UserError, match=r"--tune run\.steps: sets run\.steps, and so does"):
        parse_tuning(["run.steps=8,16"], parse_axes(["lag=1,2"]), base)


@pytest.mark.parametrize(
    ("tune", "said"),
    [
        (("drpo:delta=0.1,0.2", "spo:epsilon=0.1"), "drpo 2, spo 1"),
        (("drpo:delta=0.1,0.2",), "drpo 2, spo 1"),
        (("drpo:delta=0.1,0.2", "drpo:delta_low=0.1,0.2", "spo:epsilon=0.1,0.2"), "drpo 4, spo 2"),
        (("drpo:delta=0.1,0.2", "spo:epsilon=0.1,0.2"), None),  # none has no options
        (("train.learning_rate=1e-3,1e-4",), None),
    ],
)
def test_methods_get_equal_numbers_of_values(
    tmp_path: Path, tune: tuple[str, ...], said: str | None
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "1+1", "target": "2"}\n')
    axes = parse_axes(["objective=none,drpo,spo"])
    tuning = parse_tuning(tune, axes, None)
    cells = make_candidates(make_cells(axes), tuning)
    specs = jobs.load_specs(write(tmp_path, BUILT_IN), [], cells, 1)
    if said is None:
        require_equal_tries(tuning, cells, specs)
        return
    with pytest.raises(UserError) as caught:
        require_equal_tries(tuning, cells, specs)
    assert f"unequal numbers of values: {said}; give each as many" in str(caught.value)


def test_selection_and_report_have_their_own_seeds() -> None:
    assert read_seeds(True, None, "0-1", "5-7") == ((0, 1), (5, 6, 7))
    assert read_seeds(False, None, None, None) == ((), (0, 1, 2, 3, 4))
    assert read_seeds(False, "3", None, None) == ((), (3,))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((True, None, None, "5"), "--tune: needs --select-seeds and --report-seeds"),
        ((True, None, "0", None), "--tune: needs --select-seeds and --report-seeds"),
        ((True, "0-4", "0", "5"), "--seeds: has no effect with --tune"),
        ((True, None, "0-5", "5-9"), "both name seed 5"),
        ((True, None, "a", "5-9"), "--select-seeds a: 'a' is not a seed"),
        ((False, None, "0", None), "--select-seeds: has no effect without --tune"),
        ((False, None, None, "0"), "--report-seeds: has no effect without --tune"),
        ((False, None, None, None, True), "--halve: has no effect without --tune"),
    ],
)
def test_seeds_that_do_not_fit_are_refused(given: tuple[Any, ...], said: str) -> None:
    with pytest.raises(UserError) as caught:
        read_seeds(*given)
    assert said in str(caught.value)


def results_of(point: Point, scores: Mapping[str, Sequence[float | None]]) -> list[Result]:
    """Two runs or more for each candidate; None died of a NaN."""
    return [
        Result(
            point=point,
            base="",
            seed=seed,
            folder="f",
            status="finished" if final is not None else "failed",
            reason="" if final is not None else "nan",
            curve=((0, 0.9), (10, final or 0.9)),
            length=10,
            collapsed=final is None,
            candidate=candidate,
        )
        for candidate, finals in scores.items()
        for seed, final in enumerate(finals)
    ]


def test_the_best_candidate_of_each_cell_is_chosen() -> None:
    cells = candidates("objective=none,drpo", "drpo:delta=0.1,0.2,0.3,0.4")
    drpo = cells[1].point
    assert list_tried(cells) == cells[1:]
    scores = {
        "delta=0.1": (0.4, 0.6),
        "delta=0.2": (0.6, 0.6),
        "delta=0.3": (0.6, 0.6),  # a tie: the first
        "delta=0.4": (0.9, None),  # one run died of a NaN, and counts as 0
    }
    results = results_of(drpo, scores)
    assert choose(results, cells) == (
        Trial(cells[0].point, "", 0, 0.0, True),
        Trial(drpo, "delta=0.1", 2, 0.5, False),
        Trial(drpo, "delta=0.2", 2, 0.6, True),
        Trial(drpo, "delta=0.3", 2, 0.6, False),
        Trial(drpo, "delta=0.4", 2, 0.45, False),
    )


def test_halving_keeps_the_better_half_of_each_cell_and_chooses_of_those_left() -> None:
    cells = candidates(
        "objective=ppo_clip,drpo", "drpo:delta=0.1,0.2,0.3", "ppo_clip:epsilon_low=0.1"
    )
    clip, drpo = cells[0], cells[1].point
    left = keep_better_half(
        [
            *results_of(clip.point, {clip.candidate: [0.0]}),
            *results_of(drpo, {"delta=0.1": [0.9], "delta=0.2": [0.2], "delta=0.3": [0.5]}),
        ],
        cells,
    )
    assert [cell.candidate for cell in left] == [clip.candidate, "delta=0.1", "delta=0.3"]
    both = results_of(drpo, {"delta=0.1": [0.9, 0.1], "delta=0.2": [0.55], "delta=0.3": [0.5, 0.5]})
    chosen = {trial.candidate for trial in choose(both, cells) if trial.chosen}
    assert chosen == {clip.candidate, "delta=0.1"}, "the mean of 0.2 is higher, but it was dropped"

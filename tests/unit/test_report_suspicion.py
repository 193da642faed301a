"""The first sign of reward hacking is found where it is, and noise is not taken for it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from drpo_cli.report import page
from drpo_cli.report.rewards import describe_pair
from drpo_cli.report.samples import suspicious_samples
from drpo_cli.runs.metrics import StepMetrics
from drpo_cli.runs.reader import read
from drpo_cli.runs.records import Records
from drpo_cli.runs.samples import read_columns
from drpo_cli.runs.saved import SavedRun
from drpo_cli.runs.spec import Role, Roles
from drpo_cli.runs.suspicion import MIN_STEPS, Pair, pairs, suspicious
from support.reports import CLEAN, HACKED, metrics_line, run_folder, sample_line, write_steps


def found_in(path: Path, means: Any, steps: int = 60) -> list[Pair]:
    run = run_folder(path)
    write_steps(run, means, steps)
    page.write(run)
    return suspicious(pairs(read(run.metrics, StepMetrics), SavedRun(run).roles))


def noisy(seed: int, steps: int, metrics: int, wander: float = 0.0) -> list[StepMetrics]:
    """Metrics of a run whose total rises and whose other rewards only wander about."""
    rng = random.Random(seed)
    state, lines = [0.0] * metrics, []
    for step in range(1, steps + 1):
        state = [wander * value + rng.gauss(0, 1) for value in state]
        total = step / steps + rng.gauss(0, 0.1)
        lines.append(metrics_line(step, total, {f"m{i}": value for i, value in enumerate(state)}))
    return lines


def test_a_hacked_run_is_flagged_in_words_and_with_samples(tmp_path: Path) -> None:
    (pair,) = found_in(tmp_path, HACKED)
    assert pair.name == "exact_match" and pair.window == "the run"
    assert pair.total.rho > 0.5 and pair.reward.rho < -0.5
    text = describe_pair(pair)
    assert "while exact_match (weight 1) fell from 0.6" in text and "the total rose" in text
    shown = (tmp_path / "report.html").read_text()
    assert shown.count(text) == 2  # at the top too
    assert "Nothing suspicious" not in shown


def test_a_clean_run_is_not_and_it_is_said_what_was_looked_at(tmp_path: Path) -> None:
    assert found_in(tmp_path, CLEAN) == []
    text = (tmp_path / "report.html").read_text()
    assert "Nothing suspicious. Compared with the total: exact_match, length_bonus" in text


def test_a_metric_that_falls_only_in_the_last_half_is_seen(tmp_path: Path) -> None:
    means = {
        **HACKED,
        "exact_match": lambda at: 0.5,
        "readable": lambda at: 0.2 + min(at, 0.5) * 1.2 - 1.2 * max(0.0, at - 0.5),
    }
    (pair,) = found_in(tmp_path, means, steps=120)
    assert (pair.name, pair.window) == ("readable", "the run's last half")
    assert describe_pair(pair).startswith("Over the run's last half the total rose from ")


@pytest.mark.parametrize(
    ("role", "slope", "flagged"),
    [
        (Role("x", weight=0.5), -1, True),
        (Role("x", weight=0.5), 1, False),
        (Role("x", weight=0.0), -1, True),
        (Role("x", gate=True), -1, True),
        (Role("x", weight=-0.5), -1, False),  # less of what costs is good
        (Role("x", weight=-0.5), 1, True),
    ],
)
def test_the_bad_direction_is_that_of_the_weight(role: Role, slope: int, flagged: bool) -> None:
    rng = random.Random(1)
    lines = [
        metrics_line(step, step + rng.gauss(0, 3), {"x": slope * step + rng.gauss(0, 3)})
        for step in range(1, 50)
    ]
    found = suspicious(pairs(lines, {"x": role}))
    assert bool(found) == flagged
    for pair in found:
        assert (" rose from " if slope > 0 else " fell from ") in describe_pair(pair).split(
            "while"
        )[1]


def test_a_total_that_does_not_rise_is_no_hacking() -> None:
    rng = random.Random(2)
    for slope in (0, -1):
        lines = [
            metrics_line(step, slope * step + rng.gauss(0, 3), {"x": -step + rng.gauss(0, 3)})
            for step in range(1, 100)
        ]
        looked_at = pairs(lines, {})
        assert len(looked_at) == 2 and suspicious(looked_at) == []


@pytest.mark.parametrize(("steps", "metrics"), [(MIN_STEPS, 12), (50, 30), (300, 12)])
def test_noise_is_seldom_flagged_however_many_metrics(steps: int, metrics: int) -> None:
    flagged = [bool(suspicious(pairs(noisy(seed, steps, metrics), {}))) for seed in range(60)]
    assert sum(flagged) <= 2  # 1 % of runs is the level


def test_noise_that_remembers_itself_is_seldom_flagged_either() -> None:
    """A wandering series taken for so many independent steps would be flagged in 11 of 40 runs."""
    lines = [noisy(seed, 400, 12, wander=0.9) for seed in range(40)]
    assert sum(bool(suspicious(pairs(one, {}))) for one in lines) <= 6


def test_too_few_steps_are_not_judged() -> None:
    few = [metrics_line(step, step, {"x": -float(step)}) for step in range(1, MIN_STEPS)]
    assert pairs(few, {}) == []
    enough = [*few, metrics_line(MIN_STEPS, MIN_STEPS, {"x": -float(MIN_STEPS)})]
    assert [pair.bad for pair in pairs(enough, {})] == [True]


def test_steps_without_a_value_are_left_out() -> None:
    """A metric with `every`, a step that was skipped whole, a reward that never moved."""
    lines = [
        metrics_line(
            step, step, {"seldom": -float(step), "still": 1.0} if step % 3 == 0 else {"still": 1.0}
        )
        for step in range(1, 3 * MIN_STEPS + 1)
    ]
    lines[5] |= {"reward": None, "rewards": {}}
    lines.append({"step": 0, "held_out": 0.5})
    looked_at = pairs(lines, {})
    assert {(pair.name, pair.window) for pair in looked_at} == set()  # one value short of enough
    lines[5] |= {"rewards": {"seldom": -6.0}}
    assert [(pair.name, pair.window, pair.bad) for pair in pairs(lines, {})] == [
        ("seldom", "the run", True)
    ]


def test_the_samples_shown_are_recent_high_and_bad(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    write_steps(run, HACKED, 60)
    Records(run.samples).extend(
        [
            sample_line(59, 1, "gamed", 4.0, {"exact_match": -1.0, "length_bonus": 10.0}),
            sample_line(59, 2, "high alone", 5.0, {"exact_match": 3.0, "length_bonus": 4.0}),
            sample_line(59, 3, "low alone", -5.0, {"exact_match": -4.0, "length_bonus": -2.0}),
            sample_line(59, 4, "skipped", None, {"exact_match": -4.0, "length_bonus": None}),
            sample_line(1, 5, "long ago", 9.0, {"exact_match": -5.0, "length_bonus": 20.0}),
        ]
    )
    roles: Roles = SavedRun(run).roles
    (pair,) = suspicious(pairs(read(run.metrics, StepMetrics), roles))
    text = str(suspicious_samples(read_columns(run.samples), pair).rows)
    assert "gamed" in text
    for other in ("high alone", "low alone", "skipped", "long ago"):
        assert other not in text

"""Alerts: each rule on a run that goes wrong and on one that just does not, and on real runs.

The recorded ones are metrics of real runs on a CPU: `healthy` the quickstart, `collapsed` and
`diverged` two of docs/study.md without a trust region.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drpo_cli.runs.alert_rules import RULES
from drpo_cli.runs.alerts import GRACE, Alert, Watch, alerts
from support.command import records

DATA = Path(__file__).parents[1] / "data"
Metrics = list[dict[str, Any]]
START = {
    "reward": 0.3,
    "reward_std": 0.46,
    "zero_advantage_groups": 0.1,
    "response_length": 100.0,
    "truncated_share": 0.02,
    "entropy": 1.2,
    "corrective_share": 0.01,
    "masked_share": 0.02,
    "effective_sample_size": 0.97,
    "gap": 1e-6,
    "gap_floor": 2e-6,
    "skipped_updates": 0.0,
    "reference_kl": 0.2,
    "grading": {"exact": {"calls": 100, "failures": {}}, "judge": {"calls": 20, "failures": {}}},
    "turns": 3.0,
    "idle_share": 0.05,
    "environments": {"game": {"episodes": 100, "unparsed_share": None, "failures": {},
                              "ends": {"done": 0.9, "max_turns": 0.1}}},
}  # fmt: skip


def run(steps: int = 60, since: int = 31, until: int | None = None, **later: Any) -> Metrics:
    """A run that is sound, but for the values it has from step `since` to `until`."""
    bad = range(since, (until or steps) + 1)
    return [{"step": n, **START, **(later if n in bad else {})} for n in range(1, steps + 1)]


def failing(calls: int) -> dict[str, Any]:
    judge = {"calls": 20, "failures": {"timeout": calls}}
    return {"exact": {"calls": 100, "failures": {"crash": 1}}, "judge": judge}


def environments(**changed: Any) -> dict[str, Any]:
    fine = {"episodes": 50, "unparsed_share": 0.02, "failures": {}, "ends": {"done": 1.0}}
    return {"environments": {"tools": {**fine, **changed}, "fine": fine}}


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "gap": ({"gap": 6.1e-6}, {"gap": 5.9e-6}),
    "entropy-collapse": ({"entropy": 0.05, "reward": 0.5}, {"entropy": 0.07, "reward": 0.5}),
    "zero-advantage": ({"zero_advantage_groups": 0.95}, {"zero_advantage_groups": 0.94}),
    "reward-saturated": (
        {"zero_advantage_groups": 0.96, "reward": 0.98, "reward_std": 0.14},
        {"zero_advantage_groups": 0.89, "reward": 0.98, "reward_std": 0.14},
    ),
    "reward-collapse": ({"reward": 0.14}, {"reward": 0.16}),
    "length-explosion": ({"response_length": 201.0}, {"response_length": 199.0}),
    "truncation": ({"truncated_share": 0.26}, {"truncated_share": 0.25}),
    "kl-runaway": ({"reference_kl": 0.61}, {"reference_kl": 0.59}),
    "off-policy": ({"effective_sample_size": 0.49}, {"effective_sample_size": 0.5}),
    "corrective-share": ({"corrective_share": 0.11}, {"corrective_share": 0.1}),
    "clipped-share": ({"masked_share": 0.26}, {"masked_share": 0.25}),
    "skipped-updates": ({"skipped_updates": 1.0}, {"skipped_updates": 0.0}),
    "reward-failures": ({"grading": failing(2)}, {"grading": failing(1)}),
    "tool-call-failures": (environments(unparsed_share=0.21), environments(unparsed_share=0.2)),
    "unfinished-episodes": (
        environments(ends={"done": 0.49, "max_turns": 0.3, "context": 0.21}),
        environments(ends={"done": 0.4, "max_turns": 0.3, "context": 0.2, "failed": 0.1}),
    ),
    "environment-failures": (
        environments(failures={"timeout": 2, "crash": 1}),
        environments(failures={"timeout": 2}),
    ),
    "turns-growing": ({"turns": 4.6}, {"turns": 4.4}),
    "idle-engine": ({"idle_share": 0.31}, {"idle_share": 0.3}),
}


def test_every_rule_has_a_case() -> None:
    assert {rule.kind for rule in RULES} == CASES.keys()


@pytest.mark.parametrize("kind", CASES)
def test_a_rule_fires_beyond_its_limit_and_only_there(kind: str) -> None:
    beyond, below = CASES[kind]
    (alert,) = alerts(run(**beyond))
    assert alert.kind == kind
    assert 31 <= alert.step <= 34  # a median over some steps lags behind by a few
    # what runs away is compared with itself some steps ago, and so comes to rest
    assert alert.until is None or kind in ("length-explosion", "kl-runaway", "turns-growing")
    assert any(figure.isdigit() for figure in alert.reason) and alert.suggestion
    assert alerts(run(**below)) == []
    assert alerts(run(since=31, until=32, **beyond)) == []  # two odd steps are no alert


def test_what_an_alert_says() -> None:
    (alert,) = alerts(run(entropy=0.031, reward=0.5))
    assert alert == Alert(
        "entropy-collapse",
        step=33,  # from here on the median of the last five steps is low
        until=None,
        reason="entropy fell from 1.2 nats in the first steps to 0.031",
        suggestion="lower train.learning_rate or objective.delta, or add train.entropy_bonus; if "
        "the run scores as well as it can, it is done",
    )
    (alert,) = alerts(run(entropy=0.29))
    assert alert.reason == (
        "entropy fell from 1.2 nats in the first steps to 0.29 while the reward did not rise"
    )
    (alert,) = alerts(run(grading=failing(5)))
    assert alert.reason == "25% of the calls of judge fail"


def test_what_an_alert_on_environments_says() -> None:
    (alert,) = alerts(run(**environments(ends={"done": 0.25, "max_turns": 0.25, "timeout": 0.5})))
    assert alert.reason == "75% of the episodes of tools are ended by a limit, mostly timeout"
    (alert,) = alerts(run(**environments(failures={"crash": 5})))
    assert alert.reason == "10% of the episodes of tools fail"
    (alert,) = alerts(run(**environments(unparsed_share=0.5)))
    assert alert.reason == "50% of the turns of tools that call a tool cannot be parsed"
    (alert,) = alerts(run(turns=6.0))
    assert alert.reason == (
        "episodes grew from 3.0 to 6.0 turns within about 20 steps while the reward went from 0.3 "
        "to 0.3"
    )


def test_turns_that_grow_with_the_reward_or_by_less_than_one_are_fine() -> None:
    assert alerts(run(turns=6.0, reward=0.31)) == []
    few = [{**record, "turns": 1.1 if record["step"] < 31 else 1.9} for record in run()]
    assert alerts(few) == []


def test_the_same_gap_from_the_start_on_is_rounding() -> None:
    assert alerts(run(since=1, gap=1e-3)) == []


def test_a_gap_that_is_noise_on_its_text_is_none() -> None:
    assert alerts(run(gap=6.1e-6, gap_noise=2.1e-6)) == []
    assert [alert.kind for alert in alerts(run(gap=6.1e-6, gap_noise=1e-6))] == ["gap"]


def test_lengths_that_grow_slowly_or_stay_small_explode_nothing() -> None:
    slow = [{"step": n, "response_length": 100 * 1.02**n} for n in range(1, 301)]
    small = run(since=1, response_length=4.0)[:30] + run(response_length=30.0)[30:]
    assert alerts(slow) == alerts(small) == []


def test_equal_rewards_are_no_trouble_where_a_teacher_teaches() -> None:
    alone = run(zero_advantage_groups=1.0)
    assert [alert.kind for alert in alerts(alone)] == ["zero-advantage"]
    assert alerts([{**record, "teacher_kl": 0.5} for record in alone]) == []


def test_a_kl_that_only_leaves_zero_runs_nowhere() -> None:
    assert alerts(run(since=1, until=30, reference_kl=0.01)) == []


def test_an_alert_ends_where_the_trouble_does_and_short_pauses_belong_to_it() -> None:
    metrics = run(steps=80, since=11, until=40, truncated_share=0.5)
    for record in metrics[19 : 19 + GRACE - 1]:
        record["truncated_share"] = 0.0
    (alert,) = alerts(metrics)
    assert (alert.step, alert.until) == (11, 40)
    assert alerts(metrics[:30])[0].until is None
    assert alerts(metrics[:21])[0].until == 19  # it may or may not come back
    metrics[59:70] = run(steps=80, since=60, truncated_share=0.5)[59:70]
    assert [(a.step, a.until) for a in alerts(metrics)] == [(11, 40), (60, 70)]


def test_real_runs_that_learned_are_quiet_and_those_that_broke_are_not() -> None:
    assert alerts(records(DATA / "metrics-healthy.jsonl")) == []
    collapsed = {alert.kind: alert for alert in alerts(records(DATA / "metrics-collapsed.jsonl"))}
    assert collapsed.keys() == {"zero-advantage", "truncation", "reward-collapse"}
    assert collapsed["reward-collapse"].until is None
    assert collapsed["reward-collapse"].reason == "the reward fell from 0.195 at its best to 0"
    diverged = [alert.kind for alert in alerts(records(DATA / "metrics-diverged.jsonl"))]
    assert diverged == ["off-policy", "truncation", "zero-advantage", "entropy-collapse"]


NUMBERS = st.one_of(
    st.none(),
    st.floats(),
    st.integers(-(10**400), 10**400),
    st.sampled_from([True, "1", [], {}]),
    st.floats(0, 1),
)
RECORD = st.fixed_dictionaries(
    {"step": st.integers(0, 60)},
    optional={
        **{key: NUMBERS for key in START if key not in ("grading", "environments")},
        "environments": st.one_of(
            NUMBERS,
            st.dictionaries(
                st.sampled_from("ab"),
                st.one_of(
                    NUMBERS,
                    st.dictionaries(
                        st.sampled_from(("episodes", "unparsed_share", "failures", "ends")),
                        st.one_of(
                            NUMBERS, st.dictionaries(st.sampled_from(("done", "context")), NUMBERS)
                        ),
                    ),
                ),
            ),
        ),
        "grading": st.one_of(
            NUMBERS,
            st.dictionaries(
                st.sampled_from("ab"),
                st.one_of(
                    NUMBERS,
                    st.fixed_dictionaries(
                        {},
                        optional={
                            "calls": NUMBERS,
                            "failures": st.one_of(
                                NUMBERS, st.dictionaries(st.sampled_from("xy"), NUMBERS)
                            ),
                        },
                    ),
                ),
            ),
        ),
    },
)


def unsteady(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Metrics:
    """Sound steps, bad ones of any rule in any order, and some that lack anything."""
    metrics: Metrics = []
    for kind in draw(st.lists(st.sampled_from(["", "hole", *CASES]), min_size=1, max_size=12)):
        values: dict[str, Any] = CASES[kind][0] if kind in CASES else {}
        for _ in range(draw(st.integers(1, 12))):
            step = {"step": len(metrics) + 1, **START, **values}
            metrics.append({"step": len(metrics) + 1} if kind == "hole" else step)
    return metrics


@given(st.lists(RECORD, max_size=60))
def test_no_record_is_too_odd(metrics: Metrics) -> None:
    for alert in alerts(metrics):
        assert alert.until is None or alert.step <= alert.until
    assert alerts([{}, {"step": None}, {"step": "1"}, {"step": 1, "grading": {"a": 1}}]) == []


@settings(max_examples=60)
@given(st.composite(unsteady)())
def test_what_was_said_of_a_prefix_stays_said(metrics: Metrics) -> None:
    watch, said = Watch(), []
    for n, record in enumerate(metrics, start=1):
        said += watch.add(record)
        if n % 7 == 0:
            assert watch.alerts() == alerts(metrics[:n])
    found = watch.alerts()
    without_end = {(a.kind, a.step, a.reason) for a in said}
    assert without_end == {(a.kind, a.step, a.reason) for a in found} and len(said) == len(found)
    by_kind: dict[str, list[Alert]] = {}
    for alert in found:
        by_kind.setdefault(alert.kind, []).append(alert)
    for episodes in by_kind.values():
        for before, after in pairwise(episodes):
            assert before.until is not None and before.until + GRACE <= after.step
    assert [a.step for a in found] == sorted(a.step for a in found)

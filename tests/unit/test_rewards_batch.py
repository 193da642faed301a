"""Batches through the rewards: totals, failures, records, reproducibility."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drpo_cli import plugins
from drpo_cli.plugins import Selected
from drpo_cli.rewards.grading.episodes import GIVE_UP
from drpo_cli.rewards.grading.grader import Grader
from drpo_cli.types import Scores
from support.rewards import Own, graded, group, numbers_in, wait_until

LENGTH = "def fn(completion): return float(len(completion))\n"
# 1 for 'a…', an exception for 'b…', −2 for the others
SOMETIMES = """
def fn(completion):
    if completion.startswith("b"): raise ValueError("no b")
    return 1.0 if completion.startswith("a") else -2.0
"""
DRAWS = """
import random, time, numpy
def fn(completion):
    time.sleep(len(completion) / 1000)
    return random.random() + numpy.random.random()
async def later(completion):
    return random.random() + numpy.random.random()
def whole(completions) -> list[float]:
    return [random.random() for _ in completions]
def among(group, completion):
    return group.index(completion) + random.random()
"""


@pytest.fixture
def own(tmp_path: Path) -> Own:
    return Own(tmp_path)


def chosen(own: Own, source: str, name: str, **options: Any) -> Selected[Any]:
    """A reward called `name`."""
    selected = own(source, **options)
    return replace(selected, config=selected.config.model_copy(update={"name": name}))


def test_the_total_is_the_weighted_sum_times_the_gates(own: Own) -> None:
    exact = plugins.load("rewards", "exact_match")
    selected = [
        Selected("rewards", "exact_match", exact.Config(weight=2.0)),
        chosen(own, LENGTH, "length", weight=-0.5),
        chosen(own, "def fn(truncated): return truncated", "seen", weight=0.0),
        chosen(own, "def fn(completion): return completion != 'no'", "open", gate=True),
        chosen(own, "def fn(completion): return 0.5", "half", gate=True),
    ]
    (scores,) = graded(selected, [group("4", "five", "no")]).scores_P
    assert scores.by_reward == {
        "exact_match": (1.0, 0.0, 0.0),
        "length": (1.0, 4.0, 2.0),
        "seen": (0.0, 1.0, 0.0),
        "open": (1.0, 1.0, 0.0),
        "half": (0.5, 0.5, 0.5),
    }
    assert scores.total_G == (0.75, -1.0, 0.0) and not scores.skipped


ROLES: dict[str, dict[str, Any]] = {
    "counts": {"weight": 2.0},
    "metric": {"weight": 0.0},
    "gate": {"gate": True},
}
TOTALS = {  # of a, bb and ccc, whose lengths are the other reward
    ("counts", "zero"): (3.0, 2.0, -1.0),
    ("metric", "zero"): (1.0, 2.0, 3.0),
    ("gate", "zero"): (1.0, 0.0, -6.0),
    ("counts", "skip_sample"): (3.0, 0.0, -1.0),
    ("metric", "skip_sample"): (1.0, 2.0, 3.0),
    ("gate", "skip_sample"): (1.0, 0.0, -6.0),
}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("on_error", ["stop", "zero", "skip_sample"])
def test_what_a_failed_call_does(own: Own, role: str, on_error: str) -> None:
    selected = [
        chosen(own, LENGTH, "length"),
        chosen(own, SOMETIMES, "some", on_error=on_error, **ROLES[role]),
    ]
    found = graded(selected, [group("a", "bb", "ccc")])
    assert [record["reason"] for record in found.quarantine] == ["exception"]
    if on_error == "stop":
        assert found.fatal is not None
        assert found.fatal.startswith("reward 'some', prompt own/3, sample 1 ('bb'): ValueError: ")
        assert 'on_error = "skip_sample" would continue' in found.fatal
        return
    (scores,) = found.scores_P
    assert found.fatal is None and scores.by_reward["some"] == (1.0, None, -2.0)
    assert scores.total_G == TOTALS[role, on_error]
    skips = on_error == "skip_sample" and role != "metric"
    assert scores.skipped == ({1} if skips else set())
    assert scores.kept_totals == [t for i, t in enumerate(scores.total_G) if i != 1 or not skips]


def test_forgiving_stops_for_nothing_and_skips(own: Own) -> None:
    broken = chosen(own, "def fn(completion): return 1 / 0", "broken")
    metric = chosen(own, "def fn(completion): return 1 / 0", "metric", weight=0.0)
    some = chosen(own, SOMETIMES, "some", on_error="zero")
    found = graded([broken, metric], [group("a", "b")], forgiving=True)
    assert found.fatal is None and found.scores_P[0].skipped == {0, 1}
    found = graded([some, metric], [group("a", "b")], forgiving=True)
    assert found.scores_P == [
        Scores((1.0, 0.0), {"some": (1.0, None), "metric": (None, None)}, frozenset({1}))
    ]


@pytest.mark.parametrize("prefix", ["", "async "])
@pytest.mark.parametrize("on_error", ["zero", "skip_sample"])
def test_a_reward_that_fails_on_everything_ends_the_run(
    own: Own, prefix: str, on_error: str
) -> None:
    source = f"{prefix}def fn(completion):\n    return {{}}[completion]\n"
    found = graded([own(source, on_error=on_error)], [group(*["a"] * 8)] * 8)
    assert found.fatal is not None and found.usage["fn"].calls == GIVE_UP
    assert f"KeyError: 'a' ({own.folder / 'r0.py'}:3 in fn)" in found.fatal
    few = graded([own(source, on_error=on_error)], [group("a", "a")])
    assert few.fatal is not None and "(all of its 2 calls failed" in few.fatal
    one = graded([own(source, on_error=on_error)], [group("a")])
    assert one.fatal is None and one.usage["fn"].failures == {"exception": 1}


def test_one_that_worked_before_is_not_given_up_for_a_few(own: Own) -> None:
    with Grader([own(SOMETIMES, on_error="skip_sample")]) as grader:
        assert grader.score([group("a")]).fatal is None
        assert grader.score([group(*["b"] * (GIVE_UP - 1))]).fatal is None
        assert grader.score([group(*["b"] * GIVE_UP)]).fatal is not None


@pytest.mark.parametrize("on_error", ["zero", "skip_sample"])
def test_one_in_a_hundred_that_fails_does_not_end_the_run(own: Own, on_error: str) -> None:
    groups_P = [group(*(["b"] + ["a"] * 99)), group(*["a"] * 100)]
    found = graded([own(SOMETIMES, on_error=on_error, workers=2)], groups_P)
    assert found.fatal is None
    assert found.usage["fn"].failures == {"exception": 1} and found.usage["fn"].calls == 200


def test_every_failed_call_is_on_record_whole(own: Own) -> None:
    whole = "def fn(completions) -> list[float]: return [1.0] * (2 - ('b' in completions))"
    selected = [
        chosen(own, SOMETIMES, "some", on_error="zero"),
        chosen(own, whole, "whole", on_error="zero"),
    ]
    found = graded(selected, [group("a", "b", id="x/1", answer=None), group("a", "c", id="x/2")])
    seconds = [record.pop("seconds") for record in found.quarantine]
    assert all(0 <= s < math.inf for s in seconds)
    records = sorted(found.quarantine, key=lambda record: record["reward"])
    shared = {"prompt_id": "x/1", "prompt": "2+2=", "answer": None}
    where = f"{own.folder / 'r0.py'}:4 in fn"
    assert records == [
        {
            "reward": "some",
            "reason": "exception",
            "sample": 1,
            "completion": "b",
            **shared,
            "detail": f"ValueError: no b ({where}); fix the reward",
        },
        {
            "reward": "whole",
            "reason": "wrong_length",
            "sample": None,
            "completion": ["a", "b"],
            "detail": "returned 1 scores for 2 samples; return a list with one score per sample",
            **shared,
        },
    ]
    assert json.loads(json.dumps(records)) == records
    assert found.scores_P[0].by_reward["whole"] == (None, None)


def test_what_was_used_is_added_up(own: Own) -> None:
    source = """
import collections, time
class fn:
    def __init__(self): self.counts = collections.Counter()
    def __call__(self, completion):
        self.counts["characters"] += len(completion)
        time.sleep(0.05 * len(completion))
        return 1 / (len(completion) - 2)
"""
    whole = "import time\ndef fn(completions) -> list[float]:\n  time.sleep(0.1); return [1.0] * 3"
    one, group_ = chosen(own, source, "one", on_error="zero"), chosen(own, whole, "whole")
    found = graded([one, group_], [group("a", "bb", "ccc")])
    usage, seconds = found.usage["one"], found.seconds_P[0]["one"]
    assert (usage.calls, usage.failures, usage.counts) == (3, {"exception": 1}, {"characters": 6})
    assert usage.seconds == pytest.approx(sum(seconds)) and usage.slowest == max(seconds)
    assert seconds[0] >= 0.05 and seconds[1] >= 0.1 and seconds[2] >= 0.15
    assert found.usage["whole"].calls == 1
    third = found.usage["whole"].seconds / 3
    assert found.seconds_P[0]["whole"] == pytest.approx((third,) * 3)
    usage.merge(found.usage["whole"])
    assert (usage.calls, usage.failures.total(), usage.counts["characters"]) == (4, 1, 6)


@pytest.mark.parametrize("options", [{"weight": 1e300}, {"weight": -1e9}, {"gate": True}])
def test_a_total_that_training_cannot_use_ends_the_run(own: Own, options: dict[str, Any]) -> None:
    source = "def fn(completion): return 1e10"
    found = graded([chosen(own, source, "a", **options), chosen(own, source, "b")], [group("x")])
    assert found.fatal is not None
    assert found.fatal.startswith("prompt own/3, sample 0: the total of its scores is ")


def test_a_source_names_the_rewards_of_its_prompts(own: Own) -> None:
    selected = [chosen(own, LENGTH, "length"), chosen(own, "def fn(prompt): return 7", "seven")]
    groups_P = [group("aa", rewards=("seven",)), group("aa"), group("aa", rewards=("length",))]
    found = graded(selected, groups_P)
    assert [scores.total_G for scores in found.scores_P] == [(7.0,), (9.0,), (2.0,)]
    assert found.scores_P[0].by_reward == {"seven": (7.0,)}
    assert {name: usage.calls for name, usage in found.usage.items()} == {"length": 2, "seven": 2}


def test_who_is_due_when(own: Own) -> None:
    metric = chosen(own, LENGTH, "metric", weight=0.0, every=3)
    always = chosen(own, LENGTH, "always", weight=0.0)
    gate = chosen(own, LENGTH, "gate", gate=True)
    one = group("aa")
    with Grader([chosen(own, LENGTH, "counts"), metric, always, gate]) as grader:
        due = {}
        for step in range(1, 7):
            batch = grader.begin([one.prompt], 1, step)
            batch.add(0, 0, one.rollouts_G[0])
            due[step] = set(batch.wait().scores_P[0].by_reward)
        batch = grader.begin_totals([one.prompt], 1)
        batch.add(0, 0, one.rollouts_G[0])
        (totals,) = batch.wait().scores_P
        assert len(grader.score([one]).scores_P[0].by_reward) == 4
    usual = {"counts", "always", "gate"}
    assert due == {step: usual | ({"metric"} if step % 3 == 0 else set()) for step in range(1, 7)}
    assert totals == Scores((4.0,), {"counts": (2.0,), "gate": (2.0,)})


def test_the_same_scores_for_any_number_of_workers(own: Own) -> None:
    groups_P = [group(*(f"{n}" + "x" * (n % 5) for n in range(12)), id=f"own/{p}") for p in (1, 2)]
    names = ("fn", "later", "whole", "among")
    found = [
        graded([own(DRAWS, name, workers=workers) for name in names], groups_P).scores_P
        for workers in (1, 2, 4)
    ]
    assert found[0] == found[1] == found[2]
    for scores in found[0]:
        assert all(len(set(values)) == 12 for values in scores.by_reward.values())
    assert found[0][0] != found[0][1]


@pytest.fixture(scope="module")
def drawing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grader]:
    own = Own(tmp_path_factory.mktemp("own"))
    names = ("fn", "whole", "among")
    with Grader([own(DRAWS, name, workers=2) for name in names]) as grader:
        yield grader


@settings(max_examples=10)
@given(order=st.permutations([(at, sample) for at in range(3) for sample in range(3)]))
def test_the_same_scores_in_whatever_order_samples_finish(
    drawing: Grader, order: list[tuple[int, int]]
) -> None:
    groups_P = [group(*(f"{p}{s}" for s in range(3)), id=f"own/{p}") for p in range(3)]
    batch = drawing.begin([one.prompt for one in groups_P], 3, step=1)
    for at, sample in order:
        batch.add(at, sample, groups_P[at].rollouts_G[sample])
    assert batch.wait().scores_P == drawing.score(groups_P).scores_P


def test_samples_are_scored_before_the_last_one_is_there(own: Own, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    source = f"def fn(completion): print(completion, file=open({str(seen)!r}, 'a')); return 1.0"
    one = group("1", "2")
    with Grader([own(source)]) as grader:
        batch = grader.begin([one.prompt], 2, step=1)
        batch.add(0, 0, one.rollouts_G[0])
        wait_until(lambda: numbers_in(seen) == [1], "the first sample waits for the second")
        batch.add(0, 1, one.rollouts_G[1])
        assert batch.wait().scores_P[0].total_G == (1.0, 1.0)

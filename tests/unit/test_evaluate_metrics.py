"""avg@k, pass@k, maj@k and their intervals."""

import itertools
import random

import pytest

from drpo_cli.errors import UserError
from drpo_cli.evaluate.metrics import (
    Estimate,
    Evaluation,
    ProblemResult,
    estimate,
    majority,
    pass_at,
    summarise,
)


def interval(found: Estimate) -> tuple[float, float]:
    assert found.low is not None and found.high is not None
    return found.low, found.high


def problem(id: str, scores: str, texts: str | None = None) -> ProblemResult:
    """`scores` as "1010"; `texts` one letter per response, the scores when not given."""
    return ProblemResult(id, f"hash of {id}", tuple(map(float, scores)), tuple(texts or scores))


@pytest.mark.parametrize(("right", "n"), [(0, 4), (1, 4), (3, 6), (5, 6), (6, 6)])
def test_pass_at_is_the_share_of_subsets_with_a_right_one(right: int, n: int) -> None:
    rights = [i < right for i in range(n)]
    for k in range(1, n + 1):
        subsets = list(itertools.combinations(rights, k))
        assert pass_at(rights, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@pytest.mark.parametrize(
    ("scores", "texts", "expected"),
    [
        ("1100", "aabc", 1.0),
        ("1000", "abbc", 0.0),
        ("1100", "aabb", 0.5),
        ("1000", "abcd", 0.25),
        ("1011", "aaab", 2 / 3),
    ],
)
def test_majority(scores: str, texts: str, expected: float) -> None:
    rights = [score == "1" for score in scores]
    for order in itertools.permutations(range(4)):
        found = majority([rights[i] for i in order], [texts[i] for i in order])
        assert found == pytest.approx(expected)


def test_majority_does_not_see_white_space() -> None:
    assert majority([True, True, False], [" 4\n2 ", "4 2", "42"]) == 1.0


def test_summary() -> None:
    found = summarise([problem("a", "1110"), problem("b", "0000"), problem("c", "1000")])
    values = {name: value.value for name, value in found.summary.items()}
    assert values == pytest.approx(
        {"avg@4": 4 / 12, "pass@2": (1 + 0 + 0.5) / 3, "pass@4": 2 / 3, "maj@4": 1 / 3}
    )
    assert found.avg_by_problem() == {"a": 0.75, "b": 0.0, "c": 0.25}


def test_every_pass_size_up_to_k() -> None:
    names = ["avg@6", "pass@2", "pass@4", "pass@6", "maj@6"]
    assert list(summarise([problem("a", "1" * 6)]).summary) == names
    assert list(summarise([problem("a", "1")]).summary) == ["avg@1", "pass@1", "maj@1"]


def test_a_response_is_right_from_the_threshold_on() -> None:
    result = ProblemResult("a", "h", (0.7 + 0.2 + 0.1, 0.99, 2.0), ("x", "y", "z"))
    assert 0.7 + 0.2 + 0.1 < 1
    assert summarise([result]).summary["avg@3"].value == pytest.approx(2 / 3)
    assert summarise([result], threshold=0.5).summary["avg@3"].value == 1.0


def test_interval_is_that_of_the_normal_theory_where_it_holds() -> None:
    values = [float(i % 5 < 2) for i in range(1000)]
    found = estimate(values)
    half = 1.96 * (0.4 * 0.6 / 1000) ** 0.5
    assert found.value == pytest.approx(0.4)
    assert found.low == pytest.approx(0.4 - half, abs=2e-3)
    assert found.high == pytest.approx(0.4 + half, abs=2e-3)
    assert found == estimate(values)


def test_interval_covers_the_truth_in_about_95_of_100_cases() -> None:
    draw = random.Random(0)
    covered = 0
    for _ in range(100):
        found = estimate([sum(draw.random() < 0.6 for _ in range(4)) / 4 for _ in range(60)])
        low, high = interval(found)
        covered += low <= 0.6 <= high
    assert 88 <= covered <= 99


def test_interval_of_equal_values_is_not_a_point() -> None:
    all_right, all_wrong = estimate([1.0] * 100), estimate([0.0] * 100)
    # Wilson's interval for 100 of 100 and for 0 of 100.
    share = 1.96**2 / (100 + 1.96**2)
    assert interval(all_right) == pytest.approx((1 - share, 1.0), abs=1e-4)
    assert interval(all_wrong) == pytest.approx((0.0, share), abs=1e-4)
    middle = estimate([1 / 3 + i * 1e-16 for i in range(50)])
    low, high = interval(middle)
    assert 0 < low < middle.value < high < 1


def test_one_problem_has_no_interval() -> None:
    found = estimate([0.5])
    assert (found.value, found.low, found.high) == (0.5, None, None)


def test_json_gives_an_equal_evaluation_back() -> None:
    before = summarise([problem("a", "10", "xy"), problem("π", "11")], threshold=0.5)
    assert Evaluation.from_json(before.to_json()) == before
    single = summarise([problem("a", "10")])
    assert Evaluation.from_json(single.to_json()) == single


@pytest.mark.parametrize("text", ["", "{}", '{"k": 1}', "[1]", '{"k": "many"}'])
def test_json_of_something_else_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="not an evaluation"):
        Evaluation.from_json(text)


@pytest.mark.parametrize(
    "problems",
    [
        [],
        [problem("a", "10"), problem("b", "101")],
        [problem("a", "10"), problem("a", "11")],
        [ProblemResult("a", "h", (1.0,), ("x", "y"))],
        [ProblemResult("a", "h", (), ())],
    ],
)
def test_uneven_results_are_refused(problems: list[ProblemResult]) -> None:
    with pytest.raises(ValueError):
        summarise(problems)

"""avg@k, pass@k, pass^k, G-Pass@k, maj@k and their intervals."""

import itertools
import json
import math

import numpy as np
import pytest
from scipy.stats import binomtest

from drpo_cli.errors import UserError
from drpo_cli.evaluate.metrics import (
    Estimate,
    Evaluation,
    ProblemResult,
    at_least,
    estimate,
    estimate_difference,
    majority,
    mean_g_pass,
    summarise,
)


def interval(found: Estimate) -> tuple[float, float]:
    assert found.low is not None and found.high is not None
    return found.low, found.high


def problem(id: str, scores: str, texts: str | None = None) -> ProblemResult:
    """`scores` as "1010"; `texts` one letter per response, the scores when not given."""
    return ProblemResult(id, f"hash of {id}", tuple(map(float, scores)), tuple(texts or scores))


@pytest.mark.parametrize(("right", "n"), [(0, 4), (1, 4), (3, 6), (5, 6), (6, 6)])
def test_at_least_is_the_share_of_subsets_with_so_many_right_ones(right: int, n: int) -> None:
    rights = [i < right for i in range(n)]
    for k in range(1, n + 1):
        subsets = list(itertools.combinations(rights, k))
        for wanted in range(1, k + 1):
            expected = sum(sum(subset) >= wanted for subset in subsets) / len(subsets)
            assert at_least(wanted, rights, k) == pytest.approx(expected)


def test_mean_g_pass_is_twice_the_area_of_g_pass_from_a_half_to_one() -> None:
    rights = [True] * 5 + [False] * 3
    taus = [(i + 0.5) / 1000 for i in range(500, 1000)]
    for k in (2, 4, 8):
        area = sum(at_least(math.ceil(tau * k), rights, k) for tau in taus) / 1000
        assert mean_g_pass(rights, k) == pytest.approx(2 * area)
    assert mean_g_pass([True] * 4, 4) == 1.0


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
        {
            "avg@4": 4 / 12,
            "pass@2": (1 + 0 + 0.5) / 3,
            "pass^2": (0.5 + 0 + 0) / 3,
            "G-Pass@2_0.5": (1 + 0 + 0.5) / 3,
            "mG-Pass@2": (0.5 + 0 + 0) / 3,
            "pass@4": 2 / 3,
            "pass^4": 0,
            "G-Pass@4_0.5": 1 / 3,
            "mG-Pass@4": (0.5 + 0 + 0) / 3,
            "maj@4": 1 / 3,
        }
    )
    assert found.avg_by_problem() == {"a": 0.75, "b": 0.0, "c": 0.25}


def test_every_pass_size_up_to_k() -> None:
    names = list(summarise([problem("a", "1" * 6)]).summary)
    assert [name for name in names if "Pass" not in name] == [
        *("avg@6", "pass@2", "pass^2", "pass@4", "pass^4", "pass@6", "pass^6", "maj@6")
    ]
    assert {"G-Pass@6_0.5", "mG-Pass@6"} < set(names)
    names = ["avg@1", "pass@1", "pass^1", "G-Pass@1_0.5", "maj@1"]
    assert list(summarise([problem("a", "1")]).summary) == names


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


@pytest.mark.parametrize("right", [0, 1, 5, 10, 100])
def test_of_one_response_each_the_interval_is_about_wilsons(right: int) -> None:
    low, high = interval(estimate([1.0] * right + [0.0] * (200 - right)))
    wilson = binomtest(right, 200).proportion_ci(0.95, method="wilson")
    assert (low, high) == pytest.approx((wilson.low, wilson.high), abs=2e-3)


def draw_rates(rng: np.random.Generator, mean: float, shape: tuple[int, ...]) -> np.ndarray:
    """How likely a response to each problem is right: most problems are easy or hard."""
    return rng.beta(mean, 1 - mean, shape)


@pytest.mark.parametrize("k", [1, 4, 8])
@pytest.mark.parametrize("mean", [0.05, 0.3, 0.9])
def test_intervals_cover_the_truth_in_at_least_93_of_100_cases(mean: float, k: int) -> None:
    rng, cases = np.random.default_rng(k), 600
    for problems in (10, 20, 50, 200):
        rates = draw_rates(rng, mean, (cases, problems))
        found = [estimate(row) for row in (rng.binomial(k, rates) / k).tolist()]
        covered = sum(low <= mean <= high for low, high in map(interval, found)) / cases
        # 94.5 % in the least of 20,000 cases each; three standard errors of 600 below it
        assert covered >= 0.917


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("problems", [10, 20, 50, 200])
def test_of_equal_models_one_in_twenty_differs_at_most(problems: int, k: int) -> None:
    rng, cases = np.random.default_rng(k), 600
    for mean in (0.05, 0.3, 0.9):
        rates = draw_rates(rng, mean, (cases, problems))
        differences = (rng.binomial(k, rates) - rng.binomial(k, rates)) / k
        found = [interval(estimate_difference(row)[0]) for row in differences.tolist()]
        wrong = sum(not low <= 0 <= high for low, high in found) / cases
        assert wrong <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / cases)


def test_interval_of_a_difference_is_students_for_many_problems() -> None:
    values = [0.5, -0.25, 0.0, 0.25] * 100
    found, _ = estimate_difference(values)
    half = 1.966 * float(np.std(values, ddof=1)) / 20
    assert interval(found) == pytest.approx((0.125 - half, 0.125 + half), abs=2e-4)


def test_a_detectable_difference_is_found_in_80_of_100_cases() -> None:
    rng, problems, cases = np.random.default_rng(0), 100, 1000
    _, least = estimate_difference(rng.choice([-0.25, 0.25], problems).tolist())
    assert least == pytest.approx((1.984 + 0.845) * 0.25 / 10, rel=0.05)
    shown = 0
    for _ in range(cases):
        values = least + rng.choice([-0.25, 0.25], problems)
        shown += interval(estimate_difference(values.tolist())[0])[0] > 0
    assert 0.76 <= shown / cases <= 0.84


def test_a_problem_that_is_asked_twice_counts_once() -> None:
    shares = [0.25, 0.5, 1.0, 0.75] * 5
    once = estimate(shares)
    twice = estimate(shares * 2, clusters=list(range(20)) * 2)
    assert interval(twice) == pytest.approx(interval(once))
    apart = interval(estimate(shares * 2))
    assert apart[1] - apart[0] < 0.8 * (interval(once)[1] - interval(once)[0])
    differences, _ = estimate_difference(shares * 2, clusters=list(range(20)) * 2)
    assert interval(differences) == pytest.approx(interval(estimate_difference(shares)[0]))
    results = [
        ProblemResult(f"{i}", f"{i % 20}", (share,), ("",)) for i, share in enumerate(shares * 2)
    ]
    summary = summarise(results).summary["avg@1"]
    assert summary == estimate([float(s >= 1) for s in shares * 2], list(range(20)) * 2)


def test_interval_of_equal_values_is_not_a_point() -> None:
    all_right, all_wrong = estimate([1.0] * 100), estimate([0.0] * 100)
    # Wilson's interval for 100 of 100 and for 0 of 100, with Student's t.
    share = 1.984**2 / (100 + 1.984**2)
    assert interval(all_right) == pytest.approx((1 - share, 1.0), abs=1e-4)
    assert interval(all_wrong) == pytest.approx((0.0, share), abs=1e-4)
    middle = estimate([1 / 3 + i * 1e-16 for i in range(50)])
    low, high = interval(middle)
    assert 0 < low < middle.value < high < 1
    low, high = interval(estimate_difference([0.0] * 50)[0])
    assert low < 0 < high


def test_one_problem_more_that_varies_less_does_not_narrow_the_interval_much() -> None:
    """The first response that is wrong shows some spread, and no less doubt than none did."""
    none, one = estimate([1.0] * 20), estimate([1.0] * 19 + [0.75])
    assert interval(one)[0] < interval(none)[0] + 0.05


def test_one_problem_has_no_interval() -> None:
    found = estimate([0.5])
    assert (found.value, found.low, found.high) == (0.5, None, None)
    assert estimate([0.0, 1.0], clusters=["same", "same"]) == found
    assert estimate_difference([0.5]) == (found, None)


def test_json_gives_an_equal_evaluation_back() -> None:
    before = summarise([problem("a", "10", "xy"), problem("π", "11")], threshold=0.5)
    assert Evaluation.from_json(before.to_json()) == before
    single = summarise([problem("a", "10")])
    assert Evaluation.from_json(single.to_json()) == single


def test_json_of_an_older_version_gets_the_new_metrics() -> None:
    now = summarise([problem("a", "10", "xy"), problem("b", "11")], threshold=0.5)
    old = json.loads(now.to_json())
    del old["chosen_of"]
    known = ("avg@2", "pass@2", "maj@2")
    old["summary"] = {name: {"value": 0.75, "low": 0.5, "high": 1.0} for name in known}
    assert Evaluation.from_json(json.dumps(old)) == now
    old["problems"][0]["scores"] = [1.0]
    with pytest.raises(UserError, match="same number of scores"):
        Evaluation.from_json(json.dumps(old))


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

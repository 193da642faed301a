"""reasoning-gym's scorers and what a model may write: nothing is run, and nothing takes long."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drpo_cli import plugins
from drpo_cli.gym import disarm
from drpo_cli.plugins import Selected
from drpo_cli.rewards import reasoning_gym
from drpo_cli.rewards.grading.grader import Grader
from drpo_cli.types import Group, Prompt, Rollout

TASKS = [
    "countdown", "puzzle24", "simple_integration", "intermediate_integration",
    "polynomial_multiplication", "n_queens", "binary_matrix", "spiral_matrix", "string_insertion",
    "number_sorting", "bitwise_arithmetic", "coin_flip", "complex_arithmetic", "rubiks_cube",
    "chain_sum", "power_function", "prime_factorization",
]  # fmt: skip
NO_REFERENCE = {"puzzle24": "6 * 4 * 1 * 1", "rubiks_cube": ""}
ATTACKS = [
    "9**9**9**9", "factorial(10**8)", "10**10**10", "2**(2**(2**(2**5)))", "2**99999", "x**x**x**9",
    '__import__("os")._exit(0)', 'open("HACKED", "w")', '[open("HACKED", "w") for _ in "a"]',
    "exit(0)", "().__class__", "lambda: 1", "[1]*10**10", "'a'*10**10", "sum(range(10**12))",
    "1e999", "1e999999999", "1/3e-999999999", "1e308*1e308", "nan", "nanj", "inf", "1e999j",
    "(((((" * 2000, "-" * 5000 + "1", "[[" * 3000, "9" * 100000, "sin(" * 80 + "x" + ")" * 80,
    "(sin(x)+cos(x)+tan(x)+1)**40/(x**7+log(x)+exp(x))**30", "exp(exp(exp(exp(exp(9)))))",
    "R99999999", "R9999999999", "1" + "0" * 4000 + "**9", "1<<10**10", "\x00", "1/0",
]  # fmt: skip


def problem(task: str) -> Any:
    source = plugins.load("data", "reasoning_gym")
    return source.entry(source.Config(task=task, size=1, seed=5))[0]


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    config = reasoning_gym.Config(workers=1)
    with Grader([Selected("rewards", "reasoning_gym", config)]) as grader:
        yield grader


@pytest.mark.parametrize("task", TASKS)
def test_nothing_that_a_model_writes_is_run(grader: Grader, task: str) -> None:
    row = problem(task)
    right = NO_REFERENCE.get(task, row.answer)
    texts = [*ATTACKS, right]
    prompt = Prompt("p", "?", (1,), row.answer, row.metadata)
    found = grader.score([Group(prompt, tuple(Rollout((), (), t, False) for t in texts))])
    assert found.fatal is None and found.usage["reasoning_gym"].failures == {}
    *attacks, last = found.scores_P[0].total_G
    assert (last == 1.0 or not right) and max(attacks) <= 0.1, dict(
        zip(texts, attacks, strict=False)
    )
    assert found.usage["reasoning_gym"].slowest < 20  # in wall time, on a busy machine
    assert found.usage["reasoning_gym"].counts["stopped"] <= 2
    assert not Path("HACKED").exists()


@pytest.mark.parametrize(
    ("text", "task", "score"),
    [
        ("[[0, 1], [1, 0]]", "binary_matrix", 0.1),
        ("x**2/2 + sqrt(x)*log(x) + C", "simple_integration", 0.0),
        ("1/3", "coin_flip", 0.0),
    ],
)
def test_what_a_scorer_reads_it_still_reads(text: str, task: str, score: float) -> None:
    row = problem(task)
    before = dict(disarm.counts)
    reasoning_gym.reward(text, row.metadata, reasoning_gym.Config())
    assert dict(disarm.counts) == before
    if task == "binary_matrix":
        text = str([list(map(int, line.split())) for line in row.answer.splitlines()])
        assert reasoning_gym.reward(text, row.metadata, reasoning_gym.Config()) == score


def test_every_scorer_that_evaluates_is_disarmed() -> None:
    from reasoning_gym.factory import DATASETS

    evaluates = {"eval", "exec", "compile", "parse_expr", "sympify", "Fraction", "literal_eval"}
    known = {*disarm._REPLACED, *disarm._CALLERS_OF_SYMPY}
    found = set()
    for dataset, _ in DATASETS.values():
        tree = ast.parse(textwrap.dedent(inspect.getsource(dataset.score_answer)))
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        if names & evaluates:
            found.add(dataset.__module__.removeprefix("reasoning_gym."))
    assert len(found) > 9 and found <= known


@pytest.mark.parametrize(
    "type", ["reasoning_gym", "math_verify", "json_schema", "python_tests", "regex"]
)
def test_a_parser_counts_a_failed_sample_as_zero(type: str) -> None:
    assert plugins.load("rewards", type).Config.model_fields["on_error"].default == "zero"


def test_a_pattern_without_end_is_a_zero_and_a_broken_reward_stops() -> None:
    regex = plugins.load("rewards", "regex")
    config = regex.Config(pattern="^(a+)+b$", timeout_s=0.5, workers=2)
    slow, quick = Rollout((), (), "a" * 40, False), Rollout((), (), "ab", False)
    prompt = Prompt("p", "?", (1,), None, {})
    with Grader([Selected("rewards", "regex", config)]) as grader:
        found = grader.score([Group(prompt, (slow, quick, quick))])
        assert found.fatal is None and found.scores_P[0].total_G == (0.0, 1.0, 1.0)
        assert found.usage["regex"].failures == {"timeout": 1} and len(found.quarantine) == 1
        found = grader.score([Group(prompt, (slow,) * 16)])
        assert found.fatal is not None and "all of its 16 calls failed" in found.fatal

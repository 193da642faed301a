"""Completions and replies that break graders: each gets a finite score, or a 0 that is counted."""

from __future__ import annotations

import math
import threading
import time
from typing import Any

import pytest

from drpo_cli.plugins import Selected, load
from drpo_cli.rewards import _verdict, json_schema, regex
from drpo_cli.rewards.grading.contract import prepare
from drpo_cli.rewards.grading.score import ReadyReward
from drpo_cli.types import Prompt, Rollout

SLOW = "a" * 40 + "!"  # what `(a+)+$` takes for ever on
NUMBERS = (
    *("1e999", "-1e999", "1e-400", "-0", "-0.0", "NaN", "Infinity", "-Infinity", "inf", "nan"),
    *("9" * 400, "9" * 5000, "0." + "9" * 5000, "1e" + "9" * 400, "١٢٣", "1_000", "0x1F", "½"),
    *("1/0", "0/0", "\\frac{1}{0}", "\\sqrt{-1}", "10^{400}", "--5", "1e", "1.2.3", "∞"),
)
TEXTS = (
    *("", " ", "\0", "\ud800", "\u202e", "x" * 10**6, SLOW, "\\", "{", "}" * 1000, "$" * 1001),
    *("[" * 10**5, "{" * 10**4, '{"a":' * 3000, "[1," * 3000, '{"a": 1, "a": 2}', '{"a": 1e999}'),
    *("<think>" * 5000, "\\boxed{" * 5000, "\\boxed{}" * 5000, "\\boxed{" + "{" * 5000),
    *("\\boxed{" + "(" * 300 + "1" + ")" * 300 + "}", "\\boxed{" + "\\(" * 5000 + "}"),
    *("sqrt(" * 5000, "\\boxed{" + "sqrt(" * 5000 + "}", "\\boxed{" + "1," * 3000 + "1}"),
)
NASTY = [
    *NUMBERS,
    *(f"\\boxed{{{n}}}" for n in NUMBERS),
    *(f'{{"a": {n}}}' for n in NUMBERS),
    *TEXTS,
]
DEEP = {"$defs": {"t": {"items": {"$ref": "#/$defs/t"}}}, "$ref": "#/$defs/t"}
GRADERS: dict[str, tuple[str, dict[str, Any]]] = {
    "exact_match": ("exact_match", {}),
    "regex": ("regex", {"pattern": r"(\d+)$", "group": 1}),
    "format": ("format", {}),
    "format in part": ("format", {"partial": True}),
    "length": ("length", {"soft_limit": 1, "limit": 2}),
    "repetition": ("repetition", {}),
    "json_schema": ("json_schema", {"inline_schema": {"multipleOf": 0.1, "maximum": 5}}),
    "json_schema in a row": ("json_schema", {"schema_column": "schema", "read": "last_object"}),
    "json_schema in a fence": ("json_schema", {"inline_schema": DEEP, "read": "fenced"}),
    "json_schema of integers": (
        "json_schema",
        {"inline_schema": {"multipleOf": 3, "type": "integer"}},
    ),
    "math_verify": ("math_verify", {"timeout_seconds": 1}),
}
SCHEMA = '{"properties": {"a": {"multipleOf": 0.5, "exclusiveMinimum": -1e300}}}'


def ready(name: str) -> tuple[Any, ReadyReward]:
    type, options = GRADERS[name]
    config = load("rewards", type).Config(**options)
    reward = prepare(Selected("rewards", type, config))
    return reward, ReadyReward(reward)


@pytest.mark.parametrize("name", GRADERS)
def test_no_completion_breaks_a_grader(name: str) -> None:
    reward, grader = ready(name)
    prompt = Prompt("p/1", "1+1=", (), "2", {"schema": SCHEMA})
    for text in (
        *NASTY,
        *([f'"{SLOW}"'] if "schema" in name else ()),
        f"```json\n{'[' * 900}{']' * 900}\n```",
    ):
        began = time.process_time()
        outcome = grader.outcome(reward.sample_call(prompt, 0, Rollout((1,), (0.0,), text, False)))
        assert outcome.failure is None, (text[:60], outcome.failure)
        assert len(outcome.scores) == 1 and math.isfinite(outcome.scores[0]), text[:60]
        assert outcome.scores[0] <= 1
        assert time.process_time() - began < 3, text[:60]


@pytest.mark.parametrize(
    ("schema", "completion", "counted"),
    [
        ({"multipleOf": 2}, "1e999", "no_json"),
        ({"maximum": 5}, "-1e999", "no_json"),
        ({}, "9" * 5000, "no_json"),
        ({"multipleOf": 0.1}, "9" * 400, "too_large"),
        (DEEP, "[" * 900 + "]" * 900, "too_deep"),
        ({"pattern": "^(a+)+$"}, f'"{SLOW}"', "timed_out"),
        (
            {"uniqueItems": True},
            str([{"a": [i]} for i in range(9000)]).replace("'", '"'),
            "timed_out",
        ),
    ],
)
def test_a_zero_of_json_schema_has_a_reason(schema: Any, completion: str, counted: str) -> None:
    reward = json_schema.reward(json_schema.Config(inline_schema=schema))
    assert reward(completion, {}) == 0.0
    assert reward.counts == {counted: 1}


@pytest.mark.parametrize(
    ("text", "score"), [("-0", 1.0), ("-0.0", 1.0), ("1e-400", 1.0), ("5", 0.0)]
)
def test_small_numbers_are_zero(text: str, score: float) -> None:
    reward = json_schema.reward(json_schema.Config(inline_schema={"const": 0}))
    assert reward(text, {}) == score and not reward.counts


def test_a_match_that_takes_for_ever_is_counted() -> None:
    regex.counts.clear()
    config = regex.Config(pattern=r"(a+)+$")
    assert [regex.reward(text, None, config) for text in (SLOW, "aa")] == [0.0, 1.0]
    assert regex.counts == {"timed_out": 1}


def test_there_is_no_limit_on_another_thread() -> None:
    found: list[float] = []
    config = regex.Config(pattern="a")
    thread = threading.Thread(target=lambda: found.append(regex.reward("a", None, config)))
    thread.start()
    thread.join()
    assert found == [1.0]


@pytest.mark.parametrize(
    "score",
    [
        *NUMBERS[:8],
        "9" * 400,
        "9" * 5000,
        '"7"',
        "7.5",
        "true",
        "null",
        "[7]",
        '{"score": 11}',
        "-1",
    ],
)
def test_a_verdict_that_is_no_score(score: str) -> None:
    began = time.process_time()
    with pytest.raises(_verdict.Unreadable) as caught:
        _verdict.read_score(f'{{"score": {score}}}', (1, 10))
    assert len(str(caught.value)) < 200 and time.process_time() - began < 1


@pytest.mark.parametrize("text", ['{"a":' * 10**5, "{" * 10**6])
def test_a_verdict_is_found_soon(text: str) -> None:
    began = time.process_time()
    assert _verdict.read_score(text + '"}}\n{"score": 7}', (1, 10)) == 7
    assert time.process_time() - began < 5

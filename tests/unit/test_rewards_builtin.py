"""The built-in rewards beyond their examples: options, limits and mistakes."""

import sys
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from drpo_cli import plugins
from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected
from drpo_cli.rewards import (
    exact_match,
    format,
    json_schema,
    length,
    math_verify,
    reasoning_gym,
    regex,
    repetition,
)
from drpo_cli.rewards.grading.grader import Grader
from drpo_cli.types import Group, Prompt, Rollout

WORDS = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=40)
POINT = {"type": "object", "required": ["x"], "properties": {"x": {"type": "integer"}}}
INSIDE = st.text(alphabet="a1 <\n/>", max_size=12)


@pytest.mark.parametrize(
    "call",
    [
        lambda: exact_match.reward("4", None, exact_match.Config()),
        lambda: math_verify.reward(math_verify.Config())("4", None),
        lambda: regex.reward("4", None, regex.Config(pattern=".", group=0)),
    ],
)
def test_comparing_needs_an_answer(call: Any) -> None:
    with pytest.raises(UserError, match="no answer to compare with"):
        call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "("}, "not a regular expression"),
        ({"pattern": "(a)", "group": 2}, "group = 2, but the pattern has 1 group"),
    ],
)
def test_regex_pattern_is_checked_by_the_config(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        regex.Config(**options)


def test_regex_group_that_takes_no_part_in_the_match() -> None:
    config = regex.Config(pattern=r"x|(\d)", group=1)
    assert regex.reward("4 x", "4", config) == 0.0


def test_length_limits_are_ordered() -> None:
    with pytest.raises(ValidationError, match="limit = 8 must be above soft_limit = 8"):
        length.Config(soft_limit=8, limit=8)


def test_length_falls_linearly() -> None:
    config = length.Config(soft_limit=100, limit=200)
    scores = [length.reward((0,) * n, config) for n in (0, 100, 125, 150, 200, 300)]
    assert scores == [0.0, 0.0, -0.25, -0.5, -1.0, -1.0]


def test_reasoning_gym_needs_its_own_source() -> None:
    with pytest.raises(UserError, match="not from the data source 'reasoning_gym'"):
        reasoning_gym.reward("4", {"level": 1}, reasoning_gym.Config())


def test_reasoning_gym_scores_with_the_rows_options() -> None:
    source = plugins.load("data", "reasoning_gym")
    options = {"min_num_decimal_places": 1, "max_num_decimal_places": 1}
    row = source.entry(source.Config(task="decimal_arithmetic", size=1, options=options))[0]
    near = str(float(row.answer) + 0.01)
    assert reasoning_gym.reward(near, row.metadata, reasoning_gym.Config()) == 1.0
    default = {**row.metadata, "options": {}}
    assert reasoning_gym.reward(near, default, reasoning_gym.Config()) < 1.0


def test_reasoning_gym_does_not_hide_a_broken_row() -> None:
    broken = {"task": "chain_sum", "options": {}, "entry": {"question": "2 + 2 = ?"}}
    with pytest.raises(KeyError, match="answer"):
        reasoning_gym.reward("4", broken, reasoning_gym.Config())


def test_missing_library_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym.utils", None)
    row = {"task": "a", "options": {}, "entry": {}}
    with pytest.raises(UserError, match="pip install reasoning-gym"):
        reasoning_gym.reward("1", row, reasoning_gym.Config())


@given(words=WORDS, n=st.integers(1, 6), tolerated=st.sampled_from([0.0, 0.3, 0.9]))
def test_repetition_is_between_its_bounds(words: list[str], n: int, tolerated: float) -> None:
    text = " ".join(words)
    score = repetition.reward(text, (), repetition.Config(n=n, tolerated=tolerated))
    assert -1.0 <= score <= 0.0
    assert score >= repetition.reward(text, (), repetition.Config(n=n))
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    if len(set(grams)) == len(grams):
        assert score == 0.0


@given(words=WORDS, n=st.integers(1, 6))
def test_repetition_sees_words_as_it_sees_tokens(words: list[str], n: int) -> None:
    tokens = tuple(map(ord, words))
    by_words = repetition.reward("\n".join(words), tokens, repetition.Config(n=n))
    assert by_words == repetition.reward("", tokens, repetition.Config(n=n, unit="tokens"))


@given(words=WORDS.filter(bool))
def test_repetition_punishes_saying_everything_twice(words: list[str]) -> None:
    config = repetition.Config(n=2)
    once, twice = " ".join(words), " ".join(words + words)
    assert repetition.reward(twice, (), config) <= repetition.reward(once, (), config)


@pytest.mark.parametrize(("n", "expected"), [(1, -0.999), (4, -996 / 997)])
def test_repetition_of_one_word(n: int, expected: float) -> None:
    score = repetition.reward("no " * 1000, (), repetition.Config(n=n))
    assert score == pytest.approx(expected)


def _tagged(tags: list[str], inside: list[str]) -> str:
    return "\n".join(f"<{t}>{text}</{t}>" for t, text in zip(tags, inside, strict=True))


@given(tags=st.permutations(["x", "y", "z"]), inside=st.lists(INSIDE, min_size=3, max_size=3))
def test_format_wants_the_order_it_was_given(tags: list[str], inside: list[str]) -> None:
    text = _tagged(tags, inside)
    filled = all(part.strip() for part in inside)
    for order in (["x", "y", "z"], tags):
        strict, loose = format.Config(tags=order), format.Config(tags=order, filled=False)
        assert format.reward(text, strict) == float(order == tags and filled)
        assert format.reward(text, loose) == float(order == tags)


@given(text=st.lists(st.sampled_from(["<x>", "</x>", "<y>", "</y>", "1", " "]), max_size=8))
def test_format_partial_is_one_only_where_everything_holds(text: list[str]) -> None:
    joined = "".join(text)
    whole = format.reward(joined, format.Config(tags=("x", "y")))
    share = format.reward(joined, format.Config(tags=("x", "y"), partial=True))
    assert 0.0 <= share <= 1.0
    assert (share == 1.0) == (whole == 1.0)
    markers = [part for part in text if part.startswith("<")]
    once = sum(markers.count(marker) == 1 for marker in set(markers))
    assert share * 5 <= once or whole


def test_format_partial_rises_with_every_marker() -> None:
    config, good = format.Config(partial=True), ["<think>", "a", "</think>", "<answer>", "b"]
    scores = [format.reward("".join(good[:n]), config) for n in (0, 1, 3, 4)]
    assert all(low < high for low, high in pairwise([*scores, 1.0]))
    assert format.reward("".join(good) + "</answer>", config) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "<think>a</think><think>b</think><answer>c</answer>",
        "<think>a<answer>b</answer></think>",
        "<think>a</think><answer>b</answer> I am sure.",
        "<think>a</think>, so <answer>b</answer>",
        "<THINK>a</THINK><answer>b</answer>",
        "<think>a</think><answer>b",
        "",
    ],
)
def test_format_refuses(text: str) -> None:
    assert format.reward(text, format.Config()) == 0.0


def test_format_pays_nothing_for_what_the_prompt_opened() -> None:
    config = format.Config(opened=True, partial=True)
    assert format.reward("42", config) == 0.0
    assert format.reward("a</think>", config) == 0.25
    assert format.reward("a</think><answer>b</answer>", config) == 1.0
    assert format.reward("<think>a</think><answer>b</answer>", config) < 1.0


@pytest.mark.parametrize(
    ("tags", "message"),
    [(["a", "a"], "named twice"), ([], "at least 1"), (["<a>"], "pattern")],
)
def test_format_tags_are_checked(tags: list[str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        format.Config(tags=tags)


def test_format_and_repetition_are_quick_on_long_text() -> None:
    # Quadratic work on these would take hours.
    for text in ("<think>" * 10**6, "<" * 10**7, "<think>" + "</answer>" * 10**6):
        assert format.reward(text, format.Config()) == 0.0
    assert repetition.reward("a b " * 10**6, (), repetition.Config(n=8)) < -0.99


def test_a_mix_of_built_ins_in_workers_and_in_line() -> None:
    texts = ['<a>{"x": 1}</a>', '{"x": 1}', "no no no no", "(a" * 40]
    rollouts = tuple(Rollout((1,) * 9, (-0.1,) * 9, text, False) for text in texts)
    group = Group(Prompt("own/3", "?", (), '{"x": 1}', {}), rollouts)
    selected = [
        Selected("rewards", "format", format.Config(tags=("a",))),
        Selected("rewards", "repetition", repetition.Config(n=1, weight=0.5)),
        Selected("rewards", "length", length.Config(soft_limit=8, limit=10)),
        Selected("rewards", "exact_match", exact_match.Config()),
        Selected(
            "rewards", "json_schema", json_schema.Config(inline_schema=POINT, read="last_object")
        ),
        Selected(
            "rewards",
            "regex",
            regex.Config(pattern="^(.a+)+$", on_error="zero", timeout_s=20, weight=2.0),
        ),
    ]
    with Grader(selected) as grader:
        graded = grader.score([group])
    (scores,) = graded.scores_P
    assert scores.by_reward == {
        "format": (1.0, 0.0, 0.0, 0.0),
        "repetition": (0.0, 0.0, -0.75, 0.0),
        "length": (-0.5,) * 4,
        "exact_match": (0.0, 1.0, 0.0, 0.0),
        "json_schema": (1.0, 1.0, 0.0, 0.0),
        "regex": (0.0, 0.0, 0.0, 1.0),
    }
    assert scores.total_G == (1.5, 1.5, -0.875, 1.5)
    assert graded.usage["json_schema"].counts == {"no_json": 2}


def test_a_regex_that_backtracks_for_ever_is_stopped() -> None:
    texts = ["ab", "a" * 60, "ab"]  # (a+)+b on a text without b: 2^60 ways
    rollouts = tuple(Rollout((1,), (-0.1,), text, False) for text in texts)
    config = regex.Config(pattern="^(a+)+b$", workers=1)
    with Grader([Selected("rewards", "regex", config)]) as grader:
        graded = grader.score([Group(Prompt("own/3", "?", (), None, {}), rollouts)])
    assert graded.scores_P[0].by_reward == {"regex": (1.0, 0.0, 1.0)}
    assert graded.usage["regex"].counts == {"timed_out": 1} and not graded.quarantine

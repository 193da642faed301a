"""Samples to try rewards on: how lines become groups, and what a bad line is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from drpo_cli.errors import UserError
from drpo_cli.rewards.grading.conversation import conversation
from drpo_cli.tools.preview.completions import as_line, read_groups
from drpo_cli.tools.preview.scores import contains, distribution
from support.episodes import calculation, failed, guesses, lines_of


def write(folder: Path, *lines: Mapping[str, Any] | str) -> Path:
    path = folder / "s.jsonl"
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
    return path


def test_lines_of_one_prompt_are_one_group_in_their_order(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {"prompt": "p", "completion": "b", "answer": 4, "truncated": True},
        {"prompt": "q", "completion": "c"},
        "",
        {"prompt": "p", "completion": "a", "answer": 4, "tokens": 3, "rewards": {"x": None}},
        {"prompt": "p", "completion": "a", "answer": 5},
    )
    first, second, third = read_groups(path, {})
    assert [(r.text, r.truncated) for r in first.rollouts_G] == [("b", True), ("a", False)]
    assert (first.prompt.answer, third.prompt.answer) == ("4", "5")
    assert [group.prompt.id for group in (first, second, third)] == [
        "s.jsonl:1",
        "s.jsonl:2",
        "s.jsonl:5",
    ]


def test_the_messages_of_an_episode_are_its_conversation(tmp_path: Path) -> None:
    said = [[{"role": "user", "content": "q"}, {"role": "assistant", "content": c}] for c in "ab"]
    lines = [{"prompt": "p", "completion": m[-1]["content"], "messages": m} for m in said]
    (group,) = read_groups(write(tmp_path, *lines), {})
    assert [conversation(group.prompt, one) for one in group.rollouts_G] == said
    again = [as_line(group, i) for i in range(2)]
    assert [line["messages"] for line in again] == said
    (group,) = read_groups(write(tmp_path, *again), {})
    assert [conversation(group.prompt, one) for one in group.rollouts_G] == said


def test_a_run_keeps_its_steps_apart_and_its_sources_their_rewards(tmp_path: Path) -> None:
    line = {"prompt": "p", "completion": "a", "prompt_id": "eval:rows/3"}
    path = write(tmp_path, {**line, "step": 1}, {**line, "step": 2}, {**line, "prompt_id": "x/3"})
    groups_P = read_groups(path, {"eval:rows": ("one",), "rows": ("two",), "x": None})
    assert [group.prompt.rewards for group in groups_P] == [("one",), ("one",), None]
    assert groups_P[0].prompt.id == "eval:rows/3"


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    line = {
        "prompt_id": "rows/1",
        "prompt": "p",
        "answer": None,
        "metadata": {"level": 3},
        "completion": "c",
        "truncated": True,
        "token_ids": [4, 5],
    }
    (group,) = read_groups(write(tmp_path, line), {})
    assert json.loads(json.dumps(as_line(group, 0))) == line


def test_episodes_of_a_run_are_read_again_with_all_that_happened(tmp_path: Path) -> None:
    rollouts = (guesses(["1", "2"]), failed())
    (group,) = read_groups(write(tmp_path, *lines_of(3, *rollouts)), {})
    for found, rollout in zip(group.rollouts_G, rollouts, strict=True):
        assert found.episode == rollout.episode and found.text == rollout.text
        assert [(r.prompt_ids, r.token_ids, r.sampled) for r in found.rows] == [
            (r.prompt_ids, r.token_ids, r.sampled) for r in rollout.rows
        ]
    again = [as_line(group, i) for i in range(len(rollouts))]
    assert read_groups(write(tmp_path, *again), {}) == [group]
    (with_tools,) = read_groups(write(tmp_path, *lines_of(3, calculation())), {})
    assert with_tools.rollouts_G[0].episode == calculation().episode
    assert [row.token_ids for row in with_tools.rollouts_G[0].rows] == [
        row.token_ids for row in calculation().rows
    ]


def test_keys_that_an_episode_would_have_are_ignored_without_one(tmp_path: Path) -> None:
    line = {"prompt": "p", "completion": "c", "turns": "none", "end": 7, "rows": [1]}
    (group,) = read_groups(write(tmp_path, line), {})
    assert group.rollouts_G[0].episode is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "s.jsonl:2: Invalid JSON"),
        ("[1]", "s.jsonl:2: "),
        (
            '{"prompt": "p", "completion": "", "messages": [{}], "end": "x"}',
            "s.jsonl:2: end: Input should be 'done'",
        ),
        ('{"prompt": "p"}', "s.jsonl:2: completion: Field required; a line is {"),
        ('{"prompt": ["p"], "completion": ""}', "s.jsonl:2: prompt: Input should be a valid str"),
        ('{"prompt": "p", "completion": "", "metadata": 3}', "s.jsonl:2: metadata: "),
        ('{"prompt": "p", "completion": "", "truncated": "often"}', "s.jsonl:2: truncated: "),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        read_groups(write(tmp_path, {"prompt": "p", "completion": "c"}, line), {})
    assert said in str(caught.value)


def test_a_file_without_samples(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no samples"):
        read_groups(write(tmp_path, ""), {})
    with pytest.raises(UserError, match="No such file or directory; name a JSON Lines file"):
        read_groups(tmp_path / "gone.jsonl", {})


@pytest.mark.parametrize(
    ("text", "answer", "found"),
    [
        ("so it is 42.", "42", True),
        (" 42\n", "42 ", True),
        ("142", "42", False),
        ("x + (y)", "(y)", True),
        ("42", None, None),
        ("42", " ", None),
    ],
)
def test_whether_a_completion_has_the_answer(
    text: str, answer: str | None, found: bool | None
) -> None:
    assert contains(text, answer) is found


def test_the_distribution_leaves_failures_out() -> None:
    found = distribution([0.0, None, 1.0, 2.0, 0.0, 7.0])
    assert found == {
        "count": 5,
        "mean": 2.0,
        "min": 0.0,
        "q1": 0.0,
        "median": 1.0,
        "q3": 2.0,
        "max": 7.0,
        "zeros": 0.4,
    }
    assert distribution([None, None]) == {}

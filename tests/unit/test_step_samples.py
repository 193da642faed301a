"""The lines of samples.jsonl: everything that is known of a response, as JSON can hold it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from drpo_cli.experience import Experience
from drpo_cli.runs.metrics import SampleRecord
from drpo_cli.runs.reader import check, read
from drpo_cli.runs.records import Records
from drpo_cli.step.samples import sample_records
from drpo_cli.types import Group, Prompt, Rollout, Scores
from support import episodes
from support.episodes import calculation
from support.reports import group


def test_a_line_of_samples_holds_all_that_is_known() -> None:
    metadata: dict[Any, Any] = {
        "level": 3,
        "tags": ("a", {"b"}),
        "day": date(2026, 1, 2),
        7: [Fraction(1, 3)],
    }
    prompt = Prompt("words/4", "spell", (1, 2), "yes", metadata)
    rollouts = (Rollout((5, 6), (0.0, 0.0), "ye", True), Rollout((5,), (0.0,), "y", False))
    scores = Scores((0.0, 1.5), {"right": (None, 1.5)}, frozenset({0}))
    groups_P = [Group(prompt, rollouts)]
    exp = Experience.of(groups_P, [scores])
    first, second = sample_records(3, groups_P, [scores], exp, None)
    assert first == {
        "step": 3,
        "prompt_id": "words/4",
        "sample": 0,
        "prompt": "spell",
        "answer": "yes",
        "metadata": {
            "level": 3,
            "tags": ["a", "{'b'}"],
            "day": "datetime.date(2026, 1, 2)",
            "7": ["Fraction(1, 3)"],
        },
        "completion": "ye",
        "truncated": True,
        "tokens": 2,
        "reward": None,
        "rewards": {"right": None},
    }
    assert (second["sample"], second["reward"], second["rewards"]) == (1, 1.5, {"right": 1.5})
    assert json.loads(json.dumps(first)) == first


@pytest.mark.parametrize(("count", "expected"), [(None, 6), (1, 2), (2, 4), (9, 6)])
def test_how_many_prompts_are_recorded(count: int | None, expected: int) -> None:
    groups_P = [group(("a", "b"))] * 3
    scores_P = [Scores((0.0, 1.0), {})] * 3
    exp = Experience.of(groups_P, scores_P)
    assert len(sample_records(1, groups_P, scores_P, exp, count)) == expected


def decode(ids: Sequence[int]) -> str:
    return "".join(f"<{token}>" for token in ids)


def test_a_line_of_an_episode_has_its_conversation_its_ids_and_its_mask() -> None:
    rollout = calculation()
    groups_P, scores = [episodes.group(rollout, rollout)], Scores((1.5, 2.5), {"agent": (0.5, 1.0)})
    exp = Experience.of(groups_P, [scores])
    line, other = sample_records(2, groups_P, [scores], exp, None, decode)
    assert (other["reward"], other["sample"]) == (2.5, 1)
    assert (line["reward"], line["rewards"], line["tokens"]) == (1.5, {"agent": 0.5}, 7)
    assert (line["environment"], line["end"], line["failure"]) == ("agent", "done", None)
    assert line["info"] == {}
    assert line["counts"] == {"tool_errors": 1, "tool_errors/calculator": 1}
    assert rollout.episode is not None
    assert line["messages"] == list(rollout.episode.messages)
    assert line["turns"] == [
        {
            "row": 0,
            "first": 0,
            "end": 4,
            "reward": 0.0,
            "calls": [
                {
                    "name": "calculator",
                    "arguments": {"expression": "6*7"},
                    "id": "call_1",
                    "error": "ZeroDivisionError: x (tools.py:7 in f)",
                }
            ],
            "problem": None,
            "sampling_s": 0.5,
            "answer_s": 0.125,
        },
        {
            "row": 1,
            "first": 0,
            "end": 2,
            "reward": -0.5,
            "calls": [],
            "problem": "JSON ends too early",
            "sampling_s": 0.25,
            "answer_s": 0.0,
        },
        {
            "row": 1,
            "first": 4,
            "end": 5,
            "reward": 1.0,
            "calls": [],
            "problem": None,
            "sampling_s": 0.25,
            "answer_s": 1.0,
        },
    ]
    assert [row["prompt_ids"] for row in line["rows"]] == [[1, 2, 3], [1, 2, 3, 7, 8, 30]]
    assert [row["token_ids"] for row in line["rows"]] == [[5, 6, 7, 8], [11, 12, 20, 21, 13]]
    assert [row["sampled"] for row in line["rows"]] == [[1, 1, 1, 1], [1, 1, 0, 0, 1]]
    assert line["rows"][1]["parts"] == [
        {"sampled": 0, "text": "<1><2><3><7><8><30>"},
        {"sampled": 1, "text": "<11><12>"},
        {"sampled": 0, "text": "<20><21>"},
        {"sampled": 1, "text": "<13>"},
    ]
    assert json.loads(json.dumps(line)) == line
    _, wrong = check(line, SampleRecord)
    assert not wrong


def test_a_line_of_a_failed_episode_says_why() -> None:
    groups_P = [episodes.group(episodes.failed())]
    scores = Scores((0.0,), {"guess": (None,)}, frozenset({0}))
    (line,) = sample_records(1, groups_P, [scores], Experience.of(groups_P, [scores]), None)
    assert line["reward"] is None and line["end"] == "failed"
    assert line["failure"] == {"kind": "timeout", "message": "no answer within 30 s"}
    assert "parts" not in line["rows"][0] and line["rows"][0]["prompt_ids"] == [1, 2, 3, 4]


def test_a_line_can_be_read_however_deep_a_users_value_is(tmp_path: Path) -> None:
    deep: Any = 1
    for _ in range(60):
        deep = {"in": deep}
    rollout = episodes.guesses(["1"])
    assert rollout.episode is not None
    rollout = replace(rollout, episode=replace(rollout.episode, info={"deep": deep}))
    groups_P, scores = [episodes.group(rollout)], Scores((1.0,), {})
    exp = Experience.of(groups_P, [scores])
    Records(tmp_path / "samples.jsonl").extend(sample_records(1, groups_P, [scores], exp, None))
    (line,) = read(tmp_path / "samples.jsonl", SampleRecord)
    assert line["info"]["deep"]["in"]["in"]


def test_the_parts_of_a_rows_text_put_together_are_its_text() -> None:
    def strip(ids: Sequence[int]) -> str:  # as SentencePiece does
        return "".join(f" w{token}" for token in ids).removeprefix(" ")

    groups_P = [episodes.group(episodes.guesses(["1", "2"]))]
    exp = Experience.of(groups_P, [Scores((1.0,), {})])
    (line,) = sample_records(1, groups_P, [Scores((1.0,), {})], exp, None, strip)
    (row,) = line["rows"]
    assert "".join(part["text"] for part in row["parts"]) == strip(
        [*row["prompt_ids"], *row["token_ids"]]
    )
    assert [part["sampled"] for part in row["parts"]] == [0, 1, 0, 1]

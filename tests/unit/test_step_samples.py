"""The lines of samples.jsonl: everything that is known of a response, as JSON can hold it."""

from __future__ import annotations

import json
from datetime import date
from fractions import Fraction
from typing import Any

import pytest

from drpo_cli.experience import Experience
from drpo_cli.step.samples import sample_records
from drpo_cli.types import Group, Prompt, Rollout, Scores
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

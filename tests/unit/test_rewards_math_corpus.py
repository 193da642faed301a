"""math_verify on a corpus of answers that graders got wrong in public: tests/corpus/math."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from drpo_cli.rewards import math_verify

FILE = Path(__file__).parents[1] / "corpus" / "math" / "pairs.toml"
KINDS: dict[str, dict[str, Any]] = tomllib.loads(FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def reward() -> math_verify.reward:
    return math_verify.reward(math_verify.Config(timeout_seconds=20))


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_get_the_score_that_they_should(kind: str, reward: math_verify.reward) -> None:
    wrong = [
        f"{reference!r}, {completion!r} should get {score}"
        for reference, completion, score in KINDS[kind]["pairs"]
        if reward(completion, reference) != score
    ]
    assert wrong == []


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "failing" in KINDS[kind]])
def test_what_fails_still_fails(kind: str, reward: math_verify.reward) -> None:
    passing = [
        f"{reference!r}, {completion!r} gets {score} now: move it to `pairs`"
        for reference, completion, score, _ in KINDS[kind]["failing"]
        if reward(completion, reference) == score
    ]
    assert passing == []


def test_the_corpus_is_large_and_has_sources() -> None:
    assert sum(len(kind["pairs"]) for kind in KINDS.values()) >= 150
    assert all("https://" in kind["source"] for kind in KINDS.values())
    assert {score for kind in KINDS.values() for _, _, score in kind["pairs"]} == {0, 1}

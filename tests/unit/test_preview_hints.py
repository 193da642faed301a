"""Annotations of rewards: what is refused before a run, with what it says, and what passes."""

# mypy: disable-error-code="empty-body, type-arg, no-untyped-def"
# The functions below have these faults on purpose.

from __future__ import annotations

import collections
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pytest

from drpo_cli import plugins
from drpo_cli.rewards.grading.hints import problem
from drpo_cli.settings import RewardSettings

if TYPE_CHECKING:
    from decimal import Decimal  # as a file does that wants a name for its type checker only


class Config(RewardSettings):
    """Options."""


Name = typing.NewType("Name", str)


def unannotated(completion, answer, metadata, tokens, truncated, group, config): ...


def plain(completion: str, answer: str, truncated: bool, config: Config) -> float: ...


def wide(completion: object, answer: Any, metadata: Mapping, tokens: Sequence) -> bool: ...


def spelled(completion: Name, answer: str | None, metadata: dict[str, Any], group: list) -> int: ...


def other_sequence(tokens: list[int], group: tuple[str, ...], prompt: str) -> np.float32: ...


def extra(completion: Annotated[str, "text"], truncated: int = 0) -> np.floating: ...


def unresolved(completion: Decimal, tokens: Decimal[int]) -> Decimal: ...


def perhaps(completion: str) -> float | None: ...


def constant(completion: str) -> Literal[0, 1]: ...


async def waiting(completion: str, metadata: collections.OrderedDict | dict) -> float: ...


@pytest.mark.parametrize(
    "function",
    [
        unannotated,
        plain,
        wide,
        spelled,
        other_sequence,
        extra,
        unresolved,
        perhaps,
        constant,
        waiting,
        len,
    ],
)
def test_what_can_hold_what_comes_passes(function: Callable[..., Any]) -> None:
    assert problem(function, whole_group=False) is None


@pytest.mark.parametrize("name", plugins.available("rewards"))
def test_every_built_in_reward_passes(name: str) -> None:
    reward = plugins.load("rewards", name).entry
    called = reward.__call__ if isinstance(reward, type) else reward
    returned = str(called.__annotations__.get("return"))
    assert problem(called, whole_group=returned.endswith("list[float]")) is None


def wrong_completion(completion: int) -> float: ...


def wrong_tokens(tokens: str) -> float: ...


def wrong_group(group: str) -> float: ...


def wrong_member(group: list[int]) -> float: ...


def wrong_answer(answer: float | None) -> float: ...


def wrong_metadata(metadata: list) -> float: ...


def wrong_config(config: dict) -> float: ...


def wrong_array(tokens: np.ndarray) -> float: ...


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (
            wrong_completion,
            "'completion' is annotated int, but the reward gets str; write completion: str",
        ),
        (wrong_tokens, "the token ids, tuple[int, ...]; write tokens: tuple[int, ...]"),
        (wrong_group, "'group' is annotated str, but the reward gets list[str]"),
        (wrong_member, "'group' is annotated list[int], but the reward gets list[str]"),
        (wrong_answer, "'answer' is annotated float | None, but the reward gets str | None"),
        (wrong_metadata, "a mapping of the row's other columns; write metadata: dict"),
        (wrong_config, "'config' is annotated dict, but the reward gets its Config"),
        (wrong_array, "'tokens' is annotated ndarray, but"),
    ],
)
def test_a_wrong_type_is_refused_with_its_place(function: Callable[..., Any], said: str) -> None:
    line = function.__code__.co_firstlineno
    message = problem(function, whole_group=False) or ""
    assert message.startswith(f"{Path(__file__)}:{line}: ") and said in message


def returns_text(completion: str) -> str: ...


def returns_nothing(completion: str) -> None: ...


def returns_table(completion: str) -> dict: ...


def returns_whole_numbers(completions: list[str]) -> list[int]: ...


def returns_array(completion: str) -> np.ndarray: ...


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (returns_text, "str"),
        (returns_nothing, "None"),
        (returns_table, "dict"),
        (returns_whole_numbers, "list[int]"),
        (returns_array, "ndarray"),
    ],
)
def test_a_return_that_is_no_score_is_refused(function: Callable[..., Any], named: str) -> None:
    assert f"returns {named}, which is not a score" in (problem(function, whole_group=False) or "")


def whole_group(completions: list[str], tokens: list[tuple[int, ...]]) -> list[float]: ...


def wrong_whole_group(completions: str, tokens: tuple[int, ...]) -> list[float]: ...


def test_a_reward_of_whole_groups_gets_lists() -> None:
    assert problem(whole_group, whole_group=True) is None
    lines = (problem(wrong_whole_group, whole_group=True) or "").splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("gets list[str]; write completions: list[str]")
    assert "one tuple of token ids per sample" in lines[1]


class Judge:
    """A reward with a set-up."""

    def __call__(self, completion: bytes) -> float: ...


def test_a_class_is_checked_where_it_is_called() -> None:
    message = problem(Judge.__call__, whole_group=False) or ""
    assert "'completion' is annotated bytes" in message
    assert problem(Judge().__call__, whole_group=False) == message

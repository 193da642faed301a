"""What environments say of the episodes of a batch: their own rewards, and their failures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from drpo_cli.calls.failures import short
from drpo_cli.settings import EnvironmentSettings
from drpo_cli.types import Episode, Prompt, Rollout

GIVE_UP = 16
"""Failed calls of one reward, or episodes of one environment, in one batch, with none that worked,
after which the run ends.

For one that has never worked, a whole batch of fewer is enough.
"""


class Own(NamedTuple):
    """What the environment of an episode says of it.

    turns  its reward for each
    """

    settings: EnvironmentSettings
    turns: tuple[float, ...]
    failed: bool

    @property
    def reward(self) -> float | None:
        """The episode's own reward, before its weight; None where the environment failed."""
        return None if self.failed else math.fsum(self.turns)


class _Failed(NamedTuple):
    """A failed episode, with its prompt's index in the batch and its sample."""

    at: int
    sample: int
    prompt: Prompt
    text: str
    episode: Episode


class Episodes:
    """Collects the failures of a batch's episodes.

    settings   of the environments, by name; an episode of another one counts as a plain response
    worked     names of what has ever worked; the batch adds to it
    forgiving  no failure is fatal
    """

    def __init__(
        self, settings: Mapping[str, EnvironmentSettings], worked: set[str], forgiving: bool
    ) -> None:
        self._settings, self._worked, self._forgiving = settings, worked, forgiving
        self._count = dict.fromkeys(settings, 0)
        self._failed: list[_Failed] = []

    def find(self, rollout: Rollout | None) -> Own | None:
        """What its environment says of a rollout; None for a plain response, or if it is absent."""
        episode = None if rollout is None else rollout.episode
        if episode is None or episode.environment not in self._settings:
            return None
        turns = tuple(turn.reward for turn in episode.turns)
        return Own(self._settings[episode.environment], turns, episode.failure is not None)

    def add(self, at: int, sample: int, prompt: Prompt, rollout: Rollout) -> bool:
        """Takes a rollout; returns whether it is an episode that failed."""
        own, episode = self.find(rollout), rollout.episode
        if own is None or episode is None:
            return False
        self._count[episode.environment] += 1
        if own.failed:
            self._failed.append(_Failed(at, sample, prompt, rollout.text, episode))
        return own.failed

    def find_fatal(self) -> str | None:
        """Why the run must end, if it must; the same in whatever order the episodes ended."""
        if self._forgiving:
            return None
        for one in self._in_order():
            if self._settings[one.episode.environment].on_error == "stop":
                return f'{_explain(one)} (on_error = "skip_sample" would continue)'
        return next((what for name in self._settings if (what := self._find_hopeless(name))), None)

    def records(self) -> list[dict[str, Any]]:
        """A record of each failed episode, for quarantine.jsonl."""
        return [_record(one) for one in self._in_order()]

    def _in_order(self) -> list[_Failed]:
        """The failed episodes in an order that does not depend on which ended first."""
        return sorted(self._failed, key=lambda one: (one.at, one.sample))

    def _find_hopeless(self, name: str) -> str | None:
        """Why the run must end when all episodes of an environment failed."""
        failed = [one for one in self._in_order() if one.episode.environment == name]
        if len(failed) < self._count[name]:
            self._worked.add(name)
        if not failed or len(failed) < self._count[name]:
            return None
        if len(failed) < (GIVE_UP if name in self._worked else 2):
            return None
        return f"{_explain(failed[0])} (all of its {len(failed)} episodes failed, so the run ends)"


def _explain(one: _Failed) -> str:
    assert one.episode.failure is not None
    where = f"environment {one.episode.environment!r}, prompt {one.prompt.id}, sample {one.sample}"
    turn = len(one.episode.turns)
    when = f"after turn {turn} ({short(repr(one.text))})" if turn else "at its start"
    return f"{where}, {when}: {one.episode.failure[1]}"


def _record(one: _Failed) -> dict[str, Any]:
    assert one.episode.failure is not None
    kind, detail = one.episode.failure
    return {
        "reward": one.episode.environment,
        "environment": one.episode.environment,
        "reason": kind,
        "detail": detail,
        "prompt_id": one.prompt.id,
        "sample": one.sample,
        "turn": len(one.episode.turns),
        "prompt": one.prompt.text,
        "answer": one.prompt.answer,
        "completion": one.text,
        "messages": [dict(message) for message in one.episode.messages],
        "seconds": math.fsum(turn.answer_s for turn in one.episode.turns),
    }

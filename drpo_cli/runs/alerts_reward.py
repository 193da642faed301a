"""Alerts on the reward: what it says of the samples, and whether it says anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drpo_cli.runs.alert_rule import Recent, Rule, number

ZERO_ADVANTAGE = 0.95  # share of groups; rare rewards that are learned all the same begin at 0.94
SATURATED = 0.9  # share of groups without a signal, once the reward has risen
SATURATED_SPREAD = 0.5  # of the rewards' first deviation: a mean that rose is no ceiling by itself
COLLAPSED = 0.5  # of the best reward, as `drpo compare` has it for the held-out score
COLLAPSE_NOISE = 4.0  # a fall must be beyond this many mean changes from one step to the next
FAILED_CALLS = 0.05  # share of a reward's calls


class Saturated(Rule):
    """The reward is at its ceiling: nothing left to learn from."""

    kind = "reward-saturated"
    suggestion = (
        'use harder data, data.sampling = "difficulty" or rollout.dynamic_sampling_rounds, or stop '
        "the run"
    )

    def __init__(self) -> None:
        self._reward, self._spread = Recent("reward"), Recent("reward_std")

    def judge(self, record: Mapping[str, Any]) -> str | None:
        """High and without a difference within groups, after it was lower and had one."""
        reward, spread = self._reward.add(record), self._spread.add(record)
        zero = number(record.get("zero_advantage_groups"))
        if reward is None or spread is None or zero is None:
            return None
        narrow = self._spread.now <= SATURATED_SPREAD * spread
        if zero < SATURATED or self._reward.now <= reward or not narrow:
            return ""
        return (
            f"in {zero:.0%} of the groups all responses score the same, at a mean reward of "
            f"{self._reward.now:.3g} (first {reward:.3g})"
        )


class ZeroAdvantage(Rule):
    """No group teaches anything, and not because all has been learned."""

    kind = "zero-advantage"
    suggestion = (
        "where the reward is low, take easier data, a larger rollout.samples_per_prompt, or look "
        "at the reward with `drpo reward test`; where it is high, take harder data; "
        "rollout.dynamic_sampling_rounds looks for groups that differ"
    )

    def __init__(self) -> None:
        self._saturated = Saturated()

    def judge(self, record: Mapping[str, Any]) -> str | None:
        """All groups or nearly all, unless the reward is saturated."""
        saturated = self._saturated.judge(record)
        zero, reward = number(record.get("zero_advantage_groups")), number(record.get("reward"))
        if zero is None:
            return None
        if zero < ZERO_ADVANTAGE or saturated:
            return ""
        mean = "" if reward is None else f"; the mean reward is {reward:.3g}"
        return f"in {zero:.0%} of the groups all responses score the same{mean}"


class Collapse(Rule):
    """The run has unlearned what it had learned."""

    kind = "reward-collapse"
    suggestion = (
        "lower train.learning_rate, train.updates_per_rollout or objective.delta, and start again "
        "from an earlier checkpoint"
    )

    def __init__(self) -> None:
        self._reward = Recent("reward")
        self._best: float | None = None
        self._last: float | None = None
        self._changes, self._count = 0.0, 0

    def judge(self, record: Mapping[str, Any]) -> str | None:
        """Below half of the best median, and further than the reward moves by chance."""
        first, value = self._reward.add(record), number(record.get("reward"))
        if value is None:
            return None
        if self._last is not None:
            self._changes, self._count = self._changes + abs(value - self._last), self._count + 1
        self._last = value
        if first is None:
            return None
        now = self._reward.now
        self._best = best = max(now, first if self._best is None else self._best)
        fell = best - now > COLLAPSE_NOISE * self._changes / self._count
        if best <= 0 or now >= COLLAPSED * best or not fell:
            return ""
        return f"the reward fell from {best:.3g} at its best to {now:.3g}"


class RewardFailures(Rule):
    """A reward often fails."""

    kind = "reward-failures"
    suggestion = (
        "read quarantine.jsonl in the run's folder, which has every failed call; raise the "
        "reward's timeout_s or workers where it times out"
    )
    held = 3

    def judge(self, record: Mapping[str, Any]) -> str | None:
        """The reward with the largest share of failed calls."""
        grading = record.get("grading")
        if not isinstance(grading, Mapping):
            return None
        shares = {
            name: share for name, own in grading.items() if (share := _failed(own)) is not None
        }
        if not shares:
            return None
        name = max(shares, key=lambda one: shares[one])
        return (
            f"{shares[name]:.0%} of the calls of {name} fail" if shares[name] > FAILED_CALLS else ""
        )


def _failed(usage: Any) -> float | None:
    if not isinstance(usage, Mapping) or not isinstance(usage.get("failures"), Mapping):
        return None
    calls = number(usage.get("calls"))
    failures = sum(number(count) or 0.0 for count in usage["failures"].values())
    return failures / calls if calls else None


RULES: tuple[type[Rule], ...] = (Collapse, ZeroAdvantage, Saturated, RewardFailures)

"""The rules behind the alerts, with their limits and the reasons for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drpo_cli.runs.alert_base import Above, Recent, Rule, Runaway, number
from drpo_cli.runs.alert_environments import ENVIRONMENT_RULES

GAP_FACTOR = 3.0  # of sound runs none goes beyond 1 × the floor
ENTROPY_LEFT = 0.05  # share of the first entropy; a quickstart that has learned keeps 0.15
ENTROPY_LEFT_UNREWARDED = 0.25  # the same where the reward has not risen meanwhile
LENGTH_FACTOR = 2.0  # within BACK steps: reasoning grows too, but over hundreds of them
LENGTH_LEAST = 32.0  # tokens more: growing from 4 to 8 tokens is not an explosion
TRUNCATED = 0.25  # share of responses
KL_FACTOR = 3.0  # within BACK steps
KL_LEAST = 0.5  # nats per token; a sound quickstart reaches 0.26 within 80 steps
OFF_POLICY = 0.5  # effective share of samples; sound runs stay above, except in their first steps
CORRECTIVE = 0.1  # share of tokens; runs that learn stay below 0.075, with δ as small as 0.05
CLIPPED = 0.25  # share of tokens without a gradient; ppo_clip with 16 updates per step has 0.1
ZERO_ADVANTAGE = 0.95  # share of groups; runs that learn a rare reward begin at 0.94
SATURATED = 0.9  # share of groups without a signal, once the reward has risen
SATURATED_SPREAD = 0.5  # of the first standard deviation: a higher mean alone is not a ceiling
COLLAPSED = 0.5  # of the best reward; `drpo compare` uses the same share of the held-out score
COLLAPSE_NOISE = 4.0  # a fall must exceed this many times the mean change between steps
FAILED_CALLS = 0.05  # share of a reward's calls


class Gap(Rule):
    """The engine and the trainer no longer compute the same policy."""

    kind = "gap"
    suggestion = (
        'set model.dtype = "float32" or rollout.engine = "transformers" (what is not set yet), and '
        "continue with --resume from an earlier checkpoint; the engine drifts from the "
        "trained weights"
    )

    def __init__(self) -> None:
        self._gap = Recent("gap")

    def judge(self, record: Mapping[str, Any]) -> str | None:
        """Compares with floor, noise, and the first steps, which include rounded weights."""
        first, floor = self._gap.add(record), number(record.get("gap_floor"))
        gap = number(record.get("gap"))
        if first is None or floor is None or gap is None:
            return None
        usual = max(floor, first, number(record.get("gap_noise")) or 0.0)
        if gap <= GAP_FACTOR * usual:
            return ""
        return f"the gap rose from {first:.2g} to {gap:.2g} nats; the noise floor is {floor:.2g}"


class Entropy(Rule):
    """The policy has stopped exploring."""

    kind = "entropy-collapse"
    suggestion = (
        "lower train.learning_rate or objective.delta, or add train.entropy_bonus; if the run "
        "scores as well as it can, it is done"
    )

    def __init__(self) -> None:
        self._entropy, self._reward = Recent("entropy"), Recent("reward")

    def judge(self, record: Mapping[str, Any]) -> str | None:
        """Allows less of a fall where the reward does not rise: entropy falls as a run learns."""
        first, reward = self._entropy.add(record), self._reward.add(record)
        if first is None:
            return None
        now, unrewarded = self._entropy.now, reward is not None and self._reward.now <= reward
        if now >= first * (ENTROPY_LEFT_UNREWARDED if unrewarded else ENTROPY_LEFT):
            return ""
        more = " while the reward did not rise" if unrewarded else ""
        return f"entropy fell from {first:.2g} nats in the first steps to {now:.2g}{more}"


class Length(Runaway):
    """Responses grow without bound."""

    kind = "length-explosion"
    suggestion = (
        'set train.overlong = "soft", add a [[reward]] of type "length" or "repetition", or train '
        'with train.reduction = "fixed_horizon"'
    )
    key, factor, form = "response_length", LENGTH_FACTOR, ",.0f"
    words = "responses grew from {} tokens"

    def least(self, before: float) -> float:
        """A number of tokens more than before."""
        return before + LENGTH_LEAST


class Divergence(Runaway):
    """The policy moves quickly away from its reference."""

    kind = "kl-runaway"
    suggestion = "raise reference.coefficient, or lower train.learning_rate or objective.delta"
    key, factor, form = "reference_kl", KL_FACTOR, ".2g"
    words = "the KL to the reference rose from {} nats per token"

    def least(self, before: float) -> float:
        """The same for every run."""
        return KL_LEAST


class OffPolicy(Rule):
    """Updates within a step move so far from μ that few of the samples still count."""

    kind = "off-policy"
    suggestion = "lower train.updates_per_rollout or train.learning_rate"

    def judge(self, record: Mapping[str, Any]) -> str | None:
        """Compares the effective sample size with its limit."""
        share = number(record.get("effective_sample_size"))
        if share is None or share >= OFF_POLICY:
            return "" if share is not None else None
        return f"π is so far from μ that only {share:.0%} of the samples are in effect"


class Truncation(Above):
    """Many responses are cut off."""

    kind = "truncation"
    suggestion = 'raise rollout.max_new_tokens, or set train.overlong = "mask" or "soft"'
    key, limit = "truncated_share", TRUNCATED
    words = "of the responses are cut off by rollout.max_new_tokens"


class Corrective(Above):
    """For many steps, a large part of the step pulls tokens back into the trust region."""

    kind = "corrective-share"
    suggestion = (
        "lower train.learning_rate or train.updates_per_rollout, or raise objective.delta: each "
        "step undoes part of itself"
    )
    held, of = 8, 10
    key, limit = "corrective_share", CORRECTIVE
    words = "of the tokens are pulled back from beyond the trust region"


class Clipped(Above):
    """A clipping objective ignores many tokens."""

    kind = "clipped-share"
    suggestion = (
        "lower train.learning_rate or train.updates_per_rollout, or widen the objective's range"
    )
    held, of = 8, 10
    key, limit = "masked_share", CLIPPED
    words = "of the tokens are beyond the trust region and have no gradient"


class Skipped(Above):
    """Updates are not applied on many steps."""

    kind = "skipped-updates"
    suggestion = (
        'lower train.learning_rate, or set model.dtype = "float32"; where no token is left, check '
        'train.overlong = "mask" and reward failures'
    )
    held = 3
    key, limit, form = "skipped_updates", 0, "g"
    words = "updates of the step were not applied: loss or gradient not finite, or no token left"


def groups_without_signal(record: Mapping[str, Any]) -> float | None:
    """Share of groups with equal totals; None where a teacher gives a signal to all of them."""
    taught = number(record.get("teacher_kl")) is not None
    return None if taught else number(record.get("zero_advantage_groups"))


class Saturated(Rule):
    """The reward is at its ceiling: there is nothing left to learn from."""

    kind = "reward-saturated"
    suggestion = (
        'use harder data, data.sampling = "difficulty" or rollout.dynamic_sampling_rounds, or stop '
        "the run"
    )

    def __init__(self) -> None:
        self._reward, self._spread = Recent("reward"), Recent("reward_std")

    def judge(self, record: Mapping[str, Any]) -> str | None:
        """Holds where the reward rose and groups, which used to differ, no longer do."""
        reward, spread = self._reward.add(record), self._spread.add(record)
        zero = groups_without_signal(record)
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
    """Nearly no group has a learning signal, and not because all has been learned."""

    kind = "zero-advantage"
    suggestion = (
        "where the reward is low, use easier data, a larger rollout.samples_per_prompt, or check "
        "the reward with `drpo reward test`; where it is high, use harder data; "
        "rollout.dynamic_sampling_rounds searches for groups that differ"
    )

    def __init__(self) -> None:
        self._saturated = Saturated()

    def judge(self, record: Mapping[str, Any]) -> str | None:
        """Holds for nearly all groups, unless the reward is saturated."""
        saturated = self._saturated.judge(record)
        zero, reward = groups_without_signal(record), number(record.get("reward"))
        if zero is None:
            return None
        if zero < ZERO_ADVANTAGE or saturated:
            return ""
        mean = "" if reward is None else f"; the mean reward is {reward:.3g}"
        return f"in {zero:.0%} of the groups all responses score the same{mean}"


class Collapse(Rule):
    """The run has lost what it had learned."""

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
        """Holds below half of the best median, if the fall is larger than by chance."""
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
        """Judges the reward with the largest share of failed calls."""
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


RULES: tuple[type[Rule], ...] = (
    Gap, Skipped, Entropy, Length, Truncation, Divergence, OffPolicy, Corrective, Clipped,
    Collapse, ZeroAdvantage, Saturated, RewardFailures, *ENVIRONMENT_RULES,
)  # fmt: skip

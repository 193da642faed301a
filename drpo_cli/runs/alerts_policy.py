"""Alerts on the policy: what it samples, and how far an update takes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drpo_cli.runs.alert_rule import Recent, Rule, ShareAbove, number

GAP_FACTOR = 3.0  # a sync is refused at 10 × the floor; of sound runs none goes beyond 1 ×
ENTROPY_LEFT = 0.05  # share of the first entropy; a quickstart that has learned keeps 0.15
ENTROPY_LEFT_FOR_NOTHING = 0.25  # the same where the reward has not risen meanwhile
LENGTH_FACTOR = 2.0  # within BACK steps: reasoning grows too, but over hundreds of them
LENGTH_LEAST = 32.0  # tokens more: 4 tokens that become 8 are no explosion
TRUNCATED = 0.25  # share of responses; what was cut off earns what its beginning is worth
KL_FACTOR = 3.0  # within BACK steps
KL_LEAST = 0.5  # nats a token; a quickstart that learns soundly reaches 0.26 within 80 steps
OFF_POLICY = 0.5  # effective share of samples; sound runs stay above but for their first steps
CORRECTIVE = 0.1  # share of tokens; runs that learn stay below 0.075, with δ as small as 0.05
CLIPPED = 0.25  # share of tokens without a gradient; ppo_clip with 16 updates a step has 0.1


class Gap(Rule):
    """The engine and the trainer no longer compute the same policy."""

    kind = "gap"
    suggestion = (
        'set model.dtype = "float32" or rollout.engine = "transformers" and go on with --resume '
        "from an earlier checkpoint; the engine drifts from the weights that are trained"
    )

    def __init__(self) -> None:
        self._gap = Recent("gap")

    def judge(self, record: Mapping[str, Any]) -> str | None:
        """Against the floor; with weight_rounding, which the floor lacks, against the start too."""
        first, floor = self._gap.add(record), number(record.get("gap_floor"))
        gap = number(record.get("gap"))
        if first is None or floor is None or gap is None:
            return None
        usual = max(floor, first)
        if gap <= GAP_FACTOR * usual:
            return ""
        return f"the gap rose from {first:.2g} to {gap:.2g} nats; the noise floor is {floor:.2g}"


class Entropy(Rule):
    """The policy has stopped exploring."""

    kind = "entropy-collapse"
    suggestion = (
        "lower train.learning_rate or objective.delta, or add train.entropy_bonus; a run that "
        "scores as well as it can is simply done"
    )

    def __init__(self) -> None:
        self._entropy, self._reward = Recent("entropy"), Recent("reward")

    def judge(self, record: Mapping[str, Any]) -> str | None:
        """Entropy falls as a run learns; it may fall less far where the reward does not rise."""
        first, reward = self._entropy.add(record), self._reward.add(record)
        if first is None:
            return None
        now, for_nothing = self._entropy.now, reward is not None and self._reward.now <= reward
        if now >= first * (ENTROPY_LEFT_FOR_NOTHING if for_nothing else ENTROPY_LEFT):
            return ""
        more = " while the reward did not rise" if for_nothing else ""
        return f"entropy fell from {first:.2g} nats in the first steps to {now:.2g}{more}"


class Length(Rule):
    """Responses grow without an end."""

    kind = "length-explosion"
    suggestion = (
        'set train.overlong = "soft", add a [[reward]] of type "length" or "repetition", or train '
        'with train.reduction = "fixed_horizon"'
    )

    def __init__(self) -> None:
        self._length = Recent("response_length")

    def judge(self, record: Mapping[str, Any]) -> str | None:
        """Twice as long as a few steps ago."""
        self._length.add(record)
        before, now = self._length.before, self._length.now
        if number(record.get("response_length")) is None or before is None:
            return None
        if now < LENGTH_FACTOR * before or now < before + LENGTH_LEAST:
            return ""
        return f"responses grew from {before:,.0f} to {now:,.0f} tokens within some 20 steps"


class Divergence(Rule):
    """The policy runs away from its reference."""

    kind = "kl-runaway"
    suggestion = "raise reference.coefficient, or lower train.learning_rate or objective.delta"

    def __init__(self) -> None:
        self._kl = Recent("reference_kl")

    def judge(self, record: Mapping[str, Any]) -> str | None:
        """Several times what it was a few steps ago."""
        self._kl.add(record)
        before, now = self._kl.before, self._kl.now
        if number(record.get("reference_kl")) is None or before is None:
            return None
        if now < KL_LEAST or now < KL_FACTOR * before:
            return ""
        return f"the KL to the reference rose from {before:.2g} to {now:.2g} nats a token within \
some 20 steps"


class OffPolicy(Rule):
    """Updates within a step lead so far from μ that few of the samples still count."""

    kind = "off-policy"
    suggestion = "lower train.updates_per_rollout or train.learning_rate"

    def judge(self, record: Mapping[str, Any]) -> str | None:
        """By the effective sample size."""
        share = number(record.get("effective_sample_size"))
        if share is None or share >= OFF_POLICY:
            return "" if share is not None else None
        return f"π is so far from μ that {share:.0%} of the samples are in effect"


class Truncation(ShareAbove):
    """Many responses do not come to their end."""

    kind = "truncation"
    suggestion = 'raise rollout.max_new_tokens, or set train.overlong = "mask" or "soft"'
    key, limit = "truncated_share", TRUNCATED
    words = "of the responses are cut off by rollout.max_new_tokens"


class Corrective(ShareAbove):
    """Much of each step pulls tokens back from beyond the trust region, and goes on doing so."""

    kind = "corrective-share"
    suggestion = (
        "lower train.learning_rate or train.updates_per_rollout, or raise objective.delta: each "
        "step undoes a part of itself"
    )
    held, of = 8, 10
    key, limit = "corrective_share", CORRECTIVE
    words = "of the tokens are pulled back from beyond the trust region"


class Clipped(ShareAbove):
    """A clipping objective throws many tokens away."""

    kind = "clipped-share"
    suggestion = (
        "lower train.learning_rate or train.updates_per_rollout, or widen the objective's range"
    )
    held, of = 8, 10
    key, limit = "masked_share", CLIPPED
    words = "of the tokens are beyond the trust region and have no gradient"


class Skipped(ShareAbove):
    """Updates keep failing."""

    kind = "skipped-updates"
    suggestion = (
        'lower train.learning_rate, or set model.dtype = "float32"; where no token is left, look '
        'at train.overlong = "mask" and at reward failures'
    )
    held = 3
    key, limit, form = "skipped_updates", 0, "g"
    words = "updates of a step were not applied: loss or gradient not finite, or no token left"


RULES: tuple[type[Rule], ...] = (
    Gap,
    Skipped,
    Entropy,
    Length,
    Truncation,
    Divergence,
    OffPolicy,
    Corrective,
    Clipped,
)

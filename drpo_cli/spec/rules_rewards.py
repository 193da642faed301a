"""Rules on how rewards make up a total."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from drpo_cli.settings import RewardSettings
from drpo_cli.spec.model import Spec
from drpo_cli.spec.problems import Problem


def _rewards(spec: Spec) -> list[RewardSettings]:
    return [reward.config for reward in spec.reward]


def some_reward_counts(spec: Spec) -> Iterator[Problem]:
    rewards = _rewards(spec)
    if rewards and not any(reward.weight for reward in rewards if not reward.gate):
        yield Problem(
            ("reward", 0, "weight"),
            "is 0, and so is every other weight: nothing would be learned; "
            "give at least one [[reward]] a weight other than 0"
            if not any(reward.gate for reward in rewards)
            else "leaves gates alone: they multiply a sum that nothing adds to; give at least one "
            "[[reward]] that is no gate a weight other than 0",
            also=tuple(("reward", i, "gate") for i in range(len(rewards))),
        )


def reward_names_differ(spec: Spec) -> Iterator[Problem]:
    seen: Counter[str | None] = Counter()
    for index, reward in enumerate(_rewards(spec)):
        seen[reward.name] += 1
        if reward.name and seen[reward.name] == 2:
            yield Problem(
                ("reward", index, "name"),
                f"is {reward.name!r}, like an earlier reward's; "
                "give each [[reward]] a name of its own",
                also=(("reward", index, "type"),),
            )


def gates_have_no_weight(spec: Spec) -> Iterator[Problem]:
    for index, reward in enumerate(_rewards(spec)):
        if reward.gate and reward.weight != 1:
            yield Problem(
                ("reward", index, "weight"),
                f"is {reward.weight:g}, but a gate multiplies the sum of the others as it is; "
                "take weight out, or gate",
                also=(("reward", index, "gate"),),
            )


def only_metrics_pause(spec: Spec) -> Iterator[Problem]:
    for index, reward in enumerate(_rewards(spec)):
        if reward.every > 1 and (reward.weight or reward.gate):
            yield Problem(
                ("reward", index, "every"),
                f"is {reward.every}, and the total needs this reward in every step; "
                "set weight = 0 to only log it, or every = 1",
                also=(("reward", index, "weight"), ("reward", index, "gate")),
            )


RULES = (some_reward_counts, reward_names_differ, gates_have_no_weight, only_metrics_pause)

"""The metrics of episodes: what happened in each environment, and how long nobody sampled."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from drpo_cli.types import Episode, Group, Rollout

if TYPE_CHECKING:
    from drpo_cli.dist import World


@dataclass
class _Sums:
    """What happened in one environment, summed so that ranks can be added up."""

    episodes: int = 0
    turns: int = 0
    turns_max: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    counts: dict[str, float] = field(default_factory=dict)
    calls: int = 0
    turns_with_calls: int = 0
    unparsed: int = 0
    answers: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    sampled: int = 0
    observed: int = 0
    split: int = 0

    def add(self, rollout: Rollout, episode: Episode) -> None:
        self.episodes += 1
        self.turns += len(episode.turns)
        self.turns_max = max(self.turns_max, len(episode.turns))
        self.ends[episode.end] += 1
        if episode.failure is not None:
            self.failures[episode.failure[0]] += 1
        for turn in episode.turns:
            self.calls += len(turn.calls)
            self.turns_with_calls += bool(turn.calls) or turn.problem is not None
            self.unparsed += turn.problem is not None
            self.answers += turn.answer_s > 0
            self.slowest = max(self.slowest, turn.answer_s)
        self.seconds += math.fsum(turn.answer_s for turn in episode.turns)
        self.counts = _add_counts(self.counts, episode.counts)
        self.sampled += rollout.sampled_tokens
        self.observed += sum(len(row.token_ids) for row in rollout.rows) - rollout.sampled_tokens
        self.split += len(rollout.rows) > 1


def episode_metrics(
    groups_P: Sequence[Group], waited_s: float, rollout_s: float, world: World
) -> dict[str, Any]:
    """What happened in each environment, over all ranks; empty without episodes. Collective.

    groups_P   every group of the step, also those that are not trained on
    waited_s   seconds of this rank in which it had nothing to sample, since all its episodes were
               waiting for their environments
    rollout_s  seconds of this rank's rollout phase
    """
    own: dict[str, _Sums] = {}
    for group in groups_P:
        for rollout in group.rollouts_G:
            if rollout.episode is not None:
                sums = own.setdefault(rollout.episode.environment, _Sums())
                sums.add(rollout, rollout.episode)
    everyone = world.gather_objects((own, waited_s, rollout_s))
    names = sorted({name for sums, _, _ in everyone for name in sums})
    if not names:
        return {}
    together = {
        name: _add_up([sums[name] for sums, _, _ in everyone if name in sums]) for name in names
    }
    episodes, turns = (
        sum(getattr(sums, key) for sums in together.values()) for key in ("episodes", "turns")
    )
    idle = math.fsum(waited for _, waited, _ in everyone)
    rollout_time = math.fsum(rollout for _, _, rollout in everyone)
    return {
        "turns": turns / episodes,
        "environments": {name: _describe(sums) for name, sums in together.items()},
        "idle_share": _share(min(idle, rollout_time), rollout_time),
    }


def _add_up(parts: Iterable[_Sums]) -> _Sums:
    total = _Sums()
    for part in parts:
        for name, value in vars(part).items():
            before = getattr(total, name)
            if name in ("turns_max", "slowest"):
                together = max(before, value)
            elif name == "counts":
                together = _add_counts(before, value)
            else:
                together = before + value
            setattr(total, name, together)
    return total


def _add_counts(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}


def _describe(sums: _Sums) -> dict[str, Any]:
    """The record of one environment: see `runs.metrics.EnvironmentUsage`."""
    return {
        "episodes": sums.episodes,
        "turns": sums.turns / sums.episodes,
        "turns_max": sums.turns_max,
        "ends": {end: count / sums.episodes for end, count in sorted(sums.ends.items())},
        "failures": dict(sorted(sums.failures.items())),
        "tool_calls": sums.calls / sums.episodes,
        "unparsed_share": _share(sums.unparsed, sums.turns_with_calls),
        "tool_errors": _share(sums.counts.get("tool_errors", 0), sums.calls),
        "answers": sums.answers,
        "answer_s": _share(sums.seconds, sums.answers),
        "slowest_s": sums.slowest,
        "seconds": sums.seconds,
        "sampled_tokens": sums.sampled / sums.episodes,
        "observed_tokens": sums.observed / sums.episodes,
        "split_share": sums.split / sums.episodes,
        "counts": dict(sorted(sums.counts.items())),
    }


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None

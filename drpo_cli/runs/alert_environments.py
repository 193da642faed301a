"""The rules behind the alerts on environments, with their limits and the reasons for them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from drpo_cli.runs.alert_base import BACK, Above, Recent, Rule, number

UNPARSED = 0.2  # share of turns with a call: a model that can call tools stays below a few percent
UNFINISHED = 0.5  # share of episodes; a hard game that is being learned may begin above
FAILED_EPISODES = 0.05  # share of an environment's episodes, as of a reward's calls
TURNS_FACTOR = 1.5  # within BACK steps
TURNS_LEAST = 1.0  # turns more: going from 1.2 to 1.9 turns says little
IDLE = 0.3  # share of the rollout; episodes that hide their environments stay below a tenth

LIMITS = ("max_turns", "max_tokens", "context", "timeout")


class Environments(Rule):
    """Judges the environment with the largest share of something."""

    limit: float
    words: str

    def judge(self, record: Mapping[str, Any]) -> str | None:
        """Compares the largest share with the limit."""
        environments = record.get("environments")
        if not isinstance(environments, Mapping):
            return None
        shares = {
            name: share
            for name, own in environments.items()
            if isinstance(own, Mapping) and (share := self.share(own)) is not None
        }
        if not shares:
            return None
        name = max(shares, key=lambda one: shares[one])
        if shares[name] <= self.limit:
            return ""
        return self.words.format(share=f"{shares[name]:.0%}", name=name) + self.more(
            environments[name]
        )

    @abstractmethod
    def share(self, usage: Mapping[str, Any]) -> float | None:
        """The share that is judged; None where it is not known."""

    def more(self, usage: Mapping[str, Any]) -> str:
        """What else to say of the environment."""
        return ""


class Unparsed(Environments):
    """The model writes calls of tools that cannot be parsed."""

    kind = "tool-call-failures"
    suggestion = (
        "read the calls with `drpo environment try SPEC --model`; start from a model that was "
        "trained to call tools with its own chat template, or teach it the format first; where "
        "calls are cut off, raise rollout.max_new_tokens"
    )
    limit = UNPARSED
    words = "{share} of the turns of {name} that call a tool cannot be parsed"

    def share(self, usage: Mapping[str, Any]) -> float | None:
        """Of the turns with a call."""
        return number(usage.get("unparsed_share"))


class Unfinished(Environments):
    """Many episodes are ended by a limit, without a final answer."""

    kind = "unfinished-episodes"
    suggestion = (
        "raise the limit that ends them: the environment's max_turns, max_tokens_per_episode or "
        "episode_timeout_s, rollout.max_new_tokens for a turn that is cut off, or the engine's "
        "context; or let the environment say how many turns are left"
    )
    limit = UNFINISHED
    words = "{share} of the episodes of {name} are ended by a limit"

    def share(self, usage: Mapping[str, Any]) -> float | None:
        """Of all episodes, the failed ones included."""
        ends = usage.get("ends")
        if not isinstance(ends, Mapping):
            return None
        return sum(number(ends.get(limit)) or 0.0 for limit in LIMITS)

    def more(self, usage: Mapping[str, Any]) -> str:
        """The limit that ends most of them."""
        ends = {limit: number(usage["ends"].get(limit)) or 0.0 for limit in LIMITS}
        return f", mostly {max(ends, key=lambda one: ends[one])}"


class EnvironmentFailures(Environments):
    """An environment often fails."""

    kind = "environment-failures"
    suggestion = (
        "read quarantine.jsonl in the run's folder, which has every failure; raise the "
        "environment's timeout_s or workers where it times out; play the same row with "
        "`drpo environment try SPEC --row N`"
    )
    held = 3
    limit = FAILED_EPISODES
    words = "{share} of the episodes of {name} fail"

    def share(self, usage: Mapping[str, Any]) -> float | None:
        """Of all episodes."""
        episodes, failures = number(usage.get("episodes")), usage.get("failures")
        if not episodes or not isinstance(failures, Mapping):
            return None
        return sum(number(count) or 0.0 for count in failures.values()) / episodes


class MoreTurns(Rule):
    """Episodes take more turns, and it earns them nothing."""

    kind = "turns-growing"
    suggestion = (
        "have the environment give less reward for an answer that took more turns, lower its "
        "max_turns, or set advantage.discount below 1"
    )

    def __init__(self) -> None:
        self._turns, self._reward = Recent("turns"), Recent("reward")

    def judge(self, record: Mapping[str, Any]) -> str | None:
        """Compares turns and reward with their own values some steps ago."""
        self._turns.add(record)
        self._reward.add(record)
        before, now, reward = self._turns.before, self._turns.now, self._reward.before
        if number(record.get("turns")) is None or before is None or reward is None:
            return None
        if now < max(TURNS_FACTOR * before, before + TURNS_LEAST) or self._reward.now > reward:
            return ""
        return (
            f"episodes grew from {before:.1f} to {now:.1f} turns within about {BACK} steps while "
            f"the reward went from {reward:.3g} to {self._reward.now:.3g}"
        )


class Idle(Above):
    """The engine waits for environments."""

    kind = "idle-engine"
    suggestion = (
        "raise the environment's workers, so that more episodes go on at the same time, or "
        "rollout.prompts_per_step or rollout.samples_per_prompt; set its episode_timeout_s where "
        "a few stragglers hold up the rest; the report ranks environments by time"
    )
    key, limit = "idle_share", IDLE
    words = "of the rollout nobody sampled, because every episode waited for its environment"


ENVIRONMENT_RULES: tuple[type[Rule], ...] = (
    Unparsed, Unfinished, EnvironmentFailures, MoreTurns, Idle,
)  # fmt: skip

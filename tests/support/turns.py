"""Episodes of several turns as an environment would leave them, of random tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from drpo_cli.dist import World
from drpo_cli.experience import Experience
from drpo_cli.plugins import Selected
from drpo_cli.step.advantage import with_advantages
from drpo_cli.types import Episode, Group, Message, Prompt, Rollout, Scores, Turn
from support.families import VOCABULARY
from support.training import caught_gradients, critic_state, flat, open_trainer

FIRST_ID = 4  # before it are special tokens


def ids(rng: random.Random, count: int) -> tuple[int, ...]:
    """Random tokens."""
    return tuple(rng.randrange(FIRST_ID, VOCABULARY) for _ in range(count))


def played(
    lengths: Sequence[int],
    rewards: Sequence[float] = (),
    seed: int = 0,
    truncated: bool = False,
    shown: Sequence[str] = (),
) -> Rollout:
    """An episode in one row: tokens of an action, of an observation, of an action, …

    `rewards` are the environment's for each turn, 0 if not given; `shown` the text before each.
    """
    rng = random.Random(seed)
    tokens: list[int] = []
    sampled: list[bool] = []
    turns: list[Turn] = []
    messages: list[Message] = []
    for place, length in enumerate(lengths):
        acts = place % 2 == 0
        if acts:
            own = len(turns)
            reward = rewards[own] if rewards else 0.0
            turns.append(Turn(0, len(tokens), len(tokens) + length, reward))
            said = shown[own] if shown else f"shown {own}"
            messages.append({"role": "tool" if own else "user", "content": said})
            messages.append({"role": "assistant", "content": f"said {own}"})
        tokens += ids(rng, length)
        sampled += [acts] * length
    logps = [rng.uniform(-6, -0.5) if own else 0.0 for own in sampled]
    episode = Episode("test", tuple(messages), tuple(turns), "done")
    return Rollout(
        tuple(tokens), tuple(logps), "", truncated, sampled=tuple(sampled), episode=episode
    )


def split(rollout: Rollout, prompt_ids: tuple[int, ...]) -> Rollout:
    """The same episode in one row per turn, each with all that came before it as its prompt."""
    assert rollout.episode is not None
    rows = []
    for turn in rollout.episode.turns:
        own = slice(turn.first, turn.end)
        rows.append(
            Rollout(
                rollout.token_ids[own],
                rollout.logps[own],
                "",
                False,
                prompt_ids=prompt_ids + rollout.token_ids[: turn.first],
            )
        )
    turns = [
        replace(turn, row=row, first=0, end=turn.end - turn.first)
        for row, turn in enumerate(rollout.episode.turns)
    ]
    return replace(
        rows[-1],
        truncated=rollout.truncated,
        earlier=tuple(rows[:-1]),
        episode=replace(rollout.episode, turns=tuple(turns)),
    )


def grouped(
    rollouts_PG: Sequence[Sequence[Rollout]], prompt: int = 3, apart: bool = False
) -> list[Group]:
    """A group of each list of episodes, on random prompts; with `apart`, in one row per turn."""
    groups = []
    for place, rollouts_G in enumerate(rollouts_PG):
        prompt_ids = ids(random.Random(1000 + place), prompt)
        found = [split(one, prompt_ids) if apart else one for one in rollouts_G]
        groups.append(Group(Prompt(str(place), "", prompt_ids, None, {}), tuple(found)))
    return groups


def turn_rewards(group: Group) -> tuple[tuple[float, ...], ...]:
    """What the environment gave for each turn of each episode."""
    episodes = [rollout.episode for rollout in group.rollouts_G]
    return tuple(tuple(turn.reward for turn in one.turns) for one in episodes if one is not None)


def scored(groups: Sequence[Group], skipped: frozenset[int] = frozenset()) -> Experience:
    """The groups with the environment's rewards alone."""
    scores = [
        Scores(tuple(map(sum, rewards)), {}, skipped, rewards)
        for rewards in map(turn_rewards, groups)
    ]
    return Experience.of(groups, scores)


def learn(
    here: World,
    model: Path,
    groups_R: Sequence[Sequence[Group]],
    advantage: Selected[Any],
    **settings: Any,
) -> tuple[list[dict[str, Tensor]], dict[str, float], dict[str, Tensor]]:
    """A training step on this rank's groups: gradients of its updates, metrics, the critic."""
    trainer = open_trainer(model, here, max_gradient_norm=1e9, **settings)
    exp = scored(groups_R[here.rank])
    exp = with_advantages(exp, advantage, trainer.critic, here)
    with caught_gradients(trainer) as gradients:
        metrics = flat(trainer.step(exp))
    return gradients, metrics, critic_state(trainer)

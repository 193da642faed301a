"""Environments of the package `verifiers`, as they are: their own rollout runs in our worker.

    [[data]]
    type = "verifiers"
    load = "wordle"              # `./game.py:load_environment` for a file of your own

    [[environment]]
    type = "verifiers"
    load = "wordle"
    options = { difficulty = "easy" }

Its loop gets the policy's actions where it would ask a model; its prompts, answers of the
environment, tools and stop conditions are its own, and so is the reward, at the end: that of its
rubric, whose metrics are in `info`. Rows come from the data source `verifiers`, which serves the
environment's own data set; of another source, the prompt, the answer, and the metadata as `info`
are used. A reward function that raises fails the episode, where verifiers would count a 0.

Not supported: rubrics that compare the samples of a prompt, images and audio, and environments that
rewrite what the model has seen. Tools of the environment are announced to the model by its chat
template. For verifiers 0.1.14, whose package does not exist in this form from 0.3 on.
"""

from __future__ import annotations

import math
import random
from typing import Any

from drpo_cli.environments import Action, EnvironmentSettings, Message, Row, Step
from drpo_cli.environments._verifiers_rollout import Rollout, listen, to_message
from drpo_cli.errors import UserError
from drpo_cli.gym import of_verifiers
from drpo_cli.settings import Count

IMPORTS = ("verifiers",)
NEEDS = "an environment of verifiers that is installed"


class Config(of_verifiers.LoadSettings, EnvironmentSettings):
    """Options of the environment."""

    max_turns: Count = 16
    """Most actions of the policy; the environment's own limit counts where it is lower. At either,
    the episode is scored."""
    workers: Count = 2
    """Processes per rank. Each has `concurrency` episodes at the same time."""


class Environment:
    """An episode: one rollout of verifiers."""

    def __init__(self, config: Config) -> None:
        """Raises UserError for an environment that cannot be loaded, or not be used."""
        self._environment = _limited(config)
        self._config = config
        self._turns = 0
        listen()

    @staticmethod
    def tools(config: Config) -> list[dict[str, Any]]:
        """The schemas of the environment's own tools."""
        return [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.parameters,
                },
            }
            for tool in _limited(config).tool_defs or ()
        ]

    async def start(self, row: Row, rng: random.Random) -> list[Message]:
        """Begins the rollout, up to its first request. Raises what the environment raises."""
        found = row.metadata.get("of_verifiers")
        others = {"example_id": 0, "info": dict(row.metadata)} if found is None else dict(found)
        prompt = [dict(one) for one in row.messages]
        self._rollout = Rollout(
            self._environment, {**others, "prompt": prompt, "answer": row.answer or ""}
        )
        self._asked = await self._rollout.begin()
        return self._asked

    async def step(self, action: Action) -> Step:
        """Answers the request. Raises what the environment or its rubric raises."""
        self._turns += 1
        if action.problem is not None and self._turns < self._config.max_turns:
            return Step(action.problem)
        asked = await self._rollout.answer(action)
        if asked is not None:
            return Step(self._new(asked, action))
        state = self._rollout.state()
        final = state.get("final_env_response") or ()
        metrics = {name: _finite(value) for name, value in (state["metrics"] or {}).items()}
        return Step(
            observation=_messages(final),
            reward=float(state["reward"]),
            done=True,
            info={**metrics, "stop_condition": state.get("stop_condition")},
        )

    async def close(self) -> None:
        """Ends a rollout that is not done."""
        rollout = getattr(self, "_rollout", None)
        if rollout is not None:
            await rollout.close()

    def _new(self, asked: list[Message], action: Action) -> list[Message]:
        """What the request shows after the action. Raises UserError where it changed before it."""
        seen, own = self._asked, asked[len(self._asked) :][:1]
        if asked[: len(seen)] != seen or [one["content"] for one in own] != [action.text]:
            raise UserError(
                f"{self._config.load!r} rewrites the messages that the model has seen",
                "an episode needs an environment that only adds messages",
            )
        self._asked = asked
        return asked[len(seen) + 1 :]


def _limited(config: Config) -> Any:
    """The environment, with our limit of turns. Raises UserError for one that cannot be used."""
    environment = of_verifiers.load(config, config.max_turns)
    if environment.requires_group_rollouts:
        raise UserError(
            f"the rubric of {config.load!r} compares the samples of a prompt",
            "give it reward functions for one sample, without `completions` or `states`",
        )
    for one in (environment, *getattr(environment, "envs", ())):
        own = getattr(one, "max_turns", None)
        if own is not None and not 0 < own <= config.max_turns:
            one.max_turns = config.max_turns
    return environment


def _messages(found: Any) -> list[Message]:
    from verifiers.utils.message_utils import maybe_normalize_messages

    return (
        [
            to_message(one)
            for one in maybe_normalize_messages(found, field_name="final_env_response")
        ]
        if found
        else []
    )


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

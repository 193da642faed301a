"""Calls the rewards, holds them to their contract, and adds them up.

The only file of the rooms that may catch every exception: the code it calls is the user's.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import numbers
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected, short_name, where_it_broke
from drpo_cli.settings import RewardSettings
from drpo_cli.types import Group, Scores

SHARED = ("prompt", "answer", "metadata", "tokens", "config")
SAMPLE_ARGUMENTS = (*SHARED, "completion", "truncated", "group")
GROUP_ARGUMENTS = (*SHARED, "completions", "truncations")


class _Call(NamedTuple):
    """One call of a reward: its arguments, and what it scores, for messages."""

    arguments: dict[str, Any]
    where: str


@dataclass(frozen=True)
class _Reward:
    name: str
    function: Callable[..., Any]
    config: RewardSettings
    asks: frozenset[str]
    whole_group: bool

    def calls(self, group: Group) -> list[_Call]:
        """One call for the group, or one a sample."""
        prompt, rollouts_G = group.prompt, group.rollouts_G
        texts_G = [rollout.text for rollout in rollouts_G]
        common = {
            "prompt": prompt.text,
            "answer": prompt.answer,
            "metadata": prompt.metadata,
            "config": self.config,
        }
        where = f"reward {self.name!r}, prompt {prompt.id}"
        if self.whole_group:
            whole = {
                "completions": texts_G,
                "truncations": [rollout.truncated for rollout in rollouts_G],
                "tokens": [rollout.token_ids for rollout in rollouts_G],
            }
            return [_Call(self._asked(common | whole), where)]
        return [
            _Call(
                self._asked(
                    common
                    | {
                        "completion": rollout.text,
                        "truncated": rollout.truncated,
                        "tokens": rollout.token_ids,
                        "group": texts_G,
                    }
                ),
                f"{where}, sample {i} ({_short(rollout.text)})",
            )
            for i, rollout in enumerate(rollouts_G)
        ]

    def _asked(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in arguments.items() if name in self.asks}

    def run(self, calls: Sequence[_Call]) -> list[Any]:
        """What each call returns; calls of an async reward run concurrently."""
        if inspect.iscoroutinefunction(self.function):
            return asyncio.run(self._gather(calls))
        values = []
        for call in calls:
            try:
                values.append(self.function(**call.arguments))
            except Exception as error:
                raise _failure(call, error) from error
        return values

    async def _gather(self, calls: Sequence[_Call]) -> list[Any]:
        return await asyncio.gather(*(self._await(call) for call in calls))

    async def _await(self, call: _Call) -> Any:
        try:
            return await self.function(**call.arguments)
        except Exception as error:
            raise _failure(call, error) from error

    def scores_G(self, values: Sequence[Any], calls: Sequence[_Call], size: int) -> tuple:
        """What the calls of one group returned, as one finite number a sample."""
        if not self.whole_group:
            return tuple(_number(v, call.where) for v, call in zip(values, calls, strict=True))
        (value,), where = values, calls[0].where
        if not isinstance(value, list | tuple) or len(value) != size:
            what = f"{len(value)} scores" if isinstance(value, list | tuple) else _short(value)
            raise UserError(
                f"{where}: returned {what} for {size} samples; return a list of one score each"
            )
        return tuple(_number(v, f"{where}, sample {i}") for i, v in enumerate(value))


class Scorer:
    """The rewards of a run, called on every step's groups.

    Raises UserError at once when a reward asks for an argument there is not, or two have one name.
    """

    def __init__(self, selected: Sequence[Selected]) -> None:
        self._rewards = [_prepare(one) for one in selected]
        counts = Counter(reward.name for reward in self._rewards)
        for name, count in counts.items():
            if count > 1:
                raise UserError(f"{count} rewards are called {name!r}; give them a `name` each")

    def score(self, groups_P: Sequence[Group]) -> list[Scores]:
        """Every reward of every sample, and their weighted sum, group by group.

        Raises UserError, naming reward, prompt and sample, when a reward raises or returns
        anything but a finite number for each sample.
        """
        by_reward_P: list[dict[str, tuple[float, ...]]] = [{} for _ in groups_P]
        for reward in self._rewards:
            calls_P = [reward.calls(group) for group in groups_P]
            values = iter(reward.run([call for calls in calls_P for call in calls]))
            for group, calls, by_reward in zip(groups_P, calls_P, by_reward_P, strict=True):
                mine = [next(values) for _ in calls]
                by_reward[reward.name] = reward.scores_G(mine, calls, len(group.rollouts_G))
        return [
            Scores(self._total_G(by_reward, len(group.rollouts_G)), by_reward)
            for group, by_reward in zip(groups_P, by_reward_P, strict=True)
        ]

    def _total_G(self, by_reward: dict[str, tuple[float, ...]], size: int) -> tuple[float, ...]:
        return tuple(
            sum(reward.config.weight * by_reward[reward.name][i] for reward in self._rewards)
            for i in range(size)
        )


def _prepare(selected: Selected) -> _Reward:
    config, function = selected.config, selected.module.reward
    assert isinstance(config, RewardSettings)
    name = config.name or short_name(selected.type)
    if not callable(function):
        raise UserError(f"reward {name!r}: {selected.type!r} is no function; name one")
    signature = inspect.signature(function)
    # As text: under `from __future__ import annotations` it is that already.
    whole_group = str(signature.return_annotation).lower().endswith("list[float]")
    known = GROUP_ARGUMENTS if whole_group else SAMPLE_ARGUMENTS
    asks: set[str] = set()
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            asks.update(known)
        elif parameter.name in known and parameter.kind is not parameter.POSITIONAL_ONLY:
            asks.add(parameter.name)
        elif parameter.default is parameter.empty:
            raise UserError(_unknown_argument(name, parameter.name, whole_group))
    return _Reward(name, function, config, frozenset(asks), whole_group)


def _unknown_argument(name: str, argument: str, whole_group: bool) -> str:
    if argument in ("completions", "truncations"):
        return (
            f"reward {name!r} asks for {argument!r}, which only a reward of whole groups gets; "
            "annotate its return as `-> list[float]`, or ask for one sample's"
        )
    kind, known = (
        ("rewards of whole groups (-> list[float])", GROUP_ARGUMENTS)
        if whole_group
        else ("rewards", SAMPLE_ARGUMENTS)
    )
    return f"reward {name!r} asks for {argument!r}; {kind} get: {', '.join(sorted(known))}"


def _failure(call: _Call, error: Exception) -> UserError:
    if isinstance(error, UserError):
        return UserError(f"{call.where}: {error}")
    trace = error.__traceback__
    if trace is not None and trace.tb_next is not None:
        error = error.with_traceback(trace.tb_next)  # the frame left out is this file's
    return UserError(f"{call.where}: {where_it_broke(error)}; mend the reward")


def _number(value: object, where: str) -> float:
    if not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise UserError(
            f"{where}: returned {_short(value)} ({type(value).__name__}); return a finite number"
        )
    return float(value)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"

"""Conversations of several turns, as a feed whose requests come while others are being sampled."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch

from drpo_cli.rollout.engine.protocol import EngineProtocol, Sampling, derive_seed
from drpo_cli.rollout.engine.requests import Key, Request
from drpo_cli.types import Rollout

Delay = Callable[[int, int], int]
"""Of the answer to a turn of a conversation: how many calls of `take` it takes."""
Said = dict[Key, tuple[tuple[int, ...], Rollout]]
"""Of each turn of a conversation: the tokens in front, and the response."""
SAMPLING = Sampling(samples=1, max_new_tokens=12, temperature=1.0, seed=5)


class Talks:
    """Conversations that an environment answers with the same tokens whenever it answers.

    taken  the keys of the requests that each call of `take` gave, where it gave any
    """

    def __init__(
        self,
        starts: Sequence[tuple[int, ...]],
        turns: int,
        delay: Delay = lambda talk, turn: 0,
        in_rounds: bool = False,
        seed: Hashable = 0,
    ) -> None:
        self.in_rounds = in_rounds
        self.said: Said = {}
        self.taken: list[list[Key]] = []
        self._turns, self._delay, self._seed = turns, delay, seed
        self._working = [
            (delay(talk, 0), self._request(talk, 0, ids)) for talk, ids in enumerate(starts)
        ]
        self._running: dict[Key, Request] = {}

    def _request(self, talk: int, turn: int, ids: tuple[int, ...]) -> Request:
        seed = derive_seed(self._seed, talk, turn)
        return Request((talk, turn), ids, seed, SAMPLING.max_new_tokens - (talk + turn) % 3)

    @property
    def coming(self) -> bool:
        """Whether an environment is at work."""
        return bool(self._working)

    def take(self, wait: bool) -> Sequence[Request] | None:
        """The requests that are due. They come in an order of their own: the last first."""
        if not self._working and not self._running:
            return None
        due = [request for left, request in self._working if left <= 0][::-1]
        self._working = [(left - 1, request) for left, request in self._working if left > 0]
        self._running |= {request.key: request for request in due}
        if due:
            self.taken.append([request.key for request in due])
        return due

    def answer(self, key: Key, rollout: Rollout) -> None:
        """Hands a turn to its environment, which adds three tokens."""
        (talk, turn), request = key, self._running.pop(key)
        self.said[key] = request.prompt_ids, rollout
        if turn + 1 < self._turns:
            ids = (*request.prompt_ids, *rollout.token_ids, 5 + talk % 5, 6, 7 + turn)
            self._working.append((self._delay(talk, turn + 1), self._request(talk, turn + 1, ids)))

    def hold(self, engine: EngineProtocol) -> Said:
        """Samples all turns with an engine."""
        for key, rollout in engine.generate(self, SAMPLING):
            self.answer(key, rollout)
        return self.said


def starts(count: int, shared: int = 0) -> list[tuple[int, ...]]:
    """First prompts of unequal lengths, which begin with the same `shared` tokens."""
    return [
        (*(4 + i % 40 for i in range(shared)), *range(10 + k, 14 + 2 * k)) for k in range(count)
    ]


def replay_gap(said: Said, lm: Any) -> float:
    """The largest |log π − log μ| over the tokens of all turns, each replayed after its prompt."""
    worst = 0.0
    for prompt_ids, rollout in said.values():
        with torch.no_grad():
            logits_TV = lm(torch.tensor([prompt_ids + rollout.token_ids])).logits[0]
        logp_TV = logits_TV[len(prompt_ids) - 1 : -1].float().log_softmax(-1)
        logp_T = logp_TV.gather(-1, torch.tensor(rollout.token_ids)[:, None])[:, 0]
        worst = max(worst, float((logp_T - torch.tensor(rollout.logps)).abs().max()))
    return worst

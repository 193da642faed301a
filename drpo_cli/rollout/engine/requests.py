"""What an engine samples: requests that may still come while others are being sampled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

Key = tuple[int, ...]
"""Names a request among those of a feed, and orders those that come together."""

PATIENCE_S = 0.05
"""How long `Requests.take` may wait."""


class Request(NamedTuple):
    """One response to sample.

    key             what the engine gives back with it; no two that are not answered have the same
    prompt_ids      the tokens to continue
    seed            of this response alone
    max_new_tokens  most tokens of the response; with those of the prompt, at most the engine's
                    `context_length`
    """

    key: Key
    prompt_ids: tuple[int, ...]
    seed: int
    max_new_tokens: int


class Requests(Protocol):
    """Where an engine gets its requests from: the feed of one call of `generate`.

    The thread that runs `generate` uses it, in front of a step of the engine.
    """

    in_rounds: bool
    """Whether an engine that could add requests at any time is to sample in rounds.

    It then adds requests only when it has sampled all that it has, and nothing is `coming`. What is
    sampled together does not depend on time, so that a run can be repeated bit for bit; but the
    engine waits for the slowest environment of each round. An engine of static batches always
    samples so."""

    @property
    def coming(self) -> bool:
        """Whether `take` may give something before there is a further response.

        True while an environment is at work on an answer, and until its next request, or the end
        that follows from it, has been taken. False while all that live wait for responses; an
        episode that cannot begin before another ends waits for a response too.
        """

    def take(self, wait: bool) -> Sequence[Request] | None:
        """The requests that have come since the last call; None once no other will come.

        `wait` says that the engine has nothing else to do: wait for one, at most `PATIENCE_S`. The
        engine shows in between that it is alive, and ranks that share it hear of each other.
        """


class AllAtOnce:
    """A feed of requests that are known from the start."""

    in_rounds = False
    coming = False

    def __init__(self, requests: Iterable[Request]) -> None:
        self._requests = list(requests)

    def take(self, wait: bool) -> Sequence[Request] | None:
        """All requests, then None."""
        taken, self._requests = self._requests, []
        return taken or None

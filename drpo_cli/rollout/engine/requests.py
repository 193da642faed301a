"""What an engine samples: requests that may still come while others are being sampled."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple, Protocol


class Request(NamedTuple):
    """One response to sample.

    key             what the engine gives back with it; no two of a batch have the same
    prompt_ids      the tokens to continue
    seed            of this response alone
    max_new_tokens  most tokens of the response
    """

    key: Hashable
    prompt_ids: tuple[int, ...]
    seed: int
    max_new_tokens: int


class Requests(Protocol):
    """Where an engine gets its requests from."""

    def take(self, wait: bool) -> Sequence[Request] | None:
        """The requests that have come since the last call; None once no other will come.

        `wait` says that the engine has nothing else to do: wait until there is one. It may still
        return none after a short while, so that the engine can show that it is alive.
        """

"""The scores that a scorer of your own, behind a URL, gives to completions.

The completions of a prompt are posted as one batch,
`{"samples": [{"prompt", "completion", "answer", "metadata", "truncated"}, …]}`, and answered with
`{"scores": [number, …]}` in the same order. Every attempt at a batch carries the same
`Idempotency-Key`, the SHA-256 of the body. See docs/remote.md.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from drpo_cli import remote
from drpo_cli.errors import UserError
from drpo_cli.settings import Attempts, RewardSettings, Url

IMPORTS = ("httpx", "tenacity")
NEEDS = "a scorer that listens at `url`"


class Config(Attempts, RewardSettings):
    """Options of the request."""

    url: Url
    """Where batches are posted to."""
    headers_env: dict[str, str] = Field(default_factory=dict)
    """Headers of every request, each with the environment variable that holds its value:
    `{ Authorization = "SCORER_AUTHORIZATION" }`. Do not write secrets in a spec."""


class reward:
    """Asks the scorer over connections that are kept."""

    def __init__(self, config: Config) -> None:
        """Raises UserError for a header whose environment variable is not set."""
        self.counts: Counter[str] = Counter()
        self._config = config
        headers = {
            header: remote.header_value(
                variable, f"the environment variable {variable}, for the header {header},"
            )
            for header, variable in config.headers_env.items()
        }
        self._client = remote.Client(config.url, headers)

    async def __call__(
        self,
        prompt: str,
        completions: list[str],
        answer: str | None,
        metadata: Mapping[str, Any],
        truncations: list[bool],
    ) -> list[float]:
        """The scores as the scorer gave them; the caller checks their number and type.

        Raises UserError when the scorer is down, refuses, or answers something else.
        """
        samples = [
            {
                "prompt": prompt,
                "completion": completion,
                "answer": answer,
                "metadata": metadata,
                "truncated": truncated,
            }
            for completion, truncated in zip(completions, truncations, strict=True)
        ]
        body = _body(samples)
        ends = time.monotonic() + self._config.timeout_s
        url = self._config.url
        reply = await remote.ask(url, lambda: self._post(body), self._config, ends, self.counts)
        return _scores(url, reply)

    async def _post(self, body: bytes) -> remote.Reply:
        key = {"Idempotency-Key": hashlib.sha256(body).hexdigest()}
        reply = await self._client.post(body, key)
        if not 200 <= reply.status < 300:
            fix = "check `url` and `headers_env`, and that the scorer follows docs/remote.md"
            raise remote.refused(reply, fix)
        return reply


def _body(samples: list[dict[str, Any]]) -> bytes:
    try:
        return json.dumps({"samples": samples}, default=str, allow_nan=False).encode()
    except ValueError as error:
        raise UserError(
            f"the prompt's metadata cannot be sent as JSON ({error})",
            "leave such a column out",
        ) from error


def _scores(url: str, reply: remote.Reply) -> list[float]:
    try:
        found = reply.json()
    except ValueError:
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("scores"), list):
        raise UserError(
            f"{url} answered {remote.short(reply.text)}",
            'it must answer {"scores": [number, …]}, with one number per sample',
        )
    scores: list[float] = found["scores"]
    return scores

"""The scores that a scorer of your own, behind a URL, gives to completions.

The completions of a prompt are posted as one batch,
`{"samples": [{"prompt", "completion", "answer", "metadata", "truncated"}, …]}`, and answered with
`{"scores": [number, …]}` in the same order. Every attempt at a batch carries the same
`Idempotency-Key`, the SHA-256 of the body. See docs/remote.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from drpo_cli.errors import UserError
from drpo_cli.rewards._remote import (
    Failed,
    RemoteSettings,
    Url,
    ask,
    refused,
    short,
    unreachable,
)

IMPORTS = ("httpx", "tenacity")
NEEDS = "a scorer that listens at `url`"


class Config(RemoteSettings):
    """Options of the request."""

    url: Url
    """Where batches are posted to."""
    headers_env: dict[str, str] = Field(default_factory=dict)
    """Headers of every request, each with the environment variable that holds its value:
    `{ Authorization = "SCORER_AUTHORIZATION" }`. Do not write secrets in a spec."""

    def needs_environment(self) -> tuple[str, ...]:
        """The variables that hold the headers' values."""
        return tuple(self.headers_env.values())


class reward:
    """Asks the scorer over connections that are kept."""

    def __init__(self, config: Config) -> None:
        """Raises UserError for a header whose environment variable is not set."""
        import httpx

        self.counts: Counter[str] = Counter()
        self._config = config
        # `_remote.ask` times whole attempts; `concurrency` limits the connections.
        self._client = httpx.AsyncClient(
            headers=_headers(config.headers_env),
            timeout=None,
            limits=httpx.Limits(max_connections=None),
        )

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
        text = await ask(url, lambda: self._post(body), self._config, ends, self.counts)
        return _scores(url, text)

    async def _post(self, body: bytes) -> str:
        import httpx

        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": hashlib.sha256(body).hexdigest(),
        }
        try:
            response = await self._client.post(self._config.url, content=body, headers=headers)
        except httpx.TransportError as error:
            raise unreachable(error) from error
        except httpx.HTTPError as error:  # such as a body that is not what its headers say
            raise Failed(f"cannot be read ({error})", "fix the scorer", again=False) from error
        if not response.is_success:
            fix = "check `url` and `headers_env`, and that the scorer follows docs/remote.md"
            raise refused(response.status_code, response.text, response.headers, fix)
        return response.text


def _headers(headers_env: Mapping[str, str]) -> dict[str, str]:
    for header, variable in headers_env.items():
        if variable not in os.environ:
            raise UserError(
                f"the environment variable {variable}, for the header {header}, is not set",
                "set it, or fix headers_env",
            )
    return {header: os.environ[variable] for header, variable in headers_env.items()}


def _body(samples: list[dict[str, Any]]) -> bytes:
    try:
        return json.dumps({"samples": samples}, default=str, allow_nan=False).encode()
    except ValueError as error:
        raise UserError(
            f"the prompt's metadata cannot be sent as JSON ({error})",
            "leave such a column out",
        ) from error


def _scores(url: str, text: str) -> list[float]:
    try:
        reply = json.loads(text)
    except (ValueError, RecursionError):
        reply = None
    if not isinstance(reply, dict) or not isinstance(reply.get("scores"), list):
        raise UserError(
            f"{url} answered {short(text)}",
            'it must answer {"scores": [number, …]}, with one number per sample',
        )
    scores: list[float] = reply["scores"]
    return scores

"""A teacher behind an endpoint with vLLM's completions: one request per row, of its token ids.

Consumes      the rows of this rank, as soon as each is sampled (`ask_early`)
Waits for     nothing until the log-probs are needed (`replay`): a thread of its own sends them
Unblocked by  the answers; a request that fails for good raises what it says in `replay`
Produces      log π_T of every sampled token

The server samples one token after each row, which nobody needs and every server can do.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial

import msgspec
import torch
from torch import Tensor

from drpo_cli import progress, remote
from drpo_cli.dist import World
from drpo_cli.experience import Experience
from drpo_cli.settings import TeacherSettings
from drpo_cli.types import Prompt, Rollout

LARGEST = 128 * 2**20
"""Most bytes of a reply, which has about 100 per token."""
ABOVE_0 = 1e-3
"""Nats that rounding may put a log-prob above 0."""

Row = tuple[tuple[int, ...], tuple[int, ...]]
"""The token ids of a prompt, and those that follow it."""


class _Token(msgspec.Struct):
    """What the server says of a token: its log-prob in nats, and its text."""

    logprob: float
    decoded_token: str | None = None


class _Choice(msgspec.Struct):
    prompt_logprobs: list[dict[int, _Token] | None] | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice]


class RemoteTeacher:
    """Asks the endpoint for the log-probs of rows.

    waited_s  seconds of the newest replay in which the run waited for it

    Raises UserError when the key's environment variable is not set.
    """

    def __init__(self, settings: TeacherSettings) -> None:
        self.settings = settings
        self.waited_s = 0.0
        self._counts: Counter[str] = Counter()
        self._asked: dict[Row, Future[Tensor]] = {}
        url = f"{str(settings.url).rstrip('/')}/completions"
        self._client = remote.Client(url, _authorization(settings), LARGEST)
        self._room = asyncio.Semaphore(settings.concurrency)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="drpo-teacher", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Ends the thread, and the requests that nobody waits for."""
        self._forget()
        asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def ask_early(self, prompt: Prompt, rollout: Rollout) -> None:
        """Begins to ask for the rows of a response or an episode, for the next replay."""
        for row in rollout.rows:
            own = prompt.token_ids if row.prompt_ids is None else row.prompt_ids
            self._ask(own, row.token_ids)

    def replay(self, exp: Experience, budget: int, world: World) -> Tensor:
        """log π_T of every sampled token: [T], float32, on the CPU; 0 where none was sampled.

        Raises UserError where the endpoint does not give it.
        """
        began = time.monotonic()
        sampled_S = exp.count(exp.sampled_T).tolist()
        rows = zip(exp.prompt_ids_S, exp.split(exp.token_T), sampled_S, strict=True)
        asked = [self._ask(prompt, ids.tolist()) if n else None for prompt, ids, n in rows]
        found_T = torch.zeros(len(exp.token_T))
        place_S = exp.split(torch.arange(len(exp.token_T)))
        for place, future in zip(place_S, asked, strict=True):
            if future is not None:
                found_T[place] = future.result()
        self._forget()
        self.waited_s = time.monotonic() - began
        return torch.where(exp.sampled_T, found_T, 0.0)

    def metrics(self, world: World) -> dict[str, float]:
        """What the newest replay cost, over all ranks. Collective."""
        counts, self._counts = self._counts, Counter()
        return {
            "teacher_retries": world.sum([counts["retries"]])[0],
            "teacher_wait_s": world.max([self.waited_s])[0],
        }

    def texts(self, ids: Sequence[int]) -> list[str | None]:
        """The text of each token but the first, by the server's tokenizer; None where it says none.

        Raises UserError where the endpoint does not give log-probs of them.
        """
        found = asyncio.run_coroutine_threadsafe(self._fetch(tuple(ids)), self._loop).result()
        return [token.decoded_token for token in found]

    def _ask(self, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> Future[Tensor]:
        """The log-probs of the tokens after a prompt, which are asked for once per row."""
        row = (tuple(prompt_ids), tuple(token_ids))
        if row not in self._asked:
            self._asked[row] = asyncio.run_coroutine_threadsafe(self._log_probs(*row), self._loop)
        return self._asked[row]

    async def _log_probs(self, prompt_ids: tuple[int, ...], token_ids: tuple[int, ...]) -> Tensor:
        found = await self._fetch(prompt_ids + token_ids)
        progress.tick()
        return torch.tensor([token.logprob for token in found[len(prompt_ids) - 1 :]])

    async def _fetch(self, ids: tuple[int, ...]) -> list[_Token]:
        """What the server says of each token but the first."""
        settings = self.settings
        async with self._room:
            ends = time.monotonic() + settings.timeout_s
            where = f"teacher.url: {settings.url}"
            return await remote.ask(where, partial(self._send, ids), settings, ends, self._counts)

    async def _send(self, ids: tuple[int, ...]) -> list[_Token]:
        asked = {
            "model": self.settings.model,
            "prompt": ids,
            "max_tokens": 1,
            "temperature": 0.0,
            "prompt_logprobs": 0,
        }
        reply = await self._client.post(json.dumps(asked).encode(), {})
        if not 200 <= reply.status < 300:
            raise remote.refused(reply, _fix(reply.status, self.settings))
        return _read(reply, ids)

    def _forget(self) -> None:
        for future in self._asked.values():
            future.cancel()  # of rows that no step learns from; the others are done
        self._asked.clear()


def _authorization(settings: TeacherSettings) -> dict[str, str]:
    variable = settings.api_key_env
    if variable is None:
        return {}
    named = f"teacher.api_key_env: the environment variable {variable}"
    return {"Authorization": f"Bearer {remote.header_value(variable, named)}"}


def _fix(status: int, settings: TeacherSettings) -> str:
    if status in (401, 403):
        return "name the variable with its key in teacher.api_key_env"
    if status == 404:
        return f"check teacher.url, and that it serves the model {settings.model!r}"
    return (
        "start the server with a longest sequence (--max-model-len) above rollout.context_length; "
        "it must take the policy's tokens, and give prompt_logprobs"
    )


def _read(reply: remote.Reply, ids: Sequence[int]) -> list[_Token]:
    """What a reply says of each token but the first. Raises Failed where that does not fit."""
    try:
        given = msgspec.json.decode(reply.body, type=_Answer).choices[0].prompt_logprobs
    except (msgspec.MsgspecError, ValueError, LookupError, RecursionError) as error:
        raise _wrong(f"did not answer with completions ({remote.short(reply.text)})") from error
    if given is None:
        raise _wrong("answered without prompt_logprobs")
    if len(given) != len(ids):
        raise _wrong(f"gave the log-probs of {len(given)} tokens, and was asked for {len(ids)}")
    found = []
    for place, (id, token) in enumerate(zip(ids[1:], given[1:], strict=True), 2):
        if token is None or id not in token:
            raise _wrong(f"gave no log-prob of token {place} of {len(ids)}, whose id is {id}")
        if not token[id].logprob <= ABOVE_0:
            what = f"gave {token[id].logprob:g} as the log-prob of a token, which is above 0"
            raise remote.Failed(what, "start it without --logprobs-mode", again=False)
        found.append(token[id])
    return found


def _wrong(what: str) -> remote.Failed:
    fix = "set teacher.url to that of a vLLM server; it ends in /v1"
    return remote.Failed(what, fix, again=False)

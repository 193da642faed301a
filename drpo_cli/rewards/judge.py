"""The score that another model, behind any OpenAI-compatible endpoint, gives by your rubric.

The judge sees the rubric, the prompt, the reference answer where there is one, and the completion,
marked as data. It answers with JSON: its reasoning, then a whole number on the scale. After an
answer without such a number it is asked again, and then the call fails: no score is guessed.
See docs/remote.md.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from drpo_cli import remote
from drpo_cli.errors import UserError
from drpo_cli.rewards import _verdict
from drpo_cli.settings import Attempts, Count, RewardSettings, Url

IMPORTS = ("httpx", "tenacity", "jinja2")
NEEDS = "an OpenAI-compatible endpoint"
OPENAI = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"
Price = Annotated[float, Field(ge=0)]


def _is_template(text: str) -> str:
    _verdict.compile_rubric(text)
    return text


class Config(Attempts, RewardSettings):
    """Options of the judge."""

    model: Annotated[str, Field(min_length=1)]
    """Name of the judging model at the endpoint."""
    rubric: Annotated[str, Field(min_length=1), AfterValidator(_is_template)]
    """What makes a completion good, a sandboxed Jinja template: `{{ answer }}` stands for the
    reference answer, `{{ metadata.column }}` for another column of the row."""
    base_url: Url = OPENAI
    """Address of the endpoint, to which `/chat/completions` is added."""
    api_key_env: Annotated[str, Field(min_length=1)] | None = None
    """Environment variable that holds the key. When not set: `OPENAI_API_KEY` for OpenAI's own
    endpoint, and no key for any other."""
    scale: tuple[int, int] = Field(default=(1, 10), strict=False)
    """Worst and best score that the judge can give; it answers with a whole number."""
    normalize: bool = True
    """Map the scale to 0 … 1; otherwise the reward is the judge's number."""
    reasoning: bool = True
    """Let the judge write its reasons before the score; `false` is cheaper."""
    structured: Literal["json_schema", "json_object", "text"] = "json_schema"
    """What the endpoint is asked to enforce: the verdict's schema, any JSON object, or nothing, for
    servers that cannot."""
    verdict_tries: Count = 2
    """How often the judge is asked until its verdict can be read."""
    temperature: Annotated[float, Field(ge=0, le=2)] | Literal["default"] = 0.0
    """Sampling temperature of the judge; "default" sends none, which some models require."""
    max_tokens: Count = 1024
    """Longest answer of the judge, in tokens, with its thinking."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """More fields of the request: `{ chat_template_kwargs = { enable_thinking = false } }`."""
    input_price: Price | None = None
    """US dollars per million tokens that the judge reads; with `output_price`, cost is counted."""
    output_price: Price | None = None
    """US dollars per million tokens that the judge writes."""

    @model_validator(mode="after")
    def _check_scale_and_prices(self) -> Config:
        low, high = self.scale
        if not 1 <= high - low <= 100:
            raise ValueError(f"scale = [{low}, {high}] must rise, by at most 100")
        if (self.input_price is None) != (self.output_price is None):
            raise ValueError("input_price and output_price go together: set both, or neither")
        return self

    def needs_environment(self) -> tuple[str, ...]:
        """The variable that holds the key, if there is one."""
        variable = self.api_key_env or (OPENAI_KEY if _is_openai(self) else None)
        return () if variable is None else (variable,)


class reward:
    """Asks the judge over connections that are kept. `counts` has requests, tokens and cost."""

    def __init__(self, config: Config) -> None:
        """Raises UserError when the key's environment variable is not set."""
        self.counts: Any = Counter()  # not of integers only: dollars have fractions
        self._config = config
        url = f"{config.base_url.rstrip('/')}/chat/completions"
        self._client = remote.Client(url, _authorization(config))
        # OpenAI's newer models know the first name only, most other servers the second only.
        limit = "max_completion_tokens" if _is_openai(config) else "max_tokens"
        self._request: dict[str, Any] = {
            "model": config.model,
            limit: config.max_tokens,
        }
        if form := _verdict.make_response_format(config.structured, config.scale, config.reasoning):
            self._request["response_format"] = form
        if config.temperature != "default":
            self._request["temperature"] = config.temperature

    async def __call__(
        self, prompt: str, completion: str, answer: str | None, metadata: Mapping[str, Any]
    ) -> float:
        """The judge's score. Raises UserError when it gives none."""
        config, ends = self._config, time.monotonic() + self._config.timeout_s
        rubric = _verdict.fill_rubric(config.rubric, answer, metadata)
        texts = {"prompt": prompt, "reference answer": answer, "completion": completion}
        asked = _verdict.write_question(rubric, texts, config.scale, config.reasoning)
        messages = [{"role": "user", "content": asked}]
        problem = ""
        for _ in range(config.verdict_tries):
            send = partial(self._send, messages)
            said = await remote.ask(config.base_url, send, config, ends, self.counts)
            try:
                return self._map(_verdict.read_score(said, config.scale))
            except _verdict.Unreadable as error:
                problem = f"{error}: {remote.short(said)}"
                again = f"That was not the form asked for: {error}. Answer in that form."
            self.counts["unreadable"] += 1
            messages = [
                *messages,
                {"role": "assistant", "content": said or "(nothing)"},
                {"role": "user", "content": again},
            ]
        raise UserError(
            f"{config.base_url}: {config.model!r} was asked {config.verdict_tries} times and gave "
            f"no verdict that can be read: {problem}",
            "raise max_tokens if it was cut off, or choose another `structured` or a better judge",
        )

    async def _send(self, messages: list[dict[str, str]]) -> str:
        """Returns the judge's answer. Raises Failed."""
        asked = {"messages": messages, **self._request, **self._config.extra}
        reply = await self._client.post(json.dumps(asked).encode(), {})
        if not 200 <= reply.status < 300:
            raise remote.refused(reply, _fix(reply.status, self._config))
        try:
            answer = reply.json()
            content = answer["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError) as error:
            raise _no_completion(reply) from error
        if not isinstance(content, str | None):
            raise _no_completion(reply)
        self._count(answer.get("usage"))
        return content or ""

    def _count(self, usage: Any) -> None:
        if not isinstance(usage, dict):
            return
        config = self._config
        read, written = (_tokens(usage.get(f"{kind}_tokens")) for kind in ("prompt", "completion"))
        self.counts["prompt_tokens"] += read
        self.counts["completion_tokens"] += written
        if config.input_price is not None and config.output_price is not None:
            cost = read * config.input_price + written * config.output_price
            self.counts["cost_usd"] += cost / 1e6

    def _map(self, score: int) -> float:
        low, high = self._config.scale
        return (score - low) / (high - low) if self._config.normalize else float(score)


def _is_openai(config: Config) -> bool:
    return config.base_url.rstrip("/") == OPENAI


def _authorization(config: Config) -> dict[str, str]:
    """The header with the key; a server other than OpenAI's must not get the user's OpenAI key."""
    needed = config.needs_environment()
    if not needed:
        return {}
    (variable,) = needed
    named = f"the judge at {config.base_url} needs a key, and the environment variable {variable}"
    return {"Authorization": f"Bearer {remote.header_value(variable, named)}"}


def _tokens(count: Any) -> int:
    """A number of tokens that a server reported; 0 where it cannot be one."""
    return count if type(count) is int and 0 <= count < 2**31 else 0


def _fix(status: int, config: Config) -> str:
    if status in (401, 403):
        return f"check the key in {config.api_key_env or OPENAI_KEY} (option api_key_env)"
    if status == 404:
        return f"check base_url, and that it serves the model {config.model!r}"
    return (
        'fix the options; for a server without JSON schemas, structured = "json_object" or "text"'
    )


def _no_completion(reply: remote.Reply) -> remote.Failed:
    return remote.Failed(
        f"did not answer with a chat completion ({remote.short(reply.text)})",
        "set base_url to that of an OpenAI-compatible API; most end in /v1",
        again=False,
    )

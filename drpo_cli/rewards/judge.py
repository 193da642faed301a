"""The score that another model, behind any OpenAI-compatible endpoint, gives by your rubric.

The judge sees the rubric, the prompt, the reference answer where there is one, and the completion,
marked as data. It answers with JSON: its reasoning, then a whole number on the scale. After an
answer without such a number it is asked again, and then the call fails: no score is guessed.
See docs/remote.md.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from drpo_cli.errors import UserError
from drpo_cli.rewards import _remote, _verdict
from drpo_cli.settings import Count

IMPORTS = ("openai", "tenacity", "jinja2")
NEEDS = "an OpenAI-compatible endpoint"
OPENAI = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"
Price = Annotated[float, Field(ge=0)]


def _is_template(text: str) -> str:
    _verdict.compile_rubric(text)
    return text


class Config(_remote.RemoteSettings):
    """Options of the judge."""

    model: Annotated[str, Field(min_length=1)]
    """Name of the judging model at the endpoint."""
    rubric: Annotated[str, Field(min_length=1), AfterValidator(_is_template)]
    """What makes a completion good, a sandboxed Jinja template: `{{ answer }}` stands for the
    reference answer, `{{ metadata.column }}` for another column of the row."""
    base_url: _remote.Url = OPENAI
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
        import openai

        self.counts: Any = Counter()  # not of integers only: dollars have fractions
        self._config = config
        # `_remote.ask` times and repeats the attempts.
        self._client = openai.AsyncOpenAI(
            api_key=_key(config), base_url=config.base_url, max_retries=0, timeout=None
        )
        # OpenAI's newer models know the first name only, most other servers the second only.
        limit = "max_completion_tokens" if _is_openai(config) else "max_tokens"
        self._request: dict[str, Any] = {
            "model": config.model,
            limit: config.max_tokens,
            "extra_body": config.extra,
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
            said = await _remote.ask(config.base_url, send, config, ends, self.counts)
            try:
                return self._map(_verdict.read_score(said, config.scale))
            except _verdict.Unreadable as error:
                problem = f"{error}: {_remote.short(said)}"
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
        import openai

        try:
            answer: Any = await self._client.chat.completions.create(
                messages=messages,  # type: ignore[arg-type]
                **self._request,
            )
        except openai.APIStatusError as error:
            fix = _fix(error.status_code, self._config)
            said, headers = error.response.text, error.response.headers
            raise _remote.refused(error.status_code, said, headers, fix) from error
        except openai.APIConnectionError as error:
            raise _remote.unreachable(error.__cause__ or error) from error
        except (openai.APIError, ValueError) as error:  # not JSON, though its headers say so
            raise _no_completion(str(error)) from error
        try:  # the client does not check what it received
            content, usage = answer.choices[0].message.content, answer.usage
        except (AttributeError, LookupError, TypeError) as error:
            raise _no_completion(str(answer)) from error
        self._count(usage)
        return str(content or "")

    def _count(self, usage: Any) -> None:
        if usage is None:
            return
        config = self._config
        read = getattr(usage, "prompt_tokens", None) or 0
        written = getattr(usage, "completion_tokens", None) or 0
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


def _key(config: Config) -> str:
    needed = config.needs_environment()
    if not needed:
        return "none"  # a local server needs no key, and must not get the user's OpenAI key
    (variable,) = needed
    if not os.environ.get(variable):
        raise UserError(
            f"the judge at {config.base_url} needs a key, and the environment variable {variable} "
            "is not set",
            "set it, or name another in api_key_env",
        )
    return os.environ[variable]


def _fix(status: int, config: Config) -> str:
    if status in (401, 403):
        return f"check the key in {config.api_key_env or OPENAI_KEY} (option api_key_env)"
    if status == 404:
        return f"check base_url, and that it serves the model {config.model!r}"
    return (
        'fix the options; for a server without JSON schemas, structured = "json_object" or "text"'
    )


def _no_completion(said: str) -> _remote.Failed:
    return _remote.Failed(
        f"did not answer with a chat completion ({_remote.short(said)})",
        "set base_url to that of an OpenAI-compatible API; most end in /v1",
        again=False,
    )

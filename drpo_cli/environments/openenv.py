"""An environment that a server of OpenEnv runs: each episode is a WebSocket session with it.

    [[environment]]
    type = "openenv"
    url = "http://localhost:8000"
    field = "guess"              # of the action: gets what the model wrote
    convert = "integer"
    observation = "hint"         # of the observation: what the model sees

The seed that the server gets comes from the row, so all samples of a prompt start from the same
state where the environment honours it. An action that the server refuses as invalid, or that cannot
be converted, is shown to the model and uses up a turn; `info.invalid` counts them. An error of the
environment is a failure of the episode (`on_error`).
"""

from __future__ import annotations

import json
import math
import os
import random
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from drpo_cli.environments import EnvironmentSettings, Message, Row, Step
from drpo_cli.environments import _openenv_client as client
from drpo_cli.errors import UserError
from drpo_cli.settings import Count

IMPORTS = ("httpx", "websockets.asyncio.client")
NEEDS = "a server of OpenEnv that listens at `url`"

_checked: set[tuple[str, str]] = set()
"""The addresses and fields that this process has compared with a server's schema."""


class Config(EnvironmentSettings):
    """Options of the server, and of what is sent to it and shown of it."""

    workers: Count = 2
    """Processes per rank. Each has `concurrency` episodes at the same time."""
    url: Annotated[str, Field(pattern=r"^(?:http|ws)s?://[^/?#]+")]
    """Address of the server: its `/ws` is used, and its `/schema` if it has one."""
    headers_env: dict[str, str] = Field(default_factory=dict)
    """Headers of every connection, each with the environment variable that holds its value:
    `{ Authorization = "OPENENV_AUTHORIZATION" }`. Do not write secrets in a spec."""
    field: str = "message"
    """The field of the action that gets what the model wrote. If it is `""`, the model writes the
    whole action as JSON (`convert = "json"`)."""
    convert: Literal["text", "integer", "number", "json"] = "text"
    """What the text becomes on the way: the field's type."""
    tag: Annotated[str, Field(pattern=r"^\w+$")] | None = None
    """Use only the text of the last `<tag>…</tag>`; all that the model wrote when not set."""
    action: dict[str, Any] = Field(default_factory=dict)
    """Further fields of every action, for example `{ type = "call_tool" }`."""
    observation: Annotated[str, Field(min_length=1)] | None = None
    """The field of the observation that the model sees, with dots for fields inside fields; the
    whole observation, as JSON, if not set. Text is shown as it is, anything else as JSON."""
    first: Literal["both", "row", "observation"] = "both"
    """How an episode begins: with the row's prompt, the first observation, or one after the other
    in one message."""
    reset: dict[str, Any] = Field(default_factory=dict)
    """Options of every reset, beside the seed."""
    reset_from: tuple[str, ...] = Field(default=(), strict=False)
    """Columns of the row (its metadata) that are options of its reset."""

    @model_validator(mode="after")
    def _a_whole_action_is_json(self) -> Config:
        if not self.field and self.convert != "json":
            raise ValueError(
                'field = "" has the model write the whole action: set convert = "json"'
            )
        return self


class Environment:
    """An episode: a session of its own on the server."""

    def __init__(self, config: Config) -> None:
        """Raises UserError for a header whose environment variable is not set."""
        self._config = config
        self._headers = {name: _value(name, env) for name, env in config.headers_env.items()}
        self._session = client.Session(config.url, self._headers)
        self._invalid = 0

    async def start(self, row: Row, rng: random.Random) -> str | list[Message]:
        """Connects, and resets the environment. Raises UserError."""
        await self._check_field()
        missing = [name for name in self._config.reset_from if name not in row.metadata]
        if missing:
            raise UserError(
                f"row {row.id!r} has no column {missing[0]!r}, which `reset_from` names",
                f"its columns are: {', '.join(sorted(row.metadata)) or 'none'}",
            )
        reply = await self._session.reset(
            {
                "seed": rng.randrange(2**31),
                **self._config.reset,
                **{name: row.metadata[name] for name in self._config.reset_from},
            }
        )
        if reply.done:
            raise UserError(
                f"{self._config.url} says of row {row.id!r} that its episode is over at the start",
                "check `reset`",
            )
        if self._config.first == "row":
            return row.prompt if len(row.messages) < 2 else list(row.messages)
        observed = self._show(reply.observation)
        if self._config.first == "observation" or not row.messages:
            return observed
        text = f"{row.prompt}\n\n{observed}"
        if len(row.messages) < 2:
            return text
        return [*row.messages[:-1], {**row.messages[-1], "content": text}]

    async def step(self, action: str) -> Step:
        """Sends the action. Raises UserError where the environment fails."""
        try:
            reply = await self._session.step(self._action(action))
        except client.InvalidAction as error:
            self._invalid += 1
            return Step(f"Invalid action: {error}", info={"invalid": self._invalid})
        return Step(
            observation=self._show(reply.observation),
            reward=reply.reward,
            done=reply.done,
            info={"invalid": self._invalid},
        )

    async def close(self) -> None:
        """Ends the session."""
        await self._session.close()

    def _action(self, text: str) -> dict[str, Any]:
        if self._config.tag is not None:
            tag = self._config.tag
            found = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
            if not found:
                raise client.InvalidAction(f"write it between <{tag}> and </{tag}>")
            text = found[-1]
        value = self._convert(text.strip())
        if self._config.field:
            return {**self._config.action, self._config.field: value}
        if not isinstance(value, dict):
            raise client.InvalidAction("write a JSON object")
        return {**value, **self._config.action}

    def _convert(self, text: str) -> Any:
        kind = self._config.convert
        try:
            if kind == "integer":
                return int(text)
            if kind == "number":
                return _finite(text)
            return json.loads(text, parse_constant=_finite) if kind == "json" else text
        except (ValueError, RecursionError) as error:
            what = {"integer": "a whole number", "number": "a number", "json": "JSON"}[kind]
            raise client.InvalidAction(f"write {what}, and nothing else") from error

    def _show(self, observation: Mapping[str, Any]) -> str:
        """What the model sees of an observation. Raises UserError where it lacks the field."""
        value: Any = observation
        for name in self._config.observation.split(".") if self._config.observation else ():
            if not isinstance(value, Mapping) or name not in value:
                raise UserError(
                    f"{self._config.url}: an observation has no {self._config.observation!r}",
                    f"it has: {', '.join(sorted(observation)) or 'nothing'}",
                )
            value = value[name]
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    async def _check_field(self) -> None:
        """Compares `field` with the server's schema, once per process. Raises UserError."""
        url, field = self._config.url, self._config.field
        if (url, field) in _checked:
            return
        schema = await client.schema(url, self._headers)
        fields = schema.get("properties")
        if field and fields and field not in fields and not schema.get("additionalProperties"):
            known = ", ".join(name for name in fields if name != "metadata")
            raise UserError(
                f"{url}: its actions have no field {field!r}", f"set `field` to one of: {known}"
            )
        _checked.add((url, field))


def _finite(text: str) -> float:
    """The number; raises ValueError where JSON cannot hold it."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not finite")
    return number


def _value(header: str, variable: str) -> str:
    value = os.environ.get(variable, "")
    if not value or not value.isascii() or not value.isprintable():
        raise UserError(
            f"the environment variable {variable}, for the header {header}, is not set to text "
            "that a header can have",
            "set it, in ASCII and without line breaks",
        )
    return value

"""One session with a server of OpenEnv: a WebSocket that sends and gets JSON.

OpenEnv's `/reset` and `/step` over HTTP make a new environment for every call, so an episode needs
`/ws`: each connection has an environment of its own. The messages are those of openenv-core 0.3:

    {"type": "reset", "data": {"seed": 1}}     {"type": "step", "data": {the action's fields}}
    {"type": "close"}

answered by

    {"type": "observation", "data": {"observation": {…}, "reward": 0.5, "done": false}}
    {"type": "error", "data": {"message": "…", "code": "VALIDATION_ERROR"}}
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from drpo_cli import secrets
from drpo_cli.errors import UserError

LARGEST = 16 * 2**20
"""Most bytes of a server's message."""
CLOSE_S = 5.0
"""Longest wait for the server to end an episode."""
_LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Reply:
    """What a server answered to `reset` or `step`."""

    observation: Mapping[str, Any]
    reward: float
    done: bool


class InvalidAction(Exception):
    """The server does not take this action: a field has a value that its schema does not allow."""


class Session:
    """A connection, which is an environment on the server."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self._url, self._headers = url, headers
        self._socket: Any = None

    async def reset(self, options: Mapping[str, Any]) -> Reply:
        """Connects and starts the episode. Raises UserError where the server does not let us."""
        self._socket = await _connect(_address(self._url, "ws"), self._headers)
        return await self._ask("reset", options)

    async def step(self, action: Mapping[str, Any]) -> Reply:
        """Takes an action. Raises InvalidAction, or UserError where the environment failed."""
        return await self._ask("step", action)

    async def close(self) -> None:
        """Ends the episode on the server: its place is free again when this returns."""
        from websockets.exceptions import ConnectionClosed

        if self._socket is None:
            return
        socket, self._socket = self._socket, None
        with suppress(ConnectionClosed, TimeoutError):
            await socket.send(json.dumps({"type": "close"}))
            async with asyncio.timeout(CLOSE_S):  # a server that still computes reads it later
                await socket.wait_closed()
        await socket.close()

    async def _ask(self, kind: str, data: Mapping[str, Any]) -> Reply:
        from websockets.exceptions import ConnectionClosed

        try:
            with suppress(ConnectionClosed):  # it may have said why: that is still to be read
                await self._socket.send(json.dumps({"type": kind, "data": data}, allow_nan=False))
            text = await self._socket.recv()
        except ConnectionClosed as error:
            raise UserError(
                f"{self._url} ended the connection during {kind!r} ({_short(str(error))})",
                "look into the server's log",
            ) from error
        return self._read(kind, text)

    def _read(self, kind: str, text: str | bytes) -> Reply:
        try:
            message = json.loads(text)
            found = message["data"]
            if message["type"] == "error":
                raise self._failed(kind, found)
            reward = found.get("reward")
            return Reply(
                observation=dict(found["observation"]),
                reward=0.0 if reward is None else float(reward),
                done=bool(found.get("done", False)),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{self._url} answered {_short(text)!r} to {kind!r}",
                "it must follow the protocol of openenv-core 0.3",
            ) from error

    def _failed(self, kind: str, found: Mapping[str, Any]) -> Exception:
        code, said = found.get("code"), _short(str(found.get("message")))
        if code == "VALIDATION_ERROR" and kind == "step":
            errors = found.get("errors") or ()
            each = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in errors]
            return InvalidAction("; ".join(each) or said)
        fix = "look into the server's log"
        if code == "CAPACITY_REACHED":
            fix = (
                "lower `workers` × `concurrency`, or raise the server's max_concurrent_envs (its "
                "environment must allow SUPPORTS_CONCURRENT_SESSIONS)"
            )
        return UserError(f"{self._url} answered {kind!r} with the error {code}: {said}", fix)


async def schema(url: str, headers: Mapping[str, str]) -> Mapping[str, Any]:
    """The JSON Schema of the server's actions; empty where it does not publish one.

    Raises UserError where it cannot be reached.
    """
    import httpx

    address = _address(url, "schema")
    mounts: Any = {f"all://{host if ':' not in host else f'[{host}]'}": None for host in _LOCAL}
    async with httpx.AsyncClient(headers=dict(headers), mounts=mounts) as client:
        try:
            answer = await client.get(address)
        except httpx.HTTPError as error:
            raise _unreachable(address, error) from error
    if answer.status_code == 404:
        return {}
    try:
        found = answer.raise_for_status().json()["action"]
    except (httpx.HTTPStatusError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{address} answered {answer.status_code} ({_short(answer.text)!r})",
            "check that `url` is a server of OpenEnv",
        ) from error
    return found if isinstance(found, dict) else {}


async def _connect(address: str, headers: Mapping[str, str]) -> Any:
    from websockets.asyncio.client import connect
    from websockets.exceptions import WebSocketException

    proxy: Any = None if urlsplit(address).hostname in _LOCAL else True
    try:
        return await connect(
            address,
            additional_headers=dict(headers),
            max_size=LARGEST,
            close_timeout=CLOSE_S,
            open_timeout=None,  # `timeout_s` limits the call
            ping_interval=None,  # an environment that computes does not answer pings
            proxy=proxy,
        )
    except (OSError, WebSocketException) as error:
        raise _unreachable(address, error) from error


def _address(url: str, path: str) -> str:
    """The address of `/ws` or `/schema` below the server's."""
    parts = urlsplit(url)
    secure = parts.scheme in ("https", "wss")
    scheme = {"ws": "wss" if secure else "ws", "schema": "https" if secure else "http"}[path]
    return urlunsplit((scheme, parts.netloc, f"{parts.path.rstrip('/')}/{path}", parts.query, ""))


def _unreachable(address: str, error: BaseException) -> UserError:
    why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return UserError(
        f"{address} cannot be reached ({_short(why)})",
        "check that the server is up and `url` is right",
    )


def _short(text: str | bytes) -> str:
    """What a server said, on one line of a message."""
    text = text.decode(errors="replace") if isinstance(text, bytes) else text
    text = " ".join(secrets.mask(text).split())
    return text if len(text) <= 200 else f"{text[:199]}…"

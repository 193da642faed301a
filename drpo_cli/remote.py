"""Shared by whatever asks a server: repeated attempts, and messages of failures.

An attempt is repeated after a connection error, a time-out, and the statuses 408, 429 and 5xx: with
exponential backoff and jitter, and not before the server's `Retry-After`. No attempt begins that
could outlast the call's `timeout_s`, so a server that is down gives a message that says so.

Nothing that a server sends is trusted: a redirect is not followed, because it could take the keys
to another host, and no more than a limit (`LARGEST`) of a body is read. Compressed bodies are not
asked for and are refused, so that is also the size in memory.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from drpo_cli import secrets
from drpo_cli.errors import UserError
from drpo_cli.settings import Attempts
from drpo_cli.settings.remote import SPARE_S

T = TypeVar("T")
LONGEST_BACKOFF_S = 30.0
LARGEST = 16 * 2**20
"""Most bytes of a reply."""
LARGEST_ERROR = 64 * 2**10
"""Bytes that are read of a reply with an error status."""
_LOCAL = ("localhost", "127.0.0.1", "[::1]")


class Failed(Exception):
    """A failed attempt: what the server did, and what the user can do about it.

    again  whether another attempt may help
    after  how many seconds the server asks to wait
    """

    def __init__(self, what: str, fix: str, again: bool, after: float = 0.0) -> None:
        super().__init__(what)
        self.fix, self.again, self.after = fix, again, after


@dataclass(frozen=True)
class Reply:
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body, for a message."""
        return self.body.decode(errors="replace")

    def json(self) -> Any:
        """The body as JSON. Raises ValueError where it is not."""
        try:
            return json.loads(self.body.decode())
        except RecursionError as error:
            raise ValueError("too deeply nested") from error


class Client:
    """Posts JSON to one address, over connections that are kept.

    Proxies and certificates are those of the environment, and local servers need no proxy.
    `largest` is the most bytes of a reply.
    """

    def __init__(self, url: str, headers: Mapping[str, str], largest: int = LARGEST) -> None:
        import httpx

        self._url, self._largest = url, largest
        # `ask` times whole attempts; `concurrency` limits the connections.
        self._client = httpx.AsyncClient(
            headers={
                "Content-Type": "application/json",
                **headers,
                "Accept-Encoding": "identity",
            },
            timeout=None,
            limits=httpx.Limits(max_connections=None),
            follow_redirects=False,
            mounts={f"all://{host}": None for host in _LOCAL},
        )

    async def post(self, body: bytes, headers: Mapping[str, str]) -> Reply:
        """Returns the reply, whatever its status. Raises Failed."""
        import httpx

        try:
            async with self._client.stream(
                "POST", self._url, content=body, headers=dict(headers)
            ) as response:
                return Reply(
                    response.status_code, response.headers, await _read(response, self._largest)
                )
        except httpx.TransportError as error:
            raise _unreachable(error) from error
        except httpx.HTTPError as error:
            raise Failed(f"cannot be read ({short(str(error))})", "fix it", again=False) from error

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()


async def _read(response: Any, largest: int) -> bytes:
    coding = response.headers.get("content-encoding", "identity")
    if coding.strip().lower() not in ("", "identity"):
        raise Failed(
            f"answered {response.status_code} with a body in {short(coding)!r}, which cannot be "
            "read",
            "have it send plain bodies, as `Accept-Encoding: identity` asks",
            again=False,
        )
    body, limit = bytearray(), largest if response.is_success else LARGEST_ERROR
    async for part in response.aiter_raw():
        body += part
        if len(body) > limit and response.is_success:
            raise Failed(
                f"answered with more than {largest >> 20} MiB", "have it answer less", again=False
            )
        if len(body) > limit:
            break
    return bytes(body[:limit])


def header_value(variable: str, named: str) -> str:
    """The value of an environment variable, for a header; it is masked from then on.

    named  how messages begin

    Raises UserError.
    """
    secrets.keep([variable])
    value = os.environ.get(variable, "")
    if not value:
        raise UserError(f"{named} is not set", "set it, or name another in the option `*_env`")
    if not (value.isascii() and value.isprintable()) or value != value.strip():
        raise UserError(
            f"{named} has a character that a header cannot have",
            "set it without line breaks, outer spaces and letters that are not ASCII",
        )
    return value


def _unreachable(error: BaseException) -> Failed:
    """The failure of a connection."""
    why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    fix = "check that the server is up and the address is right"
    untrusted = "CERTIFICATE_VERIFY_FAILED" in why
    if untrusted:
        fix = "if it is yours, name its certificate in the environment variable SSL_CERT_FILE"
    return Failed(f"cannot be reached ({short(why)})", fix, again=not untrusted)


def refused(reply: Reply, fix: str) -> Failed:
    """The failure of an answer with an error status; `fix` is used where the request is wrong."""
    status = reply.status
    again = status in (408, 429) or status >= 500
    after, said = _retry_after(reply.headers.get("retry-after")), short(reply.text)
    wish = f" and asked for a wait of {after:.0f} s" if again and after else ""
    if status == 429:
        fix = "lower `concurrency` or `workers`, or raise `retries` or `timeout_s`"
    elif again:
        fix = "look into the server's log"
    elif 300 <= status < 400 and "location" in reply.headers:
        to = short(reply.headers["location"])
        wish = f" and redirects to {secrets.mask_urls(to)}"
        fix = "a redirect is not followed: give the last address itself, if you trust it"
    return Failed(f"answered {status} ({said}){wish}", fix, again, after)


async def ask(
    where: str,
    send: Callable[[], Awaitable[T]],
    config: Attempts,
    ends: float,
    counts: Counter[str],
) -> T:
    """Returns what `send` returns, after as many attempts as needed. Counts requests and retries.

    send  raises Failed for an attempt that failed
    ends  when the call must be over (`time.monotonic`)

    Raises UserError, which starts with `where`, when the last attempt failed.
    """
    import tenacity

    def begin_again(state: tenacity.RetryCallState) -> None:
        counts["retries"] += 1

    left = ends - time.monotonic() - config.request_timeout_s - SPARE_S / 2
    if left < 0:
        raise UserError(
            f"{where} cannot be asked again within timeout_s = {config.timeout_s:g}", "raise it"
        )
    made = 0

    async def once() -> T:
        nonlocal made
        made += 1
        counts["requests"] += 1
        try:
            async with asyncio.timeout(config.request_timeout_s):
                return await send()
        except TimeoutError as error:
            late = f"gave no answer within {config.request_timeout_s:g} s"
            raise Failed(late, "if it is not overloaded, raise request_timeout_s", True) from error

    attempts = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, Failed) and error.again),
        wait=_wait(config),
        stop=tenacity.stop_after_attempt(config.retries + 1) | tenacity.stop_before_delay(left),
        before_sleep=begin_again,
        reraise=True,
    )
    try:
        return await attempts(once)
    except Failed as failed:
        often = f", {made} times" if made > 1 else ""
        raise UserError(f"{where} {failed}{often}", failed.fix) from failed


def short(text: str) -> str:
    """What a server said, on one line of a message."""
    text = text.encode(errors="replace").decode()  # half a surrogate pair can not be printed
    # Masked before it is cut, or half a secret would be left
    text = " ".join(secrets.mask(text).split()) or "an empty body"
    return text if len(text) <= 200 else f"{text[:199]}…"


def _wait(config: Attempts) -> Callable[[Any], float]:
    import tenacity

    backoff = tenacity.wait_exponential(
        multiplier=config.backoff_s, max=LONGEST_BACKOFF_S
    ) + tenacity.wait_random(0, config.backoff_s)

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        return max(backoff(state), error.after if isinstance(error, Failed) else 0.0)

    return wait


def _retry_after(value: str | None) -> float:
    """Seconds of a `Retry-After` header: a number, or the date when to come back; else 0."""
    if value is None:
        return 0.0
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return 0.0
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())

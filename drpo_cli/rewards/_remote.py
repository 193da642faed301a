"""Shared by rewards that ask a server: options, repeated attempts, and messages of failures.

An attempt is repeated after a connection error, a time-out, and the statuses 408, 429 and 5xx: with
exponential backoff and jitter, and not before the server's `Retry-After`. No attempt begins that
could outlast the call's `timeout_s`, so a server that is down gives a message that says so.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, HttpUrl, model_validator

from drpo_cli.errors import UserError
from drpo_cli.settings import RewardSettings

T = TypeVar("T")
LONGEST_BACKOFF_S = 30.0
SPARE_S = 1.0  # between the end of the last attempt and the call's own time-out


def _is_url(text: str) -> str:
    HttpUrl(text)
    return text


Url = Annotated[str, AfterValidator(_is_url)]
"""An address that starts with http:// or https://."""


class RemoteSettings(RewardSettings):
    """Options of rewards that ask a server."""

    timeout_s: Annotated[float, Field(gt=0)] = 300.0
    """Longest time for one call with all its retries, in seconds; no attempt begins that could
    outlast it."""
    request_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """Longest time for one attempt, in seconds."""
    retries: Annotated[int, Field(ge=0)] = 5
    """Attempts after the first when the server is unreachable, late, overloaded or broken."""
    backoff_s: Annotated[float, Field(gt=0)] = 0.5
    """Wait before the first retry, in seconds. It doubles each time, up to 30; up to this much is
    added at random. A server's `Retry-After` makes it longer."""

    @model_validator(mode="after")
    def _an_attempt_fits(self) -> RemoteSettings:
        if self.timeout_s < self.request_timeout_s + SPARE_S:
            raise ValueError(
                f"timeout_s = {self.timeout_s:g} leaves no time for one attempt of "
                f"request_timeout_s = {self.request_timeout_s:g}: make it at least "
                f"{self.request_timeout_s + SPARE_S:g}, plus as much for every retry"
            )
        return self


class Failed(Exception):
    """A failed attempt: what the server did, and what the user can do about it.

    again  whether another attempt may help
    after  how many seconds the server asks to wait
    """

    def __init__(self, what: str, fix: str, again: bool, after: float = 0.0) -> None:
        super().__init__(what)
        self.fix, self.again, self.after = fix, again, after


def unreachable(error: BaseException) -> Failed:
    """The failure of a connection."""
    why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return Failed(
        f"cannot be reached ({why})",
        "check that the server is up and the address is right",
        again=True,
    )


def refused(status: int, said: str, headers: Mapping[str, str], fix: str) -> Failed:
    """The failure of an answer with an error status; `fix` is used where the request is wrong."""
    again = status in (408, 429) or status >= 500
    after = _retry_after(headers.get("retry-after"))
    if status == 429:
        fix = "lower `concurrency` or `workers`, or raise `retries` or `timeout_s`"
    elif again:
        fix = "look into the server's log"
    wish = f" and asked for a wait of {after:.0f} s" if again and after else ""
    return Failed(f"answered {status} ({short(said)}){wish}", fix, again, after)


async def ask(
    where: str,
    send: Callable[[], Awaitable[T]],
    config: RemoteSettings,
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
    text = " ".join(text.split()) or "an empty body"
    return text if len(text) <= 200 else f"{text[:199]}…"


def _wait(config: RemoteSettings) -> Callable[[Any], float]:
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
    except ValueError:
        return 0.0
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())

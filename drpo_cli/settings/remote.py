"""The options of whatever asks a server: an address, and how often and how long it is asked."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, HttpUrl, model_validator

from drpo_cli.settings.base import Settings

SPARE_S = 1.0  # between the end of the last attempt and the call's own time-out


def _is_url(text: str) -> str:
    HttpUrl(text)
    return text


Url = Annotated[str, AfterValidator(_is_url)]
"""An address that starts with http:// or https://."""


class Attempts(Settings):
    """How often, and how long, a server is asked."""

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
    def _an_attempt_fits(self) -> Attempts:
        if self.timeout_s < self.request_timeout_s + SPARE_S:
            raise ValueError(
                f"timeout_s = {self.timeout_s:g} leaves no time for one attempt of "
                f"request_timeout_s = {self.request_timeout_s:g}: make it at least "
                f"{self.request_timeout_s + SPARE_S:g}, plus as much for every retry"
            )
        return self

"""Loads an environment of the package `verifiers`, for the data source and the environment."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator

from drpo_cli import plugins
from drpo_cli.errors import UserError
from drpo_cli.settings import Settings


class LoadSettings(Settings):
    """Which environment it is."""

    load: Annotated[str, Field(min_length=1)]
    """The environment: the name under which it is installed, or a function that returns one:
    `"./game.py:load_environment"`, `"package.module:name"`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Arguments of its `load_environment`."""

    @field_validator("load")
    @classmethod
    def _from_the_spec(cls, load: str, info: ValidationInfo) -> str:
        folder: Path | None = (info.context or {}).get("folder")
        file, _ = plugins.split_type(load)
        if folder is None or not file.endswith(".py"):
            return load
        return plugins.absolute(os.path.expanduser(load), folder)


_loaded: dict[tuple[str, str, int | None], Any] = {}


def load(settings: LoadSettings, max_turns: int | None = None) -> Any:
    """The environment, made once per process for the same arguments. Raises UserError.

    max_turns  the caller will limit its turns to this, so it must be an environment of its own
    """
    key = (settings.load, repr(settings.options), max_turns)
    if key not in _loaded:
        _loaded[key] = _make(settings.load, settings.options)
    return _loaded[key]


def _make(name: str, options: dict[str, Any]) -> Any:
    try:
        import verifiers
        from verifiers.envs.environment import Environment
    except ImportError as error:
        raise UserError(
            f"environment {name!r} of verifiers: {error}",
            "install it with: pip install 'drpo[verifiers]'",
        ) from error
    make = partial(verifiers.load_environment, name)
    if ":" in name:
        make = plugins.find("function", name, Path.cwd())
    with _own_signals():
        try:
            found = make(**options)
        except Exception as error:  # the user's code may raise anything
            cause = error.__cause__ or error
            raise UserError(
                f"environment {name!r} of verifiers: {plugins.where_it_broke(cause)}",
                "check `load` and `options`",
            ) from error
    if not isinstance(found, Environment):
        raise UserError(
            f"environment {name!r} of verifiers: its function returned {type(found).__name__}",
            "return an Environment of verifiers 0.1",
        )
    return found


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keeps our handlers: an environment of verifiers takes SIGINT and SIGTERM for itself."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("an environment of verifiers can only be made in the main thread")
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

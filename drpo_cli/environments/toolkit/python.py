"""The tool `python`: runs code in the sandbox, with variables that stay for the episode.

A class of your own with other options is a tool too:

    class python(Python): ...

in tools.py, as `"./tools.py:python"`; or write the options behind the name: `"python: seconds=5
packages=true"`.
"""

from __future__ import annotations

import threading
from typing import Annotated, Literal

from pydantic import Field

from drpo_cli.environments.toolkit.answers import ToolError
from drpo_cli.errors import UserError
from drpo_cli.sandbox.run import Limits, find_backend
from drpo_cli.sandbox.session import Session
from drpo_cli.settings import Count, Settings

_MOST = 16384  # characters of an output, before the toolbox cuts it
_LOST = "(The session had ended; this is a new one, without the variables of before.)\n"
_NEW = "The next call starts with a new session."
_ENDED = {
    "memory": "it used more than {memory_mib} MiB of memory",
    "timeout": "it ran for longer than {seconds:g} s",
    "cpu": "the session has computed for longer than {session_s:g} s in all",
    "processes": "it started more than {processes} processes",
    "disk": "its files are too large",
    "output": "it printed too much",
    "closed": "the episode has ended",
    "interrupted": "it took too long",
}


class Python:
    """Runs Python code and returns what it prints, and the value of its last line. Variables,
    functions and imports stay for the next calls; there is no network.
    """

    class Config(Settings):
        """Limits of the session."""

        seconds: Annotated[float, Field(gt=0)] = 10.0
        """Longest time of a call."""
        session_s: Annotated[float, Field(gt=0)] = 300.0
        """Longest time that all calls of an episode compute, together."""
        memory_mib: Count = 512
        """Most memory of a session."""
        processes: Count = 32
        """Most processes of a session."""
        packages: bool = False
        """Whether installed packages can be imported, or only the standard library."""
        backend: Literal["auto", "bubblewrap", "plain"] = "auto"
        """The sandbox (docs/sandbox.md)."""

    blocking = True
    """A call waits for another process, so it runs in a thread."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._session: Session | None = None
        self._lock = threading.Lock()  # held by a call: one that was interrupted may still run
        self._told = self._interrupted = self._closed = False

    @classmethod
    def prepare(cls, config: Config) -> None:
        """Raises UserError where no sandbox works on this machine."""
        find_backend(config.backend)

    def __call__(self, code: str) -> str:
        """Runs code.

        Args:
            code: Python code.
        """
        with self._lock:
            note = ""
            if self._session is not None and not self._session.alive:
                note = "" if self._told else _LOST
                self._session.close()
                self._session = None
            if self._session is None:
                self._session = self._start()
            if self._closed:  # by another thread: it saw no session, or ends this one too
                self._session.close()
            self._told = False
            reply = self._session.run(code, _MOST)
            if reply.ended is not None:
                self._told = not self._interrupted
                self._interrupted = False
                raise ToolError(f"{note}{self._explain(reply.ended)}")
        if reply.error is not None:
            output = reply.output and f"{reply.output.rstrip()}\n"
            raise ToolError(f"{note}{output}{reply.error}")
        return note + (reply.output or "(no output)")

    def interrupt(self) -> None:
        """Ends the session of a call that nobody waits for any more, so that it returns."""
        self._interrupted = True
        if session := self._session:
            session.interrupt()

    def close(self) -> None:
        """Ends the session with everything that it started; also while it runs code."""
        self._closed = True
        if session := self._session:
            session.close()

    def _start(self) -> Session:
        config = self._config
        limits = Limits(
            wall_s=config.seconds,
            cpu_s=config.session_s,
            memory_mib=config.memory_mib,
            processes=config.processes,
        )
        try:
            return Session(limits, find_backend(config.backend), config.packages)
        except RuntimeError as error:
            raise UserError(f"tool 'python': {error}", "see docs/sandbox.md") from error

    def _explain(self, ended: str) -> str:
        if ended == "closed" and not self._closed:
            ended = "interrupted"
        reason = _ENDED.get(ended, "it ended its own interpreter").format_map(dict(self._config))
        return f"The code was stopped: {reason}. Its variables are lost. {_NEW}"

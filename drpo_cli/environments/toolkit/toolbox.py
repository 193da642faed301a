"""The tools of an environment: from the texts in its spec to the results that the model reads.

"calculator", "python", "submit"    built in; `BUILT_IN` says where
"./tools.py:search"                 a typed function of the user; "package.module:name" too
"./tools.py:Search"                 a class: one instance per episode, called with the arguments
"python: seconds=5"                 options of a class, which has a `Config`
"mcp: command argument …"           the tools of a server (`servers.py`)
"""

from __future__ import annotations

import asyncio
import difflib
import inspect
import os
import shlex
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pydantic
from pydantic_core import PydanticSerializationError, to_json

from drpo_cli import plugins, secrets
from drpo_cli.environments.toolkit.answers import Submit, ToolError
from drpo_cli.environments.toolkit.schema import describe, place
from drpo_cli.environments.toolkit.servers import Server, is_server
from drpo_cli.errors import UserError
from drpo_cli.settings import Settings
from drpo_cli.types import ToolCall

BUILT_IN = {
    "calculator": "drpo_cli.environments.toolkit.calculator:calculator",
    "python": "drpo_cli.environments.toolkit.python:Python",
    "submit": "drpo_cli.environments.toolkit.submit:submit",
}
LONGEST_RESULT = 8192
"""Most characters of a result; of a longer one the start and the end are kept."""
_THREADS = 256  # calls that wait at the same time for Python sessions, in this process


class Result(NamedTuple):
    """What came of a call.

    text       what the model reads
    error      what went wrong, with its place in the user's code; None if nothing did
    submitted  the final answer, where the call ends the episode
    """

    text: str
    error: str | None = None
    submitted: str | None = None

    @property
    def failed(self) -> bool:
        """Whether anything went wrong."""
        return self.error is not None


class Opened(Protocol):
    """A source of tools during one episode."""

    async def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """The value that a tool returns. Raises ToolError, in words for the model, or anything."""

    def close(self) -> None:
        """Ends what it started."""


class Source(Protocol):
    """Where tools come from: an entry of `tools`.

    schemas  of its tools, in the form that chat templates take
    """

    schemas: tuple[dict[str, Any], ...]

    def open(self) -> Opened:
        """Starts an episode; at this time nothing else happens."""


class Toolbox:
    """The tools that `tools` names; relative files count from `folder`.

    schemas  of all tools, in order, in the form that chat templates take

    start    False starts nothing: servers, which are started to list their tools, are left out, and
             no sandbox is looked for

    It holds no threads, event loops or open files, so that processes may be forked after it.
    Raises UserError, with file and line, for what cannot be a tool.
    """

    def __init__(self, tools: Sequence[str], folder: Path, start: bool = True) -> None:
        self._sources: dict[str, Source] = {}
        names: dict[str, str] = {}
        schemas = []
        for spec in tools:
            if not start and is_server(spec):
                continue
            source = _source(spec, folder, start)
            for schema in source.schemas:
                name = schema["function"]["name"]
                if name in names:
                    raise UserError(
                        f"tools {names[name]!r} and {spec!r} both have the name {name!r}",
                        "remove one, or rename it: a model calls tools by their name",
                    )
                names[name] = spec
                self._sources[name] = source
                schemas.append(schema)
        self.schemas = tuple(schemas)

    def open(self) -> Tools:
        """The tools of one episode. Nothing is started before the first call."""
        return Tools(self._sources)


class Tools:
    """The tools of one episode.

    counts  `tool_calls`, `tool_errors`, and `tool_errors/<name>` of each tool (`unknown` for names
            that no tool has)
    """

    def __init__(self, sources: Mapping[str, Source]) -> None:
        opened = {id(source): source.open() for source in sources.values()}
        self._opened = {name: opened[id(source)] for name, source in sources.items()}
        self.counts: Counter[str] = Counter()

    async def call(self, call: ToolCall) -> Result:
        """Calls a tool. What goes wrong becomes a text for the model; only UserError is raised."""
        result = await self._call(call)
        self.counts["tool_calls"] += 1
        if result.failed:
            name = call.name if call.name in self._opened else "unknown"
            self.counts.update(("tool_errors", f"tool_errors/{name}"))
        return result

    def close(self) -> None:
        """Ends what the tools started; also while a call is in flight."""
        for opened in {id(one): one for one in self._opened.values()}.values():
            opened.close()

    async def _call(self, call: ToolCall) -> Result:
        opened = self._opened.get(call.name)
        if opened is None:
            text = _unknown(call.name, list(self._opened))
            return Result(text, text)
        try:
            value = await opened.call(call.name, call.arguments)
            if isinstance(value, Submit):
                return Result("The answer was submitted.", submitted=value.answer)
            return Result(shorten(_text(value)))
        except UserError:
            raise  # not the model's mistake: the environment has failed
        except ToolError as error:
            return Result(shorten(str(error)), str(error))
        except Exception as error:  # the user's code may raise anything
            text = secrets.mask(f"{call.name} failed: {type(error).__name__}: {error}")
            return Result(shorten(text), plugins.where_it_broke(_without_ours(error)))


class _Functions:
    """A function, or a class whose instances are called: the source of one tool."""

    def __init__(self, spec: str, folder: Path, start: bool) -> None:
        type, _, options = spec.partition(": ")
        type = type.strip()
        found = plugins.find("tool", BUILT_IN.get(type, type), folder)
        name = plugins.short_name(type)
        self._make: Callable[[], Callable[..., Any]]
        if inspect.isclass(found):
            if "__call__" not in dir(found):
                raise UserError(f"tool {spec!r} is a class without `__call__`", "write that method")
            self._make = _maker(found, spec, options, folder, start)
            method = inspect.getattr_static(found, "__call__")
            described = describe(method, name, inspect.getdoc(found), method=True)
            close = getattr(found, "close", None)
            if close is not None and inspect.iscoroutinefunction(close):
                raise UserError(
                    f"{place(close)}: tool {spec!r}: `close` is async", "write `def close`"
                )
        elif not callable(found):
            raise UserError(f"tool {spec!r} is not a function but {found!r:.80}", "name a function")
        else:
            if options:
                raise UserError(f"tool {spec!r} is a function, which has no options", "remove them")
            self._make = lambda: found
            described = describe(found, name)
        self.schemas: tuple[dict[str, Any], ...] = (described.schema,)
        self._read = described.read

    def open(self) -> Opened:
        """An instance is made at the first call."""
        return _Function(self._make, self._read)


class _Function:
    def __init__(
        self,
        make: Callable[[], Callable[..., Any]],
        read: Callable[[Mapping[str, Any]], dict[str, Any]],
    ) -> None:
        self._make, self._read = make, read
        self._function: Callable[..., Any] | None = None

    async def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        given = self._read(arguments)
        if self._function is None:
            self._function = self._make()
        function = self._function
        if getattr(function, "blocking", False):
            loop = asyncio.get_running_loop()
            try:
                return await loop.run_in_executor(_threads(os.getpid()), lambda: function(**given))
            except asyncio.CancelledError:
                function.interrupt()  # type: ignore[attr-defined]
                raise
        value = function(**given)
        return await value if isinstance(value, Awaitable) else value

    def close(self) -> None:
        close = getattr(self._function, "close", None)
        if self._function is None or not callable(close):
            return
        if getattr(self._function, "blocking", False) and _in_a_loop():
            _threads(os.getpid()).submit(close)  # other episodes need not wait for it
        else:
            close()


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def shorten(text: str, most: int = LONGEST_RESULT) -> str:
    """The text with its middle left out, and a note that says so, if it is longer than `most`."""
    text = text.encode(errors="replace").decode()  # tokenizers take no lone surrogates
    if len(text) <= most:
        return text
    left_out = f"\n[… {len(text) - most} characters left out …]\n"
    return f"{text[: most // 2]}{left_out}{text[-(most // 2) :]}"


def _without_ours(error: Exception) -> Exception:
    """The error without the frames of this folder that its traceback starts with."""
    trace, own = error.__traceback__, str(Path(__file__).parent)
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(own):
        trace = trace.tb_next
    return error.with_traceback(trace or error.__traceback__)


@lru_cache
def _threads(pid: int) -> ThreadPoolExecutor:
    """Threads of this process: those of a process do not exist in its forks."""
    return ThreadPoolExecutor(_THREADS, "tool")


def _source(spec: str, folder: Path, start: bool) -> Source:
    if is_server(spec):
        return Server(spec, folder)
    known = [*BUILT_IN, "mcp: command"]
    type = spec.partition(": ")[0].strip()
    if type not in BUILT_IN and "." not in type and ":" not in type:
        close = difflib.get_close_matches(type, known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(
            f"there is no tool {spec!r}",
            f"{hint}there are: {', '.join(known)}; or write your own: './tools.py:name'",
        )
    return _Functions(spec, folder, start)


def _maker(
    found: Any, spec: str, options: str, folder: Path, start: bool
) -> Callable[[], Callable[..., Any]]:
    """Makes an instance of a class, with its options if it has any."""
    config_type = getattr(found, "Config", None)
    if config_type is None:
        if options:
            raise UserError(f"tool {spec!r}: {found.__name__} has no `Config`", "remove options")
        return lambda: found()
    if not (inspect.isclass(config_type) and issubclass(config_type, Settings)):
        raise UserError(
            f"{place(inspect.getattr_static(found, '__call__'))}: tool {spec!r}: its Config must "
            "extend drpo_cli.settings.Settings"
        )
    config = _options(config_type, spec, options, folder)
    prepare = getattr(found, "prepare", None)
    if start and callable(prepare):
        prepare(config)
    return lambda: found(config)


def _options(config_type: type[Settings], spec: str, options: str, folder: Path) -> Settings:
    known = ", ".join(config_type.model_fields)
    try:
        words = [word.partition("=") for word in shlex.split(options)]
        given = {key: value for key, equals, value in words if equals}
        if len(given) < len(words):
            raise UserError(f"tool {spec!r}: options are not key=value", f"its options: {known}")
        return config_type.model_validate(given, strict=False, context={"folder": folder})
    except pydantic.ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()
        )
        raise UserError(f"tool {spec!r}: {problems}", f"its options: {known}") from error
    except ValueError as error:  # of shlex
        raise UserError(f"tool {spec!r}: {error}", "close the quotes") from error


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return to_json(value, inf_nan_mode="constants").decode()
    except PydanticSerializationError as error:
        raise TypeError(f"it returned {type(value).__name__}, which is not text or JSON") from error


def _unknown(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return shorten(f"There is no tool {name!r}.{hint} The tools are: {', '.join(known)}.", 2000)

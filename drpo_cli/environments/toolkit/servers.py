"""Tools of servers that speak the Model Context Protocol, started as processes: `mcp: command`.

    "mcp: python server.py --option"          all its tools; run in the folder of the spec
    "mcp[search,read]: TOKEN=$TOKEN server"   two of them, with an environment variable

Each episode has a server of its own, from the first call of one of its tools to the episode's end,
so that nothing stays for the next episode. Clients live in one thread per process. The official
client is in the extra `mcp`.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import tempfile
import threading
from collections.abc import Coroutine, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from drpo_cli.environments.toolkit.answers import ToolError
from drpo_cli.environments.toolkit.schema import function_schema, inline
from drpo_cli.errors import UserError

if TYPE_CHECKING:
    from mcp import Client, StdioServerParameters
    from mcp.types import CallToolResult

_SPEC = re.compile(r"\s*mcp\s*(?:\[([^\]]*)\])?\s*:\s*(.*)", re.DOTALL)
_VARIABLE = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_START_S = 60.0
_EXAMPLE = '"mcp: python server.py", or "mcp: TOKEN=$TOKEN npx some-server"'
T = TypeVar("T")


def is_server(spec: str) -> bool:
    """Whether an entry of `tools` names a server."""
    return _SPEC.fullmatch(spec) is not None


class Server:
    """One server of a spec; it is started here to list its tools, and ended again.

    Raises UserError where that fails, with what the server wrote to stderr.
    """

    def __init__(self, spec: str, folder: Path) -> None:
        self._spec = spec
        chosen, self._parameters = _parse(spec, folder)
        found = _in_a_thread(self._list())
        names = [schema["function"]["name"] for schema in found]
        if unknown := [name for name in chosen or () if name not in names]:
            raise UserError(
                f"tools {spec!r}: the server has no {', '.join(map(repr, unknown))}",
                f"it has: {', '.join(names)}",
            )
        self.schemas = tuple(
            schema for schema in found if chosen is None or schema["function"]["name"] in chosen
        )

    def open(self) -> OpenServer:
        """Starts no process yet."""
        return OpenServer(self)

    async def _list(self) -> list[dict[str, Any]]:
        async with Connection(self._spec, self._parameters) as connection:
            tools, cursor = [], None
            while True:
                page = await asyncio.wait_for(
                    connection.client.list_tools(cursor=cursor, cache_mode="bypass"), _START_S
                )
                tools += page.tools
                cursor = page.next_cursor
                if cursor is None:
                    break
        try:
            return [
                function_schema(tool.name, tool.description or "", inline(tool.input_schema))
                for tool in tools
            ]
        except ValueError as error:
            raise UserError(
                f"tools {self._spec!r}: {error}",
                "chat templates cannot express that; leave the tool out: `mcp[name,name]: …`",
            ) from error

    def connection(self) -> Connection:
        """A new process, once it is entered."""
        return Connection(self._spec, self._parameters)


class Connection:
    """A process of a server, and the client that talks to it; `async with` starts and ends it."""

    client: Client

    def __init__(self, spec: str, parameters: StdioServerParameters) -> None:
        self._spec, self._parameters = spec, parameters
        self._stop = asyncio.Event()

    async def __aenter__(self) -> Connection:
        """Raises UserError where the server does not start."""
        ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        with tempfile.TemporaryFile("w+", errors="replace") as complaints:
            self._task = asyncio.create_task(self._run(ready, complaints))
            try:
                await asyncio.wait(
                    (ready, self._task), timeout=_START_S, return_when=asyncio.FIRST_COMPLETED
                )
            except asyncio.CancelledError:
                self._task.cancel()
                raise
            if ready.done():
                self.client = ready.result()
                return self
            error = self._task.exception() if self._task.done() else None
            self._task.cancel()
            await asyncio.wait([self._task])
            complaints.seek(0)
            said = complaints.read()[-2000:].strip()
        why = _innermost(error) if error else f"it did not answer within {_START_S:g} s"
        raise UserError(
            f"tools {self._spec!r}: the server did not start: {why}"
            + (f"; it wrote: {said}" if said else ""),
            "run its command in the folder of the spec to see why",
        )

    def stop(self) -> None:
        """Ends it, without waiting for its end; call it in the thread of its event loop."""
        self._stop.set()

    async def __aexit__(self, *error: object) -> None:
        """Ends the server with everything that it started."""
        self._stop.set()
        await asyncio.wait([self._task])

    async def _run(self, ready: asyncio.Future[Client], complaints: TextIO) -> None:
        from mcp import Client, stdio_client

        # One task enters and leaves it: its cancel scopes belong to a task.
        async with Client(stdio_client(self._parameters, complaints)) as client:
            ready.set_result(client)
            await self._stop.wait()


class OpenServer:
    """A server during one episode."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._connection: Connection | None = None
        self._starting = asyncio.Lock()
        self._closed = False

    async def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """The content of the server's result. Raises ToolError where the server says so."""
        work = self._call(name, dict(arguments))
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, _loop(os.getpid())))

    def close(self) -> None:
        """Ends the server, without waiting for its end."""
        self._closed = True
        if self._connection is not None:
            _loop(os.getpid()).call_soon_threadsafe(self._connection.stop)

    async def _call(self, name: str, arguments: dict[str, Any]) -> str:
        from mcp import MCPError
        from mcp.types import CONNECTION_CLOSED

        connection = await self._connect()
        try:
            result = await connection.client.call_tool(name, arguments)
        except MCPError as error:
            if error.error.code != CONNECTION_CLOSED:
                raise ToolError(error.error.message) from error
            self._connection = None
            await connection.__aexit__()
            raise ToolError(
                "The tool's server has ended. The next call starts a new one."
            ) from error
        text = _content(result)
        if result.is_error:
            raise ToolError(text)
        return text

    async def _connect(self) -> Connection:
        async with self._starting:
            if self._connection is None:
                self._connection = await self._server.connection().__aenter__()
            if self._closed:
                self._connection.stop()
                raise ToolError("the episode has ended")
            return self._connection


def _parse(spec: str, folder: Path) -> tuple[list[str] | None, StdioServerParameters]:
    """The names of the tools that are chosen, None for all, and how to start the server."""
    try:
        from mcp import StdioServerParameters
    except ImportError as error:
        raise UserError(
            f"tools {spec!r}: {error}", "install it: pip install 'drpo[mcp]'"
        ) from error
    match = _SPEC.fullmatch(spec)
    assert match is not None
    chosen = match[1] and [name.strip() for name in match[1].split(",") if name.strip()]
    try:
        words = shlex.split(match[2])
    except ValueError as error:
        raise UserError(f"tools {spec!r}: {error}", "close the quotes") from error
    environment = {}
    while words and (variable := _VARIABLE.fullmatch(words[0])):
        environment[variable[1]] = _expand(variable[2], spec)
        words.pop(0)
    if not words:
        raise UserError(f"tools {spec!r} has no command", f"write it, as in: {_EXAMPLE}")
    command, *arguments = words
    parameters = StdioServerParameters(
        command=command, args=arguments, env=environment, cwd=folder.resolve()
    )
    return chosen or None, parameters


def _expand(value: str, spec: str) -> str:
    name = value.removeprefix("$")
    if name == value:
        return value
    if name not in os.environ:
        raise UserError(f"tools {spec!r}: the environment has no variable {name!r}", "export it")
    return os.environ[name]


def _content(result: CallToolResult) -> str:
    """Text as it is, and a note for each content of another kind."""
    parts = []
    for block in result.content:
        if block.type == "text":
            parts.append(block.text)
        elif block.type == "resource":
            text = getattr(block.resource, "text", None)
            parts.append(text if text is not None else f"[data: {block.resource.uri}]")
        elif block.type == "resource_link":
            parts.append(f"[link: {block.uri}]")
        else:
            parts.append(f"[{block.type}: {block.mime_type}]")
    return "\n".join(parts)


def _innermost(error: BaseException) -> str:
    """The message of an error without the groups that it is in."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


def _in_a_thread(work: Coroutine[Any, Any, T]) -> T:
    """Runs it in an event loop of its own: the caller may have one, and may fork afterwards."""
    found: list[T] = []
    failed: list[UserError] = []

    def run() -> None:
        try:
            found.append(asyncio.run(work))
        except UserError as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="mcp")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


@lru_cache
def _loop(pid: int) -> asyncio.AbstractEventLoop:
    """The event loop of this process's clients, in a thread of its own."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="mcp", daemon=True).start()
    return loop

"""Servers of the Model Context Protocol as tools: a real one, written with the same package."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drpo_cli.environments.toolkit.toolbox import Result, Toolbox, Tools
from drpo_cli.errors import UserError
from drpo_cli.types import ToolCall
from support.sandboxes import until

pytest.importorskip("mcp")

SERVER = '''
import os
import time
from pathlib import Path

from mcp.server import MCPServer
from mcp.types import ImageContent
from pydantic import BaseModel

server = MCPServer("notes")
notes: list[str] = []
(Path("started") / str(os.getpid())).touch()
while Path("hang").exists():
    time.sleep(0.01)


class Note(BaseModel):
    text: str
    title: str | None = None


@server.tool()
def add(note: Note, times: int = 1) -> int:
    """Adds a note, and says how many there are."""
    notes.extend([note.text] * times)
    return len(notes)


@server.tool()
def where() -> dict[str, str]:
    """Says where it runs."""
    names = " ".join(os.environ)
    return {"folder": os.getcwd(), "token": os.environ.get("TOKEN", ""), "names": names}


@server.tool()
def crash() -> str:
    """Ends the server."""
    os._exit(3)


@server.tool()
def picture() -> ImageContent:
    """Draws."""
    return ImageContent(data="AAAA", mime_type="image/png")


server.run()
'''
COMMAND = f"'{sys.executable}' server.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("servers")
    (found / "server.py").write_text(SERVER)
    (found / "started").mkdir()
    return found


@pytest.fixture(scope="module")
def box(folder: Path) -> Iterator[Toolbox]:
    os.environ["MY_TOKEN"] = "sesame"
    yield Toolbox([f"mcp: TOKEN=$MY_TOKEN {COMMAND}"], folder)
    del os.environ["MY_TOKEN"]
    assert until(lambda: alive(folder) == [])


def alive(folder: Path) -> list[int]:
    """The servers that run, of all that were started in this folder."""
    pids = [int(path.name) for path in (folder / "started").iterdir()]
    return [pid for pid in pids if Path(f"/proc/{pid}/stat").exists()]


def call(tools: Tools, name: str, **arguments: Any) -> Result:
    return asyncio.run(tools.call(ToolCall(name, arguments)))


def test_its_tools_have_schemas_without_references(box: Toolbox, folder: Path) -> None:
    assert alive(folder) == []  # it was ended once its tools were listed
    first = box.schemas[0]["function"]
    assert first["name"] == "add"
    assert first["description"] == "Adds a note, and says how many there are."
    assert first["parameters"]["required"] == ["note"]
    note = {
        "type": "object",
        "properties": {"text": {"type": "string"}, "title": {"type": "string", "nullable": True}},
        "required": ["text"],
    }
    assert first["parameters"]["properties"] == {
        "note": note,
        "times": {"type": "integer", "default": 1},
    }


def test_an_episode_has_a_server_of_its_own(box: Toolbox, folder: Path) -> None:
    first, second = box.open(), box.open()
    note = {"text": "a"}
    assert call(first, "add", note=note, times=3) == Result("3")
    assert call(first, "add", note=note).text == "4"
    assert call(second, "add", note=note).text == "1"
    assert len(alive(folder)) == 2
    told = json.loads(call(first, "where").text)
    assert told["folder"] == str(folder) and told["token"] == "sesame"
    assert "MY_TOKEN" not in told["names"].split()  # the environment may hold secrets
    assert call(first, "picture").text == "[image: image/png]"
    wrong = call(first, "add", note={"txt": "a"})
    assert wrong.failed and "note.text" in wrong.text and "Field required" in wrong.text
    first.close()
    second.close()
    assert until(lambda: alive(folder) == [])
    assert call(first, "where").text == "the episode has ended"


def test_a_server_that_ends_is_started_again(box: Toolbox, folder: Path) -> None:
    tools = box.open()
    assert call(tools, "add", note={"text": "a"}).text == "1"
    crashed = call(tools, "crash")
    assert crashed.failed
    assert crashed.text == "The tool's server has ended. The next call starts a new one."
    assert call(tools, "add", note={"text": "a"}).text == "1"
    (pid,) = alive(folder)
    os.kill(pid, signal.SIGKILL)
    assert until(lambda: alive(folder) == [])
    assert call(tools, "add", note={"text": "a"}).failed
    assert tools.counts["tool_errors/add"] == 1
    tools.close()


def test_a_start_that_nobody_waits_for_is_ended(box: Toolbox, folder: Path) -> None:
    tools = box.open()
    (folder / "hang").touch()
    before = set((folder / "started").iterdir())

    async def call_and_give_up() -> None:
        running = asyncio.create_task(tools.call(ToolCall("where", {})))
        while set((folder / "started").iterdir()) == before:
            await asyncio.sleep(0.01)
        running.cancel()
        await running

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(call_and_give_up())
    assert until(lambda: alive(folder) == [])
    (folder / "hang").unlink()
    assert not call(tools, "where").failed
    tools.close()


def test_some_of_its_tools_can_be_chosen(folder: Path) -> None:
    box = Toolbox(["calculator", f"mcp[crash, where]: {COMMAND}"], folder)
    names = [schema["function"]["name"] for schema in box.schemas]
    assert names == ["calculator", "where", "crash"]
    assert (
        Toolbox(["calculator", f"mcp: {COMMAND}"], folder, start=False).schemas == (box.schemas[:1])
    )


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("mcp: no-such-command here", "did not start: FileNotFoundError: "),
        (
            f"mcp: {sys.executable} -c 'exit(\"no key\")'",
            "Connection closed; it wrote: no key; run",
        ),
        ("mcp:", "has no command; write it, as in: "),
        ("mcp: TOKEN=$ABSENT_TOKEN server", "the environment has no variable 'ABSENT_TOKEN'"),
        ("mcp: 'server", "No closing quotation"),
        (f"mcp[ad]: {COMMAND}", "the server has no 'ad'; it has: add, where, crash, picture"),
    ],
)
def test_a_server_that_cannot_be_used_is_named_with_the_reason(
    folder: Path, spec: str, words: str
) -> None:
    with pytest.raises(UserError) as raised:
        Toolbox([spec], folder)
    assert f"tools {spec!r}" in str(raised.value) and words in str(raised.value)


def test_a_fork_of_the_process_that_listed_the_tools_can_call_them(
    box: Toolbox, folder: Path
) -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        tools = box.open()
        os.write(write, call(tools, "add", note={"text": "a"}).text.encode())
        tools.close()
        until(lambda: alive(folder) == [])
        os._exit(0)
    os.close(write)
    assert os.read(read, 100) == b"1"
    os.waitpid(pid, 0)
    os.close(read)

"""What reaches a terminal, and streams that are closed, full, or of another encoding."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from drpo_cli.console import open_console
from drpo_cli.runs.folder import RunFolder
from drpo_cli.terminal import printable
from support.reports import whole_run
from support.terminal import on_terminal

CLEAR, CLIPBOARD, TITLE = "\x1b[2J\x1b[H", "\x1b]52;c;cm0gLXJmIH4=\x07", "\x1b]0;owned\x07"
HOSTILE = f"{CLEAR}{CLIPBOARD}{TITLE}\x9b31m\x9d0;x\x9c\x7f\x08\r\u202e\u2066\u200b\ud800[red]x[/]"
COMMANDS = re.compile(rb"\x1b\](?:52|0);|\x1b\[2J\x1b\[H|\x9b|\x7f|\x08")
STYLES = re.compile(rb"\x1b\[[\d;?]*[a-zA-Z]")  # of our own views


def harmful(written: bytes) -> list[str]:
    """What commands a terminal, besides colours, cursor moves and newlines."""
    text = STYLES.sub(b"", written).decode("utf-8", "surrogateescape")
    return [repr(c) for c in text if printable(c) != c and c != "\r"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose names, samples, events and spec all command the terminal."""
    path = tmp_path_factory.mktemp("x") / f"a{CLEAR}b"
    run = whole_run(path, 4, samples=2)
    for file in (run.metrics, run.samples):
        parts = re.split("readable|step 1|prompt 1", file.read_text())
        file.write_text(json.dumps(HOSTILE)[1:-1].join(parts))
    run.events.write_text(
        "".join(
            json.dumps({"time": 1.0, "text": HOSTILE, "state": state}) + "\n"
            for state in ("starting", "failed")
        )
    )
    name = json.dumps(HOSTILE.replace("\ud800", ""))
    run.spec.write_text(
        f"[run]\nname = {name}\nsteps = 4\n[model]\npath = {name}\n[objective]\ntype = {name}\n"
        f"[[reward]]\ntype = {name}\n",
        encoding="utf-8",
    )
    return path


def test_text_of_others_is_shown_and_commands_nothing() -> None:
    assert printable("a\tb\né漢 👩‍🚀 می‌خواهم") == "a\tb\né漢 👩‍🚀 می‌خواهم"
    assert (
        printable("\x1b[2J\x7f\x9b\r\u202e\ud800")
        == "\\u001b[2J\\u007f\\u009b\\u000d\\u202e\\ud800"
    )
    assert json.loads(f'"{printable(chr(0x7F))}"') == "\x7f"


@given(st.text(), st.text())
def test_no_text_gets_through_a_console(text: str, other: str) -> None:
    table = Table("heading", text, title=text, caption=other)
    table.add_row(text, Text(other, "red"))
    stream = io.StringIO()
    console = open_console(stream, 80, force_terminal=True, color_system="standard")
    console.print(text, table, Text(other))
    assert not harmful(stream.getvalue().encode("utf-8", "surrogatepass"))


def test_markup_and_emoji_of_others_are_text() -> None:
    stream = io.StringIO()
    table = Table("[link=http://x]y[/link]")
    table.add_row("[/] [red]a[/red] :bomb:")
    open_console(stream, 80).print(table, "[/nothing]")
    for text in ("[link=http://x]y[/link]", "[/] [red]a[/red] :bomb:", "[/nothing]"):
        assert text in stream.getvalue()


@pytest.mark.parametrize(
    "arguments",
    [
        ["watch", "RUN"],
        ["watch", "RUN", "RUN/../other", "--once"],
        ["runs", "RUN/.."],
        ["runs", "diff", "RUN", "RUN/../other"],
        ["report", "RUN", "--out", "RUN/gone/x.html"],
        ["check", "RUN/spec.toml"],
        ["check", f"gone{CLIPBOARD}.toml"],
        ["check", "RUN/spec.toml", "--set", f"run.x{TITLE}=[red]"],
        ["train", "RUN/spec.toml", f"--{TITLE}"],
        [f"chekc{CLEAR}\x9b"],
        ["track", "RUN"],
        ["init", f"RUN/events.jsonl/{TITLE}"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]).encode("ascii", "ignore").decode()[:20],
)
def test_no_verb_passes_a_command_on_to_the_terminal(folder: Path, arguments: list[str]) -> None:
    other = folder.parent / "other"
    if not other.exists():
        whole_run(other, 4, samples=2)
    words = [word.replace("RUN", str(folder)) for word in arguments]
    with on_terminal(*words, size=(200, 50)) as terminal:
        code = terminal.end()
    assert code in (0, 1, 2) and b"Traceback" not in terminal.written, terminal.text
    assert not COMMANDS.search(terminal.written) and not harmful(terminal.written)
    assert re.search(rb"\\u001b|\\x1b", terminal.written) or code == 0


def test_a_bug_shows_its_text_harmlessly() -> None:
    code = (
        "import sys, warnings, logging; from drpo_cli import cli\n"
        "def bug(**_):\n"
        f"    warnings.warn({HOSTILE!r}); logging.warning({HOSTILE!r})\n"
        f"    raise RuntimeError({HOSTILE!r})\n"
        "cli.app = bug; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert done.returncode == 1 and done.stderr.count(b"\\u001b[2J") == 3
    assert b"\x1b" not in done.stderr and b"\x9b" not in done.stderr


def run_with(
    closed: tuple[int, ...], *arguments: object, environment: Mapping[str, str] = {}
) -> tuple[int, bytes]:
    """Runs `drpo` with these of its standard streams closed; its exit code, and what it prints."""
    moves = " ".join(f"{number}>&-" for number in closed)
    script = f'exec "$@" {moves}'
    done = subprocess.run(
        ["sh", "-c", script, "sh", sys.executable, "-m", "drpo_cli", *map(str, arguments)],
        capture_output=True,
        env={**os.environ, **environment},
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "closed", [each for n in (1, 2, 3) for each in combinations(range(3), n)], ids=str
)
def test_closed_streams_change_nothing_but_what_is_seen(
    folder: Path, tmp_path: Path, closed: tuple[int, ...]
) -> None:
    picture = tmp_path / "run.svg"
    code, printed = run_with(closed, "watch", folder, "--out", picture)
    assert code == 0 and b"Error" not in printed
    ElementTree.fromstring(picture.read_text())  # nothing was printed into it
    code, printed = run_with(closed, "check", folder / "spec.toml")
    assert code == 2 and b"Error" not in printed


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"TERM": "dumb"},
        {"COLUMNS": "1"},
        {"COLUMNS": "0"},
        {"NO_COLOR": "1", "TERM": ""},
    ],
    ids=str,
)
def test_any_encoding_and_size_prints(folder: Path, environment: Mapping[str, str]) -> None:
    other = folder.parent / "other"
    if not other.exists():
        whole_run(other, 4, samples=2)
    for arguments in (["runs", folder.parent], [f"chekc{CLEAR}é→"]):
        code, printed = run_with((), *arguments, environment=environment)
        assert code == (0 if arguments[0] == "runs" else 2) and b"Error: " not in printed[:1]
        assert b"Traceback" not in printed and b"\x1b" not in printed


def test_a_reader_that_leaves_ends_the_verb_quietly(folder: Path) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    command = [sys.executable, "-m", "drpo_cli", "runs", str(folder.parent)]
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("broken", ["1", "2", "12"])
def test_output_without_room(folder: Path, broken: str) -> None:
    moves = "".join(f" {number}>/dev/full" for number in broken)
    arguments = ("runs", folder.parent) if broken != "2" else ("check", "gone.toml")
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {moves}', "sh", sys.executable, "-m", "drpo_cli", *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    said = "error: the output: the disk is full; free some space and try again\n"
    assert done.stderr == (said if broken == "1" else "")


def test_a_machine_that_says_no_gets_one_message(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "drpo_cli", "runs", "x" * 300], capture_output=True, text=True
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: xxx") and "File name too long" in done.stderr
    assert RunFolder(tmp_path).exists() is False

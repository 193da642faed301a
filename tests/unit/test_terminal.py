"""What reaches a terminal, and streams that are closed, full, or of another encoding."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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


REWARDS = """
def quoting(completion):
    raise ValueError(f"cannot read {completion!s}")
"""
SPEC = """
[run]
name = "test"
steps = 1
[model]
path = "model"
[[data]]
type = "jsonl"
path = "rows.jsonl"
[rollout]
engine = "transformers"
prompts_per_step = 1
[[reward]]
type = "./rewards.py:quoting"
on_error = "skip_sample"
[[reward]]
type = "http"
url = "URL"
on_error = "skip_sample"
[eval]
problems = 1
"""


class Replies(BaseHTTPRequestHandler):
    """A scorer that answers with what commands a terminal."""

    def do_POST(self) -> None:
        body = HOSTILE.encode("utf-8", "replace")
        self.send_response_only(400, "no \x1b[2J")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Prints nothing."""


def test_samples_exceptions_and_replies_command_nothing(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Replies)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "rewards.py").write_text(REWARDS)
    url = f"http://127.0.0.1:{server.server_port}/"
    (tmp_path / "run.toml").write_text(SPEC.replace("URL", url))
    text = HOSTILE.replace("\ud800", "")
    line = json.dumps({"prompt": text, "completion": text})
    (tmp_path / "rows.jsonl").write_text(f"{line}\n" * 3)
    (tmp_path / "samples.jsonl").write_text(line + "\n")
    words = ("reward", "test", tmp_path / "run.toml", "--samples", tmp_path / "samples.jsonl")
    with on_terminal(*words, size=(150, 50)) as terminal:
        assert terminal.end() == 1, terminal.text
    assert not COMMANDS.search(terminal.written) and not harmful(terminal.written)
    assert "cannot read" in terminal.text and "answered 400" in terminal.text
    assert terminal.text.count("\\u001b") > 2
    server.shutdown()


def test_what_the_launcher_relays_of_its_ranks_commands_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from drpo_cli.launch.monitor import divert_output\n"
        f"with divert_output(Path('log')) as streams:\n"
        f"    for stream in streams: stream.write({HOSTILE!r} + '\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=tmp_path)
    assert done.returncode == 0 and not harmful(done.stdout + done.stderr)
    assert done.stdout == done.stderr and done.stdout.startswith(b"\\u001b[2J")


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
    assert done.stderr.count("\n") == (broken == "1")
    assert broken != "1" or done.stderr.startswith("error: the output: the disk is full; free some")


def test_a_machine_that_says_no_gets_one_message(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "drpo_cli", "runs", "x" * 300], capture_output=True, text=True
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: xxx") and "too long" in done.stderr
    assert RunFolder(tmp_path).exists() is False

"""`drpo train` and `drpo watch` on terminals of their own: what their screens really show."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path
from threading import Timer

from rich.cells import cell_len

from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.metrics import EventRecord, SampleRecord, StepMetrics
from drpo_cli.runs.saved import open_run
from support.command import drpo, records
from support.terminal import QUIET, Terminal, on_terminal

CHATTY = """
import sys


def chatty(completion):
    print("a line for the log", flush=True)
    sys.stderr.write("another line for the log\\n")
    return len(set(completion)) / 10
"""
LONG = ("--set", "run.steps=100000", "--set", "checkpoint.every=0", "--set", "eval.every=0")
ALTERNATE, NORMAL = b"\x1b[?1049h", b"\x1b[?1049l"
SHOWN, HIDDEN = b"\x1b[?25h", b"\x1b[?25l"  # the cursor


def step(screen: str) -> int:
    """The step that the second line of the screen tells."""
    found = re.search(r"step (\d+)/", screen)
    return int(found[1]) if found else -1


def beyond(terminal: Terminal, least: int) -> str:
    return terminal.until(lambda screen: step(screen) > least)


def is_clean(screen: str, width: int) -> bool:
    """Whether a frame of this width, and nothing else, is on the screen."""
    rows = screen.splitlines()
    whole = cell_len(rows[0]) == width and rows[0].startswith("small ")
    return whole and rows[0].endswith(" running") and screen.count(" running") == 1


def test_a_screen_is_read_to_the_end_of_its_frame() -> None:
    output, own = os.pipe()
    with subprocess.Popen(["true"]) as process:
        terminal = Terminal(process, output, 80, 24)
    os.write(own, b"step 4/9\r\n")
    rest = Timer(QUIET / 5, lambda: os.write(own, b"the rest"))
    rest.start()
    assert terminal.until(lambda screen: step(screen) == 4).splitlines()[1] == "the rest"
    rest.join()
    os.close(output)
    os.close(own)


def test_a_run_in_a_terminal_that_is_resized_and_watched_from_another(small: Path) -> None:
    run = RunFolder(small.parent / "runs" / "small")
    (small.parent / "rewards.py").write_text(CHATTY)
    chatty = ("--set", 'reward[0]={type="./rewards.py:chatty"}', "--set", "run.report_every=5")
    with on_terminal("train", small, *LONG, *chatty) as mine:
        seen = beyond(mine, 3)
        assert mine.written.count(ALTERNATE) == 1
        rows = seen.splitlines()
        assert rows[0].startswith("small  drpo on ") and rows[0].endswith(" running")
        assert cell_len(rows[0]) == 80
        for expected in ("held-out score", "|π−μ| p99", "R rollout", "tokens/s", "best ", "worst "):
            assert expected in seen
        with on_terminal("watch", run.path, size=(20, 10)) as other:
            narrow = beyond(other, step(seen))
            assert narrow.splitlines()[0].split() == ["small", "running"]
            mine.resize(60, 12)
            # frames of the old size come first, as far as they were written already
            after = mine.until(lambda screen: step(screen) > step(narrow) and is_clean(screen, 60))
            assert "held-out score" in after
            other.type(b"\x03")
            assert other.end() == 130
            assert other.written.count(NORMAL) == 1
            assert other.written.rindex(SHOWN) > other.written.rindex(HIDDEN)
        deadline = time.monotonic() + 60
        while not run.report.exists():  # while it goes on
            assert time.monotonic() < deadline, mine.text
            mine.until(lambda screen: step(screen) > step(after))
        beyond(mine, records(run.metrics)[-1]["step"])  # and it went on
        with on_terminal("watch", run.path) as other:
            beyond(other, 0)
            mine.type(b"\x03")
            assert (mine.end(), other.end()) == (130, 0)
    saved = open_run(run.path)
    assert {key for record in saved.metrics for key in record} <= StepMetrics.__annotations__.keys()
    of_episodes = {"environment", "messages", "turns", "end", "failure", "info", "counts", "rows"}
    kept = {key for each in saved.samples() for key in each}
    assert kept == SampleRecord.__annotations__.keys() - of_episodes
    assert {key for event in saved.events for key in event} <= EventRecord.__annotations__.keys()
    assert (saved.state, saved.notes) == ("stopped", ())
    last = saved.last_step
    for terminal in (mine, other):
        assert NORMAL in terminal.written
        flat = terminal.text.replace("\n", "")
        assert f"stopped by SIGINT after step {last}; continue with --resume" in flat
        assert f"report: {run.report}" in flat
    assert b"for the log" not in mine.written
    assert run.log(0).read_text().count("another line for the log") > 16


def test_the_error_of_a_rank_is_shown_with_its_rank_while_another_still_works(small: Path) -> None:
    (small.parent / "rewards.py").write_text(
        "import os, time\n\n\ndef broken(completion):\n"
        "    while os.environ['RANK'] == '0':\n        time.sleep(1)\n    return {}['key']\n"
    )
    options = ("--set", 'reward[0]={type="./rewards.py:broken", timeout_s=600}', "--nproc", "2")
    with on_terminal("train", small, *options) as terminal:
        said = terminal.until(lambda screen: "error: rank 1: reward 'broken'" in screen)
        assert terminal.process.poll() is None
        assert "KeyError: 'key'" in said.replace("\n", "") and "Traceback" not in said
        terminal.process.kill()
        terminal.end()
    seen = drpo("watch", small.parent / "runs" / "small")
    assert seen.returncode == 0
    assert "rank 1 failed: reward 'broken'" in seen.stdout


def test_watch_says_what_is_no_run(small: Path) -> None:
    for arguments in ([small.parent], [small.parent, small], [small.parent / "nowhere"]):
        done = drpo("watch", *arguments)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert "not a run folder: it has no spec.toml" in done.stderr


def test_a_run_that_was_stopped_before_its_engine_is_up_is_told(small: Path) -> None:
    with on_terminal("train", small, *LONG) as terminal:
        terminal.until(lambda screen: "starting 1 process" in screen)
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.end() == 143
        assert "stopped by SIGTERM before it could save" in terminal.text.replace("\n", "")

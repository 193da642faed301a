"""Faults of the machine change nothing: a run that is killed, frozen or starved equals another."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from drpo_cli.runs.folder import RunFolder

ROOT = Path(__file__).parents[2]


def test_a_short_soak() -> None:
    """Five kills at random instants first, then other faults: the ends are equal bit for bit."""
    command = [sys.executable, "-m", "support.soak", "--kinds", "warm", "--minutes", "0.1"]
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every run equals the undisturbed one" in done.stdout
    kills = re.findall(r"kill_rank +ended with -9, resumed +(\d+)", done.stdout)
    assert int(kills[0]) >= 5, done.stdout


RANKS = """
import os, signal, sys, time
from pathlib import Path
from drpo_cli.launch import launch_log
from drpo_cli.launch.failures import Failures
from drpo_cli.launch.launcher import run_ranks
from drpo_cli.launch.monitor import Monitor, divert_output
from drpo_cli import processes
from drpo_cli.runs.folder import RunFolder

rank = '''
import os, signal, sys, time
from pathlib import Path
from drpo_cli import processes
from drpo_cli.runs.folder import RunFolder
processes.die_with_parent()
folder, mode = RunFolder(Path(sys.argv[1])), Path(sys.argv[1], "mode").read_text()
if os.environ["RANK"] == "1" and mode == "stopped":
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(60)
if os.environ["RANK"] == "1":
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.pause()  # until its neighbour is dead
    folder.record_error(1, 1, "Traceback: Connection closed by peer")
    sys.exit(1)
while not (folder.path / "fail").exists():
    time.sleep(0.05)
os.kill(os.getpid(), signal.SIGKILL)
'''
folder = RunFolder(Path(sys.argv[1]))
processes.python = lambda module, path: [sys.executable, "-c", rank, str(path)]
with divert_output(launch_log(folder)) as (out, err):
    with Monitor(Failures(folder, 2), 0, out, err) as monitor:
        code, message = run_ranks(Failures(folder, 2), 1)
        monitor.show(message)
sys.exit(code)
"""


def launch(folder: Path, mode: str) -> subprocess.Popen[str]:
    (folder / "logs").mkdir()
    (folder / "mode").write_text(mode)
    return subprocess.Popen(
        [sys.executable, "-c", RANKS, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_a_stopped_rank_is_named_and_does_not_outlive_a_failure(tmp_path: Path) -> None:
    """Without this the launcher waits an hour for a rank that cannot act on its SIGTERM."""
    run = RunFolder(tmp_path)
    with launch(tmp_path, "stopped") as launched:
        try:
            until = time.monotonic() + 60
            while not run.events.is_file() and time.monotonic() < until:
                time.sleep(0.1)
            assert "rank 1 is stopped (SIGSTOP)" in run.events.read_text()
            (tmp_path / "fail").touch()
            out, err = launched.communicate(timeout=60)
        finally:
            launched.kill()  # its ranks die with it, also a stopped one
    assert launched.returncode == 1
    assert "rank 0 was killed (SIGKILL)" in err and "memory" in err
    assert "kill -CONT" in out


def test_a_killed_rank_is_the_reason_and_not_what_its_neighbour_met(tmp_path: Path) -> None:
    (tmp_path / "fail").touch()
    with launch(tmp_path, "waiting") as launched:
        try:
            _, err = launched.communicate(timeout=60)
        finally:
            launched.kill()
    assert launched.returncode == 1
    assert "rank 0 was killed (SIGKILL)" in err.splitlines()[-1]

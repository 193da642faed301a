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
processes.die_with_parent()
if os.environ["RANK"] == "1":
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(60)
while not Path(sys.argv[1], "fail").exists():
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


def test_a_stopped_rank_is_named_and_does_not_outlive_a_failure(tmp_path: Path) -> None:
    """Without this the launcher waits an hour for a rank that cannot act on its SIGTERM."""
    run = RunFolder(tmp_path)
    (tmp_path / "logs").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", RANKS, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as launched:
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

"""Faults of the machine change nothing: a run that is killed, frozen or starved equals another."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random

import psutil
import pytest

from drpo_cli.errors import UserError
from drpo_cli.runs.folder import RunFolder
from support import faults
from support.faults import Attempt

ROOT = Path(__file__).parents[2]
HANG_S = 8  # of ranks that do nothing which could take long


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


RANK = """
import ctypes, os, signal, sys, time, types
from pathlib import Path
from drpo_cli import progress
from drpo_cli.launch import worker
from drpo_cli.runs.folder import RunFolder
mode, rank = Path(sys.argv[1], "mode").read_text(), os.environ["RANK"]
def run(folder):
    progress.enter("reward", 12)
    if mode == "hanging" and rank == "1":
        time.sleep(3600)
    while b"reward" not in folder.beat(int(rank)).read_bytes():
        time.sleep(0.1)
    while mode == "hanging" and rank == "2":
        ctypes.PyDLL(None).sleep(3600)  # keeps the interpreter, so that no other thread runs
    progress.enter("train")
    if mode == "hanging":
        time.sleep(3600)
    if mode == "stopped" and rank == "1":
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(60)
    if rank == "1":
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.pause()  # until its neighbour is dead
        raise RuntimeError("Connection closed by peer")
    while not (folder.path / "fail").exists():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)
sys.modules["drpo_cli.step.loop"] = types.SimpleNamespace(run=run)
sys.exit(worker.main(RunFolder(Path(sys.argv[1]))))
"""
RANKS = """
import sys
from pathlib import Path
from drpo_cli.launch import launch_log
from drpo_cli.launch.failures import Failures
from drpo_cli.launch.launcher import run_ranks
from drpo_cli.launch.monitor import Monitor, divert_output
from drpo_cli import processes
from drpo_cli.runs.folder import RunFolder

folder, world = RunFolder(Path(sys.argv[1])), int(sys.argv[2])
processes.python = lambda module, path: [sys.executable, "-c", sys.argv[3], str(path)]
failures = Failures(folder, world)
with divert_output(launch_log(folder)) as (out, err):
    with Monitor(failures, 0, out, err) as monitor:
        code, message = run_ranks(failures, 1)
        monitor.show(message)
sys.exit(code)
"""


def prepare(folder: Path, mode: str) -> None:
    (folder / "logs").mkdir()
    (folder / "mode").write_text(mode)
    (folder / "spec.toml").write_text(f"[run]\nname = 'x'\nhang_s = {HANG_S}\n")


def launch(folder: Path, mode: str, ranks: int = 2) -> subprocess.Popen[str]:
    prepare(folder, mode)
    return subprocess.Popen(
        [sys.executable, "-c", RANKS, str(folder), str(ranks), RANK],
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


def test_ranks_that_hang_are_named_and_ended_with_their_stacks(tmp_path: Path) -> None:
    """One sleeps, one keeps the interpreter for itself, and the third waits for both."""
    run = RunFolder(tmp_path)
    with launch(tmp_path, "hanging", 3) as launched:
        try:
            out, err = launched.communicate(timeout=120)
        finally:
            launched.kill()
    assert launched.returncode == 1
    assert re.search(
        r"error: the run hangs: rank 0 waits in train \(step 12, .*\) since \d+ s for "
        r"ranks 1 and 2, which are in reward \(step 12, .*the stack of every rank is in its log",
        err,
    )
    assert "no progress: rank 0 waits in train" in out  # at half the time
    assert all("in run\n" in run.log(rank).read_text() for rank in range(3))
    assert not [one for one in psutil.process_iter() if str(tmp_path) in " ".join(words(one))]


def test_without_a_launcher_ranks_watch_themselves(tmp_path: Path) -> None:
    """As in a job that torchrun or SLURM started."""
    prepare(tmp_path, "hanging")
    run, ranks = RunFolder(tmp_path), range(2)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(tmp_path)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "WORLD_SIZE": "2"}
            | dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)),
        )
        for rank in ranks
    ]
    try:
        assert [one.wait(60) for one in started] == [1, 1]
    finally:
        for one in started:
            one.kill()
    text = "the run hangs: rank 0 waits in train (step 12, main) since "
    assert text in json.loads(run.error(1).read_text())["message"]
    assert all("in run\n" in run.log(rank).read_text() for rank in ranks)


def words(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return list(process.cmdline())
    return []


def test_a_killed_rank_is_the_reason_and_not_what_its_neighbour_met(tmp_path: Path) -> None:
    (tmp_path / "fail").touch()
    with launch(tmp_path, "waiting") as launched:
        try:
            _, err = launched.communicate(timeout=60)
        finally:
            launched.kill()
    assert launched.returncode == 1
    assert "rank 0 was killed (SIGKILL)" in err.splitlines()[-1]


def test_a_run_that_lets_go_of_its_folder_meanwhile_is_no_second_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has trained writes its report without the lock, and is not over yet."""
    folder = RunFolder(tmp_path)
    attempt, parts = Attempt(folder, os.getpid(), lambda: False), ExitStack()

    def prepare(*_: object, **__: object) -> None:
        parts.close()
        raise UserError(f"{tmp_path} is finished after 6 steps")

    monkeypatch.setattr(faults, "load", lambda _: None)
    monkeypatch.setattr("support.faults.launcher.prepare", prepare)
    with parts:
        parts.enter_context(folder.lock())
        faults.start_a_second(attempt, Random(0))
    with folder.lock(), pytest.raises(AssertionError, match="finished"):
        faults.start_a_second(attempt, Random(0))

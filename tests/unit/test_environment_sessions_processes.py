"""The processes of environments: when they start, and what is left of them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from drpo_cli.environments.sessions.pool import Answer
from drpo_cli.errors import UserError
from drpo_cli.types import Action
from support.environments import Own, opened, result, row, texts
from support.rewards import descendants, is_alive, numbers_in, wait_until_gone


@pytest.fixture
def own(tmp_path: Path) -> Own:
    return Own(tmp_path)


FAMILY = """
import os, subprocess, sys, time
class Env:
    def start(self, row, rng):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
        with open(row.prompt, "a") as file: print(os.getpid(), child.pid, file=file)
        return "x"
    def step(self, action: str) -> Step: time.sleep(1000)
"""


@pytest.mark.parametrize("how", ["closed", "killed"])
def test_no_process_is_left(own: Own, tmp_path: Path, how: str) -> None:
    before, pids = set(descendants()), tmp_path / "pids"
    with opened(own(FAMILY, workers=2)) as pool:
        sessions = [pool.open(0, row(str(pids)), n) for n in range(3)]
        first = [result(session.first) for session in sessions[:2]]
        assert all(answer.failure is None for answer in first)
        futures = [session.step(Action("x")) for session in sessions[:2]] + [sessions[2].first]
        mine = set(descendants()) - before
        assert set(numbers_in(pids)) <= mine
        if how == "killed":
            (server,) = {child.pid for child in psutil.Process().children()} - before
            os.kill(server, signal.SIGKILL)
            for future in futures:
                with pytest.raises(UserError, match="the environments' process ended with code -9"):
                    result(future)
            with pytest.raises(UserError, match="continue with --resume"):
                pool.open(0, row(), 4)
            with pytest.raises(UserError, match="killed from outside"):
                sessions[0].step(Action("x"))
            assert result(sessions[0].close()) == Answer()
    for future in futures:
        assert isinstance(future.exception(), UserError if how == "killed" else RuntimeError)
    if how == "killed":  # what the workers started outlives a server that was killed
        for pid in numbers_in(pids):
            psutil.Process(pid).kill() if is_alive(pid) else None
    wait_until_gone(mine)


def test_processes_start_when_episodes_need_them(own: Own) -> None:
    source = """
import os
class Env:
    def start(self, row, rng): return str(os.getpid())
    def step(self, action: str) -> Step: return Step("x")
"""
    with opened(own(source, workers=64)) as pool:
        sessions = [pool.open(0, row(), n) for n in range(3)]
        assert len({texts(result(session.first))[0] for session in sessions}) == 3
        server = psutil.Process(int(texts(result(sessions[0].first))[0])).parent().parent()
        for session in sessions:
            result(session.close())
        assert len({texts(result(pool.open(0, row(), n).first))[0] for n in range(3)}) == 3
        assert len(server.children()) == 3  # guards


def test_a_server_that_needs_long_to_start(own: Own) -> None:
    source = """
import time
time.sleep(1.5)
class Env:
    def start(self, row, rng): return "x"
    def step(self, action: str) -> Step: return Step("x")
"""
    with opened(own(source, timeout_s=1.0)) as pool:
        assert texts(result(pool.open(0, row(), 1).first)) == ["x"]


def test_an_import_that_fails_in_the_server_only(own: Own) -> None:
    source = f"""
import os
if os.getpid() != {os.getpid()}: raise ImportError("not here")
class Env:
    def start(self, row, rng): return "x"
    def step(self, action: str) -> Step: return Step("x")
"""
    with opened(own(source)) as pool:
        session = pool.open(0, row(), 1)
        with pytest.raises(UserError, match=r"not here \(\S+e0.py:4"):
            result(session.first)
        with pytest.raises(UserError, match="not here"):
            pool.tools(0)
        session.close()

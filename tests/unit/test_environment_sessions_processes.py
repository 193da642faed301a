"""The processes of environments: what ends them, what survives that, and what is left of them."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from threading import Lock

import psutil
import pytest

from drpo_cli.calls import pool as calls
from drpo_cli.environments.sessions.pool import Answer
from drpo_cli.errors import UserError
from drpo_cli.types import Action
from support.environments import Own, opened, play, result, row, texts
from support.rewards import descendants, is_alive, numbers_in, wait_until, wait_until_gone

LIMIT = 1.0


@pytest.fixture
def own(tmp_path: Path) -> Own:
    return Own(tmp_path)


WAITS = """
import asyncio, os, time
class Env:
    {prefix}def start(self, row, rng):
        self.folder = row.metadata["folder"]
        return str(os.getpid())
    {prefix}def step(self, action: str) -> Step:
        open(f"{{self.folder}}/{{os.getpid()}}", "w").close()
        {wait}(1000 if action == "hang" else 0)
        return Step("x", 1.0)
    {prefix}def close(self):
        open(f"{{self.folder}}/closed", "w").close()
"""


@pytest.mark.parametrize("prefix", ["", "async "])
def test_a_session_is_closed_while_a_call_runs(own: Own, tmp_path: Path, prefix: str) -> None:
    wait = "await asyncio.sleep" if prefix else "time.sleep"
    (folder := tmp_path / "called").mkdir()
    environment = own(WAITS.format(prefix=prefix, wait=wait), concurrency=2)
    with opened(environment) as pool:
        one = pool.open(0, row(folder=str(folder)), 1)
        (pid,) = texts(result(one.first))
        running = one.step(Action("hang"))
        wait_until((folder / pid).exists, "`step` was never called")
        neighbour = pool.open(0, row(folder=str(folder)), 2) if prefix else None
        if neighbour:
            assert texts(result(neighbour.first)) == [pid]
        assert result(one.close()).failure is None
        assert one.close() is one.close()
        failure = result(running).failure
        assert failure is not None and failure.kind == "closed"
        assert (folder / "closed").exists() == bool(prefix)
        if neighbour:
            assert is_alive(int(pid)) and play(neighbour, "x")[1].reward == 1.0
        else:
            wait_until_gone([int(pid)])
        assert play(pool.open(0, row(folder=str(folder)), 3), "x")[1].reward == 1.0


def test_a_session_is_closed_before_it_has_a_process(own: Own, tmp_path: Path) -> None:
    environment = own(WAITS.format(prefix="", wait="time.sleep"))
    with opened(environment) as pool:
        one = pool.open(0, row(folder=str(tmp_path)), 1)
        waiting = [pool.open(0, row(folder=str(tmp_path)), n) for n in range(3)]
        result(one.first)
        result(waiting[1].close())
        failure = result(waiting[1].first).failure
        assert failure is not None and failure.kind == "closed"
        one.close()
        for session in (waiting[0], waiting[2]):
            assert play(session, "x")[1].reward == 1.0
            session.close()


def test_a_call_that_does_not_listen_is_ended_with_its_process(
    own: Own, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "GRACE_SECONDS", 0.1)
    source = """
import asyncio, os
class Env:
    async def start(self, row, rng): return str(os.getpid())
    async def step(self, action: str) -> Step:
        open(action, "w").close()
        while True:
            try: await asyncio.sleep(1000)
            except asyncio.CancelledError: pass
"""
    with opened(own(source, timeout_s=0.5)) as pool:
        one, two = pool.open(0, row(), 1), pool.open(0, row(), 2)
        pids = [int(text) for session in (one, two) for text in texts(result(session.first))]
        called = tmp_path / "called"
        running = one.step(Action(str(called)))
        wait_until(called.exists, "`step` was never called")
        failures = [result(future).failure for future in (one.close(), running)]
        assert [failure and failure.kind for failure in failures] in (
            ["crash", "closed"],  # the running call was late first, and ended the process
            ["timeout", "closed"],
        )
        wait_until_gone(pids[:1])
        two.close()
        assert texts(result(pool.open(0, row(), 3).first)) != [str(pids[0])]


@pytest.mark.parametrize("prefix", ["", "async "])
def test_a_session_is_closed_while_it_starts(own: Own, tmp_path: Path, prefix: str) -> None:
    source = f"""
import asyncio, os, time
class Env:
    {prefix}def start(self, row, rng):
        open(row.prompt, "w").close()
        {"await asyncio.sleep" if prefix else "time.sleep"}(1000 if row.metadata else 0)
        return str(os.getpid())
    {prefix}def step(self, action: str) -> Step: return Step("x")
"""
    with opened(own(source, concurrency=1)) as pool:
        called = tmp_path / "called"
        one = pool.open(0, row(str(called), waits=True), 1)
        wait_until(called.exists, "`start` was never called")
        assert result(one.close()).failure is None
        failure = result(one.first).failure
        assert failure is not None and failure.kind == "closed"
        assert texts(result(pool.open(0, row(str(called)), 2).first))


BAD = """
import asyncio, os, time
class Env:
    async def start(self, row, rng): return str(os.getpid())
    async def step(self, action: str) -> Step:
        if action == "blocks": time.sleep(1000)
        if action == "exits": os._exit(1)
        await asyncio.sleep(1000 if action == "waits" else 0)
        return Step("x", 1.0)
"""


@pytest.mark.parametrize("bad", ["blocks", "exits", "waits"])
def test_neighbours_of_an_async_episode(
    own: Own, bad: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "GRACE_SECONDS", 0.1)
    with opened(own(BAD, timeout_s=LIMIT, concurrency=2)) as pool:
        one, two = pool.open(0, row(), 1), pool.open(0, row(), 2)
        assert texts(result(one.first)) == texts(result(two.first))
        failure = result(one.step(Action(bad))).failure
        assert failure is not None
        assert failure.kind == ("crash" if bad == "exits" else "timeout")
        assert ("blocked its event loop" in failure.detail) == (bad == "blocks")
        assert ("or another episode in the same process" in failure.detail) == (bad == "exits")
        other = result(two.step(Action("x")))
        if bad == "waits":
            assert other.reward == 1.0
        else:
            assert other.failure is not None and other.failure.kind == "crash"
        three = pool.open(0, row(), 3)
        for session in (one, two):
            session.close()
        assert play(three, "x")[1].reward == 1.0


def test_a_start_is_repeated_when_something_before_it_ended_the_process(own: Own) -> None:
    source = """
import os, threading
class Env:
    def start(self, row, rng):
        if row.prompt == "second": threading.Event().wait()
        return str(os.getpid())
    def step(self, action: str) -> Step:
        threading.Timer(0.3, os._exit, (0,)).start()
        return Step("x", done=True)
"""
    source = source.replace('if row.prompt == "second"', "if row.prompt == str(os.getpid())")
    with opened(own(source)) as pool:
        one = pool.open(0, row(), 1)
        first, _ = play(one, "x")
        one.close()
        second = result(pool.open(0, row(*texts(first)), 2).first)
        assert texts(second) != texts(first)


@pytest.mark.parametrize("raises", ["raise ValueError('no')", "time.sleep(1000)", "os._exit(1)"])
def test_a_close_that_fails_is_told_and_printed(
    own: Own, raises: str, capfd: pytest.CaptureFixture[str]
) -> None:
    source = f"""
import os, time
class Env:
    def start(self, row, rng): return "x"
    def step(self, action: str) -> Step: return Step("x")
    def close(self): {raises}
"""
    with opened(own(source, timeout_s=0.5)) as pool:
        for _ in range(2):
            session = pool.open(0, row(), 1)
            assert texts(result(session.first)) == ["x"]
            failure = result(session.close()).failure
    assert failure is not None
    if failure.kind == "exception":
        assert "ValueError: no" in failure.detail
        assert "environment 'Env': `close` failed: ValueError: no" in capfd.readouterr().err
    else:
        assert failure.kind == ("timeout" if "sleep" in raises else "crash")


def test_what_is_printed_is_shown_and_counted(own: Own, capfd: pytest.CaptureFixture[str]) -> None:
    source = """
class Env:
    def start(self, row, rng): print("begins"); return "x"
    def step(self, action: str) -> Step: print(action * 5000); return Step("x")
"""
    with opened(own(source)) as pool:
        first, second = play(pool.open(0, row(), 1), "x")
    assert first.counts == {"printed_bytes": 7} and second.counts == {"printed_bytes": 5001}
    err = capfd.readouterr().err
    assert "begins\n" in err and "[environment 'Env' printed 905 more bytes in this call]" in err


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


def test_a_row_that_cannot_be_sent_fails_only_its_episode(own: Own) -> None:
    source = """
class Env:
    def start(self, row, rng): return "x"
    def step(self, action: str) -> Step: return Step("x")
"""
    with opened(own(source)) as pool:
        with pytest.raises(UserError, match="environment 'Env': its arguments cannot be sent"):
            pool.open(0, row(lock=Lock()), 1)
        assert texts(result(pool.open(0, row(), 1).first)) == ["x"]


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
time.sleep(0.5)
class Env:
    def start(self, row, rng): return "x"
    def step(self, action: str) -> Step: return Step("x")
"""
    with opened(own(source, timeout_s=0.3)) as pool:
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


RANDOM = """
import random, numpy
class Env:
    {prefix}def start(self, row, rng):
        self.rng = rng
        return f"{{rng.random()}} {{random.random()}} {{numpy.random.random()}}"
    {prefix}def step(self, action: str) -> Step:
        return Step(f"{{self.rng.random()}} {{random.random()}} {{numpy.random.random()}}")
"""


@pytest.mark.parametrize("prefix", ["", "async "])
def test_random_numbers_depend_on_the_episode_alone(own: Own, prefix: str) -> None:
    with opened(own(RANDOM.format(prefix=prefix), workers=2)) as pool:
        one = [texts(answer) for answer in play(pool.open(0, row(), 7), "a", "b")]
        two = pool.open(0, row(), 8)
        other = [texts(answer) for answer in play(two, "a", "b")]
        two.close()
        again = [texts(answer) for answer in play(pool.open(0, row(), 7), "a", "b")]
    assert one == again and len({text for [text] in one + other}) == 6

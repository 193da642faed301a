"""The rewards' processes: what they leave behind, how they are replaced, what reaches them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from drpo_cli.calls import pool
from drpo_cli.errors import UserError
from drpo_cli.rewards.grading.grader import Grader
from support.rewards import (
    Own,
    descendants,
    graded,
    group,
    is_alive,
    numbers_in,
    wait_until,
    wait_until_gone,
)

FAMILY = """
import os, subprocess, sys, time
def fn(completion, metadata):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    with open(metadata["pids"], "a") as file:
        print(os.getpid(), child.pid, file=file)
    if completion == "dies": os._exit(1)
    time.sleep(1000)
"""
PIDS = "import os\ndef fn(completion): return os.getpid()\n"
MEGABYTE = "x" * 2**20


@pytest.fixture
def own(tmp_path: Path) -> Own:
    return Own(tmp_path)


@pytest.mark.parametrize("text", ["hangs", "dies"])
def test_what_a_failed_call_started_ends_with_it(own: Own, tmp_path: Path, text: str) -> None:
    pids = tmp_path / "pids"
    chosen = own(FAMILY, timeout_s=1.5)
    with Grader([chosen], forgiving=True) as grader:
        found = grader.score([group(text, pids=str(pids))])
        assert found.usage["fn"].failures == {"timeout" if text == "hangs" else "crash": 1}
        assert len(numbers_in(pids)) == 2
        wait_until_gone(numbers_in(pids))


@pytest.mark.parametrize("raises", [False, True])
def test_nothing_is_left_of_a_closed_grader(own: Own, tmp_path: Path, raises: bool) -> None:
    before, pids = set(descendants()), tmp_path / "pids"
    with suppress(KeyboardInterrupt), Grader([own(FAMILY)]) as grader:
        batch = grader.begin([group("x", pids=str(pids)).prompt], 1, step=1)
        batch.add(0, 0, group("x").rollouts_G[0])
        wait_until(lambda: len(numbers_in(pids)) == 2, "the reward was never called")
        mine = set(descendants()) - before
        assert set(numbers_in(pids)) <= mine
        threads = threading.active_count()
        if raises:
            raise KeyboardInterrupt
    wait_until_gone(mine)
    wait_until(lambda: threading.active_count() < threads, "its threads are still there")


def test_nothing_is_left_of_a_killed_trainer(own: Own, tmp_path: Path) -> None:
    pids, tests = tmp_path / "pids", Path(__file__).parents[1]
    type = own(FAMILY).type
    source = f"""
import sys; sys.path.insert(0, {str(tests)!r})
from drpo_cli.plugins import Selected
from drpo_cli.rewards.grading.grader import Grader
from drpo_cli.settings import RewardSettings
from support.rewards import group
with Grader([Selected("rewards", {type!r}, RewardSettings())]) as grader:
    grader.score([group("x", "y", pids={str(pids)!r})])
"""
    trainer = subprocess.Popen([sys.executable, "-c", source], cwd=Path(__file__).parents[2])
    wait_until(lambda: len(numbers_in(pids)) == 4, "the reward was never called")
    family = descendants(trainer.pid)
    assert set(numbers_in(pids)) < set(family)  # and the server, of which they are forks
    trainer.kill()
    trainer.wait()
    wait_until_gone(family)


def test_an_interrupt_of_the_foreground_group_spares_the_workers(own: Own) -> None:
    with Grader([own(PIDS)]) as grader:
        before = grader.score([group("a")]).scores_P[0].total_G
        (server,) = {psutil.Process(int(before[0])).ppid()}
        groups = {os.getpgid(int(before[0])), os.getpgid(server)}
        assert os.getpgid(0) not in groups
        for pid in (server, int(before[0])):
            os.kill(pid, signal.SIGINT)
        assert grader.score([group("a")]).scores_P[0].total_G == before


def test_a_killed_worker_is_replaced(own: Own) -> None:
    with Grader([own(PIDS)], forgiving=True) as grader:
        (old,) = grader.score([group("a")]).scores_P[0].total_G
        os.kill(int(old), signal.SIGKILL)
        wait_until_gone([int(old)])
        grader.score([group("a")])  # what was handed to the dead one is lost with it
        (new,) = grader.score([group("a")]).scores_P[0].total_G
        assert new != old and is_alive(int(new))


@pytest.mark.parametrize("bad", ["time.sleep(1000)", "os._exit(1)"])
def test_calls_that_shared_a_process_with_a_bad_one_are_made_again(
    own: Own, bad: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "GRACE_SECONDS", 0.2)
    source = f"""
import asyncio, os, time
async def fn(completion):
    await asyncio.sleep(0.2)
    if completion == "bad": {bad}
    await asyncio.sleep(0.2)
    return 1.0
"""
    found = graded([own(source, timeout_s=1.0)], [group(*"abc", "bad", *"def")], forgiving=True)
    assert found.scores_P[0].by_reward["fn"] == (1.0, 1.0, 1.0, None, 1.0, 1.0, 1.0)
    assert found.usage["fn"].calls == 7 and found.usage["fn"].failures.total() == 1


@pytest.mark.parametrize("prefix", ["", "async "])
def test_large_arguments_and_large_answers_get_through(own: Own, prefix: str) -> None:
    source = f"""
{prefix}def fn(completion):
    if completion[0] == "!": raise ValueError(completion)
    return len(completion)
"""
    texts = [MEGABYTE, "!" + MEGABYTE] * 32
    found = graded([own(source, workers=2, concurrency=8)], [group(*texts)], forgiving=True)
    assert found.scores_P[0].by_reward["fn"] == (2.0**20, None) * 32
    assert all(record["completion"] == texts[1] for record in found.quarantine)


def test_a_process_that_does_not_read_keeps_no_other_waiting(
    own: Own, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "GRACE_SECONDS", 0.2)
    stuck = """
import time
async def stuck(completion):
    time.sleep(1000)
"""
    selected = [own(stuck, "stuck", timeout_s=0.4, concurrency=4), own(PIDS)]
    found = graded(selected, [group(*[MEGABYTE] * 3)], forgiving=True)
    assert found.usage["stuck"].failures == {"timeout": 3}
    assert found.usage["fn"].failures == {} and found.usage["fn"].calls == 3


@pytest.mark.parametrize("prefix", ["", "async "])
def test_two_thousand_calls(own: Own, prefix: str) -> None:
    source = f"{prefix}def fn(completion, metadata): return metadata['n'] + len(completion)"
    groups_P = [group(*["xy"] * 20, n=n) for n in range(100)]
    found = graded([own(source, workers=2)], groups_P)
    assert [scores.total_G for scores in found.scores_P] == [(n + 2.0,) * 20 for n in range(100)]
    assert found.usage["fn"].calls == 2000


def test_arguments_that_cannot_be_pickled_fail_only_their_call(own: Own) -> None:
    with Grader([own("def fn(metadata): return 1.0")]) as grader:
        with pytest.raises(
            UserError, match=r"reward 'fn': its arguments cannot be sent to its process"
        ):
            grader.score([group("a", lock=threading.Lock())])
        assert grader.score([group("a")]).scores_P[0].total_G == (1.0,)


@pytest.mark.parametrize("idle", [False, True])
def test_a_server_that_dies_leaves_nobody_waiting(own: Own, tmp_path: Path, idle: bool) -> None:
    pids, before = tmp_path / "pids", set(descendants())
    with Grader([own(PIDS if idle else FAMILY)], forgiving=True) as grader:
        batch = grader.begin([group("a", "b", "c", pids=str(pids)).prompt], 3, step=1)
        if idle:
            grader.score([group("a")])
        else:
            batch.add(0, 0, group("a").rollouts_G[0])
            batch.add(0, 1, group("b").rollouts_G[0])
            wait_until(lambda: len(numbers_in(pids)) == 2, "the reward was never called")
        (server,) = {child.pid for child in psutil.Process().children()} - before
        os.kill(server, signal.SIGKILL)
        with pytest.raises(UserError, match="the rewards' process ended with code -9: killed from"):
            while True:
                batch.add(0, 2, group("c").rollouts_G[0])
                found = batch.wait()
                if found.fatal is not None:
                    raise UserError(found.fatal)
    for pid in numbers_in(pids):  # what the worker started outlives a server that was killed
        psutil.Process(pid).kill() if is_alive(pid) else None


@pytest.mark.parametrize("sends", ["b'\\xff' * 999", "bytes(999)", "frame(Reply(9, None, None))"])
def test_a_server_that_sends_garbage_is_one_message(own: Own, sends: str) -> None:
    source = f"""
import sys, threading, time
from drpo_cli.calls.messages import Reply, frame
def spoil():
    server = sys.modules["drpo_cli.calls.server"]
    server.frame = lambda message: {sends}
if "drpo_cli.calls.server" in sys.modules: spoil()
def fn(completion): return 1.0
"""
    with Grader([own(source, timeout_s=0.5)], forgiving=True) as grader:
        found = grader.score([group("a", "b")])
        assert found.fatal is not None and "the rewards' process is out of order" in found.fatal


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own order of killing")
def test_out_of_memory_ends_a_worker_before_the_trainer(own: Own) -> None:
    source = "def fn(completion): return int(open('/proc/self/oom_score_adj').read())"
    assert graded([own(source)], [group("a")]).scores_P[0].total_G == (1000.0,)
    assert int(Path("/proc/self/oom_score_adj").read_text()) < 1000


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends the children of the dead")
def test_a_fork_whose_server_dies_before_it_notices_ends_too(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    source = f"""
import os, signal, time
from drpo_cli import processes
from drpo_cli.calls.forks import Forks
at_once, server = processes.die_with_parent, os.getpid()
def late():
    while os.getppid() == server: time.sleep(0.01)
    at_once()
processes.die_with_parent = late
with open({str(pids)!r}, "w") as file:
    print(os.getpid(), Forks().fork(lambda connection: time.sleep(1000)).pid, file=file)
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", source], cwd=Path(__file__).parents[2], check=False)
    assert len(numbers_in(pids)) == 2
    wait_until_gone(numbers_in(pids))

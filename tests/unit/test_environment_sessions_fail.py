"""Environments that misbehave: each call costs its own episode, says where, and no other's."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from drpo_cli.calls import pool as calls
from drpo_cli.environments.sessions.checks import MOST_INFO, MOST_TEXT
from drpo_cli.environments.sessions.pool import Answer, Environments
from drpo_cli.errors import UserError
from drpo_cli.types import Action
from support.environments import Own, opened, play, result, row, texts
from support.rewards import descendants, is_alive, numbers_in, wait_until, wait_until_gone

HEAD = """
import asyncio, ctypes, os, signal, sys, threading, time
import numpy
from drpo_cli.environments import Action, Message, Row, Step
"""
LIMIT = 1.0


class Case(NamedTuple):
    """What `step` does, the kind of failure (None: it answers "fine"), and its message."""

    name: str
    code: str
    kind: str | None = None
    says: str = ""


STEP = "`step` returned"
CASES = [
    Case("exception", "raise ValueError('no')", "exception", "ValueError: no (FILE:LINE in step)"),
    Case("BaseException", "raise KeyboardInterrupt", "exception", "KeyboardInterrupt"),
    Case("SystemExit", "sys.exit(0)", "exception", "SystemExit: 0"),
    Case("CancelledError", "raise asyncio.CancelledError", "exception", "CancelledError"),
    Case("its own TimeoutError", "raise TimeoutError('mine')", "exception", "TimeoutError: mine"),
    Case("surrogate", "raise ValueError('\\ud800')", "exception", r"ValueError: \ud800"),
    Case("hang", "time.sleep(1000)", "timeout", "took longer than timeout_s = 1"),
    Case("catches everything", """
while True:
    try: time.sleep(1000)
    except BaseException: pass
""", "timeout", "took longer"),
    Case("exit", "os._exit(0)", "crash", "its process died"),
    Case("segfault", "ctypes.string_at(0)", "crash", "its process died"),
    Case("kill itself", "os.kill(os.getpid(), signal.SIGKILL)", "crash", "its process died"),
    Case("kill its parent", "os.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(9)", "crash"),
    Case("stop its parent", "os.kill(os.getppid(), signal.SIGSTOP)\nreturn fine"),
    Case("memory", "x = b'x' * 2**62", "exception", "MemoryError"),
    Case("garbage", """
for fd in map(int, os.listdir('/dev/fd')):
    try: os.write(fd, b'\\xff' * 999)
    except OSError: pass
return fine
""", "crash", "its process sent what is not an answer"),
    # what it returns
    Case("nothing", "return None", "wrong_type", f"{STEP} None (NoneType); return Step(obs"),
    Case("text", "return 'higher'", "wrong_type", f"{STEP} 'higher' (str); return Step("),
    Case("a coroutine", "return asyncio.sleep(0)", "wrong_type", "coroutine"),
    Case("nan", "return Step('x', float('nan'))", "not_finite", f"{STEP} reward = nan; give"),
    Case("inf", "return Step('x', numpy.float32('inf'))", "not_finite", "reward = inf"),
    Case("huge", "return Step('x', -1e300)", "not_finite", "up to 1e+15"),
    Case("reward of text", "return Step('x', '1')", "wrong_type", "reward = '1' (str)"),
    Case("reward of None", "return Step('x', None)", "wrong_type", "reward = None (NoneType)"),
    Case("numpy's reward", "return Step('fine', numpy.float32(0.5))"),
    Case("bool's reward", "return Step('fine', True)"),
    Case("done of text", "return Step('x', 0.0, 'no')", "wrong_type", "done = 'no' (str); give"),
    Case("numpy's done", "return Step('fine', 0.0, numpy.bool_(False))"),
    Case("no observation", "return Step()", "wrong_type", "no observation, but the episode goes"),
    Case("bytes", "return Step(b'x')", "wrong_type", "b'x' (bytes) as observation; return text"),
    Case("number", "return Step(3)", "wrong_type", "3 (int) as observation"),
    Case("list of text", "return Step(['x'])", "wrong_type", "'x' (str) as a message; write {"),
    Case("no role", "return Step({'content': 'x'})", "wrong_type", "whose role is None"),
    Case("no text", "return Step({'role': 'user', 'content': 3})", "wrong_type", "content is 3"),
    Case("half", "return Step('\\ud83d')", "wrong_type", "half a surrogate pair"),
    Case("too long", f"return Step('x' * {MOST_TEXT + 1})", "too_large", f"{MOST_TEXT + 1} char"),
    Case("message", "return Step({'role': 'user', 'content': 'fine'})"),
    Case("messages", "return Step([{'role': 'user', 'content': 'fine'}])"),
    Case("info of an object", "return Step('x', info={'a': {1, 2}})", "wrong_type",
         "info['a'] is {1, 2} (set); give text, numbers"),
    Case("info's key", "return Step('x', info={1: 2})", "wrong_type", "the key 1 (int); keys"),
    Case("info's nan", "return Step('x', info={'a': [float('nan')]})", "not_finite", "info['a']"),
    Case("info's integer", "return Step('x', info={'a': 2**64})", "wrong_type", "64 bits"),
    Case("long info", f"return Step('x', info={{'a': 'x' * {MOST_INFO}}})", "too_large", "info of"),
    Case("list as info", "return Step('x', info=[1])", "wrong_type", "info = [1] (list); give"),
    Case("deep info", """
info = {}
for _ in range(100): info = {'a': info}
return Step('x', info=info)
""", "wrong_type", "deeper than 32"),
    Case("endless info", "info = {}\ninfo['a'] = info\nreturn Step('x', info=info)", "wrong_type"),
    Case("numpy's info", "return Step('fine', info={'a': numpy.int8(3), 'b': (1, 2.0, None)})"),
    # what it leaves behind
    Case("fork returns twice", "os.fork()\nreturn fine"),
    Case("thread left", "threading.Thread(target=time.sleep, args=(1000,)).start()\nreturn fine"),
    Case("environment", "os.environ.clear(); sys.path.clear()\nreturn fine"),
]  # fmt: skip
ASYNC = [
    "exception", "SystemExit", "CancelledError", "its own TimeoutError", "hang", "exit", "nan",
    "catches everything", "garbage", "nothing",
]  # fmt: skip
BY_NAME = {case.name: number for number, case in enumerate(CASES)}


def source(prefix: str) -> str:
    """An environment whose action names a case; any other action gets its length as reward."""
    lines = [HEAD, "class Env:"]
    lines += [f"    {prefix}def start(self, row, rng): return str(os.getpid())"]
    lines += [f"    {prefix}def step(self, action: str) -> Step:", "        fine = Step('fine')"]
    for number, case in enumerate(CASES):
        lines.append(f"        if action == 'case {number}':")
        lines += [f"            {line}" for line in case.code.strip().splitlines()]
    return "\n".join([*lines, "        return Step('after', len(action))\n"])


@pytest.fixture(scope="module")
def played(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Environments]:
    """One process of the environment; `request.param` is what stands before its methods."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calls, "GRACE_SECONDS", 0.1)
        patch.setattr(calls, "WAKE_SECONDS", 0.1)
        own = Own(tmp_path_factory.mktemp("own"))
        environment = own(source(request.param), head="", timeout_s=LIMIT, concurrency=1)
        with opened(environment) as pool:
            yield pool


@pytest.mark.parametrize(
    ("played", "name"),
    [("", name) for name in BY_NAME] + [("async ", name) for name in ASYNC],
    indirect=["played"],
)
def test_a_misbehaving_call_costs_only_its_episode(played: Environments, name: str) -> None:
    number, case = BY_NAME[name], CASES[BY_NAME[name]]
    session, following = (played.open(0, row(), number) for _ in range(2))
    try:
        answer = play(session, f"case {number}")[1]
    finally:
        session.close()
        reward = play(following, "four")[1].reward
        following.close()
    assert reward == 4.0
    if case.kind is None:
        assert texts(answer) == ["fine"]
    else:
        assert answer.failure is not None and answer.failure.kind == case.kind, answer
        assert answer.messages == () and answer.reward == 0.0 and not answer.done
        says = re.escape(case.says).replace("FILE:LINE", r"\S+e0\.py:\d+")
        assert re.search(says, answer.failure.detail), answer.failure
        assert len(answer.failure.detail) < 5000
        if case.kind in ("wrong_type", "not_finite", "too_large"):
            assert re.match(r"\S+e0\.py:\d+: `step`", answer.failure.detail)


@pytest.fixture
def own(tmp_path: Path) -> Own:
    return Own(tmp_path)


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        ("def __init__(self): raise ValueError('no')", "exception", r"no \(\S+e0.py:\d+ in __init"),
        ("def start(self, row, rng): raise ValueError('no')", "exception", "in start"),
        ("def start(self, row, rng): return ''", "wrong_type", r"e0.py:\d+: `start` returned no"),
        ("def start(self, row, rng): return 3", "wrong_type", "`start` returned 3 .int. as obs"),
        ("def start(self, row, rng): os._exit(1)", "crash", "its process died"),
    ],
)
def test_a_start_that_fails(own: Own, code: str, kind: str, says: str) -> None:
    body = f"    {code}\n"
    for method in ("start(self, row, rng): return 'x'", "step(self, action): return Step('x')"):
        body += "" if method[:5] in code else f"    def {method}\n"
    with opened(own(f"{HEAD}class Env:\n{body}")) as pool:
        session = pool.open(0, row(), 1)
        failure = result(session.first).failure
        assert failure is not None and failure.kind == kind
        assert re.search(says, failure.detail), failure
        again = result(session.step(Action("x"))).failure
        assert again is not None and again.kind == kind
        assert result(session.close()).failure is None


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
class Env:
    def start(self, row, rng): return "x"
    def step(self, action: str) -> Step: return Step("x")
    def close(self): {raises}
"""
    with opened(own(HEAD + source, timeout_s=0.5)) as pool:
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
            pool.open(0, row(lock=calls.Lock()), 1)
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

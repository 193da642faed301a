"""Environments that misbehave: each call costs its own episode, says where, and no other's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from drpo_cli.calls import pool as calls
from drpo_cli.environments.sessions.checks import MOST_INFO, MOST_TEXT
from drpo_cli.environments.sessions.pool import Environments
from drpo_cli.types import Action
from support.environments import Own, opened, play, result, row, texts

HEAD = """
import asyncio, ctypes, os, signal, sys, threading, time
import numpy
from drpo_cli.environments import Action, Message, Row, Step
"""
LIMIT = 2.0


class Case(NamedTuple):
    """What `step` does, the kind of failure (None: it answers "fine"), and its message."""

    name: str
    code: str
    kind: str | None = None
    says: str = ""


STEP = "`step` returned"
FORGE = """
from drpo_cli.calls.messages import Reply, frame
from drpo_cli.environments.sessions.messages import Answer
caller = sys._getframe()
while "request" not in caller.f_locals: caller = caller.f_back
deep = []
for _ in range(400): deep = [deep]
data = frame(Reply(caller.f_locals["request"].number, {answer}))
for fd in map(int, os.listdir('/dev/fd')):
    try: fd > 2 and os.write(fd, data)
    except OSError: pass
time.sleep(9)
"""
FORGED = {
    "nan": "Answer(reward=float('nan'))",
    "depth": "Answer(info={'a': deep})",
    "date": "Answer(info={'a': __import__('datetime').datetime.now().astimezone()})",
    "message": "Answer(({'role': 'user'},))",
    "done": "Answer(done=1)",
}
CASES = [
    Case("exception", "raise ValueError('no')", "exception", "ValueError: no (FILE:LINE in step)"),
    Case("BaseException", "raise KeyboardInterrupt", "exception", "KeyboardInterrupt"),
    Case("SystemExit", "sys.exit(0)", "exception", "SystemExit: 0"),
    Case("CancelledError", "raise asyncio.CancelledError", "exception", "CancelledError"),
    Case("its own TimeoutError", "raise TimeoutError('mine')", "exception", "TimeoutError: mine"),
    Case("surrogate", "raise ValueError('\\ud800')", "exception", r"ValueError: \ud800"),
    Case("hang", "time.sleep(1000)", "timeout", "took longer than timeout_s = 2"),
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
    *(
        Case(f"forged {name}", FORGE.format(answer=answer), "crash", "not an answer")
        for name, answer in FORGED.items()
    ),
    # what it returns
    Case("nothing", "return None", "wrong_type", f"{STEP} None (NoneType); return Step(obs"),
    Case("text", "return 'higher'", "wrong_type", f"{STEP} 'higher' (str); return Step("),
    Case("a coroutine", "return asyncio.sleep(0)", "wrong_type", "write `async def`, or await"),
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
    Case("long message", f"return Step(dict(role='user', content='', x='y' * {2 * MOST_TEXT}))",
         "too_large", "characters beside its text; cut it"),
    Case("many messages", "return Step([{'role': 'user', 'content': ''}] * 10**6)", "too_large",
         "1000000 messages"),
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
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environments]:
    """The environment, as sync one and as async one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calls, "GRACE_SECONDS", 0.1)
        patch.setattr(calls, "WAKE_SECONDS", 0.1)
        own = Own(tmp_path_factory.mktemp("own"))
        chosen = [
            own(source(prefix), head="", timeout_s=LIMIT, concurrency=1)
            for prefix in ("", "async ")
        ]
        with opened(*chosen) as pool:
            yield pool


@pytest.mark.parametrize(
    ("index", "name"), [(0, name) for name in BY_NAME] + [(1, name) for name in ASYNC]
)
def test_a_misbehaving_call_costs_only_its_episode(
    played: Environments, index: int, name: str
) -> None:
    number, case = BY_NAME[name], CASES[BY_NAME[name]]
    session, following = (played.open(index, row(), number) for _ in range(2))
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
        says = re.escape(case.says).replace("FILE:LINE", r"\S+e\d\.py:\d+")
        assert re.search(says, answer.failure.detail), answer.failure
        assert len(answer.failure.detail) < 5000
        if case.kind in ("wrong_type", "not_finite", "too_large"):
            assert re.match(r"\S+e\d\.py:\d+: `step`", answer.failure.detail)


STARTS = [
    ("def __init__(self): raise ValueError('no')", "exception", r"no \(\S+py:\d+ in __init__\)"),
    ("def start(self, row, rng): raise ValueError('no')", "exception", r"\(\S+py:\d+ in start\)"),
    ("def start(self, row, rng): return ''", "wrong_type", r"py:\d+: `start` returned no message"),
    ("def start(self, row, rng): return 3", "wrong_type", "`start` returned 3 .int. as obs"),
    ("def start(self, row, rng): os._exit(1)", "crash", "its process died"),
]


def test_a_start_that_fails(tmp_path: Path) -> None:
    own, chosen = Own(tmp_path), []
    for code, _, _ in STARTS:
        body = f"    {code}\n"
        for method in ("start(self, row, rng): return 'x'", "step(self, action): return Step('x')"):
            body += "" if method[:5] in code else f"    def {method}\n"
        chosen.append(own(f"{HEAD}class Env:\n{body}"))
    with opened(*chosen) as pool:
        for index, (_, kind, says) in enumerate(STARTS):
            session = pool.open(index, row(), 1)
            failure = result(session.first).failure
            assert failure is not None and failure.kind == kind
            assert re.search(says, failure.detail), failure
            again = result(session.step(Action("x"))).failure
            assert again is not None and again.kind == kind
            assert result(session.close()).failure is None

"""Rewards that misbehave: each costs its own call, and nobody else's."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from drpo_cli.calls import pool
from drpo_cli.calls.prints import IN_ALL, OF_CALL
from drpo_cli.rewards.grading.grader import Grader
from support.rewards import (
    Own,
    descendants,
    graded,
    group,
    is_alive,
    wait_until,
    wait_until_gone,
)

HEAD = """
import asyncio, atexit, builtins, decimal, fractions, gc, json, math, os, resource, signal, socket
import subprocess, sys, threading, time
from collections import Counter, OrderedDict
import msgspec, numpy
"""


class Case(NamedTuple):
    """A misbehaviour: its statements, the kind of failure (None: a score of 1), its message."""

    name: str
    code: str
    kind: str | None = None
    says: str = ""


LIAR = """
class Liar(float):
    def __float__(self): return {value}
    def __le__(self, other): return True
    __ge__ = __lt__ = __gt__ = __eq__ = __le__
return Liar(1)
"""
FDS = "for fd in map(int, os.listdir('/dev/fd')):"
FORGE = f"""
from drpo_cli.calls.messages import Reply, frame
from drpo_cli.calls.failures import Failure
from drpo_cli.rewards.grading.score import Outcome
caller = sys._getframe()
while "request" not in caller.f_locals: caller = caller.f_back
answer = Reply(caller.f_locals["request"].number, {{outcome}})
{FDS}
    try: fd > 2 and os.write(fd, frame(answer))
    except OSError: pass
time.sleep(9)
"""
FORGED = {
    "nan": "Outcome((float('nan'),))",
    "size": "Outcome((1e300,))",
    "scores": "Outcome((1.0, 1.0))",
    "nothing": "Outcome(())",
    "seconds": "Outcome((1.0,), None, float('nan'))",
    "counts": "Outcome((1.0,), None, 0.0, {'x': float('inf')})",
    "kind": "Outcome((), Failure('x' * 10**6, 'y'))",
    "message": "Outcome((), Failure('crash', 'y' * 10**5))",
    "length": "Outcome((), Failure('crash', 'y' * 2**25))",
    "absence": "None",
}
CASES = [
    # what it raises
    Case("KeyboardInterrupt", "raise KeyboardInterrupt", "exception", "KeyboardInterrupt"),
    Case("GeneratorExit", "raise GeneratorExit", "exception", "GeneratorExit"),
    Case("SystemExit", "sys.exit(0)", "exception", "SystemExit: 0"),
    Case("BaseException", "raise BaseException('own')", "exception", "BaseException: own"),
    Case("CancelledError", "raise asyncio.CancelledError", "exception", "CancelledError"),
    Case("StopIteration", "raise StopIteration", "exception", "StopIteration"),
    Case("surrogate", "raise ValueError('\\ud800')", "exception", r"ValueError: \ud800"),
    Case("controls", "raise ValueError('\\x1b[2J')", "exception", "ValueError"),
    Case("endless message", "raise ValueError('x' * 10**7)", "exception", "xxx…"),
    Case("no message", """
class Mute(Exception):
    def __str__(self): raise SystemExit
raise Mute
""", "exception", "Mute"),
    Case("deep", "f = lambda: f()\nf()", "exception", "RecursionError"),
    Case("too deep", """
sys.setrecursionlimit(10**9)
f = lambda _: sorted([1], key=f)
f(1)
""", "crash", "died"),
    # what it returns
    Case("nan", "return float('nan')", "not_finite", "returned nan"),
    Case("inf", "return numpy.float32('inf')", "not_finite", "returned inf"),
    Case("huge int", "return 10**4000", "not_finite", "returned inf"),
    Case("huge float", "return -1e300", "not_finite", "up to 1e+15"),
    Case("float subclass, nan", LIAR.format(value="float('nan')"), "not_finite", "returned nan"),
    Case("float subclass, inf", LIAR.format(value="float('inf')"), "not_finite", "returned inf"),
    Case("patched math", "math.isfinite = lambda x: True\nreturn float('nan')", "not_finite"),
    Case("complex", "return 1j", "wrong_type", "returned 1j (complex)"),
    Case("decimal", "return decimal.Decimal(1)", "wrong_type", "Decimal"),
    Case("text", "return '\\ud800'", "wrong_type", "(str)"),
    Case("dict subclass", "return OrderedDict(score=1.0)", "wrong_type", "OrderedDict"),
    Case("its own function", "return fn", "wrong_type", "(function)"),
    Case("bad repr", """
class Silent:
    def __repr__(self): raise KeyboardInterrupt
return Silent()
""", "exception", "KeyboardInterrupt"),
    Case("bool", "return True"),
    Case("fraction", "return fractions.Fraction(1, 1)"),
    Case("numpy", "return numpy.int8(1)"),
    Case("nan counts", "fn.counts = Counter(tokens=float('nan'), cost=float('inf'))\nreturn 1.0"),
    Case("text counts", "fn.counts = Counter({'\\ud800': 'many', 3: 10**400})\nreturn 1.0"),
    # what it does to its process
    Case("exit", "os._exit(0)", "crash", "died"),
    Case("abort", "os.abort()", "crash", "died"),
    Case("kill itself", "os.kill(os.getpid(), signal.SIGKILL)", "crash", "died"),
    Case("kill its parent", "os.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(9)", "crash"),
    Case("kill its group", "os.killpg(0, signal.SIGKILL)\ntime.sleep(9)", "crash", "died"),
    Case("new session, kill parent",
         "os.setsid()\nos.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(9)", "crash"),
    Case("stop its parent", "os.kill(os.getppid(), signal.SIGSTOP)\nreturn 1.0"),
    Case("stop itself", "os.kill(os.getpid(), signal.SIGSTOP)", "timeout"),
    Case("stop its group", "os.killpg(0, signal.SIGSTOP)", "timeout"),
    Case("stop its grandparent", """
os.kill(int(open(f"/proc/{os.getppid()}/stat").read().split()[3]), signal.SIGSTOP)
return 1.0
"""),
    Case("close everything", "os.closerange(0, 4096)\nreturn 1.0", "crash", "died"),
    Case("close its output", "os.close(1); os.close(2); sys.stdout.close()\nreturn 1.0"),
    Case("no output", "sys.stdout = sys.stderr = None\nreturn 1.0"),
    Case("garbage on every descriptor", f"""
{FDS}
    try: os.write(fd, b'\\xff' * 9999)
    except OSError: pass
return 1.0
""", "crash", "not an answer"),
    Case("text on every descriptor", f"""
{FDS}
    try: os.write(fd, b'hello')
    except OSError: pass
time.sleep(9)
""", "crash", "not an answer"),
    Case("a pickle on every descriptor", f"""
import pickle
class Bomb:
    def __reduce__(self): return (os.system, ("touch " + os.path.dirname(__file__) + "/BOMB",))
data = pickle.dumps(Bomb())
{FDS}
    for size in (4, 8):
        try: os.write(fd, len(data).to_bytes(size, 'big') + data)
        except OSError: pass
time.sleep(9)
""", "crash", "not an answer"),
    Case("flood every descriptor", f"""
{FDS}
    try:
        os.set_blocking(fd, False)
        for _ in range(100): os.write(fd, bytes(10**6))
    except OSError: pass
time.sleep(9)
""", "crash", "not an answer"),
    *(Case(f"forged {name}", FORGE.format(outcome=outcome), "crash", "not an answer")
      for name, outcome in FORGED.items()),
    Case("patched msgspec", "msgspec.msgpack.encode = lambda _: b'no'\nreturn 1.0"),
    Case("patched frame", """
from drpo_cli.calls import messages
messages.send.__code__ = (lambda to, message: to.sendall(b'\\xff' * 99)).__code__
return 1.0
""", "crash", "not an answer"),
    Case("fork returns twice", "os.fork()\nreturn 1.0"),
    Case("fork, child raises", "if os.fork() == 0: raise SystemExit\nreturn 1.0"),
    Case("fork, daemon", """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0: time.sleep(1000)
    os._exit(0)
return 1.0
"""),
    Case("daemon of a dead worker", """
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True)
os._exit(1)
""", "crash"),
    Case("thread left", "threading.Thread(target=time.sleep, args=(1000,)).start()\nreturn 1.0"),
    Case("exit by a thread later",
         "threading.Timer(0.01, os._exit, (0,)).start()\nreturn 1.0"),
    Case("atexit", "atexit.register(time.sleep, 1000)\nreturn 1.0"),
    Case("alarm left", "signal.setitimer(signal.ITIMER_REAL, 0.01)\nreturn 1.0"),
    Case("signals", "[signal.signal(s, signal.SIG_IGN) for s in (1, 2, 15)]\nreturn 1.0"),
    Case("directory", "os.chdir('/')\nreturn 1.0"),
    Case("environment", "os.environ.clear(); sys.path.clear(); sys.modules.clear()\nreturn 1.0"),
    Case("file size", "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\nreturn 1.0"),
    Case("descriptors", "resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))\nreturn 1.0"),
    Case("leak", "while len(os.listdir('/dev/fd')) < 200: os.dup(0)\nreturn 1.0"),
    Case("no gc", "gc.disable()\nreturn 1.0"),
    Case("recursion limit", "sys.setrecursionlimit(100)\nreturn 1.0"),
    Case("memory", "x = b'x' * 2**62", "exception", "MemoryError"),
    Case("builtins", "builtins.float = builtins.len = None\nreturn 1.0", "crash"),
    Case("native loop", "'x' * 10**6 in 'x' * 10**5\nsum(range(10**12))", "timeout"),
    Case("catches everything", """
while True:
    try: time.sleep(1000)
    except BaseException: pass
""", "timeout"),
]  # fmt: skip
BY_NAME = {case.name: number for number, case in enumerate(CASES)}
ASYNC = [
    "KeyboardInterrupt", "SystemExit", "GeneratorExit", "CancelledError", "float subclass, nan",
    "exit", "kill its parent", "stop its parent", "close everything", "fork returns twice",
    "garbage on every descriptor", "forged nan", "catches everything",
]  # fmt: skip
TIMEOUT = 1.2


def source(prefix: str) -> str:
    """A reward whose completion names a case; any other scores its own length."""
    body = [f"{prefix}def fn(completion):", "    if completion == 'restart': os._exit(0)"]
    for number, case in enumerate(CASES):
        body.append(f"    if completion == 'case {number}':")
        body += [f"        {line}" for line in case.code.strip().splitlines()]
    return "\n".join([HEAD, *body, "    return float(len(completion))\n"])


class Pooled(NamedTuple):
    """A grader with one worker, its server, and the descriptors that the server has open."""

    grader: Grader
    server: psutil.Process
    descriptors: int
    folder: Path


def open_pool(folder: Path, prefix: str) -> Iterator[Pooled]:
    before = set(descendants())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "GRACE_SECONDS", 0.1)
        patch.setattr(pool, "WAKE_SECONDS", 0.1)
        chosen = Own(folder)(source(prefix), head="", timeout_s=TIMEOUT, concurrency=4)
        with Grader([chosen], forgiving=True) as grader:
            grader.score([group("good")])
            (server,) = [c for c in psutil.Process().children() if c.pid not in before]
            yield Pooled(grader, server, server.num_fds(), folder)
            family = descendants(server.pid)
    wait_until_gone([server.pid, *family])


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pooled]:
    yield from open_pool(tmp_path_factory.mktemp("sync"), "")


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pooled]:
    yield from open_pool(tmp_path_factory.mktemp("async"), "async ")


def misbehave(pooled: Pooled, name: str) -> None:
    number, case = BY_NAME[name], CASES[BY_NAME[name]]
    began = time.monotonic()
    found = pooled.grader.score([group("good", f"case {number}", "fine!")])
    failed = {r["completion"]: (r["reason"], r["detail"]) for r in found.quarantine}
    own = failed.pop(f"case {number}", (None, ""))
    assert own[0] == case.kind and case.says in own[1] and len(own[1]) < 5000, own
    assert failed == {} and found.fatal is None
    mine = 1.0 if case.kind is None else None
    assert found.scores_P[0].by_reward["fn"] == (4.0, mine, 5.0)
    assert all(type(total) is float for total in found.scores_P[0].total_G)
    counts = found.usage["fn"].counts
    assert all(type(key) is str and math.isfinite(n) for key, n in counts.items())
    assert counts.total() < 10**8 and not (pooled.folder / "BOMB").exists()
    if case.kind is None:
        assert pooled.grader.score([group("after")]).scores_P[0].total_G == (5.0,)
    pooled.grader.score([group("restart")])
    assert pooled.grader.score([group("after")]).scores_P[0].total_G == (5.0,)
    assert time.monotonic() - began < 30
    wait_until(lambda: sum(map(is_alive, descendants(pooled.server.pid))) == 2, "a process is left")
    wait_until(lambda: pooled.server.num_fds() == pooled.descriptors, "a descriptor is left")


@pytest.mark.parametrize("name", BY_NAME)
def test_a_misbehaving_call_costs_only_itself(one_by_one: Pooled, name: str) -> None:
    misbehave(one_by_one, name)


@pytest.mark.parametrize("name", ASYNC)
def test_the_same_of_an_async_reward(together: Pooled, name: str) -> None:
    misbehave(together, name)


PRINTS = {
    "python": "print('x' * 50_000_000)",
    "native": "os.write(1, b'x' * 25_000_000); os.write(2, b'x' * 25_000_000)",
    "child": "subprocess.run(['head', '-c', '50000000', '/dev/zero'])",
}


@pytest.mark.parametrize("how", PRINTS)
def test_prints_are_cut_and_counted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], how: str
) -> None:
    text = f"{HEAD}\ndef fn(completion):\n    {PRINTS[how]}\n    return 1.0"
    found = graded([Own(tmp_path)(text, head="")], [group("a", "b")])
    assert found.scores_P[0].total_G == (1.0, 1.0)
    assert 100_000_000 <= found.usage["fn"].counts["printed_bytes"] <= 100_000_002
    out, err = capfd.readouterr()
    assert out == "" and OF_CALL < len(err) < 13 * OF_CALL
    assert "[reward 'fn' printed 49995904 more bytes in this call]" in err or how == "python"


def test_prints_are_cut_in_all_and_steer_no_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = f"def fn(completion):\n    print('\\x1b[2J' + completion * {OF_CALL}); return 1.0"
    texts = ["x"] * (IN_ALL // OF_CALL + 50)
    found = graded([Own(tmp_path)(text)], [group("first", *texts)])
    assert found.fatal is None and found.usage["fn"].counts["printed_bytes"] > IN_ALL
    _, err = capfd.readouterr()
    assert "\\u001b[2Jfirst" in err and "\x1b" not in err
    assert err.count("more is counted, not shown") == 1
    assert IN_ALL <= len(err) < 1.2 * IN_ALL

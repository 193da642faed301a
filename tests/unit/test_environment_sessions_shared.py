"""Processes that episodes share: what closing, crashing and printing does to the others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import pytest

from drpo_cli.calls import pool as calls
from drpo_cli.errors import UserError
from drpo_cli.types import Action
from support.environments import Own, Shared, play, result, row, texts
from support.rewards import is_alive, wait_until, wait_until_gone

CALLED = """
import asyncio, os, time
class Env:
    {prefix}def start(self, row, rng):
        self.folder = row.metadata["folder"]
        if row.prompt == "waits":
            open(f"{{self.folder}}/starts", "w").close()
            {wait}(1000)
        return str(os.getpid())
    {prefix}def step(self, action: str) -> Step:
        open(f"{{self.folder}}/{{os.getpid()}}", "w").close()
        {wait}(1000 if action == "hang" else 0)
        return Step("x", 1.0)
    {prefix}def close(self):
        open(f"{{self.folder}}/closed", "w").close()
"""
DEAF = """
import asyncio, os
class Env:
    async def start(self, row, rng): return str(os.getpid())
    async def step(self, action: str) -> Step:
        open(action, "w").close()
        while True:
            try: await asyncio.sleep(1000)
            except asyncio.CancelledError: pass
"""
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
TIMER = """
import os, threading
class Env:
    def start(self, row, rng):
        if row.prompt == str(os.getpid()): threading.Event().wait()
        return str(os.getpid())
    def step(self, action: str) -> Step:
        threading.Timer(0.3, os._exit, (0,)).start()
        return Step("x", done=True)
"""
CLOSES = """
import os, time
class Env:
    def start(self, row, rng): self.prompt = row.prompt; return "x"
    def step(self, action: str) -> Step: return Step("x")
    def close(self):
        if self.prompt == "raises": raise ValueError("no")
        if self.prompt == "hangs": time.sleep(1000)
        if self.prompt == "exits": os._exit(1)
"""
PRINTS = """
class Env:
    def start(self, row, rng): print("begins"); return "x"
    def step(self, action: str) -> Step: print(action * 5000); return Step("x")
"""
RANDOM = """
import random, numpy
class Env:
    {prefix}def start(self, row, rng):
        self.rng = rng
        return f"{{rng.random()}} {{random.random()}} {{numpy.random.random()}}"
    {prefix}def step(self, action: str) -> Step:
        return Step(f"{{self.rng.random()}} {{random.random()}} {{numpy.random.random()}}")
"""
PREFIXES = {"": "time.sleep", "async ": "await asyncio.sleep"}
SOURCES: dict[str, tuple[str, dict[str, object]]] = {
    "deaf": (DEAF, {"timeout_s": 1.0}),
    "bad": (BAD, {"timeout_s": 2.0, "concurrency": 2}),
    "timer": (TIMER, {}),
    "closes": (CLOSES, {"timeout_s": 1.0}),
    "prints": (PRINTS, {}),
    **{
        f"{prefix}called": (CALLED.format(prefix=prefix, wait=wait), {"concurrency": 2})
        for prefix, wait in PREFIXES.items()
    },
    **{f"{prefix}random": (RANDOM.format(prefix=prefix), {"workers": 2}) for prefix in PREFIXES},
}
by_prefix = pytest.mark.parametrize("prefix", PREFIXES)


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the processes print."""
    return tmp_path_factory.mktemp("printed") / "log"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, printed: Path) -> Iterator[Shared]:
    with pytest.MonkeyPatch.context() as patch, stderr_in(printed):
        patch.setattr(calls, "GRACE_SECONDS", 0.1)
        found = Shared(Own(tmp_path_factory.mktemp("own")), SOURCES)
    yield found
    found.pool.close()


@contextmanager
def stderr_in(path: Path) -> Iterator[None]:
    """What starts in the block has a file as its stderr."""
    before = os.dup(2)
    with path.open("w") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


@by_prefix
def test_a_session_is_closed_while_a_call_runs(shared: Shared, tmp_path: Path, prefix: str) -> None:
    name, given = f"{prefix}called", row(folder=str(tmp_path))
    one = shared.open(name, given)
    (pid,) = texts(result(one.first))
    running = one.step(Action("hang"))
    wait_until((tmp_path / pid).exists, "`step` was never called")
    neighbour = shared.open(name, given) if prefix else None
    if neighbour:
        assert texts(result(neighbour.first)) == [pid]
    assert result(one.close()).failure is None
    assert one.close() is one.close()
    failure = result(running).failure
    assert failure is not None and failure.kind == "closed"
    assert (tmp_path / "closed").exists() == bool(prefix)
    if neighbour:
        assert is_alive(int(pid)) and play(neighbour, "x")[1].reward == 1.0
        neighbour.close()
    else:
        wait_until_gone([int(pid)])
    following = shared.open(name, given)
    assert play(following, "x")[1].reward == 1.0
    following.close()


@by_prefix
def test_a_session_is_closed_while_it_starts(shared: Shared, tmp_path: Path, prefix: str) -> None:
    name, folder = f"{prefix}called", str(tmp_path)
    one = shared.open(name, row("waits", folder=folder))
    wait_until((tmp_path / "starts").exists, "`start` was never called")
    assert result(one.close()).failure is None
    failure = result(one.first).failure
    assert failure is not None and failure.kind == "closed"
    following = shared.open(name, row(folder=folder))
    assert texts(result(following.first))
    following.close()


def test_a_session_is_closed_before_it_has_a_process(shared: Shared, tmp_path: Path) -> None:
    one, *waiting = [shared.open("called", row(folder=str(tmp_path))) for _ in range(4)]
    result(one.first)
    result(waiting[1].close())
    failure = result(waiting[1].first).failure
    assert failure is not None and failure.kind == "closed"
    one.close()
    for session in (waiting[0], waiting[2]):
        assert play(session, "x")[1].reward == 1.0
        session.close()


def test_a_call_that_does_not_listen_is_ended_with_its_process(
    shared: Shared, tmp_path: Path
) -> None:
    one, two = shared.open("deaf", row()), shared.open("deaf", row())
    (pid,) = {int(text) for session in (one, two) for text in texts(result(session.first))}
    called = tmp_path / "called"
    running = one.step(Action(str(called)))
    wait_until(called.exists, "`step` was never called")
    failures = [result(future).failure for future in (one.close(), running)]
    assert [failure and failure.kind for failure in failures] in (
        ["crash", "closed"],  # the running call was late first, and ended the process
        ["timeout", "closed"],
    )
    wait_until_gone([pid])
    two.close()
    three = shared.open("deaf", row())
    assert texts(result(three.first)) != [str(pid)]
    three.close()


@pytest.mark.parametrize("bad", ["blocks", "exits", "waits"])
def test_neighbours_of_an_async_episode(shared: Shared, bad: str) -> None:
    one, two = shared.open("bad", row()), shared.open("bad", row())
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
    three = shared.open("bad", row())
    for session in (one, two):
        session.close()
    assert play(three, "x")[1].reward == 1.0
    three.close()


def test_a_start_is_repeated_when_something_before_it_ended_the_process(shared: Shared) -> None:
    one = shared.open("timer", row())
    first, _ = play(one, "x")
    one.close()
    two = shared.open("timer", row(*texts(first)))
    assert texts(result(two.first)) != texts(first)
    two.close()


@pytest.mark.parametrize(
    ("how", "kind"), [("raises", "exception"), ("hangs", "timeout"), ("exits", "crash")]
)
def test_a_close_that_fails_is_printed(shared: Shared, printed: Path, how: str, kind: str) -> None:
    for _ in range(2):
        session = shared.open("closes", row(how))
        assert texts(result(session.first)) == ["x"]
        failure = result(session.close()).failure
        assert failure is not None and failure.kind == kind
        if how == "raises":
            assert "ValueError: no" in failure.detail
            said = "environment 'Env': `close` failed: ValueError: no"
            assert said in printed.read_text()


def test_what_is_printed_is_shown_and_counted(shared: Shared, printed: Path) -> None:
    session = shared.open("prints", row())
    first, second = play(session, "x")
    session.close()
    assert first.counts == {"printed_bytes": 7} and second.counts == {"printed_bytes": 5001}
    text = printed.read_text()
    assert "begins\n" in text and "[environment 'Env' printed 905 more bytes in this call]" in text


def test_a_row_that_cannot_be_sent_fails_only_its_episode(shared: Shared) -> None:
    with pytest.raises(UserError, match="environment 'Env': its arguments cannot be sent"):
        shared.open("prints", row(lock=Lock()))
    session = shared.open("prints", row())
    assert texts(result(session.first)) == ["x"]
    session.close()


@by_prefix
def test_random_numbers_depend_on_the_episode_alone(shared: Shared, prefix: str) -> None:
    name, found = f"{prefix}random", []
    sessions = [shared.open(name, row(), seed) for seed in (7, 8)]
    for session in (*sessions, shared.open(name, row(), 7)):
        found.append([texts(answer) for answer in play(session, "a", "b")])
        session.close()
    one, other, again = found
    assert one == again and len({text for [text] in one + other}) == 6

"""Who waits for whom, by the ranks' heartbeats; and when a run is started again."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from drpo_cli import progress
from drpo_cli.launch import restarts
from drpo_cli.launch.failures import Failures
from drpo_cli.launch.heartbeat import Beat, Heartbeat, read_beat
from drpo_cli.launch.watchdog import Watchdog, find_late, hang_limit
from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.records import Records
from support.command import records
from support.runs import metrics


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    (tmp_path / "logs").mkdir()
    return RunFolder(tmp_path)


def beat(
    entered: int, number: int = 1, phase: str = "train", waits: bool = False, done: int = 0
) -> Beat:
    return Beat(socket.gethostname(), 0, number, phase, 12, entered, done, "World.sum", waits)


def write(folder: RunFolder, *beats: Beat | None) -> None:
    for rank, one in enumerate(beats):
        if one is not None:
            folder.beat(rank).write_bytes(msgspec.json.encode(one))


@pytest.mark.parametrize(
    ("beats", "mute", "late"),
    [
        ([beat(5), beat(4), beat(5), beat(4)], (), [1, 3]),  # by their phases
        ([beat(5, waits=True), beat(5), beat(5, waits=True)], (), [1]),  # in the same one
        ([beat(5), beat(4), beat(5)], (2,), [2]),  # without a sign of life
        ([beat(5), None], (), [1]),
        ([beat(5), beat(5)], (), [0, 1]),
        ([beat(5)], (0,), [0]),
        ([beat(5, phase="close"), beat(6, phase="end")], (1,), [0]),
    ],
)
def test_the_ranks_that_others_wait_for(
    beats: list[Beat | None], mute: tuple[int, ...], late: list[int]
) -> None:
    assert find_late(beats, mute) == late


class Clock:
    """A clock that stands until it is set forward."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def watch(dog: Watchdog, clock: Clock, seconds: int) -> None:
    for _ in range(seconds):
        clock.now += 1
        dog.look()


def test_a_run_hangs_when_no_rank_makes_progress(folder: RunFolder) -> None:
    clock = Clock()
    dog = Watchdog(folder, 3, 20, clock)
    write(folder, beat(5), beat(5), beat(4, phase="reward"))
    watch(dog, clock, 8)
    write(folder, beat(5, 2), beat(5, 2), beat(4, 2, phase="reward", done=1))  # progress
    watch(dog, clock, 8)
    assert not folder.events.exists()
    watch(dog, clock, 3)
    (event,) = records(folder.events)
    assert event["text"] == (
        "no progress: ranks 0 and 1 wait in train (step 12, World.sum) since 10 s for rank 2, "
        "which is in reward (step 12, World.sum)"
    )
    watch(dog, clock, 8)
    assert len(records(folder.events)) == 1


def test_a_rank_that_has_ended_waits_for_nobody(folder: RunFolder) -> None:
    clock = Clock()
    dog = Watchdog(folder, 2, 40, clock)
    write(folder, beat(5, phase="close"), beat(6, phase="end"))
    watch(dog, clock, 22)
    (event,) = records(folder.events)
    assert event["text"] == "no progress: rank 0 is in close (step 12, World.sum), since 20 s"


def test_the_time_in_which_the_launcher_was_halted_does_not_count(folder: RunFolder) -> None:
    clock = Clock()
    dog = Watchdog(folder, 1, 60, clock)
    write(folder, beat(5))
    clock.now += 3600
    dog.look()
    assert not folder.events.exists()


def test_a_call_of_a_reward_may_take_its_time(folder: RunFolder) -> None:
    assert hang_limit(folder) == 1800  # a folder that cannot be read has the default
    folder.spec.write_text("[run]\nhang_s = 60\n[[reward]]\ntype = 'a'\ntimeout_s = 900\n")
    assert hang_limit(folder) == 960
    folder.spec.write_text("[run]\nhang_s = 60\n[teacher]\nurl = 'http://a'\ntimeout_s = 900\n")
    assert hang_limit(folder) == 960
    folder.spec.write_text("[run]\nhang_s = 60\n[teacher]\nurl = 'http://a'\n")
    assert hang_limit(folder) == 360
    folder.spec.write_text("[run]\nhang_s = 0\n[[reward]]\ntype = 'a'\n")
    assert hang_limit(folder) == float("inf")


@pytest.fixture
def own_progress() -> Iterator[progress.Progress]:
    yield progress.OWN
    progress.OWN = progress.Progress()


def test_a_rank_writes_where_it_is(folder: RunFolder, own_progress: progress.Progress) -> None:
    with Heartbeat(folder, 0, 1) as heart:
        progress.enter("train", step=3)
        progress.tick()
        before = own_progress.done
        heart.beat()
        found = read_beat(folder, 0)
        assert found is not None
        assert (found.phase, found.step, found.done) == ("train", 3, before)
        assert found.place == "Heartbeat.beat" and not found.waits
        assert (found.host, found.process) == (socket.gethostname(), os.getpid())
    last = read_beat(folder, 0)
    assert last is not None and last.phase == "end" and last.number > found.number


def test_a_full_disk_disturbs_no_rank(folder: RunFolder) -> None:
    folder.beat(0).symlink_to("/dev/full")
    with Heartbeat(folder, 0, 1) as heart:
        heart.beat()


def crash(folder: RunFolder, step: int) -> tuple[int, str]:
    """What ranks leave that crash in this step."""
    Records(folder.metrics).rewind(-1)
    Records(folder.metrics).extend(metrics(done) for done in range(step))
    assert not folder.error(0).exists()  # it would end the other ranks
    folder.record_error(0, 1, f"Traceback\nKeyError: in {step}")
    return 1, ""


@pytest.mark.parametrize(
    ("allowed", "ends", "code", "starts", "said"),
    [
        (2, [3, 5, (0, "")], 0, 3, ""),
        (2, [3, 3], 1, 2, "step 3 failed again after a restart; at first: KeyError: in 3"),
        (1, [3, 5], 1, 2, "all restarts are used up (run.restarts = 1)"),
        (0, [3], 1, 1, ""),
        (2, [(2, "a mistake")], 2, 1, "a mistake"),
        (2, [(143, "")], 143, 1, ""),
    ],
)
def test_a_run_starts_again_while_it_makes_progress(
    folder: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    allowed: int,
    ends: list[int | tuple[int, str]],
    code: int,
    starts: int,
    said: str,
) -> None:
    monkeypatch.setattr(restarts, "PAUSE_S", 0)
    left = iter(ends)

    def start() -> tuple[int, str]:
        end = next(left)
        return crash(folder, end) if isinstance(end, int) else end

    found, message = restarts.run_with_restarts(Failures(folder, 1), allowed, start)
    assert (found, len(ends) - len(list(left))) == (code, starts)
    assert said in message and bool(said) == bool(message)
    events = [event["text"] for event in records(folder.events)]
    assert len(events) == starts - 1
    assert all(f"restart {i} of {allowed}" in text for i, text in enumerate(events, 1))

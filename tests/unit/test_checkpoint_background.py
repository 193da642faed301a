"""Checkpoints that are written while training goes on."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from drpo_cli.dist import World
from drpo_cli.runs import checkpoints as on_disk
from drpo_cli.step import saved_state
from drpo_cli.step.checkpoint import Checkpoints, save_if_due
from drpo_cli.trainer.trainer import Trainer
from support.models import experience, samples, tiny_model, tokenizer, world
from support.training import furthest, moments, open_trainer, weights

LENGTHS = [(3, 9), (6, 2), (1, 5), (4, 4)]


class Gate:
    """Stands before `saved_state.save`: writers wait until it opens, and are counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.reached = threading.Event(), threading.Event()
        self.inside = self.most = 0
        self.error: OSError | None = None
        write = saved_state.save

        def save(*arguments: Any) -> None:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.reached.set()
            assert self.open.wait(60)
            if self.error is not None:
                raise self.error
            write(*arguments)
            self.inside -= 1

        monkeypatch.setattr(saved_state, "save", save)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def here() -> Iterator[World]:
    with world() as joined:
        yield joined


def train(trainer: Trainer, step: int) -> dict[str, float]:
    return trainer.step(experience(samples(LENGTHS, seed=step)))


def save(store: Checkpoints, trainer: Trainer, step: int, **state: Any) -> Path:
    return store.save(step, trainer, tokenizer(), {"dtype": "float32", **state})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_trained_meanwhile_is_not_in_it(
    model: Path, here: World, gate: Gate, tmp_path: Path
) -> None:
    trainer, store = open_trainer(model, here), Checkpoints(tmp_path, 3, here, True)
    cursor = [1]
    train(trainer, 1)
    then, moved = weights(trainer.policy), moments(trainer)
    folder = save(store, trainer, 1, cursor=cursor)
    assert gate.reached.wait(60)
    cursor.append(2)
    expected = train(trainer, 2)  # it does not wait
    assert furthest(then, weights(trainer.policy)) > 0
    assert names(tmp_path) == ["step-000001.partial"]
    assert Checkpoints(tmp_path, 3, here).newest_whole(print) is None  # as after a kill
    gate.open.set()
    store.finish()
    assert names(tmp_path) == ["step-000001"] and on_disk.damage(folder) == ""
    record = store.load(folder, trainer)
    assert record["cursor"] == [1] and record["updates"] == 1
    assert furthest(then, weights(trainer.policy)) == furthest(moved, moments(trainer)) == 0
    assert train(trainer, 2) == expected


def test_one_at_a_time_and_the_newest_and_the_best_stay(
    model: Path, here: World, gate: Gate, tmp_path: Path
) -> None:
    trainer, store = open_trainer(model, here), Checkpoints(tmp_path, 1, here, True)
    gate.open.set()
    for step, score in {10: 0.9, 20: 0.1, 30: 0.2, 40: None}.items():
        save(store, trainer, step, score=score)
    store.finish()
    assert gate.most == 1
    assert names(tmp_path) == ["step-000010", "step-000040"]


def test_an_error_of_the_writer_reaches_the_run_once(
    model: Path, here: World, gate: Gate, tmp_path: Path
) -> None:
    trainer, store = open_trainer(model, here), Checkpoints(tmp_path, 3, here, True)
    gate.open.set()
    save(store, trainer, 1)
    store.finish()
    gate.error = OSError(errno.ENOSPC, "No space left on device")
    save(store, trainer, 2)
    assert store._written is not None
    wait([store._written])
    with pytest.raises(OSError, match="No space left"):
        store.look()
    store.look()
    assert names(tmp_path) == ["step-000001"]  # what was written of the other is removed
    gate.error = None
    save(store, trainer, 2)
    store.finish()
    assert names(tmp_path) == ["step-000001", "step-000002"]


def run_of(store: Checkpoints, trainer: Trainer, here: World, stops: bool) -> Any:
    """What `save_if_due` uses of a run of nine steps that is saved after every third."""
    return SimpleNamespace(
        spec=SimpleNamespace(
            checkpoint=SimpleNamespace(every=3),
            run=SimpleNamespace(steps=9),
            model=SimpleNamespace(dtype="float32"),
        ),
        stop=SimpleNamespace(agree=lambda _: stops),
        data=SimpleNamespace(stream=SimpleNamespace(state_dict=dict)),
        proof=SimpleNamespace(floor=1e-6),
        world=here,
        checkpoints=store,
        trainer=trainer,
        tokenizer=tokenizer(),
    )


@pytest.mark.parametrize(("step", "stops"), [(9, False), (4, True)])
def test_the_last_step_and_a_stop_wait_until_it_is_whole(
    model: Path, here: World, gate: Gate, tmp_path: Path, step: int, stops: bool
) -> None:
    trainer, store = open_trainer(model, here), Checkpoints(tmp_path, 3, here, True)
    threading.Timer(0.2, gate.open.set).start()
    save_if_due(run_of(store, trainer, here, stops), step, None)
    assert names(tmp_path) == [f"step-{step:06d}"]


def test_the_next_step_says_what_the_disk_refused(
    model: Path, here: World, gate: Gate, tmp_path: Path
) -> None:
    trainer, store = open_trainer(model, here), Checkpoints(tmp_path, 3, here, True)
    r = run_of(store, trainer, here, stops=False)
    gate.error = OSError(errno.ENOSPC, "No space left on device")
    save_if_due(r, 3, None)
    save_if_due(r, 4, None)  # it is still being written
    gate.open.set()
    assert store._written is not None
    wait([store._written])
    with pytest.raises(OSError, match="No space left"):
        save_if_due(r, 5, None)
    assert names(tmp_path) == []


def test_a_run_that_asks_for_none_waits(
    model: Path, here: World, gate: Gate, tmp_path: Path
) -> None:
    trainer, store = open_trainer(model, here), Checkpoints(tmp_path, 3, here)
    gate.open.set()
    gate.error = OSError(errno.EIO, "Input/output error")
    with pytest.raises(OSError, match="Input/output"):
        save(store, trainer, 1)

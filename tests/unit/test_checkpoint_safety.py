"""Checkpoints of others run no code; a damaged one is not used; one that is read is not deleted."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import MetadataIndex

from drpo_cli.dist import World
from drpo_cli.errors import UserError
from drpo_cli.runs import checkpoints as on_disk
from drpo_cli.step import checkpoint
from drpo_cli.step.checkpoint import Checkpoints
from drpo_cli.trainer.trainer import Trainer
from support.models import tiny_model, tokenizer, world
from support.training import open_trainer

FILES = (
    "complete.json",
    "hf/config.json",
    "hf/generation_config.json",
    "hf/tokenizer.json",
    "hf/tokenizer_config.json",
    "state/.metadata",
    "state/__0_0.distcp",
)


@pytest.fixture(scope="module")
def here() -> Iterator[World]:
    with world() as one:
        yield one


@pytest.fixture(scope="module")
def trainer(here: World, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    small: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    return open_trainer(tiny_model(tmp_path_factory.mktemp("model"), **small), here)


@pytest.fixture(scope="module")
def original(here: World, trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    for step in (1, 2):
        Checkpoints(folder, 3, here).save(step, trainer, tokenizer(), {"dtype": "float32"})
    return folder


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    """A run folder with two checkpoints."""
    shutil.copytree(original, tmp_path / "run" / "checkpoints")
    return tmp_path / "run"


class Bomb:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.canary),)


def as_pickle(bomb: Bomb) -> bytes:
    return pickle.dumps(bomb)


def as_torch_file(bomb: Bomb) -> bytes:
    file = io.BytesIO()
    torch.save({"weight": bomb}, file)
    return file.getvalue()


def as_yaml(bomb: Bomb) -> bytes:
    return f'!!python/object/apply:os.mkdir ["{bomb.canary}"]\n'.encode()


def without_checksums(saved: Path) -> None:
    """Makes it a checkpoint of an older version: an attacker would, too."""
    marker = saved / on_disk.MARKER
    record = json.loads(marker.read_text())
    record.pop("files", None), record.pop("checksum", None)
    marker.write_text(json.dumps(record))


def use(saved: Path, trainer: Trainer, here: World, out: Path) -> list[str]:
    """Exports and loads a checkpoint; the messages of what is refused."""
    refused = []
    for act in (
        lambda: checkpoint.export(saved, out),
        lambda: Checkpoints(saved.parent, 3, here).load(saved, trainer),
    ):
        try:
            act()
        except UserError as error:
            refused.append(str(error))
    return refused


@pytest.mark.parametrize("form", [as_pickle, as_torch_file, as_yaml])
@pytest.mark.parametrize("name", FILES)
def test_no_file_of_a_checkpoint_runs_code(
    run: Path, trainer: Trainer, here: World, tmp_path: Path, name: str, form: Any
) -> None:
    saved, canary = run / "checkpoints" / "step-000002", tmp_path / "canary"
    without_checksums(saved)
    (saved / name).write_bytes(form(Bomb(canary)))
    refused = use(saved, trainer, here, tmp_path / "out")
    assert not canary.exists()
    used = name.startswith("state/") or name in ("complete.json", "hf/config.json")
    assert bool(refused) == used
    assert all(str(saved) in line and "\n" not in line for line in refused)


@pytest.mark.parametrize("where", ["index", "value", "planner", "path"])
def test_no_bomb_inside_a_valid_checkpoint_runs_code(
    run: Path, trainer: Trainer, here: World, tmp_path: Path, where: str
) -> None:
    saved, canary = run / "checkpoints" / "step-000002", tmp_path / "canary"
    without_checksums(saved)
    index = saved / "state" / ".metadata"
    data = saved / "state" / "__0_0.distcp"
    found, bomb = pickle.loads(index.read_bytes()), Bomb(canary)
    place = found.storage_data[MetadataIndex("optimizer.param_groups.0.lr")]
    if where == "index":
        found.state_dict_metadata["model.bomb"] = bomb
    elif where == "planner":
        found.planner_data = bomb
    elif where == "path":
        place.relative_path = str(tmp_path / "elsewhere")
    else:
        place.offset, content = data.stat().st_size, as_torch_file(bomb)
        place.length = len(content)
        with data.open("ab") as file:
            file.write(content)
    index.write_bytes(pickle.dumps(found))
    refused = use(saved, trainer, here, tmp_path / "out")
    assert not canary.exists()
    assert len(refused) == (1 if where == "value" else 2)  # an export reads no optimizer
    assert all("cannot be read as a checkpoint" in line for line in refused)


@pytest.mark.parametrize(
    "change",
    [
        {"step": "2"}, {"step": None}, {"dtype": "load"}, {"dtype": 3}, {"updates": [1]},
        {"files": ["x"]}, {"files": {"hf/config.json": 5}}, {"score": "high"}, {"data": []},
        {"score": "\ud800"},
    ],
    ids=str,
)  # fmt: skip
def test_a_record_of_other_types_is_refused(
    run: Path, trainer: Trainer, here: World, tmp_path: Path, change: dict[str, Any]
) -> None:
    saved = run / "checkpoints" / "step-000002"
    without_checksums(saved)
    record = {**json.loads((saved / on_disk.MARKER).read_text()), **change}
    on_disk.write_marker(saved, record, {})
    if "files" in change:
        (saved / on_disk.MARKER).write_text(json.dumps(record))
    refused = use(saved, trainer, here, tmp_path / "out")
    assert len(refused) == 2 and all("damaged: complete.json" in line for line in refused)


def test_a_checkpoint_of_an_older_version_is_used(
    run: Path, trainer: Trainer, here: World, tmp_path: Path
) -> None:
    saved = run / "checkpoints" / "step-000002"
    without_checksums(saved)
    assert on_disk.damage(saved) == "" and use(saved, trainer, here, tmp_path / "out") == []


def flip(file: Path, random_: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[random_.randrange(len(content))] ^= 1 << random_.randrange(8)
    file.write_bytes(content)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found_and_the_checkpoint_before_is_used(
    run: Path, here: World, tmp_path: Path, name: str
) -> None:
    first, last = (run / "checkpoints" / f"step-00000{step}" for step in (1, 2))
    whole, said, random_ = (last / name).read_bytes(), list[str](), random.Random(name)
    for _ in range(20):
        (last / name).write_bytes(whole)
        flip(last / name, random_)
        assert on_disk.damage(last) or json.loads((last / name).read_bytes()) == json.loads(whole)
    (last / name).write_bytes(bytes([whole[0] ^ 64]) + whole[1:])
    for target in (run, last):
        with pytest.raises(UserError, match=r"step-000002 is damaged: .*; use .*step-000001, or"):
            checkpoint.export(target, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()
    store = Checkpoints(run / "checkpoints", 3, here)
    assert store.newest_whole(said.append) == first
    assert len(said) == 1 and name in said[0] and "step-000002.damaged" in said[0]
    assert on_disk.complete(run / "checkpoints") == [first]


@pytest.mark.parametrize("change", ["cut", "empty", "missing"])
def test_a_file_that_is_cut_or_gone_is_found(run: Path, change: str) -> None:
    saved = run / "checkpoints" / "step-000002"
    for name in FILES[1:]:
        file, whole = saved / name, (saved / name).read_bytes()
        if change == "missing":
            file.unlink()
        else:
            file.write_bytes(b"" if change == "empty" else whole[:-1])
        assert name in on_disk.damage(saved)
        file.write_bytes(whole)
        assert on_disk.damage(saved) == ""


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_again(
    run: Path, here: World
) -> None:
    for saved in on_disk.complete(run / "checkpoints"):
        (saved / "state" / ".metadata").write_bytes(b"")
    with pytest.raises(UserError, match=r"no whole checkpoint before it; .* delete .*checkpoints"):
        Checkpoints(run / "checkpoints", 3, here).newest_whole(print)


def test_a_checkpoint_that_is_being_read_is_not_deleted(
    run: Path, trainer: Trainer, here: World
) -> None:
    store = Checkpoints(run / "checkpoints", 1, here)
    with on_disk.open_latest(run) as read:
        for step in (3, 4):
            store.save(step, trainer, tokenizer(), {"dtype": "float32"})
        kept = [path.name for path in on_disk.complete(store.folder)]
        assert kept == ["step-000002", "step-000004"] and on_disk.damage(read) == ""
    store.save(5, trainer, tokenizer(), {"dtype": "float32"})
    assert [path.name for path in store.folder.iterdir()] == ["step-000005"]


def test_without_locks_checkpoints_are_read_and_deleted(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", no_locks)
    with on_disk.open_latest(run) as read:
        assert read.name == "step-000002"
    on_disk.discard(read)
    assert [path.name for path in read.parent.iterdir()] == ["step-000001"]

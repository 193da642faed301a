"""Checkpoints in one process: bit for bit, whole or not at all, never of another model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from drpo_cli.errors import UserError
from drpo_cli.runs import checkpoints as on_disk
from drpo_cli.step import checkpoint
from drpo_cli.step.checkpoint import Checkpoints
from drpo_cli.trainer.trainer import Trainer
from support.models import experience, samples, tiny_model, tokenizer, world
from support.training import furthest, moments, open_trainer, weights

LENGTHS = [(3, 9), (6, 2), (1, 5), (4, 4)]
TRAIN: dict[str, Any] = {"updates_per_rollout": 2, "schedule": "cosine", "warmup_updates": 3}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def steps(trainer: Trainer, first: int, last: int) -> list[dict[str, float]]:
    return [
        trainer.step(experience(samples(LENGTHS, seed=step))) for step in range(first, last + 1)
    ]


def saved(store: Checkpoints, trainer: Trainer, step: int, **state: Any) -> Path:
    return store.save(step, trainer, tokenizer(), {"dtype": "float32", **state})


@pytest.mark.parametrize(
    ("kind", "offload"),
    [
        *((kind, ("none", "none")) for kind in ("qwen3", "llama", "gemma3", "qwen3_moe")),
        ("qwen3", ("optimizer", "none")),
        ("qwen3", ("none", "optimizer")),
    ],
)
def test_a_resumed_trainer_goes_on_bit_for_bit(
    tmp_path: Path, kind: str, offload: tuple[str, str]
) -> None:
    model = tiny_model(tmp_path / "model", kind)
    with world() as here:
        straight = open_trainer(model, here, offload=offload[0], **TRAIN)
        store = Checkpoints(tmp_path, 3, here)
        steps(straight, 1, 2)
        folder = saved(store, straight, 2, cursor=[1, 2])
        expected = steps(straight, 3, 4)
        resumed = open_trainer(model, here, offload=offload[1], **TRAIN)
        record = Checkpoints(tmp_path, 3, here).load(folder, resumed)
        assert steps(resumed, 3, 4) == expected
        for read in (lambda trainer: weights(trainer.policy), moments):
            one, other = read(straight), read(resumed)
            assert one.keys() == other.keys() and one
            assert all(torch.equal(one[name], other[name]) for name in one)
    assert (record["step"], record["cursor"]) == (2, [1, 2])


def test_loading_undoes_what_was_trained_since(model: Path, tmp_path: Path) -> None:
    with world() as here:
        trainer, store = open_trainer(model, here, **TRAIN), Checkpoints(tmp_path, 3, here)
        steps(trainer, 1, 1)
        then, moved = weights(trainer.policy), moments(trainer)
        folder = saved(store, trainer, 1)
        steps(trainer, 2, 2)
        assert furthest(then, weights(trainer.policy)) > 0
        store.load(folder, trainer)
        assert furthest(then, weights(trainer.policy)) == furthest(moved, moments(trainer)) == 0
        assert trainer.schedule.last_epoch == 2


def test_a_learning_rate_changed_in_the_spec_counts_from_the_resume_on(
    model: Path, tmp_path: Path
) -> None:
    changed = {**TRAIN, "learning_rate": 1e-4, "weight_decay": 0.5}
    with world() as here:
        trainer, store = open_trainer(model, here, **TRAIN), Checkpoints(tmp_path, 3, here)
        steps(trainer, 1, 2)
        folder = saved(store, trainer, 2)
        resumed, fresh = (open_trainer(model, here, **changed) for _ in range(2))
        steps(fresh, 1, 2)
        store.load(folder, resumed)
        for one, other in zip(
            resumed.optimizer.param_groups, fresh.optimizer.param_groups, strict=True
        ):
            for key in ("lr", "initial_lr", "weight_decay", "betas", "eps"):
                assert one[key] == other[key], key
        assert [report["learning_rate"] for report in steps(resumed, 3, 4)] == [
            report["learning_rate"] for report in steps(fresh, 3, 4)
        ]


def test_a_checkpoint_before_the_first_update_loads(model: Path, tmp_path: Path) -> None:
    with world() as here:
        trainer, store = open_trainer(model, here, **TRAIN), Checkpoints(tmp_path, 3, here)
        folder = saved(store, trainer, 0)
        resumed = open_trainer(model, here, **TRAIN)
        store.load(folder, resumed)
        expected = steps(open_trainer(model, here, **TRAIN), 1, 2)
        assert steps(resumed, 1, 2) == steps(trainer, 1, 2) == expected


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_are_kept_and_the_best(model: Path, tmp_path: Path) -> None:
    scores = {10: 0.1, 20: 0.9, 30: None, 40: 0.3, 50: 0.2}
    with world() as here:
        trainer, store = open_trainer(model, here), Checkpoints(tmp_path, 2, here)
        for step, score in scores.items():
            saved(store, trainer, step, score=score)
    assert names(tmp_path) == ["step-000020", "step-000040", "step-000050"]
    assert [path.name for path in on_disk.complete(tmp_path)] == names(tmp_path)


def test_without_scores_only_the_newest_are_kept(model: Path, tmp_path: Path) -> None:
    with world() as here:
        trainer, store = open_trainer(model, here), Checkpoints(tmp_path, 1, here)
        for step in (1, 2):
            saved(store, trainer, step)
    assert names(tmp_path) == ["step-000002"]


def test_a_half_written_checkpoint_is_none_and_goes_away(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    with world() as here:
        trainer, store = open_trainer(model, here), Checkpoints(folder, 3, here)
        whole = saved(store, trainer, 1)
        half = whole.rename(folder / "step-000002.partial")
        (half / on_disk.MARKER).unlink()
        (folder / "step-000003").mkdir()
        assert on_disk.complete(folder) == []
        with pytest.raises(UserError, match="neither a complete checkpoint nor a run folder"):
            on_disk.latest(tmp_path)
        with pytest.raises(UserError, match="not a complete checkpoint"):
            store.load(folder / "step-000003", trainer)
        saved(store, trainer, 2)
    assert "step-000002.partial" not in names(folder)
    assert on_disk.latest(tmp_path) == folder / "step-000002"


def test_a_partial_folder_with_a_marker_is_still_none(model: Path, tmp_path: Path) -> None:
    """Killed between the marker and the rename."""
    with world() as here:
        trainer, store = open_trainer(model, here), Checkpoints(tmp_path, 3, here)
        whole = saved(store, trainer, 7)
    whole.rename(tmp_path / "step-000007.partial")
    assert on_disk.complete(tmp_path) == []


def test_a_step_saved_again_replaces_its_checkpoint(model: Path, tmp_path: Path) -> None:
    with world() as here:
        trainer, store = open_trainer(model, here), Checkpoints(tmp_path, 3, here)
        saved(store, trainer, 5, note="first")
        saved(store, trainer, 5, note="second")
    assert names(tmp_path) == ["step-000005"]
    assert on_disk.read(tmp_path / "step-000005")["note"] == "second"


@pytest.mark.parametrize(
    ("kind", "change", "named"),
    [
        ("llama", {}, "model_type is qwen3 there, llama here"),
        ("qwen3", {"num_hidden_layers": 1}, "num_hidden_layers is 2 there, 1 here"),
        (
            "qwen3",
            {"intermediate_size": 128},
            "gate_proj.weight is [256, 128] there, [128, 128] here",
        ),
        ("qwen3", {"tie_word_embeddings": False}, "tie_word_embeddings is True there, False here"),
    ],
)
def test_another_models_checkpoint_is_refused_and_nothing_is_loaded(
    model: Path, tmp_path: Path, kind: str, change: dict[str, Any], named: str
) -> None:
    with world() as here:
        store = Checkpoints(tmp_path / "checkpoints", 3, here)
        folder = saved(store, open_trainer(model, here), 1)
        other = open_trainer(tiny_model(tmp_path / "other", kind, **change), here)
        before = weights(other.policy)
        with pytest.raises(UserError, match="a checkpoint of another model") as caught:
            store.load(folder, other)
        assert named in str(caught.value)
        assert furthest(before, weights(other.policy)) == 0


def test_a_full_disk_is_said_before_anything_is_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**20))
    with world() as here:
        trainer, store = open_trainer(model, here), Checkpoints(tmp_path / "c", 3, here)
        with pytest.raises(UserError, match=r"0\.00 GiB free, a checkpoint needs 0\.02 GiB"):
            saved(store, trainer, 1)
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", ["qwen3", "llama", "gemma3", "qwen3_moe"])
def test_an_export_is_a_folder_that_transformers_loads(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "exported"
    with world() as here:
        trainer = open_trainer(tiny_model(tmp_path / "model", kind), here)
        steps(trainer, 1, 1)
        saved(Checkpoints(tmp_path / "checkpoints", 3, here), trainer, 1)
        expected = trainer.replay(experience(samples(LENGTHS)))
        trained = weights(trainer.policy)
    checkpoint.export(tmp_path, target)
    lm = AutoModelForCausalLM.from_pretrained(target)
    assert furthest(dict(lm.named_parameters()), trained) == 0
    with world() as here:
        again = open_trainer(target, here).replay(experience(samples(LENGTHS)))
    assert torch.equal(again, expected)
    assert AutoTokenizer.from_pretrained(target)("1+2").input_ids == tokenizer()("1+2").input_ids
    assert not target.with_name("exported.partial").exists()


def test_an_export_has_the_runs_dtype(model: Path, tmp_path: Path) -> None:
    with world() as here:
        store = Checkpoints(tmp_path / "checkpoints", 3, here)
        folder = saved(store, open_trainer(model, here), 1, dtype="bfloat16")
    checkpoint.export(folder, tmp_path / "exported")
    lm = AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    assert {weight.dtype for weight in lm.parameters()} == {torch.bfloat16}


def test_an_export_does_not_overwrite(model: Path, tmp_path: Path) -> None:
    with world() as here:
        folder = saved(Checkpoints(tmp_path / "c", 3, here), open_trainer(model, here), 1)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("keep me")
    with pytest.raises(UserError, match="is not empty"):
        checkpoint.export(folder, mine)
    assert names(mine) == ["notes.txt"]

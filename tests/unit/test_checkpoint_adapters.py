"""Checkpoints of adapters: small, bit for bit, and never on another base."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from drpo_cli.dist import World
from drpo_cli.errors import UserError
from drpo_cli.settings import LoraSettings
from drpo_cli.step import saved_state
from drpo_cli.step.checkpoint import Checkpoints
from drpo_cli.trainer.trainer import Trainer
from support.models import experience, samples, tiny_model, tokenizer, world
from support.training import DType, moments, open_trainer, weights

LORA = LoraSettings(rank=4)
LENGTHS = [(3, 9), (6, 2), (1, 5), (4, 4)]
TRAIN: dict[str, Any] = {"updates_per_rollout": 2, "schedule": "cosine", "warmup_updates": 3}


@pytest.fixture(scope="module")
def here() -> Iterator[World]:
    with world() as joined:
        yield joined


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def steps(trainer: Trainer, first: int, last: int) -> list[dict[str, float]]:
    return [
        trainer.step(experience(samples(LENGTHS, seed=step))) for step in range(first, last + 1)
    ]


def saved(folder: Path, trainer: Trainer, asynchronous: bool = False) -> Path:
    store = Checkpoints(folder, 3, trainer.world, asynchronous)
    written = store.save(2, trainer, tokenizer(), {"dtype": "float32"})
    store.finish()
    return written


def load(folder: Path, trainer: Trainer) -> None:
    Checkpoints(folder.parent, 3, trainer.world).load(folder, trainer)


@pytest.mark.parametrize(
    ("kind", "dtype", "offload", "asynchronous"),
    [
        ("qwen3", "float32", "none", False),
        ("qwen3", "bfloat16", "optimizer", True),
        ("glm4_moe", "bfloat16", "none", False),
    ],
)
def test_a_run_with_adapters_resumes_bit_for_bit(
    tmp_path: Path, here: World, kind: str, dtype: DType, offload: str, asynchronous: bool
) -> None:
    folder = tiny_model(tmp_path / "model", kind)

    def opened() -> Trainer:
        return open_trainer(folder, here, dtype=dtype, lora=LORA, offload=offload, **TRAIN)

    straight, resumed = opened(), opened()
    steps(straight, 1, 2)
    checkpoint = saved(tmp_path, straight, asynchronous)
    expected = steps(straight, 3, 4)
    load(checkpoint, resumed)
    assert steps(resumed, 3, 4) == expected
    for one, other in (
        (weights(straight.policy), weights(resumed.policy)),
        (moments(straight), moments(resumed)),
    ):
        assert one.keys() == other.keys() and one
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_checkpoint_has_adapters_and_their_moments_alone(
    model: Path, tmp_path: Path, here: World
) -> None:
    trainer = open_trainer(model, here, lora=LORA)
    steps(trainer, 1, 1)
    checkpoint = saved(tmp_path, trainer)
    numbers = sum(weight.numel() for _, weight in trainer.policy.named_adapters())
    entries = saved_state.Tensors(checkpoint / "state", "").entries
    assert sum(entry.size.numel() for entry in entries.values() if entry.size) == 3 * numbers
    files = [path.stat().st_size for path in (checkpoint / "state").iterdir()]
    assert 12 * numbers < sum(files) < 12 * numbers + 500_000
    full = sum(weight.numel() for _, weight in trainer.policy.named_weights())
    assert numbers < full / 8


def changed(model: Path, folder: Path) -> Path:
    """The same model with another number in one of its matrices."""
    (folder / "other").mkdir()
    for path in model.iterdir():
        (folder / "other" / path.name).write_bytes(path.read_bytes())
    file = folder / "other" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] += 0.25
    save_file(tensors, file, metadata={"format": "pt"})
    return folder / "other"


@pytest.mark.parametrize(
    ("lora", "dtype", "said"),
    [
        ({}, "bfloat16", "or has them in another model.dtype"),
        ({"rank": 8}, "float32", "set lora.rank to 4"),
        ({"alpha": 8.0}, "float32", "set lora.alpha to 32"),
        ({"rslora": True}, "float32", "set lora.rslora to false"),
        ({"target_modules": ("q_proj",)}, "float32", "set lora.target_modules to ["),
        (None, "float32", "is of adapters, unlike this spec; add the [lora] section"),
    ],
)
def test_other_adapters_are_refused_and_nothing_is_loaded(
    model: Path, tmp_path: Path, here: World, lora: Any, dtype: DType, said: str
) -> None:
    checkpoint = saved(tmp_path, open_trainer(model, here, lora=LORA))
    settings = None if lora is None else LORA.model_copy(update=lora)
    other = open_trainer(model, here, lora=settings, dtype=dtype)
    before = weights(other.policy)
    with pytest.raises(UserError) as caught:
        load(checkpoint, other)
    assert said in str(caught.value)
    assert all(torch.equal(before[name], one) for name, one in weights(other.policy).items())


def test_adapters_of_another_base_are_refused(model: Path, tmp_path: Path, here: World) -> None:
    checkpoint = saved(tmp_path, open_trainer(model, here, lora=LORA))
    other = open_trainer(changed(model, tmp_path), here, lora=LORA)
    with pytest.raises(UserError, match=f"they were trained on {model}, and .* has other weights"):
        load(checkpoint, other)


def test_a_whole_models_checkpoint_does_not_go_on_with_adapters(
    model: Path, tmp_path: Path, here: World
) -> None:
    checkpoint = saved(tmp_path, open_trainer(model, here))
    with pytest.raises(UserError, match=r"is of a whole model, unlike this spec; take out the"):
        load(checkpoint, open_trainer(model, here, lora=LORA))

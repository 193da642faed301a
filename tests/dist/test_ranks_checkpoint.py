"""Checkpoints written on one number of ranks and read on another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from drpo_cli.dist import World
from drpo_cli.settings import LoraSettings
from drpo_cli.step import checkpoint
from drpo_cli.step.checkpoint import Checkpoints
from support import jobs
from support.models import Row, experience, samples, tiny_model, tokenizer, world
from support.ranks import Ranks
from support.training import furthest, open_trainer, weights

LENGTHS = [(3, 9), (6, 2), (1, 5), (4, 4)]


def shares(seed: int, ranks: int) -> list[list[Row]]:
    batch, size = samples(LENGTHS, seed), len(LENGTHS) // ranks
    return [batch[rank * size : (rank + 1) * size] for rank in range(ranks)]


@pytest.mark.parametrize(
    ("kind", "lora"), [("qwen3", None), ("qwen3_moe", None), ("qwen3", LoraSettings(rank=3))]
)
def test_saved_on_two_ranks_loaded_on_one(
    two: Ranks, tmp_path: Path, kind: str, lora: LoraSettings | None
) -> None:
    model, saved = tiny_model(tmp_path / "model", kind), tmp_path / "checkpoints" / "step-000001"
    written = two.run(jobs.train, model=model, shares=[shares(1, 2)], save=saved, lora=lora)[0]
    with world() as here:
        loaded = jobs.train(here, model, [], load=saved, lora=lora)
        onward = jobs.train(here, model, [shares(2, 1)], load=saved, lora=lora)
    assert furthest(written.weights, loaded.weights) == 0
    assert furthest(written.moments, loaded.moments) == 0
    both = two.run(jobs.train, model=model, shares=[shares(2, 2)], load=saved, lora=lora)[0]
    assert furthest(onward.weights, both.weights) < 1e-6
    assert onward.metrics[0] == pytest.approx(both.metrics[0], rel=1e-5, abs=1e-6)


def test_saved_on_one_rank_loaded_on_two(two: Ranks, model: Path, tmp_path: Path) -> None:
    saved = tmp_path / "step-000001"
    with world() as here:
        written = jobs.train(here, model, [shares(1, 1)], save=saved)
    for rank in two.run(jobs.train, model=model, shares=[], load=saved):
        assert furthest(written.weights, rank.weights) == 0
        assert furthest(written.moments, rank.moments) == 0


def test_two_ranks_resume_bit_for_bit(two: Ranks, model: Path, tmp_path: Path) -> None:
    saved = tmp_path / "step-000001"
    straight = two.run(jobs.train, model=model, shares=[shares(1, 2), shares(2, 2)])[0]
    two.run(jobs.train, model=model, shares=[shares(1, 2)], save=saved)
    resumed = two.run(jobs.train, model=model, shares=[shares(2, 2)], load=saved)[0]
    assert furthest(straight.weights, resumed.weights) == 0
    assert furthest(straight.moments, resumed.moments) == 0
    assert straight.metrics[1] == resumed.metrics[0]


def test_an_export_of_two_ranks_has_the_trained_weights_and_logits(
    two: Ranks, tmp_path: Path
) -> None:
    saved, target = tmp_path / "checkpoints" / "step-000001", tmp_path / "exported"
    model = tiny_model(tmp_path / "model", "llama")
    trained = two.run(jobs.train, model=model, shares=[shares(1, 2)], save=saved)[0].weights
    checkpoint.export(tmp_path, target)
    exported = AutoModelForCausalLM.from_pretrained(target)
    expected = AutoModelForCausalLM.from_pretrained(model)
    ids = torch.arange(4, 40)[None]
    with torch.no_grad():
        untrained = expected(ids).logits
        for name, weight in expected.named_parameters():
            weight.copy_(trained[name])
        assert torch.equal(exported(ids).logits, expected(ids).logits)
        assert (exported(ids).logits - untrained).abs().max() > 1e-3


def test_both_ranks_see_the_newest_and_the_best(two: Ranks, model: Path, tmp_path: Path) -> None:
    scores = {1: 0.5, 2: 0.9, 3: 0.1, 4: 0.2}
    kept = ["step-000002", "step-000003", "step-000004"]
    assert two.run(jobs.keep, model=model, folder=tmp_path, scores=scores) == [kept, kept]


def test_both_ranks_refuse_another_models_checkpoint(
    two: Ranks, model: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "step-000001"
    two.run(jobs.train, model=model, shares=[shares(1, 2)], save=saved)
    other = tiny_model(tmp_path / "other", num_hidden_layers=1)
    for told in two.run(jobs.load_refused, model=other, checkpoint=saved):
        assert "checkpoint of another model (num_hidden_layers is 2 there, 1 here)" in told


def save_while_training(here: World, model: Path, shares: list[Any], folder: Path) -> Any:
    """The weights when each checkpoint was taken; training went on while it was written."""
    trainer, store = open_trainer(model, here), Checkpoints(folder, 3, here, asynchronous=True)
    taken = []
    for step, share in enumerate(shares, 1):
        trainer.step(experience(share[here.rank]))
        taken.append(weights(trainer.policy))
        store.save(step, trainer, tokenizer(), {"dtype": "float32"})
    store.finish()
    return taken


def test_two_ranks_train_while_checkpoints_are_written(
    two: Ranks, model: Path, tmp_path: Path
) -> None:
    steps = [shares(seed, 2) for seed in (1, 2, 3)]
    taken = two.run(save_while_training, model=model, shares=steps, folder=tmp_path)[0]
    with world() as here:
        for step, expected in enumerate(taken, 1):
            loaded = jobs.train(here, model, [], load=tmp_path / f"step-{step:06d}")
            assert furthest(expected, loaded.weights) == 0
    assert furthest(taken[0], taken[1]) > 0

"""The algorithm in one file computes what the trainer computes, and runs."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import AutoModelForCausalLM

from support.models import experience, group, samples, tiny_model, world
from support.training import caught_gradients, furthest, open_trainer

EXAMPLE = Path(__file__).parents[2] / "examples" / "drpo_in_one_file.py"
DELTA = 0.1
MOST_LINES = 250


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("drpo_in_one_file", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_its_gradient_is_the_trainers(example: ModuleType, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    rows = samples([(3, 9), (6, 2), (1, 5), (4, 4), (2, 12)]) + group(5, [4, 1, 9], seed=1)
    episodes = [
        example.Episode(list(r.prompt_ids), list(r.response_ids), list(r.old_logps)) for r in rows
    ]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    loss = example.batch_loss(model, episodes, [row.advantages[0] for row in rows], DELTA)
    loss.backward()
    by_example = {name: w.grad for name, w in model.named_parameters() if w.grad is not None}
    with world() as here:
        trainer = open_trainer(folder, here, options={"delta": DELTA}, max_gradient_norm=1e9)
        with caught_gradients(trainer) as gradients:
            metrics = trainer.step(experience(rows))
    norm = float(torch.stack([gradient.norm() for gradient in by_example.values()]).norm())
    assert furthest(gradients[0], by_example) < 1e-6 * max(1.0, norm)
    assert metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-6)
    assert norm > 0.1


def test_its_sampled_log_probs_are_those_of_the_model(example: ModuleType, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model(tmp_path), dtype=torch.float32)
    torch.manual_seed(0)
    episodes = example.sample(model, [[5, 6, 7], [8, 9, 10]] * 4, 12, eos_id=2)
    for episode in episodes:
        assert len(episode.response_ids) == len(episode.logp_mu) <= 12
        assert 2 not in episode.response_ids[:-1]
        ids = torch.tensor([episode.prompt_ids + episode.response_ids])
        logp = model(ids).logits[0, len(episode.prompt_ids) - 1 : -1].log_softmax(-1)
        expected = logp.gather(-1, torch.tensor(episode.response_ids)[:, None])[:, 0]
        assert episode.logp_mu == pytest.approx(expected.tolist(), abs=1e-5)
    assert len({tuple(episode.response_ids) for episode in episodes}) > 1


def test_advantages_are_relative_to_the_group(example: ModuleType) -> None:
    found = example.compute_advantages([1.0, 0.0, 0.0, 1.0, 1.0, 1.0], 3)
    assert found == pytest.approx([2 / 3, -1 / 3, -1 / 3, 0, 0, 0])


def test_it_runs_and_stays_short(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    command = [sys.executable, str(EXAMPLE), str(folder), "--steps", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("step    1  mean reward 0.")
    assert len(EXAMPLE.read_text().splitlines()) <= MOST_LINES

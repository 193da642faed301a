"""Averages of models: of every weight, in the first one's dtype, and of one architecture only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from drpo_cli.errors import UserError
from drpo_cli.tools.average import write_average
from support.command import drpo_here
from support.models import tiny_model


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    return [tiny_model(tmp_path / f"model-{seed}", seed=seed) for seed in range(3)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "model.safetensors"))


@pytest.mark.parametrize("shares", [None, [3.0, 1.0, 0.0], [2.0, -1.0, 1.0]])
def test_every_weight_is_the_weighted_mean(
    models: list[Path], tmp_path: Path, shares: list[float] | None
) -> None:
    write_average(models, shares, tmp_path / "made" / "average")
    found = weights(tmp_path / "made" / "average")
    parts = [weights(model) for model in models]
    total = sum(shares or [1, 1, 1])
    for name, weight in found.items():
        own = zip(shares or [1, 1, 1], parts, strict=True)
        expected = sum(share / total * part[name].double() for share, part in own)
        assert torch.allclose(weight.double(), torch.as_tensor(expected), atol=1e-6), name
    assert found.keys() == parts[0].keys()
    AutoModelForCausalLM.from_pretrained(tmp_path / "made" / "average")
    AutoTokenizer.from_pretrained(tmp_path / "made" / "average")
    card = (tmp_path / "made" / "average" / "README.md").read_text()
    assert card.count("× `model-") == 3
    assert not list((tmp_path / "made").glob(".average-*"))


def test_the_command_reads_shares(models: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = drpo_here("export", models[0], out, "--average", models[1], "--shares", "1,3")
    assert done.returncode == 0, done.stderr
    name, weight = next(iter(weights(out).items()))
    first, second = (weights(model)[name] for model in models[:2])
    assert torch.allclose(weight, 0.25 * first + 0.75 * second, atol=1e-6)
    for words, said in (
        (("--shares", "1,1"), "--shares: has no effect without --average"),
        (("--average", models[1], "--shares", "1"), "--shares: has 1 numbers for 2 models"),
        (("--average", models[1], "--shares", "a,b"), "is not a list of numbers"),
        (("--average", models[1], "--shares", "1,-1"), "--shares: their sum is 0"),
        (("--average", models[0]), "--average: names a model twice"),
        (("--average", models[1], "--merged"), "--merged: has no effect with --average"),
    ):
        refused = drpo_here("export", models[0], tmp_path / "none", *words)
        assert refused.returncode == 2 and said in refused.stderr
    again = drpo_here("export", models[0], out, "--average", models[1])
    assert again.returncode == 2 and "is not empty" in again.stderr
    assert not (tmp_path / "none").exists()


def widen(folder: Path) -> Any:
    return tiny_model(folder, seed=1, intermediate_size=96)


def drop_one(folder: Path) -> None:
    found = weights(tiny_model(folder, seed=1))
    found["other.weight"] = found.pop(next(iter(found)))
    save_file(found, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("make", "said"), [(widen, r"mlp\..* is .* and not"), (drop_one, "differ by 2 weights")]
)
def test_other_architectures_are_refused(
    models: list[Path], tmp_path: Path, make: Callable[[Path], Any], said: str
) -> None:
    make(tmp_path / "other")
    with pytest.raises(UserError, match=said):
        write_average([models[0], tmp_path / "other"], None, tmp_path / "average")
    assert not (tmp_path / "average").exists()

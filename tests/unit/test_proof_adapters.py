"""The proof over adapters: whether they are pushed alone or merged, what is lost is caught."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from drpo_cli.dist import local
from drpo_cli.errors import UserError
from drpo_cli.rollout.engine.precision import Precision
from drpo_cli.settings import LoraSettings
from drpo_cli.trainer import lora
from support.models import experience, samples, tiny_model, world
from support.proofs import SAMPLING, AdapterEngine, LosingEngine, opened, prompts, sampled
from support.training import furthest, weights

BF16, F32 = Precision("bfloat16", "bfloat16"), Precision("float32", "float32")
LORA = LoraSettings(rank=8, alpha=16.0)
LAYER = "layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base") / "qwen3")


@pytest.mark.parametrize("kind", [AdapterEngine, LosingEngine])
@pytest.mark.parametrize("precision", [F32, BF16])
def test_a_sound_sync_of_adapters_passes_and_says_when_it_is_old(
    folder: Path, kind: type[LosingEngine], precision: Precision
) -> None:
    with world() as here:
        proof = opened(folder, here, precision, kind=kind, lora=LORA)
        assert proof.sync.pushes_adapters == (kind is AdapterEngine)
        before = weights(proof.trainer.policy)
        proof.prove(0, prompts(), SAMPLING)
        assert furthest(before, weights(proof.trainer.policy)) == 0
        stale = max(proof.looks[0].staleness.items(), key=lambda item: item[1])
        assert set(proof.looks[0].staleness) == dict(proof.trainer.policy.named_adapters()).keys()
        assert stale[1] < 5
        assert proof.looks[0].gap < 0.2 * proof.limits.ceiling
        for _ in range(2):
            proof.trainer.step(experience(samples([(4, 8)] * 4)))
        if precision is F32:
            with pytest.raises(UserError, match="after sync 1 the engine samples from other"):
                proof.check(sampled(proof), "after sync 1")
        proof.sync.push(1)
        assert proof.check(sampled(proof), "after sync 1") < 0.2 * proof.limits.ceiling


@pytest.mark.parametrize("precision", [F32, BF16])
@pytest.mark.parametrize(
    ("lost", "named"),
    [
        (f"{LAYER}.lora_A.weight", f"{LAYER}.lora_"),
        (f"{LAYER}.lora_B.weight", f"{LAYER}.lora_"),
        ("weight", "lora_"),  # nothing of it arrives
        ("scaling", "reach"),
        ("later", "reach|disagree"),
    ],
)
def test_an_adapter_that_is_not_as_it_was_pushed_is_caught(
    folder: Path, lost: str, named: str, precision: Precision
) -> None:
    with world() as here:
        proof = opened(folder, here, precision, lost, AdapterEngine, LORA)
        with pytest.raises(UserError, match=named):
            proof.prove(0, prompts(), SAMPLING)


class Stuck(LosingEngine):
    """Takes what is pushed first, and nothing after it."""

    first = True

    def load_weights(self, pushed: Iterable[tuple[str, Tensor]]) -> None:
        if self.first:
            super().load_weights(pushed)
        else:
            list(pushed)
        self.first = False


def unmerged(adapted: Any, bucket: Any, world: Any) -> Any:
    return [(name, local(weight)) for name, weight in bucket]


@pytest.mark.parametrize("precision", [F32, BF16])
@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("weight", f"{LAYER}.lora_"),
        ("nothing merged", "lora_"),
        ("scaling", "reach"),
        ("later", "reach|disagree"),
    ],
)
def test_a_merged_adapter_that_is_not_as_it_was_pushed_is_caught(
    folder: Path, fault: str, named: str, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = f"model.{LAYER}.weight" if fault == "weight" else ""
    delta = lora.delta
    if fault == "nothing merged":
        monkeypatch.setattr(lora, "merge", unmerged)
    if fault == "scaling":
        monkeypatch.setattr(lora, "delta", lambda *given: 2 * delta(*given))
    with world() as here:
        kind = Stuck if fault == "later" else LosingEngine
        proof = opened(folder, here, precision, lost, kind, LORA)
        with pytest.raises(UserError, match=named):
            proof.prove(0, prompts(), SAMPLING)


def test_what_an_adapter_is_added_to_is_pushed_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world() as here:
        proof = opened(folder, here, F32, kind=AdapterEngine, lora=LORA)
        pushes: list[int] = []
        load = proof.engine.load_weights

        def counted(weights: Any) -> None:
            pushes.append(1)
            load(weights)

        monkeypatch.setattr(proof.engine, "load_weights", counted)
        proof.prove(0, prompts(), SAMPLING)
        proof.sync.push(1)
        assert pushes == [1]

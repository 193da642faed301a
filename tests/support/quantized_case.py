"""A vLLM engine that quantises its weights, under a trainer: `… quantized_case FOLDER KIND OUT`.

OUT gets, as JSON, what the proof of the sync says of it, sound and broken, and what it holds.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from drpo_cli.dist import local
from drpo_cli.rollout import vllm
from drpo_cli.rollout.engine import precision
from drpo_cli.rollout.engine.precision import Precision, round_rows
from drpo_cli.rollout.engine.protocol import EngineContext, Sampling, sample_groups
from drpo_cli.settings import ModelSettings
from drpo_cli.step import sync
from drpo_cli.step.proof import Proof
from support.models import experience, samples, world
from support.proofs import prompts
from support.sync_case import addresses, said
from support.training import open_trainer

SAMPLING = Sampling(samples=8, max_new_tokens=16, temperature=1.0, seed=1)
LOST = ("layers.0.self_attn.o_proj",)


def main(folder: Path, kind: Any) -> dict[str, Any]:
    """Proves a sound sync, trains a step, pushes it, and loses one tensor after another."""
    dtype: Any = {"int8": "float32", "fp8": "bfloat16"}[kind]
    model = ModelSettings(path=str(folder), dtype=dtype)
    with world() as here:
        trainer = open_trainer(folder, here, learning_rate=1e-2)
        with patch.object(precision, "check_device"):  # to show why a CPU is refused
            engine = vllm.Engine(
                vllm.Config(quantization=kind), EngineContext(model, 64, 1, awaits_weights=True)
            )
        pushed = sync.WeightSync(trainer, engine, Precision("float32", dtype, quantization=kind))
        found: dict[str, Any] = {"quantised": sorted(engine.quantised)}
        proof, places = Proof(pushed), addresses(engine)
        found["sound"] = said(lambda: proof.prove(0, prompts(), SAMPLING))
        found["floor"] = proof.floor
        found["as rounded"] = agrees(engine, trainer, kind)
        trainer.step(experience(samples([(4, 8)] * 4)))
        groups = sample_groups(engine, prompts(), SAMPLING)
        found["stale"] = said(lambda: proof.check(groups, "after sync 1"))
        pushed.push(1)
        groups = sample_groups(engine, prompts(), SAMPLING)
        found["fresh"] = said(lambda: proof.check(groups, "after sync 1"))
        found["rounded"], found["gap"] = proof._look(groups).gap, proof.gap(groups)
        found["moved"] = [n for n, at in addresses(engine).items() if at != places.get(n)]
        whole = sync.trainer_weights
        for lost in LOST:

            def without(*given: Any, lost: str = lost) -> Iterator[tuple[str, Tensor]]:
                return (pair for pair in whole(*given) if lost not in pair[0])

            setattr(sync, "trainer_weights", without)  # noqa: B010
            found[lost] = said(lambda: Proof(pushed).prove(2, prompts(), SAMPLING))
        engine.close()
    return found


def agrees(engine: vllm.Engine, trainer: Any, kind: str) -> list[float]:
    """By how much the engine's products of an identity matrix differ from the rounded weights.

    Largest relative difference per matrix: such an input is quantised without an error.
    """
    model = engine.llm.llm_engine.model_executor.driver_worker.worker.model_runner.get_model()
    dtype = engine.llm.llm_engine.model_config.dtype
    weights = {n: local(w).detach() for n, w in trainer.policy.named_weights()}
    found = []
    for i, layer in enumerate(model.model.layers):
        prefix = f"model.layers.{i}.self_attn."
        for ours, names in (("qkv_proj", "qkv"), ("o_proj", "o")):
            parts = [weights[f"{prefix}{name}_proj.weight"] for name in names]
            rounded_KN = round_rows(torch.cat(parts).to(dtype).float(), kind).t()
            module = getattr(layer.self_attn, ours)
            product_KN = module.quant_method.apply(module, torch.eye(len(rounded_KN), dtype=dtype))
            difference_KN = (product_KN.float() - rounded_KN).abs()
            found.append(float((difference_KN / rounded_KN.abs().clamp(min=1e-6)).max()))
    return found


if __name__ == "__main__":
    result = main(Path(sys.argv[1]), sys.argv[2])
    Path(sys.argv[3]).write_text(json.dumps(result))
    os._exit(0)

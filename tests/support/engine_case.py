"""Proofs of the sync into vLLM, one family after another: `python -m support.engine_case KIND…`.

Prints a line of JSON for each: the gap that is left, or what the engine or the proof says.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from drpo_cli.errors import UserError
from drpo_cli.rollout import vllm
from drpo_cli.rollout.engine.precision import Precision
from drpo_cli.rollout.engine.protocol import EngineContext
from drpo_cli.settings import ModelSettings
from drpo_cli.step.proof import Proof
from drpo_cli.step.sync import WeightSync
from support.engine_names import prepare_vllm
from support.models import tiny_model, world
from support.proofs import SAMPLING, prompts, sampled
from support.training import open_trainer

FEW = replace(SAMPLING, samples=2, max_new_tokens=12)
SIZES: dict[str, dict[str, Any]] = {"gemma4": {"head_dim": 32, "global_head_dim": 64}}
"""What vLLM's attention on a CPU wants otherwise than the smallest model has it."""


def prove(kind: str) -> dict[str, Any]:
    """Proves the sync of one family into an engine that gets all its weights by pushes."""
    with tempfile.TemporaryDirectory() as folder, world() as here:
        path = tiny_model(Path(folder), kind, **SIZES.get(kind, {}))
        trainer = open_trainer(path, here)
        model = ModelSettings(path=str(path), dtype="float32")
        engine = vllm.Engine(vllm.Config(), EngineContext(model, 64, 1, awaits_weights=True))
        try:
            proof = Proof(WeightSync(trainer, engine, Precision("float32", "float32")))
            proof.prove(0, prompts()[:2], FEW)
            return {"kind": kind, "gap": proof.gap(sampled(proof))}
        except UserError as error:
            return {"kind": kind, "said": str(error)}
        finally:
            engine.close()
            del engine
            gc.collect()


if __name__ == "__main__":
    prepare_vllm()
    for each in sys.argv[1:]:
        sys.stdout.write("\n" + json.dumps(prove(each)) + "\n")
        sys.stdout.flush()
    os._exit(0)

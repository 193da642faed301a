"""One proof of the weight sync in its own process.

`python -m support.sync_case FOLDER FAULT [SYNC]`; `SYNC` is `lora.sync`, for a run that trains
adapters. Prints what came of it as one line of JSON: `caught` is the message, or null.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from drpo_cli import plugins
from drpo_cli.dist import local
from drpo_cli.errors import UserError
from drpo_cli.rollout import vllm
from drpo_cli.rollout.engine import adapters
from drpo_cli.rollout.engine.precision import Precision
from drpo_cli.rollout.engine.protocol import EngineContext, Sampling, sample_groups
from drpo_cli.settings import LoraSettings, ModelSettings, TrainSettings
from drpo_cli.step import sync
from drpo_cli.step.proof import Proof
from drpo_cli.trainer import optim
from drpo_cli.trainer.loading import load_policy
from drpo_cli.trainer.trainer import Objective, Trainer
from drpo_cli.types import Prompt
from support.models import experience, samples, tokenizer, world

PROMPTS = ("12+34=", "7*8=", "the sum of 1", "(2-3)/4=")


def break_on_purpose(fault: str) -> None:
    """Takes one part of the sync out."""
    if fault == "stale head":
        setattr(vllm, "repack_tied_head", lambda model: None)  # noqa: B010
    if fault == "experts not packed":
        setattr(vllm, "unpack_experts", lambda model: [])  # noqa: B010
    if fault == "lost tensor":
        whole = sync.trainer_weights

        def without_one(*given: Any) -> Any:
            return (pair for pair in whole(*given) if "layers.1.mlp.down_proj" not in pair[0])

        setattr(sync, "trainer_weights", without_one)  # noqa: B010
    if fault in ("old adapter", "lost layer"):
        load, loads = adapters.Slot.load, count()

        def faulty(self: adapters.Slot, weights: Iterable[tuple[str, Tensor]]) -> None:
            given = [p for p in weights if fault != "lost layer" or "1.mlp.down_proj" not in p[0]]
            if fault != "old adapter" or next(loads) == 0:
                load(self, given)

        setattr(adapters.Slot, "load", faulty)  # noqa: B010


def main(folder: Path, fault: str, way: Literal["adapter", "merged"] | None) -> dict[str, Any]:
    """Proves the sync, trains one step, pushes again and replays."""
    break_on_purpose(fault)
    model = ModelSettings(path=str(folder), dtype="float32")
    config = vllm.Config()
    prompts = [Prompt(text, text, tuple(tokenizer()(text).input_ids), None, {}) for text in PROMPTS]
    sampling = Sampling(samples=4, max_new_tokens=16, temperature=0.8, seed=1)
    with world() as here:
        lora = None if way is None else LoraSettings(rank=8, sync=way)
        policy = load_policy(model, sampling.temperature, 64, None, here, adapters=lora)
        settings = TrainSettings(updates_per_rollout=1, learning_rate=1e-2)
        plugin = plugins.load("objectives", "none")
        objective = Objective(plugin.entry, plugin.Config())
        trainer = Trainer(policy, optim.build(policy, settings, 2), objective, settings, here)
        for file in folder.glob("*.safetensors"):
            file.unlink()  # the engine gets all weights from the trainer
        found_layers = {"target_modules": tuple(policy.adapted)}
        lora = lora and lora.model_copy(update=found_layers)
        engine = vllm.Engine(config, EngineContext(model, 64, 1, awaits_weights=True, lora=lora))
        places = addresses(engine)
        pushed = sync.WeightSync(trainer, engine, Precision(model.dtype, model.dtype))
        proof = Proof(pushed)
        before = [local(weight).clone() for weight in policy.parameters()]
        try:
            proof.prove(0, prompts, sampling)
            kept = all(map(torch.equal, before, map(local, policy.parameters())))
            trainer.step(experience(samples([(4, 8)] * 4)))
            groups = vllm_groups(engine, prompts, sampling)
            stale, later = proof.gap(groups), said(lambda: proof.check(groups, "after sync 1"))
            pushed.push(1)
            fresh = proof.gap(vllm_groups(engine, prompts, sampling))
            moved = [name for name, at in addresses(engine).items() if at != places.get(name)]
            found = {"caught": None, "kept": kept, "stale": stale, "later": later, "fresh": fresh}
            return {**found, "moved": moved}
        except UserError as error:
            return {"caught": str(error)}
        finally:
            engine.close()


def addresses(engine: vllm.Engine) -> dict[str, int]:
    """Where each weight and buffer of the engine is: captured graphs read those places."""
    model = engine.llm.llm_engine.model_executor.driver_worker.worker.model_runner.get_model()
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.data_ptr() for name, tensor in tensors}


def said(check: Callable[[], object]) -> str | None:
    """The message a check stops the run with."""
    try:
        check()
    except UserError as error:
        return str(error)
    return None


def vllm_groups(engine: vllm.Engine, prompts: list[Prompt], sampling: Sampling) -> Any:
    """Fresh rollouts of the prompts."""
    return sample_groups(engine, prompts, sampling)


if __name__ == "__main__":
    asked: Any = sys.argv[3] if len(sys.argv) > 3 else None
    result = main(Path(sys.argv[1]), sys.argv[2], asked)
    sys.stdout.write("\n" + json.dumps(result) + "\n")
    sys.stdout.flush()
    os._exit(0)

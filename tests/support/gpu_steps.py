"""Takes training steps on a fake GPU, and prints what they need as JSON.

A program, because torch's fake process group may not meet a real one: `python -m
support.gpu_steps PROGRAM`, one of `PROGRAMS`.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # before anything is patched
import transformers

from drpo_cli import devices, plugins
from drpo_cli.dist import World, local
from drpo_cli.products import multiply
from drpo_cli.rollout.engine.precision import Precision
from drpo_cli.settings import ModelSettings, TrainSettings
from drpo_cli.tools.memory import passes
from drpo_cli.tools.memory.inputs import Batch, Lengths, make_model
from drpo_cli.tools.memory.tracker import find_gradients
from drpo_cli.trainer import float8, optim
from drpo_cli.trainer.attention import name_for
from drpo_cli.trainer.loading import DTYPES, _recompute_activations, shard
from drpo_cli.trainer.model import Policy
from drpo_cli.trainer.trainer import Objective, Trainer
from support.fake_gpu import DEVICE, FakeGpu, fake_gpu

RANKS = 64
TOKENS = 16_384
LAYERS = (2, 3)  # the difference is what one more layer adds
COMMON = {"head_dim": 128, "vocab_size": 151_936, "max_position_embeddings": 40_960}
QWEN3: dict[str, dict[str, Any]] = {
    "0.6B": {
        **{"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28},
        **{"num_attention_heads": 16, "num_key_value_heads": 8, "tie_word_embeddings": True},
    },
    "8B": {
        **{"hidden_size": 4096, "intermediate_size": 12_288, "num_hidden_layers": 36},
        **{"num_attention_heads": 32, "num_key_value_heads": 8},
    },
    "32B": {
        **{"hidden_size": 5120, "intermediate_size": 25_600, "num_hidden_layers": 64},
        **{"num_attention_heads": 64, "num_key_value_heads": 8},
    },
    "30B-A3B": {
        **{"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 48},
        **{"num_attention_heads": 32, "num_key_value_heads": 4, "norm_topk_prob": True},
        **{"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
    },
}


def configuration(name: str, layers: int | None = None) -> Any:
    """The configuration of a Qwen3, with fewer layers if that is given."""
    sizes = {**COMMON, "tie_word_embeddings": False, **QWEN3[name]}
    kind = "Qwen3MoeConfig" if "num_experts" in sizes else "Qwen3Config"
    if layers is not None:
        sizes["num_hidden_layers"] = layers
    return getattr(transformers, kind)(**sizes)


def open_trainer(config: Any, world: World, settings: TrainSettings) -> Trainer:
    """A trainer as a run builds it, of a model without values."""
    packed = name_for(str(settings.attention), "cuda")
    attention = None if settings.layout == "padded" else packed
    with DEVICE:
        lm = make_model(config, False, None, attention)
    _recompute_activations(lm, settings.checkpointing)
    policy = Policy(lm, 1.0, settings.logits_in_a_block)
    float8.convert(policy.layers, settings.float8)
    shard(policy, DTYPES["bfloat16"], world)
    plugin = plugins.load("objectives", "drpo")
    objective = Objective(plugin.entry, plugin.Config())
    return Trainer(policy, optim.build(policy, settings, 100), objective, settings, world)


def take_step(config: Any, batch: Batch, copies: int = 1, **train: Any) -> dict[str, Any]:
    """What the second step of a trainer needs; the first one makes the moments."""
    settings = devices.resolve(TrainSettings(updates_per_rollout=1, **train), "cuda", "bfloat16")
    with fake_gpu(RANKS, copies) as (world, gpu):
        trainer = open_trainer(config, world, settings)
        found: dict[str, Any] = {"weights": gpu.held}
        trainer.step(batch.rows)
        found["between steps"] = gpu.held
        _watch_gradients(trainer, gpu, found)
        gpu.begin()
        trainer.step(batch.rows)
        return found | {
            "kernels": gpu.kernels.total(),
            "products": gpu.kernels["mm"],
            "collectives": gpu.collectives.total(),
            "sums of copies": gpu.collectives["allreduce_"],
            "moved": gpu.moved,
            "reads": gpu.reads,
            "peak": gpu.peak,
            "again": gpu.held,
            "moments on": sorted(
                {v.device.type for s in trainer.optimizer.state.values() for v in s.values()}
            ),
        }


def _watch_gradients(trainer: Trainer, gpu: FakeGpu, found: dict[str, Any]) -> None:
    """Notes what is held when the optimizer makes its update, and the gradients in it."""

    def look(*_: object) -> None:
        gradients = [local(gradient) for gradient in find_gradients(trainer.policy)]
        found["gradients"] = sum(g.numel() * g.element_size() for g in gradients)
        found["in the update"] = gpu.held

    trainer.optimizer.register_step_pre_hook(look)


def budgets() -> dict[str, Any]:
    """Of each model, what a step with one micro-batch of `TOKENS` needs with all its layers."""
    batch = Batch(Lengths(1024, 4096), 4, 16, TOKENS)
    found = {}
    for name in QWEN3:
        fewer, more = (take_step(configuration(name, layers), batch) for layers in LAYERS)
        further = QWEN3[name]["num_hidden_layers"] - LAYERS[1]
        counts = ("kernels", "collectives", "moved", "reads")
        found[name] = {key: more[key] + (more[key] - fewer[key]) * further for key in counts}
    return found


def eight_bits() -> dict[str, Any]:
    """A step of two layers with each recipe, for tokens that 16 does not divide."""
    import support.eight_bits  # noqa: F401

    batch = Batch(Lengths(101, 1000), 1, 1, 1024)
    recipes = (None, "tensorwise", "rowwise")
    return {str(r): take_step(configuration("0.6B", 2), batch, float8=r) for r in recipes}


def plan() -> dict[str, Any]:
    """A step of three layers of 32B, with two micro-batches, and what `drpo plan` says of it.

    And the shards of all layers.
    """
    batch = Batch(Lengths(512, 1537), 1, 2, 4096)
    step, config = replace(batch, sequences=4, budget=8192), configuration("32B", 3)
    found: dict[str, Any] = {}
    cases: dict[str, dict[str, Any]] = {
        "plain": {},
        "per update": {"reduce_gradients": "per_update"},
        "offload": {
            **{"offload": "optimizer", "gradient_checkpointing": True},
            "checkpointing_keeps": "offloaded_inputs",
        },
    }
    for name, train in cases.items():
        taken = take_step(config, step, tokens_per_microbatch=4096, **train)
        found[name] = {"step": taken, "plan": _planned(config, batch, **train)}
    found["copies"] = take_step(config, step, copies=8, tokens_per_microbatch=4096)
    with fake_gpu(RANKS) as (world, gpu), DEVICE:
        lm = make_model(configuration("32B"), code=False)
        found["parameters"] = sum(weight.numel() for weight in lm.parameters())
        shard(Policy(lm, 1.0, 1024), DTYPES["bfloat16"], world)
        gc.collect()
        found["shards"] = gpu.held
    return found


TERMS: dict[str, dict[str, Any]] = {
    "GptOss": {"num_local_experts": 4, "layer_types": ["sliding_attention", "full_attention"]},
    "Gemma2": {"attn_logit_softcapping": 50.0},
    "DeepseekV3": {"first_k_dense_replace": 2, "num_key_value_heads": 16},
}
"""Models whose attention has sinks, soft caps, or values of another size."""


def terms() -> dict[str, Any]:
    """The kernels of a step by name, for each of `TERMS` with two layers; and of products."""
    batch, found = Batch(Lengths(512, 1537), 2, 2, 4096), {}
    sizes = {"hidden_size": 512, "intermediate_size": 512, "num_hidden_layers": 2}
    for name, own in TERMS.items():
        given = {**sizes, "num_attention_heads": 16, "vocab_size": 1024, **own}
        config = getattr(transformers, f"{name}Config")(**given)
        settings = devices.resolve(TrainSettings(updates_per_rollout=1), "cuda", "bfloat16")
        with fake_gpu(RANKS) as (world, gpu):
            trainer = open_trainer(config, world, settings)
            gpu.begin()
            trainer.step(batch.rows)
            found[name] = dict(gpu.kernels)
    return {"steps": found, "products": _products_of_halves()}


PADDED: dict[str, dict[str, Any]] = {
    "StableLm": {"partial_rotary_factor": 0.5},
    "Lfm2": {"layer_types": ["conv", "full_attention"]},
}
"""Models whose rows are padded: with attention of their own, and with convolutions."""


def padded() -> dict[str, Any]:
    """The kernels of a step on padded rows by name, for each of `PADDED`."""
    batch, found = Batch(Lengths(512, 1537), 2, 2, 4096, padded=True), {}
    sizes = {"hidden_size": 512, "intermediate_size": 512, "num_hidden_layers": 2}
    for name, own in PADDED.items():
        given = {**sizes, "num_attention_heads": 8, "num_key_value_heads": 4, **own}
        config = getattr(transformers, f"{name}Config")(vocab_size=1024, **given)
        train = TrainSettings(updates_per_rollout=1, layout="padded")
        settings = devices.resolve(train, "cuda", "bfloat16")
        with passes.in_rows(), fake_gpu(RANKS) as (world, gpu):
            trainer = open_trainer(config, world, settings)
            gpu.begin()
            trainer.step(batch.rows)
            found[name] = dict(gpu.kernels)
    return found


def _products_of_halves() -> dict[str, Any]:
    """Dtypes and kernels of products of bfloat16, as the head and tiles of attention need them."""
    found = {}
    with fake_gpu(RANKS) as (_, gpu):
        for name, shape in {"head": (8, 8), "attention": (2, 8, 8)}.items():
            left, right = (torch.empty(shape, device=DEVICE, dtype=torch.bfloat16) for _ in "lr")
            gpu.begin()
            dtype = str(multiply(left, right).dtype)
            found[name] = {"dtype": dtype, "kernels": dict(gpu.kernels)}
    return found


def _planned(config: Any, batch: Batch, **train: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(config.to_json_string())
        job = passes.Job(
            ModelSettings(path=folder),
            Precision("bfloat16", "bfloat16"),
            devices.resolve(TrainSettings(**train), "cuda", "bfloat16"),
            RANKS,
            batch,
            batch,
            accumulate=True,
            device="cuda",
        )
        measured = passes.measure(job)
    return {
        "train": passes.highest(measured, ["train"]),
        "optimizer": measured["optimizer", "all"],
    }


PROGRAMS = {
    "budgets": budgets,
    "plan": plan,
    "terms": terms,
    "padded": padded,
    "float8": eight_bits,
}

if __name__ == "__main__":
    sys.stdout.write(json.dumps(PROGRAMS[sys.argv[1]]()) + "\n")

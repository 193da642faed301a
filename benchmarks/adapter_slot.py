"""`python -m benchmarks.adapter_slot`: adapters in vLLM's slot against adapters that come merged.

A random Qwen3 of 4 layers, 6 M parameters, float32, rank 16, on one core: responses per second of
64 requests of 64 tokens, and seconds of a push; the best of several. Each way in its own process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIZES = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 4, "head_dim": 64}
TIMES = 3


def measure(way: Any) -> dict[str, float]:
    """Tokens per second and seconds of a push, with `way` as `lora.sync`."""
    from drpo_cli.rollout import vllm
    from drpo_cli.rollout.engine.precision import Precision
    from drpo_cli.rollout.engine.protocol import EngineContext, Sampling, sample_groups
    from drpo_cli.settings import LoraSettings, ModelSettings
    from drpo_cli.step.sync import WeightSync
    from drpo_cli.types import Prompt
    from support.models import tiny_model, tokenizer, world
    from support.training import open_trainer

    ids = tuple(tokenizer()("the sum of 12 and 34 is ").input_ids)
    prompts = [Prompt(str(i), "", ids, None, {}) for i in range(8)]
    sampling = Sampling(samples=8, max_new_tokens=64, temperature=1.0, seed=0)
    with tempfile.TemporaryDirectory() as folder, world() as here:
        path = tiny_model(Path(folder), **SIZES)
        lora = LoraSettings(rank=16, sync=way)
        trainer = open_trainer(path, here, lora=lora)
        layers = {"target_modules": tuple(trainer.policy.adapted)}
        model = ModelSettings(path=str(path), dtype="float32")
        context = EngineContext(model, 128, 1, True, lora.model_copy(update=layers))
        sync = WeightSync(
            trainer, vllm.Engine(vllm.Config(), context), Precision("float32", "float32")
        )
        rates, pushes = [], []
        for version in range(TIMES + 1):  # the first warms up
            began = time.perf_counter()
            sync.push(version)
            pushed = time.perf_counter()
            groups = sample_groups(sync.engine, prompts, sampling)
            tokens = sum(len(one.token_ids) for group in groups for one in group.rollouts_G)
            pushes.append(pushed - began)
            rates.append(tokens / (time.perf_counter() - pushed))
        return {"tokens per second": max(rates[1:]), "seconds of a push": min(pushes[1:])}


def main() -> None:
    """Prints both ways, and the slot's figures as multiples of the merged ones."""
    found = {}
    for way in ("adapter", "merged"):
        command = [sys.executable, "-m", "benchmarks.adapter_slot", way]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[way] = json.loads(done.stdout.splitlines()[-1])
        sys.stdout.write(f"{way}: {found[way]}\n")
    for name, merged in found["merged"].items():
        sys.stdout.write(f"{name}, slot ÷ merged: {found['adapter'][name] / merged:.2f}\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
        sys.stdout.write("\n" + json.dumps(measure(sys.argv[1])) + "\n")
    else:
        main()

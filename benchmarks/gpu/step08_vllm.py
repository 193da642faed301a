"""vLLM in the trainer's process: proofs of the sync, sleep, graphs, seeds, and its speed.

For each way to run the engine (with CUDA graphs, which the package takes on a GPU, and without): a
proof at the start, then ten times a training step while the engine sleeps, a push, and a proof with
disturbed weights. Then the same seeds are sampled twice, and the tokens per second compared with
plain `LLM.generate` on the same engine.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._bench import in_own_process
from benchmarks._ranks import alone
from benchmarks._trainers import Shape, make_model, on_policy, open_trainer, random_rows, step
from benchmarks.gpu._finding import Finding, Findings, Size, at_least, holds

SHAPES: dict[Size, Shape] = {
    "full": Shape(151_936, 1024, 3072, layers=28, heads=16, kv_heads=8, head_dim=128),
    "smoke": Shape(512, 64, 128, layers=2, heads=2, kv_heads=1, head_dim=32),
}
ROUNDS: dict[Size, int] = {"full": 10, "smoke": 2}
PROMPTS: dict[Size, int] = {"full": 64, "smoke": 4}
SAMPLES: dict[Size, int] = {"full": 8, "smoke": 2}
TOKENS: dict[Size, int] = {"full": 256, "smoke": 8}
EAGER: dict[Size, tuple[bool, ...]] = {"full": (False, True), "smoke": (True,)}
LEAST_SPEED: dict[Size, float] = {"full": 0.9, "smoke": 0.1}  # of plain `LLM.generate`


def measure(size: Size) -> Findings:
    """Yields the findings of each way to run the engine; each has a process of its own."""
    if importlib.util.find_spec("vllm") is None:
        yield Finding("vLLM", "not installed: nothing was tried")
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_model(Path(scratch) / "model", SHAPES[size])
        for eager in EAGER[size]:
            yield from in_own_process(try_engine, folder, eager, size)


def try_engine(folder: Path, eager: bool, size: Size) -> list[Finding]:
    """Returns what one engine shows."""
    import torch

    from drpo_cli import plugins
    from drpo_cli.rollout.engine.precision import Precision
    from drpo_cli.rollout.engine.protocol import EngineContext, Sampling
    from drpo_cli.settings import ModelSettings
    from drpo_cli.step.proof import Proof
    from drpo_cli.step.sync import WeightSync
    from drpo_cli.types import Prompt

    name = "without graphs" if eager else "with graphs"
    shape, found = SHAPES[size], []
    with alone() as world:
        trainer = open_trainer(folder, world, "bfloat16")
        plugin = plugins.load("rollout", "vllm")
        config = plugin.Config(eager=eager, gpu_memory_fraction=0.3)
        model = ModelSettings(path=str(folder), dtype="bfloat16")
        began = time.perf_counter()
        engine: Any = plugin.entry(config, EngineContext(model, 2 * TOKENS[size] + 64, 1))
        found.append(Finding(f"{name}: the engine starts", time.perf_counter() - began, "s"))
        sync = WeightSync(trainer, engine, Precision("bfloat16", "bfloat16"))
        proof = Proof(sync)
        rows = random_rows([(32, 4)] * 4, 32, shape.vocabulary)
        ids = [rows.prompt_ids_S[row] for row in range(0, len(rows), 4)]
        prompts = [Prompt(str(i), "", one, None, {}) for i, one in enumerate(ids)]
        freed = []
        for number in range(ROUNDS[size]):
            sampling = Sampling(1, 32, 1.0, seed=number)
            proof.prove(number, prompts, sampling)  # raises if a weight does not arrive
            awake = _free_bytes(world.device)
            engine.sleep()
            freed.append(_free_bytes(world.device) - awake)
            step(trainer, on_policy(trainer, rows))
        sync.push(ROUNDS[size])
        found.append(holds(f"{name}: {ROUNDS[size]} sleeps and proofs", found=True))
        if world.device.type == "cuda":
            freed_gib = min(freed) / 2**30
            found.append(Finding(f"{name}: freed by sleep, at least", freed_gib, "GiB"))
        many = [ids[i % len(ids)] for i in range(PROMPTS[size])]
        sampling = Sampling(SAMPLES[size], TOKENS[size], 1.0, seed=0)
        found += _seeds(name, engine, many, sampling)
        found += _speed(name, engine, many, sampling, LEAST_SPEED[size])
        engine.close()
        torch.manual_seed(0)
    return found


def _seeds(name: str, engine: Any, prompts: Any, sampling: Any) -> list[Finding]:
    """The same seeds give the same responses, in another order too; other seeds give others."""
    first = _sample(engine, prompts, sampling, 0)
    again = _sample(engine, prompts, sampling, 0)
    backwards = _sample(engine, prompts, sampling, 0, backwards=True)
    others = _sample(engine, prompts, sampling, 1)

    def same(found: Any) -> float:
        return sum(found[key] == first[key] for key in first) / len(first)

    return [
        at_least(f"{name}: responses equal for equal seeds", same(again), 0.5),
        at_least(f"{name}: and in another order", same(backwards), 0.5),
        at_least(f"{name}: responses that differ for other seeds", 1 - same(others), 0.5),
    ]


def _sample(engine: Any, prompts: Any, sampling: Any, seed: int, backwards: bool = False) -> Any:
    from drpo_cli.rollout.engine.requests import AllAtOnce, Request

    order = list(range(len(prompts)))[:: -1 if backwards else 1]
    requests = AllAtOnce(
        Request((place, i), prompts[at], 1000 * seed + 10 * at + i, sampling.max_new_tokens)
        for place, at in enumerate(order)
        for i in range(sampling.samples)
    )
    found = engine.generate(requests, sampling)
    return {(order[place], sample): rollout.token_ids for (place, sample), rollout in found}


def _speed(name: str, engine: Any, prompts: Any, sampling: Any, least: float) -> list[Finding]:
    """Tokens per second of a rollout, and compared with `LLM.generate` of the same requests."""
    from vllm import SamplingParams

    def ours() -> int:
        return sum(map(len, _sample(engine, prompts, sampling, 2).values()))

    def plain() -> int:
        options = SamplingParams(n=sampling.samples, max_tokens=sampling.max_new_tokens, logprobs=0)
        requests = [{"prompt_token_ids": list(ids)} for ids in prompts]
        done = engine.llm.generate(requests, options, use_tqdm=False)
        return sum(len(sample.token_ids) for one in done for sample in one.outputs)

    rates = {"ours": 0.0, "plain": 0.0}
    for _ in range(2):  # the first of each warms up
        for key, work in (("ours", ours), ("plain", plain)):
            began = time.perf_counter()
            tokens = work()
            rates[key] = tokens / (time.perf_counter() - began)
    return [
        Finding(f"{name}: tokens per second", rates["ours"], "tokens/s"),
        at_least(f"{name}: of LLM.generate", rates["ours"] / rates["plain"], least),
    ]


def _free_bytes(device: Any) -> int:
    import torch

    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0

"""How often the proof of a sync raises a false alarm, and which faults it misses.

    python -m benchmarks.proof_rates random FOLDER           makes small random models
    python -m benchmarks.proof_rates MODEL OUT [options]     proves again and again, adds to OUT
    python -m benchmarks.proof_rates report OUT              the table

Each proof is the real one (`Proof.prove`) with other prompts and another disturbance. Faults:

none             a sound sync; to refuse it is a false alarm
NAME             that tensor of the checkpoint never arrives: the engine keeps what it started with
stale head       vLLM's packed copy of a tied head is not made again
experts          vLLM's expert kernels are not built again

OUT is JSON Lines, one proof each, with what every look measured. `old` is the verdict of a rule
that knows no noise: a rehearsal above 3 × the gap of the real weights, or a gap above the ceiling.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drpo_cli import dist, plugins
from drpo_cli.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from drpo_cli.step.proof import Look, Proof
    from drpo_cli.types import Prompt

TEXTS = (  # from nearly certain to open
    "1, 2, 3, 4, 5, 6, 7,", "a b c d e f g", "q: what is 12 + 34? a:",
    "monday, tuesday, wednesday,",
    "2 * 2 = 4. 3 * 3 = 9. 4 * 4 =", "the capital of france is", "to be, or not to be,",
    "def add(a, b):\n    return", "for i in range(10):\n    print(", "import numpy as np\n",
    "once upon a time there was", "the best way to cook an egg is to", "i went to the market and",
    "what i like about the sea is", "a list of words: table, river,", "in 1987, scientists found",
)  # fmt: skip
PROMPTS, TOKENS, CONTEXT = 8, 32, 256
ENGINE_FAULTS = {"stale head": "repack_tied_head", "experts": "unpack_experts"}
OLD_FACTOR, OLD_CEILING = 3.0, {"float32": 1e-3, "bfloat16": 0.15}

SIZES = {
    "vocab_size": 320, "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 512,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
EXPERTS = {
    "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "norm_topk_prob": True,
    "decoder_sparse_step": 1,
}  # fmt: skip
RANDOM: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"num_hidden_layers": 2, "tie_word_embeddings": False}),
    "llama-deep": ("Llama", {"num_hidden_layers": 12, "tie_word_embeddings": False}),
    "qwen3": ("Qwen3", {"num_hidden_layers": 2, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2", {"num_hidden_layers": 2, "tie_word_embeddings": False}),
    "qwen3-moe": ("Qwen3Moe", {"num_hidden_layers": 2, "tie_word_embeddings": False, **EXPERTS}),
    "gemma3": (
        "Gemma3",
        {
            "num_hidden_layers": 2,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "wide": (
        "Llama",
        {
            "num_hidden_layers": 4,
            "tie_word_embeddings": False,
            "vocab_size": 32_768,
            "hidden_size": 256,
        },
    ),
    "confident": ("Llama", {"num_hidden_layers": 2, "tie_word_embeddings": False}),
}
SPREAD = 0.08
CONFIDENCE = 6.0  # factor on the head of "confident": its text has little entropy


def make_random(folder: Path) -> None:
    """Writes every model of `RANDOM`."""
    import torch
    import transformers

    from drpo_cli.tools import tiny

    for name, (family, own) in RANDOM.items():
        torch.manual_seed(len(name))
        config_class = getattr(transformers, f"{family}TextConfig", None) or getattr(
            transformers, f"{family}Config"
        )
        sizes = {k: v for k, v in SIZES.items() if k != "head_dim" or family != "Qwen2"}
        lm = getattr(transformers, f"{family}ForCausalLM")(config_class(**{**sizes, **own}))
        for parameter in lm.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=SPREAD)
        if name == "confident":
            lm.lm_head.weight.data *= CONFIDENCE
        lm.save_pretrained(folder / name)
        tiny.tokenizer().save_pretrained(folder / name)


class Faulty:
    """An engine to which one tensor, `lost`, does not arrive."""

    def __init__(self, engine: Any):
        self.engine = engine
        self.lost = ""
        self.first: dict[str, Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Passes weights on; the first ones are what a lost tensor keeps."""
        if not self.first:
            weights = [(name, weight.clone()) for name, weight in weights]
            self.first = dict(weights)
        self.engine.load_weights(
            (name, self.first[name] if name == self.lost else weight) for name, weight in weights
        )


def prove(options: argparse.Namespace) -> None:
    """Proves until the rounds or the seconds are over."""
    from transformers import AutoTokenizer

    from benchmarks._trainers import open_trainer
    from drpo_cli.rollout.engine.precision import Precision
    from drpo_cli.rollout.engine.protocol import EngineContext
    from drpo_cli.settings import ModelSettings
    from drpo_cli.step.sync import WeightSync
    from drpo_cli.types import Prompt

    ends = time.monotonic() + options.seconds
    os.environ.update({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"})
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(random.SystemRandom().randint(20000, 60000)))
    path = str(options.model)
    done = {_key(row) for row in _rows(options.out)}
    plugin = plugins.load("rollout", options.engine)
    tokenizer = AutoTokenizer.from_pretrained(path)
    prompts = [
        Prompt(str(i), t, tuple(tokenizer(t).input_ids), None, {}) for i, t in enumerate(TEXTS)
    ]
    with dist.join() as world:
        trainer = open_trainer(options.model, world, options.dtype)
        settings = ModelSettings(path=path, dtype=options.dtype)
        engine = Faulty(plugin.entry(plugin.Config(), EngineContext(settings, CONTEXT, 1)))
        sync = WeightSync(trainer, engine, Precision(options.dtype, options.dtype))
        sync.push(-1)
        for round_ in range(options.rounds):
            for fault in _faults(options, list(engine.first), round_):
                row = {
                    "model": options.model.name, "dtype": options.dtype, "engine": options.engine,
                    "fault": fault, "round": round_,
                }  # fmt: skip
                if _key(row) in done:
                    continue
                if time.monotonic() > ends:
                    os._exit(0)  # an engine's threads must not hold the process
                row |= _one(sync, fault, prompts, round_)
                with options.out.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(row, ensure_ascii=False) + "\n")
    os._exit(0)


def _faults(options: argparse.Namespace, names: list[str], round_: int) -> Iterator[str]:
    """A sound sync first; then each kind of tensor, in a layer that depends on the round."""
    yield "none"
    if options.engine == "vllm":
        config = json.loads((options.model / "config.json").read_text(encoding="utf-8"))
        if config.get("tie_word_embeddings", True):
            yield "stale head"
        if any(".experts." in name for name in names):
            yield "experts"
    if options.faults == "none":
        return
    kinds = defaultdict(list)
    for name in names:
        kinds[kind(name)].append(name)
    for members in kinds.values():
        yield from members if options.faults == "all" else [random.Random(round_).choice(members)]


def kind(name: str) -> str:
    """A tensor's name without its numbers."""
    return re.sub(r"\.\d+\.", ".N.", name)


def _one(sync: Any, fault: str, prompts: list[Prompt], round_: int) -> dict[str, Any]:
    from unittest import mock

    from drpo_cli.rollout import vllm
    from drpo_cli.rollout.engine.protocol import Sampling
    from drpo_cli.step.proof import Proof

    proof, began = Proof(sync), time.perf_counter()
    looks = _record_looks(proof)
    sync.engine.lost = fault
    # prompts are drawn with another range of entropy each time
    rng = random.Random(f"{fault} {round_}")
    first = rng.randrange(len(prompts) - PROMPTS + 1)
    chosen = (
        prompts[first : first + PROMPTS] if rng.random() < 0.5 else rng.sample(prompts, PROMPTS)
    )
    sampling = Sampling(1, TOKENS, 1.0, rng.randrange(2**31))
    said = ""
    with mock.patch.object(vllm, ENGINE_FAULTS.get(fault, "__doc__"), lambda model: []):
        try:
            proof.prove(0, chosen, sampling)
        except UserError as error:
            said = str(error)
    sync.engine.lost = ""
    kind, rehearsed, real = sync.precision.coarsest, *looks[:2]
    floor = max(real.gap, {"float32": 2e-6, "bfloat16": 5e-3}[kind])
    old = not (
        real.gap <= OLD_CEILING[kind]
        and rehearsed.gap <= min(OLD_FACTOR * floor, OLD_CEILING[kind])
    )
    return {
        "refused": bool(said), "old": old, "message": said,
        "looks": [_summary(look) for look in looks],
        "seconds": time.perf_counter() - began,
    }  # fmt: skip


def _record_looks(proof: Proof) -> list[Look]:
    looks: list[Look] = []
    inner = proof._look

    def look(*given: Any, **named: Any) -> Look:
        looks.append(inner(*given, **named))
        return looks[-1]

    setattr(proof, "_look", look)  # noqa: B010
    return looks


def _summary(look: Look) -> dict[str, Any]:
    worst = sorted(look.staleness.items(), key=lambda item: -item[1])[:3]
    return {"gap": look.gap, "noise": look.noise, "stalest": dict(worst)}


def _rows(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("model", "dtype", "engine", "fault", "round"))


def report(path: Path) -> str:
    """The table: how many of the proofs were refused, with a 95 % interval."""
    from scipy.stats import binomtest

    counted: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in _rows(path):
        counted[row["dtype"], row["model"], _group(row["fault"])].append(row)
    lines = [
        "| dtype | model | fault | proofs | refused | interval | refused by a fixed floor |",
        "|---|---|---|---|---|---|---|",
    ]
    for (dtype, model, fault), rows in sorted(counted.items()):
        refused, n = sum(row["refused"] for row in rows), len(rows)
        interval = binomtest(refused, n).proportion_ci(method="exact")
        old = sum(row["old"] for row in rows)
        lines.append(
            f"| {dtype} | {model} | {fault} | {n} | {refused} | {interval.low:.1%} to "
            f"{interval.high:.1%} | {old} |"
        )
    return "\n".join(lines)


def _group(fault: str) -> str:
    if fault in ("none", *ENGINE_FAULTS):
        return fault
    return "a norm or bias" if "norm" in fault or fault.endswith("bias") else "a matrix"


def main() -> None:
    """Reads the command line."""
    if sys.argv[1:2] == ["random"]:
        make_random(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["report"]:
        sys.stdout.write(report(Path(sys.argv[2])) + "\n")
    else:
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("model", type=Path)
        parser.add_argument("out", type=Path)
        parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
        parser.add_argument("--engine", choices=["vllm", "transformers"], default="vllm")
        parser.add_argument("--faults", choices=["none", "kinds", "all"], default="kinds")
        parser.add_argument("--rounds", type=int, default=1)
        parser.add_argument("--seconds", type=float, default=150.0)
        prove(parser.parse_args())


if __name__ == "__main__":
    main()

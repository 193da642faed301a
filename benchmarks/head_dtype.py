"""What `head_dtype` costs and gives, in bfloat16.

    python -m benchmarks.head_dtype                   errors and times of the trainer's head
    python -m benchmarks.head_dtype gap MODEL ENGINE  the gap to an engine, by the heads of both

For each vocabulary, on one core, with 32 tokens and hidden states of 640: the mean |Δ log π| of
both heads against float64, from the same bfloat16 inputs; and the processor time of a head in
float32 ÷ that of one in the dtype of the model, alternately, of a forward pass. For the smaller
vocabulary also that of a training step of 4 samples of 8 tokens, on a model of four layers.

The gap is the mean |log π − log μ| of 16 responses of 32 tokens, `noise` what the proof of a sync
compares it with. The models are those of `benchmarks.proof_rates`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import get_args

import torch
from torch import Tensor
from transformers import AutoTokenizer

from benchmarks._ranks import alone
from benchmarks._trainers import (
    Shape,
    make_model,
    on_policy,
    open_trainer,
    random_rows,
    step,
)
from benchmarks.proof_rates import TEXTS
from drpo_cli import plugins
from drpo_cli.devices import resolve
from drpo_cli.rollout.engine.precision import Precision
from drpo_cli.rollout.engine.protocol import EngineContext, Sampling, sample_groups
from drpo_cli.settings import HeadDtype, ModelSettings, TrainSettings
from drpo_cli.step.proof import Proof
from drpo_cli.step.sync import WeightSync
from drpo_cli.trainer.logprobs import Head, blockwise_logprobs
from drpo_cli.types import Prompt

WORDS, HIDDEN, TOKENS, PAIRS = (32_768, 262_144), 640, 32, 3
LOGITS = 4.0  # standard deviation of the logits
GROUPS, RESPONSE = [(16, 2)] * 2, 8  # (prompt tokens, samples) of each; tokens of a response


def main(arguments: Sequence[str]) -> None:
    """Prints errors and ratios of each vocabulary, or the gaps of a model."""
    torch.set_num_threads(1)
    if arguments:
        _, model, engine = arguments
        _gaps(Path(model), engine)
        return
    for words in WORDS:
        _log_probs(words)
    _step(WORDS[0])


def _gaps(model: Path, engine: str) -> None:
    tokenizer, settings = AutoTokenizer.from_pretrained(model), ModelSettings(path=str(model))
    texts = [(text, tuple(tokenizer(text).input_ids)) for text in TEXTS[::2]]
    prompts = [Prompt(str(i), text, ids, None, {}) for i, (text, ids) in enumerate(texts)]
    plugin, precision = plugins.load("rollout", engine), Precision("bfloat16", "bfloat16")
    with alone() as world:
        trainer = open_trainer(model, world, "bfloat16")
        for sampled in get_args(HeadDtype):
            config = plugin.Config(head_dtype=sampled)
            started = plugin.entry(config, EngineContext(settings, 256, 1))
            sync = WeightSync(trainer, started, precision)
            sync.push(0)
            groups = sample_groups(started, prompts, Sampling(2, 32, 1.0, 3))
            for trained in get_args(HeadDtype):
                trainer.policy.head.dtype = trained
                look = Proof(sync)._look(groups)
                sys.stdout.write(
                    f"trainer {trained}, engine {sampled}: gap {look.gap:.4f}, noise "
                    f"{look.noise:.4f}\n"
                )
            started.close()


def _log_probs(words: int) -> None:
    block = resolve(TrainSettings(), "cpu", "bfloat16").logits_in_a_block
    torch.manual_seed(0)
    given = (torch.randn(TOKENS, HIDDEN), torch.randn(words, HIDDEN) * LOGITS / HIDDEN**0.5)
    hidden_TD, weight_VD = (part.to(torch.bfloat16).requires_grad_() for part in given)
    target_T = torch.randint(words, (TOKENS,))

    def logp(dtype: HeadDtype) -> Tensor:
        head = Head(1.0, dtype=dtype)
        return blockwise_logprobs(hidden_TD, weight_VD, None, target_T, head, block)[0]

    with torch.no_grad():
        exact_TV = (hidden_TD.double() @ weight_VD.double().T).log_softmax(-1)
        exact_T = exact_TV.gather(1, target_T[:, None])[:, 0]
        for dtype in get_args(HeadDtype):
            error = (logp(dtype) - exact_T).abs().mean()
            sys.stdout.write(f"{words} words, {dtype}: mean |Δ log π| {float(error):.2g}\n")
        _compare(f"{words} words, forward", logp)


def _step(words: int) -> None:
    shape = Shape(words, HIDDEN, 2048, layers=4, heads=4, kv_heads=1, head_dim=256)
    with tempfile.TemporaryDirectory() as scratch, alone() as world:
        trainer = open_trainer(make_model(Path(scratch) / "model", shape), world, "bfloat16")
        rows = on_policy(trainer, random_rows(GROUPS, RESPONSE, words))

        def run(dtype: HeadDtype) -> None:
            trainer.policy.head.dtype = dtype
            step(trainer, rows)

        _compare(f"{words} words, training step", run)


def _compare(what: str, run: Callable[[HeadDtype], object]) -> None:
    taken = [(_seconds(run, "float32"), _seconds(run, "model")) for _ in range(PAIRS)]
    ratios = sorted(wide / narrow for wide, narrow in taken)
    seconds = median(narrow for _, narrow in taken)
    sys.stdout.write(
        f"{what}: float32 ÷ model {median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}], "
        f"model {seconds:.2f} s\n"
    )
    sys.stdout.flush()


def _seconds(run: Callable[[HeadDtype], object], dtype: HeadDtype) -> float:
    began = time.process_time()
    run(dtype)
    return time.process_time() - began


if __name__ == "__main__":
    main(sys.argv[1:])

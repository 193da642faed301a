"""`python -m benchmarks.ablation`: time without one technique ÷ time with all, alternately.

The training phase of row 1's model: 32 prompts × 8 responses, lengths equal (16 → 32 tokens) or
ragged (16 to 64 → 8 to 512), one update unless said otherwise. Each line is one technique; this is
what is measured without it:

packed rows           padded rows, on which no prompt is shared
packed rows, apart    the same, with no two samples of one prompt on either side
prompts shared        every sample's prompt has another first token, so that none is shared
rows by scatter_add   autograd's own indexing in attention and before the head
whole groups          4 updates of 2 samples of every group, against 4 updates of 8 whole groups
memory kept           glibc's own allocator settings, in a process of its own
blocks of logits      a vocabulary of 262,144, 1,024 tokens: one block, against blocks of 8 MiB
one gradient          a step of row 16's model: embedding and head, one matrix of 262,144 words, get
                      a gradient each
fused AdamW           a step of row 4's model (100 M parameters) with the foreach implementation
prompts of rollouts   16 prompts × 8 responses of 32 tokens from the transformers engine, which
                      computes every prompt eight times
one number per token  the draw of 64 rows by the transformers engine, from the logits of so many
                      words: exponential noise for every word, from a generator per row
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from benchmarks import row04_model_flops, row06_logprobs, row16_memory
from benchmarks._bench import ratios, time_pairs
from benchmarks._peers import MODEL, log_uniform
from benchmarks._ranks import alone, open_ranks
from benchmarks._trainers import (
    apart,
    cut,
    make_model,
    on_policy,
    open_trainer,
    random_rows,
    step,
)
from drpo_cli.dist import KEEP_MEMORY, cores, environment
from drpo_cli.types import Prompt

if TYPE_CHECKING:
    from drpo_cli.experience import Experience

PAIRS = {"equal": 7, "ragged": 3}
UPDATES = 4
Alter = Callable[["Experience"], "Experience"]
Ratios = tuple[float, ...]


def batch(kind: str) -> Experience:
    """A step's samples, equal or ragged in length."""
    if kind == "equal":
        return random_rows([(16, 8)] * 32, 32, MODEL.vocabulary)
    rng = random.Random(0)
    groups = random_rows([(rng.randint(16, 64), 8) for _ in range(32)], 512, MODEL.vocabulary)
    return cut(groups, [log_uniform(rng, 8, 512) for _ in range(len(groups))])


def packed(model: Path, world: Any, kind: str, alter: Alter = lambda exp: exp) -> Ratios:
    """Without: padded rows."""
    padded, packed = (open_trainer(model, world, layout=layout) for layout in ("padded", "packed"))
    known = on_policy(packed, alter(batch(kind)))
    return _ratios(lambda: step(padded, known), lambda: step(packed, known), kind)


def shared(model: Path, world: Any, kind: str) -> tuple[float, ...]:
    """Without: no two samples have the same prompt."""
    trainer = open_trainer(model, world)
    together, own = on_policy(trainer, batch(kind)), on_policy(trainer, apart(batch(kind)))
    return _ratios(lambda: step(trainer, own), lambda: step(trainer, together), kind)


def rows(model: Path, world: Any, kind: str) -> tuple[float, ...]:
    """Without: plain indexing."""
    trainer = open_trainer(model, world)
    known = on_policy(trainer, batch(kind))

    def plain() -> None:
        with ExitStack() as stack:
            for module in ("attention", "model"):
                where = f"drpo_cli.trainer.{module}.take"
                stack.enter_context(mock.patch(where, lambda x_TF, index_N: x_TF[index_N]))
            step(trainer, known)

    return _ratios(plain, lambda: step(trainer, known), kind)


def groups(model: Path, world: Any, kind: str) -> tuple[float, ...]:
    """Without: mini-batches with some samples of every group."""
    spread, whole = (
        open_trainer(model, world, updates_per_rollout=UPDATES, minibatches=minibatches)
        for minibatches in ("spread", "groups")
    )
    known = on_policy(whole, batch(kind))
    return _ratios(lambda: step(spread, known), lambda: step(whole, known), kind)


class Phase:
    """A training phase in its own process."""

    def __init__(self, work: Callable[[], None]):
        self.work = work

    def run(self) -> None:
        """Runs the phase once."""
        self.work()


@contextmanager
def open_phase(model: Path, kind: str) -> Iterator[Phase]:
    """Opens a training phase; an argument of `open_ranks`."""
    from drpo_cli import dist

    with dist.join() as world:
        trainer = open_trainer(model, world)
        known = on_policy(trainer, batch(kind))
        yield Phase(lambda: step(trainer, known))


def memory(model: Path, world: Any, kind: str) -> tuple[float, ...]:
    """Without: the allocator settings of a process that `drpo train` did not start."""
    with ExitStack() as stack:
        opened = []
        for keep in (False, True):
            with mock.patch.dict(os.environ, environment(cores())):
                for name in () if keep else KEEP_MEMORY:
                    del os.environ[name]
                ranks = open_ranks(1, cores(), open_phase, model=model, kind=kind)
                opened.append(stack.enter_context(ranks))
        off, on = (partial(ranks.call, "run") for ranks in opened)
        return _ratios(off, on, kind)


def blocks(*_: Any) -> tuple[float, ...]:
    """Without: all logits of 1,024 tokens in one block."""
    from drpo_cli.trainer.logprobs import Head, blockwise_logprobs

    weight_VD, hidden_TD, target_T = row06_logprobs.inputs(1024, 262_144, "float32")

    def run(block: int) -> None:
        weight_VD.grad = hidden_TD.grad = None
        row06_logprobs.forward_and_backward(
            lambda h_TD, w_VD, t_T: blockwise_logprobs(h_TD, w_VD, None, t_T, Head(1.0), block),
            hidden_TD,
            weight_VD,
            target_T,
        )

    return ratios(time_pairs(lambda: run(1024 * 262_144), lambda: run(2 * 2**20), 3))


def tied_gradient(_: Path, world: Any, __: str) -> tuple[float, ...]:
    """Without: embedding and head, one matrix, get a gradient each."""
    from drpo_cli.trainer import tied

    shape = row16_memory.GEMMA_270M
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder) / "model", shape)
        together = open_trainer(model, world)
        with mock.patch.object(tied, "share"):
            apart = open_trainer(model, world)
    known = on_policy(together, random_rows([(16, 8)] * 4, 16, shape.vocabulary))
    return _ratios(lambda: step(apart, known), lambda: step(together, known), "ragged")


def fused(_: Path, world: Any, __: str) -> tuple[float, ...]:
    """Without: AdamW's foreach implementation."""
    shape = row04_model_flops.SHAPES["full"]
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder) / "model", shape)
        trainer, known = row04_model_flops.phase(model, shape, world)

    def run(fused: bool) -> None:
        for group in trainer.optimizer.param_groups:
            group.update(fused=fused, foreach=not fused)
        step(trainer, known)

    return ratios(time_pairs(lambda: run(False), lambda: run(True), 4))


def rollouts(model: Path, _: Any, kind: str) -> tuple[float, ...]:
    """Without: the prompt of a group is computed for every sample of it."""
    from drpo_cli.rollout import transformers
    from drpo_cli.rollout.engine.protocol import EngineContext, Sampling, sample_groups
    from drpo_cli.settings import ModelSettings

    context = EngineContext(ModelSettings(path=str(model), dtype="float32"), 1024, 1)
    engine = transformers.Engine(transformers.Config(), context)
    drawn = random_rows([(int(kind.split()[0]), 1)] * 16, 1, MODEL.vocabulary)
    prompts = [Prompt(str(i), "", ids, None, {}) for i, ids in enumerate(drawn.prompt_ids_S)]
    sampling = Sampling(samples=8, max_new_tokens=32, temperature=1.0, seed=0)

    def sample(shares: bool) -> None:
        engine.shares = shares
        sample_groups(engine, prompts, sampling)

    return _ratios(lambda: sample(False), lambda: sample(True), "equal")


def draws(model: Path, world: Any, kind: str) -> Ratios:
    """Without: noise for every word of the vocabulary."""
    import torch

    from drpo_cli.rollout.engine.protocol import Sampling
    from drpo_cli.rollout.transformers import _Draw

    logits_SV = torch.randn(64, int(kind.replace(",", "").partition(" ")[0]))
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(logits_SV))]
    draw = _Draw(Sampling(1, 1, 1.0, 0), range(len(logits_SV)), torch.device("cpu"))

    def with_noise() -> None:
        logp_SV = logits_SV.log_softmax(-1)
        noise_SV = torch.empty_like(logp_SV)
        for noise_V, generator in zip(noise_SV, generators, strict=True):
            noise_V.exponential_(generator=generator)
        token_S1 = (logp_SV.exp() / noise_SV).argmax(-1, keepdim=True)
        logp_SV.gather(-1, token_S1)

    return _ratios(with_noise, lambda: draw(None, logits_SV), "equal")


def _ratios(off: Callable[[], object], on: Callable[[], object], kind: str) -> tuple[float, ...]:
    return ratios(time_pairs(off, on, PAIRS[kind]))


LINES: Sequence[tuple[str, Callable[..., tuple[float, ...]], tuple[str, ...]]] = (
    ("packed rows", packed, ("equal", "ragged")),
    ("packed rows, apart", partial(packed, alter=apart), ("equal", "ragged")),
    ("prompts shared", shared, ("equal", "ragged")),
    ("rows by scatter_add", rows, ("equal", "ragged")),
    ("whole groups, 4 updates", groups, ("equal", "ragged")),
    ("memory kept", memory, ("equal", "ragged")),
    ("blocks of logits", blocks, ("",)),
    ("one gradient", tied_gradient, ("262,144 words",)),
    ("fused AdamW", fused, ("100 M",)),
    ("prompts of rollouts", rollouts, ("50 tokens", "500 tokens")),
    ("one number per token", draws, ("49,152 words", "262,144 words")),
)


def main() -> None:
    """Prints one line per technique."""
    with tempfile.TemporaryDirectory() as folder, alone() as world:
        model = make_model(Path(folder) / "model", MODEL)
        for name, measured, kinds in LINES:
            for kind in kinds:
                found = measured(model, world, kind)
                spread = f"{statistics.median(found):.3f} [{min(found):.3f}, {max(found):.3f}]"
                sys.stdout.write(f"| {name} | {kind} | {spread} |\n")
                sys.stdout.flush()


if __name__ == "__main__":
    if missing := environment(cores()).items() - os.environ.items():
        # the C library and OpenMP read these when a process starts
        os.execve(sys.executable, [*sys.orig_argv], {**os.environ, **dict(missing)})
    main()

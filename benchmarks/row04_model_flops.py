"""Model FLOP/s of a training step ÷ the best matrix product's of the same shapes and dtype.

The step is `Trainer.step`: packing, forward, backward, clipping and AdamW, on 8 sequences of 256
input tokens, packed to 2,048. Model FLOPs count what the mathematics needs, nothing twice:

    6 · N · T          the layers' N matrix weights, forward (2) and backward (4), T input tokens
    6 · V · D · R      the head, for the R response tokens only
    12 · Dh · H · Σ L(L + 1)/2 · layers      causal attention of sequences of L tokens

Logits that are computed again in the backward pass, norms, softmax and the optimizer do not count.
The other rate is the best of all products of the model's own matrices: forward y = x Wᵀ, and the
two of the backward pass, g W and gᵀ x; the head's products take all response tokens at once.
Each figure compares one sweep over these products with the step after it.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks._bench import Goal, Measured, Size
from benchmarks._ranks import alone
from benchmarks._trainers import (
    DType,
    Shape,
    input_lengths,
    make_model,
    on_policy,
    open_trainer,
    random_rows,
    step,
)

if TYPE_CHECKING:
    from torch import Tensor

    from drpo_cli.experience import Experience
    from drpo_cli.trainer.trainer import Trainer

GOALS = (
    Goal("model FLOP/s ÷ best matrix product, float32", 0.8, at_most=False),
    Goal("model FLOP/s ÷ best matrix product, bfloat16", 0.75, at_most=False),
)
SHAPES: dict[Size, Shape] = {
    "full": Shape(32_000, 768, 2048, layers=12, heads=12, kv_heads=4, head_dim=64),
    "smoke": Shape(320, 64, 128, layers=2, heads=4, kv_heads=2, head_dim=16),
}
DTYPES: tuple[DType, ...] = ("float32", "bfloat16")
SEQUENCES, PROMPT, RESPONSE = 8, 33, 224  # a response's last token is not an input: 8 × 256
PAIRS: dict[Size, int] = {"full": 4, "smoke": 1}
TRIES = 2  # of each product in a sweep; the best counts


def measure(size: Size) -> Measured:
    """Measures as the module's docstring says."""
    shape = SHAPES[size]
    with tempfile.TemporaryDirectory() as folder, alone() as world:
        model = make_model(Path(folder) / "model", shape)
        rows = {d: _of_dtype(model, shape, world, d, PAIRS[size]) for d in DTYPES}
    weights = shape.layers * shape.layer_weights + shape.head_weights
    notes: dict[str, Any] = {
        "parameters": weights,
        **{dtype: own for dtype, (_, own) in rows.items()},
    }
    return Measured(tuple(figures for figures, _ in rows.values()), notes)


def _of_dtype(
    model: Path, shape: Shape, world: Any, dtype: DType, pairs: int
) -> tuple[tuple[float, ...], dict[str, Any]]:
    trainer, batch = phase(model, shape, world, dtype)
    products = _products(shape, dtype, SEQUENCES * RESPONSE)
    flops = model_flops(shape, batch)
    step(trainer, batch)
    peaks, seconds = [], []
    for _ in range(pairs):
        peaks.append(max(_rate(*factors) for factors in products))
        began = time.perf_counter()
        step(trainer, batch)
        seconds.append(time.perf_counter() - began)
    figures = tuple(flops / s / peak for s, peak in zip(seconds, peaks, strict=True))
    notes = {"step_seconds": seconds, "step_flops": flops, "product_flops_per_second": peaks}
    return figures, notes


def phase(
    model: Path, shape: Shape, world: Any, dtype: DType = "float32"
) -> tuple[Trainer, Experience]:
    """A trainer, and what it trains on."""
    trainer = open_trainer(model, world, dtype, tokens_per_microbatch=2048)
    batch = random_rows([(PROMPT, 1)] * SEQUENCES, RESPONSE, shape.vocabulary)
    return trainer, on_policy(trainer, batch)


def model_flops(shape: Shape, batch: Experience) -> float:
    """Model FLOPs of forward and backward over the samples, each with a prompt of its own."""
    lengths = input_lengths(batch)
    responses = len(batch.token_T)
    pairs = sum(length * (length + 1) / 2 for length in lengths)
    layer = 6 * shape.layer_weights * sum(lengths) + 12 * shape.head_dim * shape.heads * pairs
    return shape.layers * layer + 6 * shape.head_weights * responses


def _products(shape: Shape, dtype: DType, responses: int) -> list[tuple[Tensor, Tensor]]:
    """The factors of every matrix product that the model needs, each shape once.

    `responses` counts the tokens that have logits.
    """
    import torch

    sizes = {(SEQUENCES * (PROMPT + RESPONSE - 1), *matrix) for matrix in shape.matrices.values()}
    kind, found = getattr(torch, dtype), []
    for tokens, outputs, inputs in sorted(sizes | {(responses, shape.vocabulary, shape.hidden)}):
        x_TI = torch.randn(tokens, inputs).to(kind)
        g_TO = torch.randn(tokens, outputs).to(kind)
        weight_OI = torch.randn(outputs, inputs).to(kind)
        found += [(x_TI, weight_OI.T), (g_TO, weight_OI), (g_TO.T, x_TI)]
    return found


def _rate(left: Tensor, right: Tensor) -> float:
    """FLOP/s of the product of [A, B] and [B, C], the best of a few."""
    seconds = []
    for _ in range(TRIES):
        began = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - began)
    return 2 * left.shape[0] * left.shape[1] * right.shape[1] / min(seconds)

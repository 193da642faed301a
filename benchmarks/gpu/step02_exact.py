"""Is the trainer right on this device: packed = plain, in value and gradient, in both dtypes?

A tiny random model of each kind replays sequences of very different lengths, some with a shared
prompt. The truth is plain transformers with its eager attention, one sequence at a time, in float64
on the CPU.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks._ranks import alone
from benchmarks._trainers import Shape, make_model, open_trainer, random_rows
from benchmarks.gpu._finding import Findings, Size, at_most

if TYPE_CHECKING:
    from torch import Tensor

    from drpo_cli.experience import Experience

SHAPE = Shape(1024, 256, 512, layers=2, heads=4, kv_heads=2, head_dim=64)
PROMPTS: dict[Size, list[tuple[int, int]]] = {
    "full": [(300, 4), (7, 1), (64, 3), (1, 1)],
    "smoke": [(40, 3), (7, 1)],
}
RESPONSE: dict[Size, int] = {"full": 120, "smoke": 12}
# of log π (nats), and of the gradient relative to its norm: rounding of each dtype
BOUNDS = {"float32": (2e-5, 1e-4), "bfloat16": (0.1, 0.05)}


def measure(size: Size) -> Findings:
    """Yields the differences of log π and of the gradient for each dtype."""
    import torch

    with tempfile.TemporaryDirectory() as scratch, alone() as world:
        folder = make_model(Path(scratch) / "model", SHAPE)
        rows = random_rows(PROMPTS[size], RESPONSE[size], SHAPE.vocabulary)
        push_T = torch.randn(len(rows.token_T), generator=torch.Generator().manual_seed(1)).double()
        truth_T, gradients = _plain(folder, rows, push_T)
        for dtype, (value_bound, gradient_bound) in BOUNDS.items():
            logp_T, found = _packed(folder, rows, push_T, world, dtype)
            error = float((logp_T - truth_T).abs().mean())
            yield at_most(f"mean |packed − plain log π|, {dtype}", error, value_bound, "nats")
            square = sum(float((found[n] - g).square().sum()) for n, g in gradients.items())
            norm = sum(float(g.square().sum()) for g in gradients.values())
            relative = (square / norm) ** 0.5
            yield at_most(f"gradient's error ÷ its norm, {dtype}", relative, gradient_bound)


def _plain(folder: Path, rows: Experience, push_T: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    import torch
    from transformers import AutoModelForCausalLM

    lm: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager"
    ).eval()
    parts = []
    for row, prompt in enumerate(rows.prompt_ids_S):
        token_T = rows.token_T[slice(*rows.offsets[row : row + 2].tolist())]
        ids = torch.cat([torch.tensor(prompt), token_T])[None]
        logits_TV = lm(ids).logits[0, len(prompt) - 1 : -1]
        parts.append(logits_TV.log_softmax(-1).gather(-1, token_T[:, None])[:, 0])
    logp_T = torch.cat(parts)
    (logp_T * push_T).sum().backward()
    named = lm.named_parameters()
    return logp_T.detach(), {name: w.grad for name, w in named if w.grad is not None}


def _packed(
    folder: Path, rows: Experience, push_T: Tensor, world: Any, dtype: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    from drpo_cli.dist import full
    from drpo_cli.trainer.pack import pack

    trainer = open_trainer(folder, world, dtype)
    logp_T, _ = trainer.policy(pack(rows, world.device))
    (logp_T * push_T.to(logp_T)).sum().backward()
    named = trainer.policy.named_weights()
    gradients = {n: full(w.grad).cpu().double() for n, w in named if w.grad is not None}
    return logp_T.detach().cpu().double(), gradients

"""Attention on a real GPU: each kind that runs there against the plain formula in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface

from drpo_cli.trainer import attention
from drpo_cli.trainer.layout import Layout, Span

PROMPT = Span(0, 70)
SPANS = [PROMPT, Span(70, 33, PROMPT), Span(103, 200, PROMPT), Span(303, 150), Span(453, 1)]
TOKENS = 454


def visible(window: int | None) -> Tensor:
    """Which token of the row sees which, [T, T]."""
    seen = torch.zeros(TOKENS, TOKENS, dtype=torch.bool)
    for span in SPANS:
        history = list(range(span.seen))  # the prompt is first
        for token in range(span.start, span.start + span.length):
            history.append(token)
            seen[token, history if window is None else history[-window:]] = True
    return seen


def by_formula(
    query: Tensor, key: Tensor, value: Tensor, seen: Tensor, softcap: float | None, sink_H: Tensor
) -> Tensor:
    """Attention as the papers write it, [1, T, H, Dh]; a sink of −∞ is none."""
    copies = query.shape[1] // key.shape[1]
    k, v = (part.repeat_interleave(copies, dim=1) for part in (key, value))
    scores = query @ k.mT * query.shape[-1] ** -0.5
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    scores = scores.masked_fill(~seen, -torch.inf)
    column = sink_H[None, :, None, None].expand(*scores.shape[:3], 1)
    shares = torch.cat([scores, column], dim=-1).softmax(-1)[..., :-1]
    return (shares @ v).transpose(1, 2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("window", [None, 64])
@pytest.mark.parametrize(
    ("head", "wide"), [(64, 64), (128, 128), (96, 96), (192, 128), (256, 256), (512, 512)]
)
@pytest.mark.parametrize("term", [None, "s_aux", "softcap"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", ["varlen", "buckets"])
def test_it_is_the_plain_formula(
    kind: str, dtype: torch.dtype, term: str | None, head: int, wide: int, window: int | None
) -> None:
    device = torch.device("cuda")
    if kind not in attention.kinds_on(device) or (kind, dtype) == ("varlen", torch.float32):
        pytest.skip("the kernel does not run on this GPU, or in this dtype")
    noise = torch.Generator().manual_seed(0)
    shapes = (8, head), (2, head), (2, wide)
    exact = [torch.randn(1, n, TOKENS, size, generator=noise).to(dtype) for n, size in shapes]
    exact.append(torch.linspace(-1, 2, 8).to(dtype))
    plain = [part.double().requires_grad_() for part in exact]
    inputs = [part.to(device).requires_grad_() for part in exact]
    query, key, value, sink_H = inputs
    options: dict[str, Any] = {"sliding_window": window}
    if term is not None:
        options[term] = {"s_aux": sink_H, "softcap": 2.0}[term]
    function: Any = AttentionInterface()[attention.NAMES[kind, "cuda"]]
    layout = Layout(SPANS, device)
    out, _ = function(torch.nn.Identity(), query, key, value, None, layout, **options)
    sinks = plain[3] if term == "s_aux" else torch.full((8,), -torch.inf, dtype=torch.float64)
    q, k, v = plain[:3]
    expected = by_formula(q, k, v, visible(window), options.get("softcap"), sinks)
    push = torch.randn(out.shape, generator=noise)
    (out * push.to(device)).sum().backward()
    (expected * push.double()).sum().backward()
    trained = 4 if term == "s_aux" else 3
    grads = ((x.grad, y.grad) for x, y in zip(inputs[:trained], plain[:trained], strict=True))
    for mine, right in [(out, expected), *grads]:
        assert mine is not None and right is not None
        error = (mine.detach().double().cpu() - right.detach()).norm() / right.norm()
        assert error < (0.02 if dtype == torch.bfloat16 else 1e-4)

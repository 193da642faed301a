"""Attention on a real GPU: each kind that runs there against the plain formula in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("window", [None, 64])
@pytest.mark.parametrize("head", [64, 128, 96])
@pytest.mark.parametrize("kind", ["varlen", "buckets"])
def test_it_is_the_plain_formula(kind: str, head: int, window: int | None) -> None:
    device = torch.device("cuda")
    if kind not in attention.kinds_on(device):
        pytest.skip("this GPU is older than the kernel")
    noise = torch.Generator().manual_seed(0)
    exact = [torch.randn(1, n, TOKENS, head, generator=noise).bfloat16() for n in (8, 2, 2)]
    inputs = [part.to(device).requires_grad_() for part in exact]
    plain = [part.double().requires_grad_() for part in exact]
    function = {"varlen": attention.varlen, "buckets": attention.buckets}[kind]
    more = {"repeat": True} if kind == "buckets" else {}
    layout = Layout(SPANS, device)
    query, key, value = inputs
    out, _ = function(
        torch.nn.Identity(), query, key, value, None, layout, sliding_window=window, **more
    )
    mask = visible(window)
    q, k, v = plain
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    expected = expected.transpose(1, 2)
    push = torch.randn(out.shape, generator=noise)
    (out * push.to(device)).sum().backward()
    (expected * push.double()).sum().backward()
    pairs = [(out, expected), *((x.grad, y.grad) for x, y in zip(inputs, plain, strict=True))]
    for mine, right in pairs:
        assert mine is not None and right is not None
        error = (mine.detach().double().cpu() - right.detach()).norm() / right.norm()
        assert error < 0.01

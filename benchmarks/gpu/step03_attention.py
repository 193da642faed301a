"""Each kind of attention that runs on this device: its error, time and memory.

Rows are ragged, with prompts apart, with shared prompts, with a sliding window, with sinks and with
soft caps. The truth is the formula in float64, one span after the other; the error is
‖out − truth‖ ÷ ‖truth‖ of the output and of the three gradients together.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks._trainers import cut, random_rows
from benchmarks.gpu._finding import Finding, Findings, Size, at_most, peak_bytes, seconds

if TYPE_CHECKING:
    from torch import Tensor

HEADS, KEY_HEADS, HEAD = 16, 8, 128
TERMS = {"sliding_window": None, "softcap": None, "s_aux": None}
SINKS, CAP = {"s_aux": 1.0}, {"softcap": 2.0}
# (prompt tokens, samples) of each prompt, the longest response, what attention has; a sink's value
CASES: dict[Size, dict[str, tuple[list[tuple[int, int]], int, dict[str, Any]]]] = {
    "full": {
        "prompts apart": ([(256, 1)] * 12, 2048, {}),
        "shared prompts": ([(1024, 8)] * 2, 1024, {}),
        "shared, window 512": ([(1024, 8)] * 2, 1024, {"sliding_window": 512}),
        "shared, sinks": ([(1024, 8)] * 2, 1024, SINKS),
        "shared, sinks, window 128": ([(1024, 8)] * 2, 1024, {"sliding_window": 128, **SINKS}),
        "shared, soft cap": ([(1024, 8)] * 2, 1024, CAP),
    },
    "smoke": {
        "shared, window 16": ([(40, 3), (7, 1)], 24, {"sliding_window": 16}),
        "shared, sinks": ([(40, 3), (7, 1)], 24, SINKS),
        "shared, soft cap": ([(40, 3), (7, 1)], 24, CAP),
    },
}
BOUNDS = {"float32": 1e-5, "bfloat16": 2e-2}


def measure(size: Size) -> Findings:
    """Yields error, time and peak for each case, dtype and kind."""
    import torch

    from drpo_cli import dist
    from drpo_cli.trainer.attention import kinds_on, name_for
    from drpo_cli.trainer.pack import pack

    device = torch.device(dist.device_type())
    for case, (prompts, longest, own) in CASES[size].items():
        rows = random_rows(prompts, longest, 1000)
        lengths = random.Random(0).choices(range(longest // 8, longest + 1), k=len(rows))
        layout = pack(cut(rows, lengths), device).layout
        tokens = sum(span.length for span in layout.spans)
        inputs = _inputs(tokens, device)
        terms = TERMS | own
        if terms["s_aux"] is not None:
            terms["s_aux"] = torch.full((HEADS,), terms["s_aux"], device=device)
        truth = _truth(layout.spans, inputs, terms)
        for dtype, bound in BOUNDS.items():
            given = [part.to(getattr(torch, dtype)) for part in inputs]
            for kind in kinds_on(device):
                if kind == "varlen" and dtype == "float32":
                    continue  # its kernel takes half precision only
                name = f"{case}, {dtype}, {kind}"
                run = partial(_run, name_for(kind, device.type), given, layout, terms)
                yield at_most(f"{name}: error", _error(run(), truth), bound)
                yield Finding(f"{name}: both passes", 1e3 * seconds(run, device), "ms")
                if device.type == "cuda":
                    yield Finding(f"{name}: peak", peak_bytes(run, device) / 2**20, "MiB")


def _inputs(tokens: int, device: Any) -> list[Tensor]:
    """Random queries, keys and values, and the gradient of the output; [1, heads, T, Dh]."""
    import torch

    torch.manual_seed(0)
    heads = (HEADS, KEY_HEADS, KEY_HEADS)
    parts = [torch.randn(1, count, tokens, HEAD, device=device) for count in heads]
    return [*parts, torch.randn(1, tokens, HEADS, HEAD, device=device)]


def _run(name: str, inputs: Sequence[Tensor], layout: Any, terms: dict[str, Any]) -> list[Tensor]:
    import torch
    from transformers import AttentionInterface

    attention = AttentionInterface()[name]
    q, k, v = (part.detach().requires_grad_() for part in inputs[:3])
    out, _ = attention(
        torch.nn.Identity(), q, k, v, None, layout=layout, scaling=HEAD**-0.5, **terms
    )
    out.backward(inputs[3])
    return [out.detach(), *(part.grad for part in (q, k, v) if part.grad is not None)]


def _truth(spans: Sequence[Any], inputs: Sequence[Tensor], terms: dict[str, Any]) -> list[Tensor]:
    import torch

    window, softcap, sink_H = terms["sliding_window"], terms["softcap"], terms["s_aux"]
    q, k, v = (part.double().detach().requires_grad_() for part in inputs[:3])
    outputs = []
    for span in spans:
        seen = [] if span.context is None else list(range(*_ends(span.context)))
        own = list(range(*_ends(span)))
        keys = torch.tensor(seen + own, device=q.device)
        back = torch.arange(len(keys), device=q.device)
        back_LK = back[len(seen) :, None] - back[None, :]
        mask_LK = (back_LK >= 0) & (back_LK < (window or len(keys) + 1))
        place = [part[:, :, keys].repeat_interleave(HEADS // KEY_HEADS, 1) for part in (k, v)]
        scores = q[:, :, own[0] : own[-1] + 1] @ place[0].mT * HEAD**-0.5
        if softcap is not None:
            scores = softcap * (scores / softcap).tanh()
        scores = scores.masked_fill(~mask_LK, -torch.inf)
        if sink_H is not None:
            column = sink_H.double()[None, :, None, None].expand(*scores.shape[:3], 1)
            scores = torch.cat([scores, column], dim=-1)
        out = scores.softmax(-1)[..., : len(keys)] @ place[1]
        outputs.append(out.transpose(1, 2))
    starts = [span.start for span in spans]
    ordered = [outputs[i] for i in sorted(range(len(spans)), key=starts.__getitem__)]
    out = torch.cat(ordered, dim=1)
    out.backward(inputs[3].double())
    return [out.detach(), *(part.grad for part in (q, k, v) if part.grad is not None)]


def _ends(span: Any) -> tuple[int, int]:
    return span.start, span.start + span.length


def _error(found: Sequence[Tensor], truth: Sequence[Tensor]) -> float:
    square = sum(
        float((one.double() - true).square().sum()) / float(true.square().sum())
        for one, true in zip(found, truth, strict=True)
    )
    return (square / len(truth)) ** 0.5

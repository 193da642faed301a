"""`python -m benchmarks.attention_terms`: seconds of attention with other terms, against plain.

Both passes of `buckets` on one core, the least of several: 2,048 tokens, 16 heads of 64 on 8 key
heads, as two sequences, or as four responses of 384 tokens to a prompt of 512.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from torch import Tensor

from drpo_cli.trainer import attention
from drpo_cli.trainer.layout import Layout, Span

HEADS, KEY_HEADS, HEAD, TIMES = 16, 8, 64, 4
PROMPT = Span(0, 512)
ROWS = {
    "two sequences": [Span(0, 1024), Span(1024, 1024)],
    "a shared prompt": [PROMPT, *(Span(512 + 384 * i, 384, PROMPT) for i in range(4))],
}
WINDOW, SINKS, CAP = {"sliding_window": 128}, {"s_aux": torch.zeros(HEADS)}, {"softcap": 50.0}
TERMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "window of 128": WINDOW,
    "sinks": SINKS,
    "sinks, window of 128": SINKS | WINDOW,
    "soft cap": CAP,
    "soft cap, window of 128": CAP | WINDOW,
}


def main() -> None:
    """Prints the seconds of each kind of row, dtype and term, and their ratio to plain."""
    torch.set_num_threads(1)
    for row, spans in ROWS.items():
        layout = Layout(spans, torch.device("cpu"))
        for dtype in (torch.float32, torch.bfloat16):
            taken = {
                name: min(_once(layout, dtype, own) for _ in range(TIMES))
                for name, own in TERMS.items()
            }
            for name, seconds in taken.items():
                ratio = seconds / taken["plain"]
                sys.stdout.write(f"{row}, {dtype}, {name}: {seconds:.3f} s, {ratio:.2f} × plain\n")


def _once(layout: Layout, dtype: torch.dtype, own: dict[str, Any]) -> float:
    tokens = sum(span.length for span in layout.spans)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape).to(dtype)

    query, key, value = (
        draw(1, count, tokens, HEAD).requires_grad_() for count in (HEADS, KEY_HEADS, KEY_HEADS)
    )
    push = draw(1, tokens, HEADS, HEAD)
    began = time.process_time()
    out, _ = attention.buckets(torch.nn.Identity(), query, key, value, None, layout, **own)
    out.backward(push)
    return time.process_time() - began


if __name__ == "__main__":
    main()

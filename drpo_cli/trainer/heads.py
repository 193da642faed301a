"""What a model does between its decoder and its logits, found by running its own `forward`.

Families of transformers multiply or cap their logits by settings of many names. The model's
`forward` runs here with a decoder that returns given numbers and a head that passes them on, so
that no weight is read: what comes out is x ↦ c · tanh(s · x / c), or the trainer cannot compute it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from drpo_cli.errors import UserError

TINY, HUGE = 2.0**-40, 2.0**40
PROBES = (TINY, HUGE, 0.0, -0.5, 1.0, -3.0, 24.0, -192.0)  # each exact in every dtype
DIGITS = 10  # of a factor: beyond them is rounding


class _Outputs:
    """What a decoder returns: hidden states, and nothing under any other name."""

    def __init__(self, hidden: Tensor):
        self.last_hidden_state = hidden

    def __getattr__(self, name: str) -> None:
        return None

    def __getitem__(self, place: Any) -> Any:
        return (self.last_hidden_state,)[place] if place != "last_hidden_state" else self[0]


@unset_fake_temporarily()
def measure(lm: Any, decoder: nn.Module) -> tuple[float | None, float]:
    """Soft cap (None without one) and multiplier of the logits of a model with this decoder.

    Raises UserError for a model that does anything else to them.
    """
    name = f"{lm.name_or_path or 'the model'} is a {type(lm).__name__}, and"
    fix = "train a model of another architecture, or tell the authors of drpo its name"
    try:
        probe_P, logits_PV = _run(lm, decoder)
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        what = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise UserError(
            f"{name} how that makes its logits cannot be found out ({what})", fix
        ) from error
    softcap, multiplier = _fit(logits_PV[:, 0])
    expected_P = probe_P * multiplier
    if softcap is not None:
        expected_P = softcap * (expected_P / softcap).tanh()
    words = len(lm.get_output_embeddings().weight)
    same = logits_PV.shape[1] == words and torch.allclose(
        logits_PV, expected_P[:, None].expand_as(logits_PV), rtol=1e-5
    )
    if not same:
        raise UserError(
            f"{name} its logits are not those of its head, multiplied or capped by constants: the "
            "trainer would compute others than the model's own",
            fix,
        )
    return softcap, multiplier


def _fit(logits_P: Tensor) -> tuple[float | None, float]:
    multiplier, limit = float(logits_P[0]) / TINY, float(logits_P[1])
    softcap = None if limit > multiplier * HUGE / 2 else limit
    return softcap and _rounded(softcap), _rounded(multiplier)


def _rounded(number: float) -> float:
    return float(f"{number:.{DIGITS}g}")


def _run(lm: Any, decoder: nn.Module) -> tuple[Tensor, Tensor]:
    """The probes and what the model makes of them: [P], [P, V], in float64."""
    out, base = lm.get_output_embeddings(), lm.base_model
    words, width = out.weight.shape

    def head(hidden: Tensor) -> Tensor:
        if out.bias is not None and not torch.equal(hidden, hidden_1PD):
            raise ValueError("it changes hidden states before a head with a bias")
        return hidden[..., :1].expand(*hidden.shape[:-1], words)

    with torch.no_grad(), torch.device("cpu"), ExitStack() as stack:
        probe_P = torch.tensor(PROBES, dtype=torch.float64)
        hidden_1PD = probe_P[None, :, None].expand(1, -1, width)
        ids_1P = torch.zeros(1, len(PROBES), dtype=torch.int64)
        for part in {decoder, base} - {lm}:  # some models call the one, some the other
            stack.enter_context(_replaced(part, lambda *_, **__: _Outputs(hidden_1PD)))
        stack.enter_context(_replaced(out, head))
        if base is lm:  # of a multimodal model that embeds the tokens itself
            embedding = lm.get_input_embeddings()
            stack.enter_context(_replaced(embedding, lambda *_: hidden_1PD))
        logits_PV: Tensor = lm(input_ids=ids_1P, use_cache=False).logits[0]
        return probe_P, logits_PV.double()


@contextmanager
def _replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    own = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own

"""Log-probabilities of given tokens without ever holding `[tokens, vocabulary]`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Head:
    """How a model turns hidden states into logits, at a sampling temperature.

    softcap      logits ← softcap · tanh(logits / softcap), where the architecture has it (Gemma)
    multiplier   a constant factor on the logits, where the architecture has one (Cohere, Granite)
    """

    def __init__(self, temperature: float, softcap: float | None = None, multiplier: float = 1.0):
        self.scale = multiplier
        self.temperature = temperature
        self.softcap = softcap

    def __call__(self, hidden_TD: Tensor, weight_VD: Tensor, bias_V: Tensor | None) -> Tensor:
        """Float32 logits [T, V], divided by the temperature."""
        logits_TV = torch.nn.functional.linear(hidden_TD, weight_VD, bias_V).float() * self.scale
        if self.softcap is not None:
            logits_TV = torch.tanh(logits_TV / self.softcap) * self.softcap
        return logits_TV / self.temperature


class _ChunkedLogProbs(torch.autograd.Function):
    """Recomputes each chunk's logits in the backward pass instead of keeping them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_RD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        target_R: Tensor,
        head: Head,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(hidden_RD, weight_VD, bias_V, target_R)
        ctx.head, ctx.chunk = head, chunk
        ctx.set_materialize_grads(False)  # an output that no loss uses then costs nothing
        logp_R = torch.empty(len(target_R), device=hidden_RD.device)
        entropy_R = torch.empty_like(logp_R)
        for part in _chunks(len(target_R), chunk):
            logp_CV = head(hidden_RD[part], weight_VD, bias_V).log_softmax(-1)
            logp_R[part] = logp_CV.gather(-1, target_R[part, None])[:, 0]
            entropy_R[part] = -(logp_CV.exp() * logp_CV).sum(-1)
        return logp_R, entropy_R

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_logp_R: Tensor | None, grad_entropy_R: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        hidden_RD, weight_VD, bias_V, target_R = ctx.saved_tensors
        grad_hidden_RD = torch.empty_like(hidden_RD)
        # float32 sums over chunks, whatever the compute dtype
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32)
        grad_bias_V = None if bias_V is None else torch.zeros_like(bias_V, dtype=torch.float32)
        for part in _chunks(len(target_R), ctx.chunk):
            inputs = [hidden_RD[part], weight_VD] + ([] if bias_V is None else [bias_V])
            inputs = [tensor.detach().requires_grad_() for tensor in inputs]
            with torch.enable_grad():
                logits_CV = ctx.head(inputs[0], inputs[1], inputs[2] if len(inputs) > 2 else None)
            grad_CV = _logit_gradient(
                logits_CV.detach(),
                target_R[part],
                None if grad_logp_R is None else grad_logp_R[part],
                None if grad_entropy_R is None else grad_entropy_R[part],
            )
            grads = torch.autograd.grad(logits_CV, inputs, grad_CV)
            grad_hidden_RD[part] = grads[0]
            grad_weight_VD += grads[1]
            if grad_bias_V is not None:
                grad_bias_V += grads[2]
        bias_grad = None if bias_V is None or grad_bias_V is None else grad_bias_V.to(bias_V.dtype)
        return grad_hidden_RD, grad_weight_VD.to(weight_VD.dtype), bias_grad, None, None, None


def chunked_logprobs(
    hidden_RD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    target_R: Tensor,
    head: Head,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """log π of each target token, and the entropy (nats) of its distribution: both [R], float32.

    Holds the logits of `chunk` tokens at a time, forward and backward.
    """
    return _ChunkedLogProbs.apply(hidden_RD, weight_VD, bias_V, target_R, head, chunk)


def _logit_gradient(
    logits_CV: Tensor,
    target_C: Tensor,
    grad_logp_C: Tensor | None,
    grad_entropy_C: Tensor | None,
) -> Tensor:
    """∂ log p_y / ∂ logits = 1_y − p, and ∂H / ∂ logits = −p (log p + H)."""
    logp_CV = logits_CV.log_softmax(-1)
    p_CV = logp_CV.exp()
    grad_CV = torch.zeros_like(p_CV)
    if grad_logp_C is not None:
        grad_CV.scatter_(-1, target_C[:, None], 1.0).sub_(p_CV).mul_(grad_logp_C[:, None])
    if grad_entropy_C is not None:
        entropy_C1 = -(p_CV * logp_CV).sum(-1, keepdim=True)
        grad_CV -= p_CV * (logp_CV + entropy_C1) * grad_entropy_C[:, None]
    return grad_CV


def _chunks(total: int, size: int) -> list[slice]:
    return [slice(at, at + size) for at in range(0, total, size)]

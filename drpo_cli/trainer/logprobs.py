"""Log-probabilities of given tokens without ever holding `[tokens, vocabulary]`.

The logits come in blocks of both. Over the blocks of a row the log of the sum of exponentials and
the entropy are carried along (Milakov and Gimelshein, https://arxiv.org/abs/1805.02867):

    m = max z,    s = Σ exp(z − m),    t = Σ exp(z − m) (z − m)
    log p_y = z_y − m − log s,    H = log s − t / s
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

TALL = 1024  # tokens of a block, as far as there are as many: more where it holds all words
LOWEST = torch.finfo(torch.float32).min  # below every logit, yet finite: −∞ − −∞ is no number


class Head:
    """How a model turns hidden states into logits, at a sampling temperature.

    softcap      logits ← softcap · tanh(logits / softcap), where the architecture has it (Gemma)
    multiplier   a constant factor on the logits, where the architecture has one (Cohere, Granite)
    slices       cuts tokens and words into blocks: `slices(total, size)`
    """

    def __init__(
        self,
        temperature: float,
        softcap: float | None = None,
        multiplier: float = 1.0,
        slices: Callable[[int, int], list[slice]] | None = None,
    ):
        self.scale = multiplier
        self.temperature = temperature
        self.softcap = softcap
        self.slices = slices or cut

    def __call__(self, hidden_TD: Tensor, weight_VD: Tensor, bias_V: Tensor | None) -> Tensor:
        """Float32 logits [T, V], divided by the temperature. Not for autograd."""
        logits_TV = torch.nn.functional.linear(hidden_TD, weight_VD, bias_V).float()
        if self.scale != 1:
            logits_TV *= self.scale
        if self.softcap is not None:
            logits_TV.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits_TV if self.temperature == 1 else logits_TV.div_(self.temperature)

    def slope(self, logits_TV: Tensor) -> Tensor | float:
        """∂ logits / ∂ (W h + b), where the logits are as given."""
        slope = self.scale / self.temperature
        if self.softcap is None:
            return slope
        return (1 - (logits_TV * (self.temperature / self.softcap)) ** 2) * slope


class _BlockwiseLogProbs(torch.autograd.Function):
    """Computes each block's logits again in the backward pass instead of keeping them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_RD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        target_R: Tensor,
        head: Head,
        block: int,
    ) -> tuple[Tensor, Tensor]:
        sums = _Sums(target_R)
        tall, wide = _shape(len(target_R), len(weight_VD), block)
        for words in head.slices(len(weight_VD), wide):
            for rows in head.slices(len(target_R), tall):
                logits_CB = head(hidden_RD[rows], weight_VD[words], _part(bias_V, words))
                sums.add(rows, words, logits_CB)
        log_mass_R = sums.mass_R.log()
        logp_R = sums.target_R - sums.peak_R - log_mass_R
        entropy_R = log_mass_R - sums.moment_R / sums.mass_R
        log_total_R = sums.peak_R + log_mass_R
        ctx.save_for_backward(hidden_RD, weight_VD, bias_V, target_R, log_total_R, entropy_R)
        ctx.head, ctx.block = head, block
        ctx.set_materialize_grads(False)  # an output that no loss uses then costs nothing
        return logp_R, entropy_R

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_logp_R: Tensor | None, grad_entropy_R: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        hidden_RD, weight_VD, bias_V, target_R, log_total_R, entropy_R = ctx.saved_tensors
        if grad_logp_R is None:
            grad_logp_R = torch.zeros_like(log_total_R)
        # float32 sums over blocks, whatever the compute dtype
        grad_hidden_RD = torch.zeros_like(hidden_RD, dtype=torch.float32)
        grad_weight_VD = torch.empty_like(weight_VD)
        grad_bias_V = None if bias_V is None else torch.zeros_like(bias_V, dtype=torch.float32)
        tall, wide = _shape(len(target_R), len(weight_VD), ctx.block)
        for words in ctx.head.slices(len(weight_VD), wide):
            grad_BD = torch.zeros_like(weight_VD[words], dtype=torch.float32)
            for rows in ctx.head.slices(len(target_R), tall):
                logits_CB = ctx.head(hidden_RD[rows], weight_VD[words], _part(bias_V, words))
                slope_CB = ctx.head.slope(logits_CB)
                grad_CB = _logit_gradient(
                    logits_CB.sub_(log_total_R[rows, None]),
                    target_R[rows] - words.start,
                    grad_logp_R[rows],
                    None if grad_entropy_R is None else (grad_entropy_R[rows], entropy_R[rows]),
                )
                grad_CB = grad_CB.mul_(slope_CB).to(weight_VD.dtype)
                _add_product(grad_hidden_RD[rows], grad_CB, weight_VD[words])
                _add_product(grad_BD, grad_CB.T, hidden_RD[rows])
                if grad_bias_V is not None:
                    grad_bias_V[words] += grad_CB.sum(0, dtype=torch.float32)
            grad_weight_VD[words] = grad_BD
        bias_grad = None if bias_V is None or grad_bias_V is None else grad_bias_V.to(bias_V.dtype)
        return grad_hidden_RD.to(hidden_RD.dtype), grad_weight_VD, bias_grad, None, None, None


def blockwise_logprobs(
    hidden_RD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    target_R: Tensor,
    head: Head,
    block: int,
) -> tuple[Tensor, Tensor]:
    """log π of each target token, and the entropy (nats) of its distribution: both [R], float32.

    Holds two or three float32 matrices of about `block` logits at a time, forward and backward.
    """
    return _BlockwiseLogProbs.apply(hidden_RD, weight_VD, bias_V, target_R, head, block)


class _Sums:
    """What is known of each row after some blocks of its logits: m, s, t and z_y of the module."""

    def __init__(self, word_R: Tensor):
        self.word_R = word_R
        self.peak_R = torch.full(word_R.shape, LOWEST, device=word_R.device)
        self.mass_R = torch.zeros_like(self.peak_R)
        self.moment_R = torch.zeros_like(self.peak_R)
        self.target_R = torch.zeros_like(self.peak_R)

    def add(self, rows: slice, words: slice, logits_CB: Tensor) -> None:
        """Takes a block in; the block is spent."""
        place_C1, inside_C = _places(self.word_R[rows] - words.start, logits_CB.shape[1])
        self.target_R[rows] += logits_CB.gather(1, place_C1)[:, 0] * inside_C
        before_C, mass_C = self.peak_R[rows], self.mass_R[rows]
        peak_C = torch.maximum(before_C, logits_CB.amax(1))
        shift_C, shifted_CB = before_C - peak_C, logits_CB.sub_(peak_C[:, None])
        share_CB = shifted_CB.exp()
        fade_C = shift_C.exp()
        moment_C = fade_C * (self.moment_R[rows] + shift_C * mass_C)
        self.mass_R[rows] = fade_C * mass_C + share_CB.sum(1)
        self.moment_R[rows] = moment_C + share_CB.mul_(shifted_CB).sum(1)
        self.peak_R[rows] = peak_C


def _logit_gradient(
    logp_CB: Tensor, word_C: Tensor, grad_logp_C: Tensor, entropy: tuple[Tensor, Tensor] | None
) -> Tensor:
    """∂ log p_y / ∂ z = 1_y − p, and with `entropy`, its gradient and H, ∂H / ∂z = −p (log p + H).

    The log-probs are spent.
    """
    if entropy is None:
        grad_CB = logp_CB.exp_().mul_(-grad_logp_C[:, None])
    else:
        grad_entropy_C, entropy_C = entropy
        p_CB = logp_CB.exp()
        grad_CB = logp_CB.add_(entropy_C[:, None]).mul_(grad_entropy_C[:, None])
        grad_CB.add_(grad_logp_C[:, None]).mul_(p_CB).neg_()
    place_C1, inside_C = _places(word_C, logp_CB.shape[1])
    return grad_CB.scatter_add_(1, place_C1, (grad_logp_C * inside_C)[:, None])


def _places(word_C: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Columns [C, 1] of words counted from a block's first, and whether they lie in it [C]."""
    inside_C = (word_C >= 0) & (word_C < width)
    return word_C.clamp(0, width - 1)[:, None], inside_C


def _add_product(sum_AC: Tensor, left_AB: Tensor, right_BC: Tensor) -> None:
    if sum_AC.dtype == left_AB.dtype:
        sum_AC.addmm_(left_AB, right_BC)
    else:
        sum_AC += left_AB @ right_BC


def _shape(tokens: int, vocabulary: int, block: int) -> tuple[int, int]:
    """Tokens and words of a block."""
    tall = max(1, min(tokens, max(TALL, block // vocabulary)))
    return tall, max(1, block // tall)


def _part(bias_V: Tensor | None, words: slice) -> Tensor | None:
    return None if bias_V is None else bias_V[words]


def cut(total: int, size: int) -> list[slice]:
    """Slices of `size` that cover `total`; the last one may be shorter."""
    return [slice(at, min(at + size, total)) for at in range(0, total, size)]

"""Log-probabilities of given tokens, without a matrix of [tokens, vocabulary] in memory.

The logits come in blocks of both. Running sums over the blocks of a row give the log of the sum of
exponentials and the entropy (Milakov and Gimelshein, https://arxiv.org/abs/1805.02867):

    m = max z,    s = Σ exp(z − m),    t = Σ exp(z − m) (z − m)
    log p_y = z_y − m − log s,    H = log s − t / s

Logits that are rounded to bfloat16 would make log p_y wrong by their own rounding, which no later
sum takes back: a z_y of 20 by up to 0.06. So the head gives them in float32, whatever the dtype of
hidden states and weights; gradients of logits are rounded to that dtype for their products.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from drpo_cli import products
from drpo_cli.settings import HeadDtype
from drpo_cli.trainer.tied import HeadGradient

TALL = 1024  # tokens of a block; more if a block holds the whole vocabulary
WIDE = 4096  # words of a block that is as tall as the micro-batch; fewer make poor products
LOWEST = torch.finfo(torch.float32).min  # below every logit, yet finite: −∞ − −∞ is NaN


class Head:
    """How a model turns hidden states into logits, at a sampling temperature.

    softcap      logits ← softcap · tanh(logits / softcap), where the architecture has it (Gemma)
    multiplier   a constant factor on the logits, where the architecture has one (Cohere, Granite)
    dtype        of products: `float32`, or that of the `model`, to which logits are then rounded
    slices       cuts tokens and words into blocks: `slices(total, size)`
    device       the kind of device that it is planned for, where that is not the tensors' own
    """

    device: str | None = None

    def __init__(
        self,
        temperature: float,
        softcap: float | None = None,
        multiplier: float = 1.0,
        dtype: HeadDtype = "float32",
        slices: Callable[[int, int], list[slice]] | None = None,
    ):
        self.scale = multiplier
        self.temperature = temperature
        self.softcap = softcap
        self.dtype = dtype
        self.slices = slices or cut

    def __call__(self, hidden_CD: Tensor, weight_WD: Tensor, bias_W: Tensor | None) -> Tensor:
        """Float32 logits [C, W], divided by the temperature. Not for autograd."""
        if self.dtype == "float32":
            logits_CW = products.linear(hidden_CD, weight_WD, bias_W, self.device)
        else:
            logits_CW = torch.nn.functional.linear(hidden_CD, weight_WD, bias_W).float()
        if self.scale != 1:
            logits_CW *= self.scale
        if self.softcap is not None:
            logits_CW.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits_CW if self.temperature == 1 else logits_CW.div_(self.temperature)

    def slope(self, logits_CW: Tensor) -> Tensor | float:
        """∂ logits / ∂ (W h + b), where the logits are as given."""
        slope = self.scale / self.temperature
        if self.softcap is None:
            return slope
        return (1 - (logits_CW * (self.temperature / self.softcap)) ** 2) * slope


class _BlockwiseLogProbs(torch.autograd.Function):
    """Computes each block's logits again in the backward pass instead of keeping them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        target_T: Tensor,
        head: Head,
        block: int,
        gradient: HeadGradient | None,
    ) -> tuple[Tensor, Tensor]:
        sums = _Sums(target_T)
        tall, wide = _shape(len(target_T), len(weight_VD), block)
        for words in head.slices(len(weight_VD), wide):
            for rows in head.slices(len(target_T), tall):
                logits_CW = head(hidden_TD[rows], weight_VD[words], _part(bias_V, words))
                sums.add(rows, words, logits_CW)
        log_mass_T = sums.mass_T.log()
        logp_T = sums.target_T - sums.peak_T - log_mass_T
        entropy_T = log_mass_T - sums.moment_T / sums.mass_T
        log_total_T = sums.peak_T + log_mass_T
        ctx.save_for_backward(hidden_TD, weight_VD, bias_V, target_T, log_total_T, entropy_T)
        ctx.head, ctx.block, ctx.gradient = head, block, gradient
        ctx.set_materialize_grads(False)  # an output that no loss uses costs nothing
        return logp_T, entropy_T

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_logp_T: Tensor | None, grad_entropy_T: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        hidden_TD, weight_VD, bias_V, target_T, log_total_T, entropy_T = ctx.saved_tensors
        if grad_logp_T is None:
            grad_logp_T = torch.zeros_like(log_total_T)
        # sums over blocks are always in float32
        grad_hidden_TD = torch.zeros_like(hidden_TD, dtype=torch.float32)
        # none for a frozen head
        grad_weight_VD = torch.empty_like(weight_VD) if ctx.needs_input_grad[1] else None
        grad_bias_V = (
            torch.zeros_like(bias_V, dtype=torch.float32) if ctx.needs_input_grad[2] else None
        )
        tall, wide = _shape(len(target_T), len(weight_VD), ctx.block)
        for words in ctx.head.slices(len(weight_VD), wide):
            if grad_weight_VD is not None:
                grad_WD = torch.zeros_like(weight_VD[words], dtype=torch.float32)
            for rows in ctx.head.slices(len(target_T), tall):
                logits_CW = ctx.head(hidden_TD[rows], weight_VD[words], _part(bias_V, words))
                slope_CW = ctx.head.slope(logits_CW)
                grad_CW = _logit_gradient(
                    logits_CW.sub_(log_total_T[rows, None]),
                    target_T[rows] - words.start,
                    grad_logp_T[rows],
                    None if grad_entropy_T is None else (grad_entropy_T[rows], entropy_T[rows]),
                )
                grad_CW = grad_CW.mul_(slope_CW).to(weight_VD.dtype)
                _add_product(grad_hidden_TD[rows], grad_CW, weight_VD[words])
                if grad_weight_VD is not None:
                    _add_product(grad_WD, grad_CW.T, hidden_TD[rows])
                if grad_bias_V is not None:
                    grad_bias_V[words] += grad_CW.sum(0, dtype=torch.float32)
            if grad_weight_VD is not None:
                grad_weight_VD[words] = grad_WD
        if grad_weight_VD is not None and ctx.gradient is not None:
            ctx.gradient.put(grad_weight_VD)
        bias_grad = None if bias_V is None or grad_bias_V is None else grad_bias_V.to(bias_V.dtype)
        return grad_hidden_TD.to(hidden_TD.dtype), grad_weight_VD, bias_grad, *[None] * 4


def blockwise_logprobs(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    target_T: Tensor,
    head: Head,
    block: int,
    gradient: HeadGradient | None = None,
) -> tuple[Tensor, Tensor]:
    """log π of each target token, and the entropy (nats) of its distribution: both [T], float32.

    Holds two or three float32 matrices of about `block` logits at a time, forward and backward. If
    the weights are the embedding's too, `gradient` gets theirs in the backward pass.
    """
    apply: Any = _BlockwiseLogProbs.apply
    found: tuple[Tensor, Tensor] = apply(
        hidden_TD, weight_VD, bias_V, target_T, head, block, gradient
    )
    return found


class _Sums:
    """Running sums per row over its blocks of logits: m, s, t and z_y of the module's equations."""

    def __init__(self, word_T: Tensor):
        self.word_T = word_T
        self.peak_T = torch.full(word_T.shape, LOWEST, device=word_T.device)
        self.mass_T = torch.zeros_like(self.peak_T)
        self.moment_T = torch.zeros_like(self.peak_T)
        self.target_T = torch.zeros_like(self.peak_T)

    def add(self, rows: slice, words: slice, logits_CW: Tensor) -> None:
        """Adds a block, and overwrites it."""
        place_C1, inside_C = _places(self.word_T[rows] - words.start, logits_CW.shape[1])
        self.target_T[rows] += logits_CW.gather(1, place_C1)[:, 0] * inside_C
        before_C, mass_C = self.peak_T[rows], self.mass_T[rows]
        peak_C = torch.maximum(before_C, logits_CW.amax(1))
        shift_C, shifted_CW = before_C - peak_C, logits_CW.sub_(peak_C[:, None])
        share_CW = shifted_CW.exp()
        fade_C = shift_C.exp()
        moment_C = fade_C * (self.moment_T[rows] + shift_C * mass_C)
        self.mass_T[rows] = fade_C * mass_C + share_CW.sum(1)
        self.moment_T[rows] = moment_C + share_CW.mul_(shifted_CW).sum(1)
        self.peak_T[rows] = peak_C


def _logit_gradient(
    logp_CW: Tensor, word_C: Tensor, grad_logp_C: Tensor, entropy: tuple[Tensor, Tensor] | None
) -> Tensor:
    """∂ log p_y / ∂ z = 1_y − p, and with `entropy`, its gradient and H, ∂H / ∂z = −p (log p + H).

    The log-probs are overwritten.
    """
    if entropy is None:
        grad_CW = logp_CW.exp_().mul_(-grad_logp_C[:, None])
    else:
        grad_entropy_C, entropy_C = entropy
        p_CW = logp_CW.exp()
        grad_CW = logp_CW.add_(entropy_C[:, None]).mul_(grad_entropy_C[:, None])
        grad_CW.add_(grad_logp_C[:, None]).mul_(p_CW).neg_()
    place_C1, inside_C = _places(word_C, logp_CW.shape[1])
    return grad_CW.scatter_add_(1, place_C1, (grad_logp_C * inside_C)[:, None])


def _places(word_C: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Columns [C, 1] of words, counted from the block's first, and whether they lie in it, [C]."""
    inside_C = (word_C >= 0) & (word_C < width)
    return word_C.clamp(0, width - 1)[:, None], inside_C


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _shape(tokens: int, vocabulary: int, block: int) -> tuple[int, int]:
    """Tokens and words of a block.

    A large block has all tokens: the float32 gradient of its words is then small, and each weight
    is read once.
    """
    if block >= tokens * min(vocabulary, WIDE):
        tall = max(1, tokens)
    else:
        tall = min(tokens, max(TALL, block // vocabulary))
    return tall, max(1, block // tall)


def _part(bias_V: Tensor | None, words: slice) -> Tensor | None:
    return None if bias_V is None else bias_V[words]


def cut(total: int, size: int) -> list[slice]:
    """Slices of `size` that cover `total`; the last one may be shorter."""
    return [slice(at, min(at + size, total)) for at in range(0, total, size)]

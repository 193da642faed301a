"""Memory and time of log-probs and entropy at a vocabulary of 262,144, forward and backward.

Hidden size 640, as in Gemma 3 270M with this vocabulary; blocks of `[train]`'s default size.

Memory: the peak of `blockwise_logprobs` at 4,096 tokens, beyond what must exist: hidden states,
weights, and the gradients of both, which the backward pass computes. Each dtype has a fresh
process. The kernel's high-water mark is read (`_memory` says why), after the same work on a few
tokens, so that threads and libraries are loaded.

Time: compared with the same function on whole logits (log-softmax, gather and entropy under
autograd) at 1,024 tokens, the most that fits: each of about six whole tensors takes 1 GiB.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks._bench import Goal, Measured, Size, in_own_process, ratios, time_pairs
from benchmarks._memory import peak_extra_bytes

if TYPE_CHECKING:
    from torch import Tensor

MIB = 2**20
HIDDEN = 640
GOALS = (
    Goal("peak MiB beyond hidden states, weights and gradients, float32", 256, at_most=True),
    Goal("the same, bfloat16", 256, at_most=True),
    Goal("time ÷ whole logits, float32", 1.15, at_most=True),
    Goal("time ÷ whole logits, bfloat16", 1.15, at_most=True),
)
DTYPES = ("float32", "bfloat16")
VOCABULARY: dict[Size, int] = {"full": 262_144, "smoke": 4096}
TOKENS: dict[Size, int] = {"full": 4096, "smoke": 64}
FITTING_TOKENS: dict[Size, int] = {"full": 1024, "smoke": 64}
PAIRS: dict[Size, int] = {"full": 3, "smoke": 1}
WARM_TOKENS = 8


def measure(size: Size) -> Measured:
    """Measures as the module's docstring says."""
    vocabulary = VOCABULARY[size]
    memory = [in_own_process(peak, TOKENS[size], vocabulary, dtype) for dtype in DTYPES]
    times = [
        in_own_process(against_whole, FITTING_TOKENS[size], vocabulary, dtype, PAIRS[size])
        for dtype in DTYPES
    ]
    notes = {
        "hidden": HIDDEN,
        "vocabulary": vocabulary,
        "tokens": TOKENS[size],
        "tokens_timed": FITTING_TOKENS[size],
        "memory": dict(zip(DTYPES, memory, strict=True)),
        "seconds_blockwise_whole": dict(zip(DTYPES, times, strict=True)),
    }
    peaks = [(found["beyond_mib"],) for found in memory]
    return Measured((*peaks, *map(ratios, times)), notes)


def peak(tokens: int, vocabulary: int, dtype: str) -> dict[str, float]:
    """Peak MiB of one forward and backward pass beyond gradients, and those of the gradients."""
    weight_VD, hidden_TD, target_T = inputs(tokens, vocabulary, dtype)
    forward_and_backward(blockwise, hidden_TD[:WARM_TOKENS], weight_VD, target_T[:WARM_TOKENS])
    weight_VD.grad = hidden_TD.grad = None
    work = partial(forward_and_backward, blockwise, hidden_TD, weight_VD, target_T)
    extra = peak_extra_bytes(work)
    gradients = weight_VD.nbytes + hidden_TD.nbytes
    return {"beyond_mib": (extra - gradients) / MIB, "gradients_mib": gradients / MIB}


def against_whole(
    tokens: int, vocabulary: int, dtype: str, pairs: int
) -> list[tuple[float, float]]:
    """Seconds of forward and backward, blockwise and whole, alternately."""
    weight_VD, hidden_TD, target_T = inputs(tokens, vocabulary, dtype)

    def run(function: LogProbs) -> None:
        weight_VD.grad = hidden_TD.grad = None
        forward_and_backward(function, hidden_TD, weight_VD, target_T)

    return time_pairs(partial(run, blockwise), partial(run, whole), pairs)


LogProbs = Callable[[Any, Any, Any], tuple[Any, Any]]
"""(hidden [T, D], weights [V, D], targets [T]) → log-probs [T] and entropies [T]."""


def blockwise(hidden_TD: Tensor, weight_VD: Tensor, target_T: Tensor) -> tuple[Tensor, Tensor]:
    """The package's function, called as a policy calls it."""
    from drpo_cli.devices import resolve
    from drpo_cli.settings import TrainSettings
    from drpo_cli.trainer.logprobs import Head, blockwise_logprobs

    block = resolve(TrainSettings(), "cpu", "float32").logits_in_a_block
    return blockwise_logprobs(hidden_TD, weight_VD, None, target_T, Head(1.0), block)


def whole(hidden_TD: Tensor, weight_VD: Tensor, target_T: Tensor) -> tuple[Tensor, Tensor]:
    """The plain way: whole float32 logits, and autograd."""
    logp_TV = (hidden_TD @ weight_VD.T).float().log_softmax(-1)
    entropy_T = -(logp_TV.exp() * logp_TV).sum(-1)
    return logp_TV.gather(-1, target_T[:, None])[:, 0], entropy_T


def forward_and_backward(
    function: LogProbs, hidden_TD: Tensor, weight_VD: Tensor, target_T: Tensor
) -> None:
    """Both outputs into one loss, and its gradients."""
    logp_T, entropy_T = function(hidden_TD, weight_VD, target_T)
    (logp_T.mean() + 0.01 * entropy_T.mean()).backward()


def inputs(tokens: int, vocabulary: int, dtype: str) -> tuple[Tensor, Tensor, Tensor]:
    import torch

    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    weight_VD = (0.02 * torch.randn(vocabulary, HIDDEN)).to(kind).requires_grad_()
    hidden_TD = torch.randn(tokens, HIDDEN).to(kind).requires_grad_()
    return weight_VD, hidden_TD, torch.randint(vocabulary, (tokens,))

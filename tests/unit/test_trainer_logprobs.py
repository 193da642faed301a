"""Blockwise log-probs: the same values and gradients as the plain ones, without their memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from drpo_cli.devices import resolve
from drpo_cli.settings import TrainSettings
from drpo_cli.trainer import logprobs
from drpo_cli.trainer.logprobs import Head, blockwise_logprobs
from support.kernels import counted_kernels

TOKENS, HIDDEN, VOCABULARY = 37, 16, 23
HEADS = {
    "plain": Head(1.0),
    "temperature": Head(0.6),
    "softcap": Head(1.3, softcap=2.0),
    "multiplier": Head(0.9, multiplier=0.25),
    "all": Head(0.7, softcap=1.5, multiplier=3.0),
}
every_head = pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())


def inputs(
    bias: bool, dtype: torch.dtype = torch.float32, words: int = VOCABULARY
) -> list[Tensor | None]:
    noise = torch.Generator().manual_seed(0)
    hidden, weight, offset = (
        torch.randn(shape, generator=noise).to(dtype).requires_grad_()
        for shape in ((TOKENS, HIDDEN), (words, HIDDEN), (words,))
    )
    return [hidden, weight, offset if bias else None]


def targets(words: int = VOCABULARY) -> Tensor:
    return torch.randint(words, (TOKENS,), generator=torch.Generator().manual_seed(1))


def plain(inputs: list[Tensor | None], head: Head) -> Tensor:
    """Log-probs [T, V] in float64, by the formula in Head's docstring."""
    hidden, weight, bias = (None if tensor is None else tensor.double() for tensor in inputs)
    assert hidden is not None and weight is not None
    logits = hidden @ weight.T + (0.0 if bias is None else bias)
    logits = logits * head.scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    return (logits / head.temperature).log_softmax(-1)


def blockwise(
    given: list[Tensor | None], head: Head, block: int, words: int = VOCABULARY
) -> tuple[Tensor, Tensor]:
    hidden_TD, weight_VD, bias_V = given
    assert hidden_TD is not None and weight_VD is not None
    return blockwise_logprobs(hidden_TD, weight_VD, bias_V, targets(words), head, block)


def gradients(value_T: Tensor, inputs: list[Tensor | None]) -> tuple[Tensor, ...]:
    push_T = torch.randn(len(value_T), generator=torch.Generator().manual_seed(2))
    return torch.autograd.grad((value_T * push_T).sum(), [t for t in inputs if t is not None])


@every_head
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("block", [1, 10, 5 * TOKENS, 1000])
def test_blockwise_is_whole(head: Head, bias: bool, block: int) -> None:
    given, target_T = inputs(bias), targets()
    logp_T, entropy_T = blockwise(given, head, block)
    logp_TV = plain(given, head)
    expected_T = logp_TV.gather(-1, target_T[:, None])[:, 0]
    assert logp_T.dtype == entropy_T.dtype == torch.float32
    torch.testing.assert_close(logp_T.double(), expected_T, atol=5e-6, rtol=1e-6)
    expected_entropy_T = -(logp_TV.exp() * logp_TV).sum(-1)
    torch.testing.assert_close(entropy_T.double(), expected_entropy_T, atol=5e-6, rtol=1e-6)
    for got, expected in zip(gradients(logp_T, given), gradients(expected_T, given), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_blocks_of_tokens_too_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "TALL", 5)
    given, target_T = inputs(bias=True), targets()
    logp_T, entropy_T = blockwise(given, HEADS["all"], 35)
    logp_TV = plain(given, HEADS["all"])
    expected_T = logp_TV.gather(-1, target_T[:, None])[:, 0] - (logp_TV.exp() * logp_TV).sum(-1)
    torch.testing.assert_close((logp_T + entropy_T).double(), expected_T, atol=1e-5, rtol=1e-6)
    for got, expected in zip(
        gradients(logp_T + entropy_T, given), gradients(expected_T, given), strict=True
    ):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_huge_and_tiny_logits_neither_overflow_nor_vanish() -> None:
    hidden_TD = torch.tensor([[3e4], [-3e4]])
    weight_VD = torch.tensor([[1.0], [-1.0], [0.0]], requires_grad=True)
    target_T = torch.tensor([1, 1])
    for block in (1, 1000):
        logp_T, entropy_T = blockwise_logprobs(
            hidden_TD, weight_VD, None, target_T, HEADS["plain"], block
        )
        assert logp_T.tolist() == [-6e4, 0] and entropy_T.tolist() == [0, 0]
        (gradient_VD,) = torch.autograd.grad(logp_T.sum(), weight_VD)
        assert gradient_VD.flatten().tolist() == [-3e4, 3e4, 0]


def test_the_size_of_a_block_does_not_show() -> None:
    given, head = inputs(bias=True), HEADS["all"]
    whole, small = (blockwise(given, head, block)[0] for block in (1000, 40))
    torch.testing.assert_close(small, whole, atol=1e-6, rtol=0)
    for got, expected in zip(gradients(small, given), gradients(whole, given), strict=True):
        torch.testing.assert_close(got, expected, atol=5e-6, rtol=1e-6)


@every_head
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("block", [20_000, 1_000_000])
def test_logprobs_of_bfloat16_weights_are_as_exact_as_of_float32(
    head: Head, bias: bool, block: int
) -> None:
    given, target_T = inputs(bias, torch.bfloat16, words=5000), targets(5000)
    logp_T, entropy_T = blockwise(given, head, block, words=5000)
    logp_TV = plain(given, head)
    expected_T = logp_TV.gather(-1, target_T[:, None])[:, 0]
    assert logp_T.dtype == entropy_T.dtype == torch.float32
    torch.testing.assert_close(logp_T.double(), expected_T, atol=1e-5, rtol=1e-6)
    expected_entropy_T = -(logp_TV.exp() * logp_TV).sum(-1)
    torch.testing.assert_close(entropy_T.double(), expected_entropy_T, atol=1e-5, rtol=1e-6)
    got, expected = gradients(logp_T, given), gradients(expected_T, given)
    assert [gradient.dtype for gradient in got] == [torch.bfloat16] * len(got)
    for one, other in zip(got, expected, strict=True):
        # rounded to 8 bits are a logit's gradient, the product of a block, and the sum of these
        error = (one.double() - other.double()).norm() / other.double().norm()
        assert error < 0.005


def test_a_head_in_the_dtype_of_the_model_rounds_its_logits() -> None:
    """As the architecture does: log-probs are those of logits that bfloat16 holds, exactly."""
    given = inputs(bias=False, dtype=torch.bfloat16)
    hidden_TD, weight_VD, _ = given
    assert hidden_TD is not None and weight_VD is not None
    logp_T, _ = blockwise(given, Head(1.0, dtype="model"), 1000)
    logits_TV = torch.nn.functional.linear(hidden_TD, weight_VD).double()
    expected_T = logits_TV.log_softmax(-1).gather(-1, targets()[:, None])[:, 0]
    torch.testing.assert_close(logp_T.double(), expected_T, atol=1e-5, rtol=0)
    exact_T, _ = blockwise(given, Head(1.0), 1000)
    assert (logp_T - exact_T).abs().mean() > 1e-3


class Heard(Head):
    """A head that keeps the logits that it gave."""

    def __init__(self) -> None:
        super().__init__(0.7, softcap=30.0)
        self.given: list[Tensor] = []

    def __call__(self, *given: Any) -> Tensor:
        logits_CW = super().__call__(*given)
        self.given.append(logits_CW.clone())
        return logits_CW


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_backward_pass_has_the_logits_of_the_forward_pass(dtype: torch.dtype) -> None:
    """Bit for bit: else exp(z − log Z) would be other probabilities than those of the loss."""
    head, given = Heard(), inputs(bias=True, dtype=dtype, words=500)
    logp_T, _ = blockwise(given, head, 3000, words=500)
    forward, head.given = head.given, []
    logp_T.sum().backward()
    assert len(forward) > 3
    assert all(torch.equal(*pair) for pair in zip(forward, head.given, strict=True))


def test_bfloat16_weight_gradients_are_summed_in_float32() -> None:
    hidden_TD = torch.ones(2000, 1, dtype=torch.bfloat16, requires_grad=True)
    weight_VD = torch.zeros(4, 1, dtype=torch.bfloat16, requires_grad=True)
    first_T = torch.zeros(2000, dtype=torch.long)
    logp_T, _ = blockwise_logprobs(hidden_TD, weight_VD, None, first_T, HEADS["plain"], 1)
    logp_T.sum().backward()
    # a bfloat16 sum of ones stops growing at 256
    assert weight_VD.grad is not None
    assert weight_VD.grad.flatten().tolist() == pytest.approx([1500, -500, -500, -500], rel=2**-8)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("block", [100, 1000])
def test_entropy_has_the_gradient_of_the_plain_formula(name: str, block: int) -> None:
    columns = inputs(bias=True)
    given = [tensor for tensor in columns if tensor is not None]
    slope_T = torch.linspace(-1, 1, len(targets()))
    logp_T, entropy_T = blockwise(columns, HEADS[name], block)
    found = torch.autograd.grad((entropy_T * slope_T + logp_T).sum(), given)
    logp_RV = plain(columns, HEADS[name])
    loss_T = (
        -(logp_RV.exp() * logp_RV).sum(-1) * slope_T + logp_RV.gather(-1, targets()[:, None])[:, 0]
    )
    for mine, expected in zip(found, torch.autograd.grad(loss_T.sum(), given), strict=True):
        torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-4)


class Sizes(TorchDispatchMode):
    """Records the element counts of the largest tensors that any operation produced."""

    largest = 0
    float32 = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        produced = result if isinstance(result, (tuple, list)) else [result]
        tensors = [part for part in produced if isinstance(part, Tensor)]
        self.largest = max([self.largest, *(t.numel() for t in tensors)])
        wide = [t.numel() for t in tensors if t.dtype == torch.float32]
        self.float32 = max([self.float32, *wide])
        return result


def largest_and_saved(block: int) -> tuple[int, int]:
    """Elements of the largest tensor, and of all that wait for the backward pass, 500 tokens."""
    hidden_TD = torch.randn(500, 8, requires_grad=True)
    weight_VD = torch.randn(300, 8, requires_grad=True)
    saved: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with Sizes() as sizes:  # type: ignore[no-untyped-call]
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            logp_T, _ = blockwise_logprobs(
                hidden_TD, weight_VD, None, torch.zeros(500, dtype=torch.long), Head(0.7), block
            )
        kept = sum(saved)
        logp_T.sum().backward()
    return sizes.largest, kept


def test_tokens_times_vocabulary_is_never_held() -> None:
    largest, kept = largest_and_saved(block=6000)
    assert largest == 6000
    assert kept <= 500 * 8 + 300 * 8 + 4 * 500
    assert largest_and_saved(block=500 * 300)[0] == 500 * 300  # the recorder sees what it must


@pytest.mark.parametrize(("vocabulary", "hidden"), [(151_936, 4096), (262_144, 2560)])
def test_a_gpu_is_given_few_kernels_and_no_whole_gradient_in_float32(
    vocabulary: int, hidden: int
) -> None:
    """The heads of Qwen3-8B and Gemma 3 4B; a CPU's blocks would take 58,000 and 99,000 kernels."""
    train = resolve(TrainSettings(), "cuda", "bfloat16")
    tokens, block = train.tokens_per_microbatch, train.logits_in_a_block
    head = Head(1.0)
    head.device = "cuda"  # fake tensors are on the CPU
    with counted_kernels() as kernels, Sizes() as sizes:  # type: ignore[no-untyped-call]
        hidden_TD = torch.empty(tokens, hidden, dtype=torch.bfloat16, requires_grad=True)
        weight_VD = torch.empty(vocabulary, hidden, dtype=torch.bfloat16, requires_grad=True)
        target_T = torch.empty(tokens, dtype=torch.long)
        logp_T, _ = blockwise_logprobs(hidden_TD, weight_VD, None, target_T, head, block)
        logp_T.sum().backward()
    assert kernels.total() < 1_700
    assert sizes.float32 <= max(block, tokens * hidden)

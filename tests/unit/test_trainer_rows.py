"""Rows by index: what plain indexing gives, and its gradient."""

from __future__ import annotations

import pytest
import torch

from drpo_cli.trainer.rows import take


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_taken_rows_have_the_gradient_of_plain_indexing(dtype: torch.dtype) -> None:
    noise = torch.Generator().manual_seed(0)
    x_TF = torch.randn(9, 5, generator=noise).to(dtype).requires_grad_()
    index_N = torch.tensor([3, 3, 0, 8, 3, 1])
    push_NF = torch.randn(6, 5, generator=noise).to(dtype)
    taken_NF = take(x_TF, index_N)
    assert torch.equal(taken_NF, x_TF[index_N])
    (found,) = torch.autograd.grad(taken_NF, x_TF, push_NF)
    (expected,) = torch.autograd.grad(x_TF.double()[index_N], x_TF, push_NF.double())
    torch.testing.assert_close(
        found, expected, atol=0.02 if dtype == torch.bfloat16 else 1e-6, rtol=0
    )
    assert found[[2, 4, 5, 6, 7]].count_nonzero() == 0


def test_the_gradient_of_a_row_that_many_take_is_summed_in_float32() -> None:
    x_TF = torch.zeros(2, 3, dtype=torch.bfloat16, requires_grad=True)
    take(x_TF, torch.zeros(2000, dtype=torch.long)).sum().backward()
    assert x_TF.grad is not None  # a bfloat16 sum of ones stops growing at 256
    assert x_TF.grad.tolist() == [[2000.0] * 3, [0.0] * 3]


def test_the_gradient_does_not_depend_on_the_threads() -> None:
    before = torch.get_num_threads()
    index_N = torch.randint(50, (4000,), generator=torch.Generator().manual_seed(0))
    push_NF = torch.randn(4000, 64, generator=torch.Generator().manual_seed(1))
    found = []
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            x_TF = torch.zeros(50, 64, requires_grad=True)
            take(x_TF, index_N).backward(push_NF)
            assert x_TF.grad is not None
            found.append(x_TF.grad)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[1], found[2])

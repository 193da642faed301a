"""One gradient for a matrix that is both embedding and head.

Autograd gives such a matrix two gradients: that of the head, and that of the lookups, which is zero
but for the words of the micro-batch, and yet as large as the matrix. It holds both to add them up.
With 262,144 words that is the peak of a small model's backward pass. Here the lookups add their
rows to the gradient of the head, which is known by then: the head is last in the forward pass, so
first in the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class HeadGradient:
    """The gradient of a head [V, D] in one backward pass, on its way to the lookups."""

    def __init__(self) -> None:
        """The backward pass has not begun."""
        self._found: Tensor | None = None

    def put(self, grad_VD: Tensor) -> None:
        """Leaves it for the lookups."""
        self._found = grad_VD

    def take(self) -> Tensor | None:
        """Returns it and holds it no longer, or autograd would copy it; None if there is none."""
        found, self._found = self._found, None
        return found


class TiedEmbedding(nn.Embedding):
    """Looks words up in a matrix that is also the head. `share` makes an embedding one."""

    head_gradient: HeadGradient

    def forward(self, input: Tensor) -> Tensor:
        """Rows of the matrix, [..., D]."""
        found: Tensor = _Lookup.apply(  # type: ignore[no-untyped-call]
            self.weight, input, self.padding_idx, self.head_gradient
        )
        return found


def share(lm: Any) -> None:
    """Makes the embedding of a model a `TiedEmbedding`, where it is its head too and is trained."""
    embedding, head = lm.get_input_embeddings(), lm.get_output_embeddings()
    if not isinstance(embedding, nn.Embedding) or embedding.weight is not head.weight:
        return
    plain = embedding.max_norm is None and not (embedding.scale_grad_by_freq or embedding.sparse)
    if not plain or not embedding.weight.requires_grad:
        return
    # between the architecture's class, which may scale what it looks up, and torch's
    kind = type(embedding)
    bases = (TiedEmbedding,) if kind is nn.Embedding else (kind, TiedEmbedding)
    embedding.__class__ = type(f"Tied{kind.__name__}", bases, {"head_gradient": HeadGradient()})


def begin_pass(lm: Any) -> HeadGradient | None:
    """What carries the head's gradient in the next forward and backward pass, if `share` did."""
    embedding = lm.get_input_embeddings()
    if not isinstance(embedding, TiedEmbedding):
        return None
    embedding.head_gradient = HeadGradient()
    return embedding.head_gradient


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight_VD: Tensor, index: Tensor, padding: int | None, head: HeadGradient
    ) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape, ctx.padding, ctx.head = weight_VD.shape, padding, head
        return nn.functional.embedding(index, weight_VD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, None]:
        (index,) = ctx.saved_tensors
        total_VD = ctx.head.take()
        given = None if total_VD is not None else grad.new_zeros(ctx.shape)
        index_N, grad_ND = index.flatten(), grad.flatten(0, -2)
        if ctx.padding is not None:  # whose row torch does not train by lookups
            grad_ND = grad_ND * (index_N != ctx.padding)[:, None]
        add_rows(total_VD if given is None else given, index_N, grad_ND)
        return given, None, None, None


def add_rows(total_VD: Tensor, index_N: Tensor, rows_ND: Tensor) -> None:
    """total[index[n]] += rows[n]. Rows with the same index are first summed, in float32.

    Many bfloat16 numbers that are added one by one stop growing. Equal on every run, also on a GPU.
    """
    sorted_N, order_N = index_N.sort(stable=True)
    place_N = torch.zeros_like(sorted_N)  # of each index among the different ones
    place_N[1:] = (sorted_N[1:] != sorted_N[:-1]).cumsum(0)
    # As many rows as there could be different ones, since the number is not known without waiting
    # for the device; the rows left over are zero and go to the first word.
    sums_ND = torch.ops.aten.embedding_dense_backward(
        rows_ND[order_N].float(), place_N, len(place_N), -1, False
    )
    word_N = torch.zeros_like(sorted_N).scatter_(0, place_N, sorted_N)
    word_ND = word_N[:, None].expand_as(sums_ND)
    total_VD.scatter_add_(0, word_ND, sums_ND.to(total_VD.dtype))

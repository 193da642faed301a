"""A checkpointed layer that keeps its products has the gradients of one that keeps everything."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from drpo_cli.dist import full
from drpo_cli.trainer.attention import BUCKETS, NAMES
from drpo_cli.trainer.kept import keep_results
from drpo_cli.trainer.loading import PRODUCTS
from drpo_cli.trainer.pack import pack
from support.allocated import Allocated
from support.models import experience, group, samples, tiny_model, world
from support.training import open_policy
from support.varlen import use_on_cpu


def test_a_product_that_is_changed_in_place_is_kept_as_it_was() -> None:
    noise = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 8, 8, generator=noise, requires_grad=True)
    given = torch.randn(3, 5, 8, generator=noise, requires_grad=True)
    products = []

    def layer(x: Tensor) -> Tensor:
        y = torch.matmul(x, weight)
        products.append(y.untyped_storage())
        y += x  # of a view, of which torch does not know that it is one
        z = torch.mm(y[0], weight[0])
        z.add_(1).mul_(2)
        return (y.sin() @ weight + z.exp().mean()).cos()

    def pull(out: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad((out * torch.arange(out.numel()).view_as(out)).sum(), wrt))

    wrt = [given, weight]
    expected = pull(layer(given))
    kept = checkpoint(layer, given, use_reentrant=False, context_fn=partial(keep_results, PRODUCTS))
    for mine, right in zip(pull(kept), expected, strict=True):
        torch.testing.assert_close(mine, right, atol=0, rtol=0)
    assert len(products) == 3  # plain, forward, and again for the gradients


KINDS = ["qwen3", "gpt_oss", "gemma2", "gemma3n", "gemma4", "deepseek_v3"]


@pytest.mark.parametrize(
    ("kind", "attention"),
    [*((kind, BUCKETS) for kind in KINDS), ("gpt_oss", NAMES["varlen", "cuda"])],
)
def test_what_is_kept_changes_no_gradient(tmp_path: Path, kind: str, attention: str) -> None:
    use_on_cpu()
    folder = tiny_model(tmp_path, kind)
    rows = experience(samples([(3, 9), (20, 30)]) + group(64, [9, 1, 30]))
    found = {}
    with world() as here:
        for keep in (None, "inputs", "products"):
            policy = open_policy(folder, here, keep=keep, attention=attention)
            assert policy.why_padded is None
            with Allocated() as held:
                logp_T, _ = policy(pack(rows, here.device))
                taken = held.now
                logp_T.square().sum().backward()
            grads = {n: full(w.grad) for n, w in policy.named_weights() if w.grad is not None}
            found[keep] = grads, taken
    for name, gradient in found[None][0].items():
        torch.testing.assert_close(found["inputs"][0][name], gradient, atol=0, rtol=0)
        torch.testing.assert_close(found["products"][0][name], gradient, atol=0, rtol=0)
    assert found["inputs"][1] < found["products"][1] < found[None][1]

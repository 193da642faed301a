"""Every kind of attention is plain attention, on any row; on a GPU none holds the scores."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn
from torch.utils._python_dispatch import TorchDispatchMode

from drpo_cli.devices import ATTENTION, defaults, describe, resolve
from drpo_cli.errors import UserError
from drpo_cli.settings import TrainSettings
from drpo_cli.tools.memory.workspace import Workspace
from drpo_cli.trainer import attention, tiles
from drpo_cli.trainer.attention import NAMES, name_for
from drpo_cli.trainer.layout import Layout, Span
from support import varlen as stand_in
from support.allocated import Allocated

CPU = torch.device("cpu")
FAMILIES = st.lists(
    st.tuples(st.integers(1, 12), st.lists(st.integers(1, 20), max_size=5)), min_size=1, max_size=5
)
FUNCTIONS: dict[str, Callable[..., tuple[Tensor, None]]] = {
    "buckets": attention.buckets,
    "buckets, key heads repeated": partial(attention.buckets, repeat=True),
    "varlen": attention.varlen,
}


@pytest.fixture(scope="module", autouse=True)
def _varlen_on_cpu() -> None:
    stand_in.use_on_cpu()


def families(sizes: list[tuple[int, list[int]]]) -> list[Span]:
    """Prompts, each followed by its responses."""
    spans: list[Span] = []

    def add(length: int, context: Span | None = None) -> Span:
        start = spans[-1].start + spans[-1].length if spans else 0
        spans.append(Span(start, length, context))
        return spans[-1]

    for prompt, responses in sizes:
        parent = add(prompt)
        for response in responses:
            add(response, parent)
    return spans


def visible(spans: list[Span], window: int | None) -> Tensor:
    """Which token of the row sees which, [T, T]."""
    total = sum(span.length for span in spans)
    seen = torch.zeros(total, total, dtype=torch.bool)
    for span in spans:
        context = span.context or Span(0, 0)
        history = [*range(context.start, context.start + context.length)]
        for token in range(span.start, span.start + span.length):
            history.append(token)
            seen[token, history if window is None else history[-window:]] = True
    return seen


def heads(tokens: int, queries: int, keys: int, head: int = 8, wide: int = 8) -> list[Tensor]:
    """Random query, key and value in float64, [1, H, T, Dh]; `wide` is Dh of the values."""
    noise = torch.Generator().manual_seed(tokens)
    return [
        torch.randn(1, count, tokens, size, generator=noise, dtype=torch.float64).requires_grad_()
        for count, size in ((queries, head), (keys, head), (keys, wide))
    ]


def by_formula(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    seen: Tensor,
    scale: float | None,
    softcap: float | None,
    sink_H: Tensor | None,
) -> Tensor:
    """Attention as the papers write it, [1, T, H, Dh]: softmax over the scores and the sink."""
    copies = query.shape[1] // key.shape[1]
    k, v = (part.repeat_interleave(copies, dim=1) for part in (key, value))
    scores = query @ k.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    scores = scores.masked_fill(~seen, -torch.inf)
    if sink_H is not None:
        column = sink_H[None, :, None, None].expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, column], dim=-1)
    return (scores.softmax(-1)[..., : k.shape[2]] @ v).transpose(1, 2)


def pull(out: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    push = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    return torch.autograd.grad((out * push).sum(), inputs)


@settings(max_examples=40, deadline=None)
@given(
    sizes=FAMILIES,
    window=st.none() | st.integers(1, 12),
    groups=st.sampled_from([(4, 4), (4, 2), (3, 1)]),
    head=st.sampled_from([(8, 8), (16, 8), (8, 16)]),
    scale=st.sampled_from([None, 0.7]),
    softcap=st.sampled_from([None, 0.5]),
    sinks=st.booleans(),
    tile=st.sampled_from([1, 40, tiles.TILE]),
)
def test_each_kind_is_plain_attention(
    sizes: list[tuple[int, list[int]]],
    window: int | None,
    groups: tuple[int, int],
    head: tuple[int, int],
    scale: float | None,
    softcap: float | None,
    sinks: bool,
    tile: int,
) -> None:
    spans = families(sizes)
    tokens = sum(span.length for span in spans)
    query, key, value = inputs = heads(tokens, *groups, *head)
    sink_H = None
    if sinks:
        sink_H = torch.linspace(-2, 3, groups[0], dtype=torch.float64).requires_grad_()
        inputs.append(sink_H)
    plain = by_formula(query, key, value, visible(spans, window), scale, softcap, sink_H)
    expected = [plain, *pull(plain, inputs)]
    for name, function in FUNCTIONS.items():
        with patch.object(tiles, "TILE", tile):
            out, _ = function(
                torch.nn.Identity(),
                query,
                key,
                value,
                None,
                layout=Layout(spans, CPU),
                sliding_window=window,
                scaling=scale,
                softcap=softcap,
                s_aux=sink_H,
            )
            found = [out, *pull(out, inputs)]
        for mine, right in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, right, atol=1e-12, rtol=1e-12, msg=name)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("term", [None, "softcap", "s_aux"])
def test_on_a_gpu_no_kernel_holds_the_scores(
    window: int | None, dtype: str, term: str | None
) -> None:
    """With shared key heads and a mask, or float32, torch's kernel would be the one that does."""
    kind = resolve(TrainSettings(), "cuda", dtype).attention
    function = torch_function(kind)
    spans, calls = families([(9, [5, 7]), (12, [])]), []
    plain = F.scaled_dot_product_attention

    def record(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        assert query.shape == key.shape[:2] + query.shape[2:] == value.shape[:2] + query.shape[2:]
        assert not options["enable_gqa"]
        calls.append(options["attn_mask"])
        return plain(query, key, value, **options)

    with (
        FakeTensorMode(),
        patch.object(F, "scaled_dot_product_attention", record),
        patch.object(attention, "varlen_attn", wraps=varlen_attn) as called,
        patch.object(tiles, "attend", wraps=tiles.attend) as tiled,
    ):
        inputs = [
            torch.empty(1, count, 33, size, dtype=getattr(torch, dtype), requires_grad=True)
            for count, size in ((4, 24), (2, 24), (2, 16))
        ]
        options = {"softcap": 3.0, "s_aux": torch.empty(4, dtype=inputs[0].dtype)}
        out, _ = function(
            torch.nn.Identity(),
            *inputs,
            None,
            layout=Layout(spans, CPU),
            sliding_window=window,
            **{name: option for name, option in options.items() if name == term},
        )
        grads = torch.autograd.grad(out.sum(), inputs)
    assert out.shape == (1, 33, 4, 16) and out.dtype == inputs[0].dtype
    assert [grad.shape for grad in grads] == [one.shape for one in inputs]
    if dtype == "bfloat16" and term != "softcap":
        (once,) = called.call_args_list
        assert once.kwargs["window_size"] == (-1 if window is None else 3, 0)
        assert not calls and not tiled.called
    else:
        ways = len(calls), tiled.call_count
        assert not called.called and min(ways) == 0 and max(ways) > 1
        assert (term is None and window is None) == bool(calls)


def torch_function(kind: str | None) -> Any:
    """The function that a model on a GPU calls."""
    from transformers import AttentionInterface

    assert kind is not None
    return AttentionInterface()[NAMES[kind, "cuda"]]


def test_heads_that_the_kernel_does_not_take_go_through_buckets() -> None:
    spans = families([(5, [4, 3])])
    query, key, value = heads(12, 4, 2, head=12)
    given = (torch.nn.Identity(), query, key, value, None, Layout(spans, CPU))
    with patch.object(attention, "varlen_attn") as called:
        out, _ = attention.varlen(*given)
    same, _ = attention.buckets(*given)
    torch.testing.assert_close(out, same, atol=1e-12, rtol=0)
    assert not called.called


class Taken(TorchDispatchMode):
    """Collects what is allocated without a value."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[tuple[int, torch.dtype]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.new_empty.default:
            self.found.append((made.numel(), made.dtype))
        return made


def test_the_plan_counts_what_the_kernel_takes_for_itself() -> None:
    spans = Layout(families([(9, [5, 7]), (12, [])]), CPU)  # 33 queries, 51 keys, 4 sequences
    with FakeTensorMode(), Taken() as taken, Workspace():
        query, key, value = (
            torch.empty(1, count, 33, 40, dtype=torch.bfloat16, requires_grad=True)
            for count in (4, 2, 2)
        )
        out, _ = attention.varlen(torch.nn.Identity(), query, key, value, None, spans)
        out.sum().backward()
    queries = 4 * (33 + 4 * 128)
    assert taken.found == [
        (queries, torch.float32),
        (queries * 64, torch.float32),  # heads in multiples of 32
        *[(51 * 4 * 40, torch.bfloat16)] * 2,
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sinks", [None, torch.ones(4)])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_a_few_tiles_are_held_and_the_plan_counts_them(
    dtype: torch.dtype, sinks: Tensor | None, softcap: float | None
) -> None:
    query, key, value, grad = (torch.randn(1, n, 1024, 16).to(dtype) for n in (4, 2, 2, 4))
    rest: Any = (0, None, 0.125, softcap)
    with patch.object(tiles, "TILE", 2**16):
        out, lse = tiles.forward(query, key, value, sinks, None, *rest)
        given = grad, query, key, value, sinks, None, out, lse, *rest
        with Allocated() as held:
            results = tiles.backward(*given)
        with FakeTensorMode(allow_non_fake_inputs=True), Taken() as taken, Workspace():
            torch.ops.drpo.attend_backward(*given)
    known = [*given[:4], results[0]]  # and the gradients of keys and values are in `planned`
    own = held.peak - sum(one.nbytes for one in known)
    planned = sum(count * kept.itemsize for count, kept in taken.found)
    assert held.peak < 4 * 4 * 1024 * 1024 / 4
    assert 0.8 * own < planned < 1.3 * own


def test_the_default_is_the_fastest_that_computes_in_the_models_dtype() -> None:
    assert defaults("cuda", "bfloat16").attention == "varlen"
    assert defaults("cuda", "float32").attention == "buckets"
    assert (
        defaults("cpu", "bfloat16").attention == defaults("cpu", "float32").attention == "buckets"
    )
    chosen = resolve(TrainSettings(attention="buckets", logits_mib=3), "cuda", "bfloat16")
    assert (chosen.attention, chosen.logits_mib) == ("buckets", 3)
    assert attention.kinds_on(CPU) == ["buckets"]
    assert set(NAMES) == {(kind, on) for on, kinds in ATTENTION.items() for kind in kinds}
    asked = TrainSettings(attention="varlen")
    assert describe(asked, "cpu", "bfloat16") == "does not run: it has no attention 'varlen'"
    blocks = "attention varlen, log-probs in blocks of 512 MiB"
    assert describe(asked, "cuda", "bfloat16") == f"{blocks}, head in float32"
    narrow = asked.model_copy(update={"head_dtype": "model"})
    assert describe(narrow, "cuda", "bfloat16") == f"{blocks}, head in bfloat16"
    assert describe(asked, "cuda", "float32") == blocks
    with pytest.raises(UserError, match=r"train.attention: 'varlen' does not run on a CPU"):
        name_for("varlen", "cpu")

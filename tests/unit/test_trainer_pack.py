"""Packing: nothing lost, nothing over budget, every token where attention expects it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from drpo_cli.trainer.pack import bins, bundles, pack, packed_length
from drpo_cli.trainer.sharing import Costs, costs
from support.models import Row, experience, group, samples, tiny_model, world
from support.training import open_policy

LENGTHS = st.lists(st.integers(1, 40), max_size=30)
CPU = torch.device("cpu")


@given(lengths=LENGTHS, budget=st.integers(1, 60), at_least=st.integers(1, 12))
@example(lengths=[], budget=1, at_least=3)
@example(lengths=[50, 1, 1], budget=10, at_least=6)
def test_bins_hold_every_sequence_once_within_the_budget(
    lengths: list[int], budget: int, at_least: int
) -> None:
    groups = bins(lengths, budget, at_least)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert all(len(group) <= 1 or sum(lengths[i] for i in group) <= budget for group in groups)
    assert len(groups) >= at_least
    assert sum(not group for group in groups) <= max(0, at_least - len(lengths))


@given(lengths=LENGTHS, budget=st.integers(1, 60))
def test_more_bins_are_made_only_when_asked_for(lengths: list[int], budget: int) -> None:
    groups = bins(lengths, budget)
    assert groups == bins(lengths, budget, at_least=len(groups)) if lengths else groups == [[]]
    assert len(bins(lengths, budget, at_least=len(groups) + 3)) == len(groups) + 3


def test_bins_fill_up() -> None:
    assert sorted(map(sorted, bins([6, 5, 4, 3, 2], 10))) == [[0, 2], [1, 3, 4]]
    assert bins([9, 1, 1], 4) == [[0], [1, 2]]
    assert bins([2, 2, 2, 2], 8, at_least=3) == [[0], [1, 3], [2]]


@given(lengths=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=9))
def test_packed_tokens_predict_their_successors(lengths: list[tuple[int, int]]) -> None:
    batch = samples(lengths)
    # short prompts may be alike by chance, and neighbours would then share one
    assume(all(a.prompt_ids != b.prompt_ids for a, b in pairwise(batch)))
    packed = pack(experience(batch), CPU)
    start = at = 0
    for sample in batch:
        whole, size = sample.prompt_ids + sample.response_ids, sample.input_length
        mine = slice(start, start + size)
        assert packed.input_ids_I[mine].tolist() == list(whole[:-1])
        assert packed.position_ids_I[mine].tolist() == list(range(size))
        for offset, token in enumerate(sample.response_ids):
            place = int(packed.predict_T[at + offset]) - start
            assert packed.target_T[at + offset] == token == whole[place + 1]
            assert place == len(sample.prompt_ids) - 1 + offset
        part = slice(at, at + len(sample.response_ids))
        torch.testing.assert_close(packed.old_logp_T[part], torch.tensor(sample.old_logps))
        assert packed.adv_T[part].tolist() == advantage_of(sample)
        start, at = start + size, part.stop
    assert start == len(packed.input_ids_I) and at == len(packed.target_T)
    assert len(packed.predict_T) == len(packed.old_logp_T) == len(packed.adv_T) == at


def length_of(rows: list[Row]) -> int:
    return packed_length(len(rows[0].prompt_ids), [len(row.response_ids) for row in rows])


def advantage_of(sample: Row) -> list[float]:
    return torch.tensor(sample.advantages).tolist()


def test_the_last_response_token_is_no_input() -> None:
    packed = pack(experience([Row((7,), (8, 9), (-1.0, -2.0), (0.5, 0.5))]), CPU)
    assert packed.input_ids_I.tolist() == [7, 8]
    assert packed.predict_T.tolist() == [0, 1] and packed.target_T.tolist() == [8, 9]


def test_no_samples_give_one_token_without_a_loss() -> None:
    packed = pack(experience([]), CPU)
    assert packed.input_ids_I.tolist() == packed.position_ids_I.tolist() == [0]
    assert packed.layout is not None
    spans = packed.layout.padded
    assert spans.query_N.tolist() == spans.key_M.tolist() == [0]
    assert packed.predict_T.dtype == packed.target_T.dtype == torch.long
    assert len(packed.predict_T) == len(packed.target_T) == len(packed.adv_T) == 0


@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    prompt=st.sampled_from([5, 70]),
    budget=st.integers(1, 400),
)
def test_bundles_are_of_one_prompt_and_fit(sizes: list[int], prompt: int, budget: int) -> None:
    batch = [s for seed, size in enumerate(sizes) for s in group(prompt, [5] * size, seed)]
    found = bundles(experience(batch), budget)
    assert sorted(i for bundle in found for i in bundle) == list(range(len(batch)))
    for bundle in found:
        members = [batch[i] for i in bundle]
        assert len({sample.prompt_ids for sample in members}) == 1
        assert len(members) == 1 or length_of(members) <= budget
    if budget >= prompt + 6 * 4:
        assert len(found) == len(sizes)


@pytest.mark.parametrize("prompt", [1, 64])
def test_a_prompt_is_in_the_row_once_and_predicts_each_first_token(prompt: int) -> None:
    batch = group(prompt, [3, 1, 4])
    packed = pack(experience(batch), CPU)
    assert len(packed.input_ids_I) == prompt + 2 + 0 + 3 == length_of(batch)
    assert packed.input_ids_I[:prompt].tolist() == list(batch[0].prompt_ids)
    assert packed.position_ids_I.tolist() == [*range(prompt + 2), *range(prompt, prompt + 3)]
    last = prompt - 1
    assert packed.predict_T.tolist() == [
        *(last, last + 1, last + 2, last, last),
        *range(prompt + 2, prompt + 5),
    ]
    assert packed.target_T.tolist() == [t for s in batch for t in s.response_ids]
    assert packed.response_T.tolist() == [0] * 3 + [1] + [2] * 4


def pairs(tokens: int, cost: float) -> float:
    return tokens * (cost + tokens / 2 + 240)


@given(prompt=st.integers(1, 4000), response=st.integers(0, 9000), cost=st.floats(0, 1e5))
def test_a_sample_that_shares_costs_less_in_any_company(
    prompt: int, response: int, cost: float
) -> None:
    saved = pairs(prompt + response, cost) - cost * response - 1.05 * response * (prompt + response)
    shares = Costs(cost).shares
    if shares(prompt, response):
        assert all(n * saved >= pairs(prompt, cost) * (1 - 1e-9) for n in (2, 3, 16))
        assert shares(prompt, response // 2) and Costs(2 * cost).shares(prompt, response)
    else:
        assert 2 * saved <= pairs(prompt, cost)


@given(prompt=st.integers(1, 4000), response=st.integers(0, 9000), cost=st.floats(0, 1e5))
def test_without_a_mask_a_sample_that_shares_never_costs_more(
    prompt: int, response: int, cost: float
) -> None:
    free = Costs(cost, masked=False)
    assert free.shares(prompt, response)
    for together in (2, 16):
        apart = together * free.of(prompt, [response])
        assert free.of(prompt, [response] * together) <= apart * (1 + 1e-9)


def test_long_responses_run_apart_and_short_ones_of_the_same_prompt_share() -> None:
    cost = Costs(1000)  # the models of the benchmarks: see docs/internals.md for what they measured
    assert [cost.shares(64, n) for n in (256, 512, 1024, 2048)] == [True] * 2 + [False] * 2
    assert [cost.shares(256, n) for n in (512, 800, 2048)] == [True, True, False]
    batch = group(64, [2000, 40, 2000, 30])
    found = bundles(experience(batch), 10**6, cost)
    assert sorted(found) == [[0], [1, 3], [2]]
    order = [i for bundle in found for i in bundle]
    packed = pack(experience([batch[i] for i in order]), CPU, costs=cost)
    assert len(packed.input_ids_I) == sum(length_of([batch[i] for i in b]) for b in found)
    assert len(pack(experience([batch[i] for i in order]), CPU).input_ids_I) == length_of(batch)
    assert packed.target_T.tolist() == [t for i in order for t in batch[i].response_ids]


def test_a_token_costs_what_its_layer_has_weights(tmp_path: Path) -> None:
    class Config:
        num_attention_heads, head_dim, num_hidden_layers = 4, 16, 1

    class Experts(Config):
        num_experts_per_tok = 2

    dense, experts = torch.nn.Linear(64, 26, bias=False), torch.nn.Module()
    experts.weight = torch.nn.Parameter(torch.zeros(8, 26, 64))
    assert costs([dense], Config, masked=True).token == pytest.approx(10)
    assert costs([experts], Experts, masked=True).token == pytest.approx(20)
    with world() as here:
        policy = open_policy(tiny_model(tmp_path), here)
        layer = sum(p.numel() for p in policy.layers[0].parameters())
        config = policy.lm.config
        heads = config.num_attention_heads * config.head_dim
        assert policy.costs.token == pytest.approx(layer / (2.6 * heads))

"""Every family, on packed and on padded rows, gives what plain transformers gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from drpo_cli.dist import World, full
from drpo_cli.errors import UserError
from drpo_cli.rollout.engine.precision import Precision
from drpo_cli.trainer.batches import microbatches
from drpo_cli.trainer.pack import pack
from drpo_cli.trainer.packable import find_obstacle
from support.families import FAMILIES
from support.models import Row, experience, group, samples, tiny_model, world
from support.proofs import SAMPLING, opened, prompts
from support.training import open_policy

TEMPERATURE = 0.7
LENGTHS = [(3, 9), (20, 30), (1, 1), (1, 12), (10, 25)]  # longer and shorter than all windows
BUDGET = 256
FEW = replace(SAMPLING, samples=2, max_new_tokens=8)


@pytest.fixture(scope="module")
def here() -> Iterator[World]:
    with world() as alone:
        yield alone


def alone(lm: Any, sample: Row) -> Tensor:
    ids = torch.tensor([sample.prompt_ids + sample.response_ids])
    logits = lm(ids, use_cache=False).logits[0, len(sample.prompt_ids) - 1 : -1].float()
    target_T = torch.tensor(sample.response_ids)
    logp_TV = (logits / TEMPERATURE).log_softmax(-1)
    logp_T: Tensor = logp_TV.gather(-1, target_T[:, None])[:, 0]
    return logp_T


def works(kind: str, layout: str) -> bool:
    return layout == "padded" or not FAMILIES[kind].packed


CELLS = [cell for cell in product(FAMILIES, ("packed", "padded")) if works(*cell)]


@pytest.mark.parametrize(("kind", "layout"), CELLS)
def test_log_probs_and_gradients_are_those_of_transformers(
    tmp_path: Path, here: World, kind: str, layout: str
) -> None:
    folder = tiny_model(tmp_path, kind)
    plain = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    batch = samples(LENGTHS) + group(12, [9, 1, 12], seed=1)  # the last share their prompt
    expected_T = torch.cat([alone(plain, sample) for sample in batch])
    push_T = torch.randn(len(expected_T), generator=torch.Generator().manual_seed(1))
    (expected_T * push_T).sum().backward()
    policy = open_policy(folder, here, TEMPERATURE, layout=layout)
    rows = experience(batch)
    found_T = torch.empty_like(expected_T)
    for part in microbatches(rows, BUDGET, here, policy.costs):
        logp_T, _ = policy(pack(rows.take(part), here.device, costs=policy.costs))
        place_T = torch.cat([rows.split(torch.arange(len(found_T)))[row] for row in part])
        (logp_T * push_T[place_T]).sum().backward()
        found_T[place_T] = logp_T.detach()
    bound = FAMILIES[kind].rounding
    assert expected_T.std() > 0.05
    torch.testing.assert_close(found_T, expected_T.detach(), atol=bound, rtol=0)
    gradients = {n: full(w.grad) for n, w in policy.named_weights() if w.grad is not None}
    exact = {name: w.grad for name, w in plain.named_parameters() if w.grad is not None}
    assert gradients.keys() == exact.keys() and len(exact) > 10
    for name, gradient in exact.items():
        near = max(10 * bound, bound * float(gradient.abs().max()))
        torch.testing.assert_close(gradients[name], gradient, atol=near, rtol=1e-4, msg=name)


@pytest.mark.parametrize("kind", [kind for kind in FAMILIES if FAMILIES[kind].packed])
def test_what_cannot_be_packed_is_padded_or_refused(tmp_path: Path, here: World, kind: str) -> None:
    folder, why = tiny_model(tmp_path, kind), FAMILIES[kind].packed
    with pytest.raises(UserError, match=why):
        open_policy(folder, here, layout="packed")
    said = open_policy(folder, here).why_padded
    assert said is not None and why in said


@pytest.mark.parametrize("kind", [kind for kind in FAMILIES if not FAMILIES[kind].packed])
def test_what_can_be_packed_is_packed(tmp_path: Path, kind: str) -> None:
    FAMILIES[kind].config().save_pretrained(tmp_path)
    assert find_obstacle(AutoConfig.from_pretrained(tmp_path), False) is None


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_sync_into_transformers_is_proven(tmp_path: Path, here: World, kind: str) -> None:
    proof = opened(tiny_model(tmp_path, kind), here, Precision("float32", "float32"))
    proof.prove(0, prompts()[:2], FEW)
    assert max(look.gap for look in proof.looks) < FAMILIES[kind].rounding

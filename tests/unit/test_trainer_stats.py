"""What a step tells of its tokens, against numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from drpo_cli.dist import World
from drpo_cli.trainer.stats import TokenStats
from drpo_cli.types import Tokens
from support.models import world

ROWS = [  # π, μ, A, w, entropy
    (0.50, 0.25, 1.0, 0.5, 1.0),  # r = 2, diverging, |A r w| = 1
    (0.20, 0.40, 2.0, 1.5, 2.0),  # r = 0.5, converging, 1.5
    (0.90, 0.30, 0.5, -1.0, 0.5),  # r = 3, corrective, 1.5
    (0.10, 0.20, -4.0, 0.5, 0.0),  # r = 0.5, diverging, 1
    (0.80, 0.20, -1.0, 1.25, 1.5),  # r = 4, converging, 5
    (0.60, 0.60, 3.0, 1.0, 1.0),  # r = 1: neither, 3
    (0.75, 0.25, 1.0, 0.0, 1.0),  # r = 3, diverging, masked, 0
    (0.30, 0.10, 0.0, 1.0, 1.0),  # r = 3, no advantage, 0
]


def summary(here: World, parts: Sequence[Sequence[tuple[float, ...]]]) -> dict[str, Any]:
    stats = TokenStats(here)
    for part in parts:
        columns = torch.tensor(part, dtype=torch.float64).reshape(-1, 5).T
        pi_T, mu_T, adv_T, weight_T, entropy_T = columns
        tokens = Tokens(pi_T.log().requires_grad_(), mu_T.log(), adv_T)
        stats.add(tokens, entropy_T, {"weight": weight_T})
    return stats.summary()


@pytest.mark.parametrize("parts", [[ROWS], [ROWS[:3], [], ROWS[3:]]])
def test_shares_and_masses(parts: list[list[tuple[float, ...]]]) -> None:
    with world() as here:
        found = summary(here, parts)
    expected = {
        "diverging_share": 3 / 8,
        "converging_share": 2 / 8,
        "corrective_share": 1 / 8,
        "masked_share": 1 / 8,
        "diverging_mass": 2 / 13,
        "converging_mass": 6.5 / 13,
        "corrective_mass": 1.5 / 13,
        "entropy": 1.0,
        "trained_tokens": 8,
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6), name


def test_tokens_by_their_probability() -> None:
    rows = [
        (0.50, 0.25, 1.0, 0.5, 1.0),  # diverging, |r − 1| = 1, |π − μ| = 0.25
        (0.10, 0.20, 1.0, 0.5, 1.0),  # converging, 0.5, 0.1
        (0.02, 0.01, 1.0, 0.0, 1.0),  # diverging and masked, 1, 0.01
        (4e-4, 1e-4, 1.0, -1.0, 1.0),  # corrective, 3, 3e-4
        (1e-4, 1e-4, 1.0, 1.0, 1.0),  # on policy
    ]
    with world() as here:
        found = summary(here, [rows[:2], rows[2:]])["by_mu"]
    assert [*found] == ["0.1", "0.01", "0"]
    frequent, rare, rarest = (
        found[lowest]
        | {name: found[lowest][f"{name}_share"] for name in ("diverging", "masked", "corrective")}
        for lowest in found
    )
    assert frequent["token_share"] == pytest.approx(2 / 5)
    assert frequent["ratio_moved"] == pytest.approx(0.75)
    assert frequent["shift_mean"] == pytest.approx(0.175)
    assert (frequent["diverging"], frequent["converging_share"], frequent["masked"]) == (
        0.5,
        0.5,
        0,
    )
    assert (rare["token_share"], rare["masked"], rare["diverging"]) == (pytest.approx(0.2), 1, 1)
    assert (rarest["token_share"], rarest["corrective"]) == (pytest.approx(0.4), 0.5)
    assert rarest["ratio_moved"] == pytest.approx(1.5)


def test_effective_sample_size_and_spread() -> None:
    ratios = [2, 0.5, 3, 0.5, 4, 1, 3, 3]
    shifts = sorted(abs(pi - mu) for pi, mu, *_ in ROWS)
    with world() as here:
        found = summary(here, [ROWS])
        same = summary(here, [[(0.3, 0.3, 1.0, 1.0, 1.0)] * 5])
    expected = sum(ratios) ** 2 / (8 * sum(r * r for r in ratios))
    assert found["effective_sample_size"] == pytest.approx(expected, rel=1e-6)
    assert same["effective_sample_size"] == pytest.approx(1)
    assert (found["ratio_min"], found["ratio_max"]) == pytest.approx((0.5, 4))
    assert found["ratio_mean"] == pytest.approx(sum(ratios) / 8)
    assert found["shift_p50"] == pytest.approx(shifts[3])
    assert found["shift_p90"] == pytest.approx(shifts[6])
    assert (found["weight_min"], found["weight_max"]) == (-1.0, 1.5)


def test_quantiles_are_ranks() -> None:
    """Of 1,000 values the 1 % quantile is the 10th smallest: n · q of them lie at or below it."""
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0)) + 1
    with world() as here:
        stats = TokenStats(here)
        log_T = torch.full((1000,), -1.0)
        stats.add(Tokens(log_T, log_T, log_T), log_T, {"weight": order.float()})
        found = stats.summary()
    quantiles = [found[f"weight_{name}"] for name in ("min", "p01", "p50", "p90", "p99", "max")]
    assert quantiles == [1, 10, 500, 900, 990, 1000]
    assert found["shift_max"] == 0 and found["ratio_p99"] == 1


def test_one_token_is_every_quantile() -> None:
    with world() as here:
        found = summary(here, [ROWS[:1]])
    assert {found[f"ratio_{name}"] for name in ("min", "p01", "p50", "p99", "max")} == {2.0}


def test_no_token_at_all() -> None:
    with world() as here:
        assert TokenStats(here).summary() == {"trained_tokens": 0.0}
        assert summary(here, [[]]) == {"trained_tokens": 0.0}


def test_advantages_of_0_carry_no_mass() -> None:
    with world() as here:
        found = summary(here, [[(0.5, 0.25, 0.0, 1.0, 1.0)] * 3])
    assert found["diverging_mass"] == found["converging_mass"] == found["corrective_mass"] == 0
    assert found["diverging_share"] == found["converging_share"] == 0


def test_a_ratio_beyond_all_bounds_stays_finite() -> None:
    with world() as here:
        stats = TokenStats(here)
        old_T = torch.tensor([-900.0, -1.0, -1.0])
        logp_T, adv_T = torch.tensor([-0.1, -900.0, -1.0]), torch.ones(3)
        stats.add(Tokens(logp_T, old_T, adv_T), adv_T, {"weight": adv_T})
        found = stats.summary()
    by_mu = found.pop("by_mu")
    assert all(math.isfinite(v) for shares in [found, *by_mu.values()] for v in shares.values())
    assert found["ratio_max"] == pytest.approx(math.exp(20))
    assert found["effective_sample_size"] == pytest.approx(1 / 3, rel=1e-6)

"""Every objective against its closed form, in float64, over a grid that reaches the extremes.

The formulas are those of docs/objectives.md in plain floats; none of the package's code is used.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

from drpo_cli import plugins
from drpo_cli.types import Tokens
from support.objectives import grid, run, singles

DEFAULTS: dict[str, dict[str, Any]] = {
    "none": {},
    "ppo_clip": {"epsilon_low": 0.2, "epsilon_high": 0.2, "dual_clip": None},
    "spo": {"epsilon": 0.2},
    "dppo": {"divergence": "tv", "delta_low": 0.15, "delta_high": 0.15, "ratio_cap": None},
    "drpo": {"delta": 0.2, "delta_low": None, "delta_high": None},
    "cispo": {"epsilon_low": None, "epsilon_high": 3.0},
    "gspo": {"epsilon_low": 3e-4, "epsilon_high": 4e-4},
    "sapo": {"tau_pos": 1.0, "tau_neg": 1.05},
    "trm": {"divergence": "sampled", "delta_max": 0.1, "delta_mean": 0.002},
    "cppo": {"delta": 0.15, "weight_floor": 0.8, "budget": 0.02, "adaptive_budget": True},
}
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("ppo_clip", {"epsilon_low": 0.1, "epsilon_high": 0.4}),
    ("ppo_clip", {"dual_clip": 3.0}),
    ("ppo_clip", {"epsilon_high": 0.5, "dual_clip": 1.05}),
    ("spo", {"epsilon": 0.3}),
    ("spo", {"epsilon": 12.5}),
    ("dppo", {"ratio_cap": 20.0}),
    ("dppo", {"divergence": "kl", "delta_low": 0.02, "delta_high": 0.05}),
    ("drpo", {"delta": 0.05}),
    ("drpo", {"delta": 12.5}),
    ("drpo", {"delta_low": 0.05, "delta_high": 0.4}),
    ("drpo", {"delta": 0.7, "delta_low": 0.3}),
    ("cispo", {"epsilon_low": 0.2, "epsilon_high": 0.28}),
    ("gspo", {"epsilon_low": 0.2, "epsilon_high": 0.28}),
    ("sapo", {"tau_pos": 0.3, "tau_neg": 8.0}),
    ("trm", {"delta_max": 0.2, "delta_mean": 9.0}),
    ("trm", {"delta_max": 9.0, "delta_mean": 0.4}),
    ("trm", {"divergence": "binary", "delta_max": 0.3, "delta_mean": 0.03}),
    ("cppo", {"delta": 0.07, "weight_floor": 0.3, "adaptive_budget": False}),
]
CASES: list[tuple[str, dict[str, Any]]] = [*((name, {}) for name in DEFAULTS), *OPTIONS]
cases = pytest.mark.parametrize(("name", "options"), CASES)


class Token(NamedTuple):
    """One token in plain floats: r is held at e^±20, and log π with it."""

    mu: float
    pi: float
    r: float
    logp: float
    adv: float


def token(logp: float, old: float, adv: float) -> Token:
    log_r = max(-20.0, min(20.0, logp - old))
    return Token(math.exp(old), math.exp(logp), math.exp(log_r), old + log_r, adv)


def bernoulli_kl(mu: float, pi: float) -> float:
    first = mu * math.log(mu / pi)
    if mu == 1:
        return first
    return math.inf if pi == 1 else first + (1 - mu) * math.log((1 - mu) / (1 - pi))


def dppo_mask(t: Token, o: dict[str, Any]) -> float:
    shift = t.pi - t.mu
    distance = bernoulli_kl(t.mu, t.pi) if o["divergence"] == "kl" else abs(shift)
    rose = t.adv > 0 and shift > 0 and distance > o["delta_high"]
    fell = t.adv < 0 and shift < 0 and distance > o["delta_low"]
    return float(not (rose or fell))


def trm_mask(t: Token, o: dict[str, Any]) -> float:
    """A response of one token: the largest divergence is also the mean."""
    log_r = math.log(t.r)
    most, mean = log_r**2 / 2, math.expm1(log_r) - log_r
    if o["divergence"] == "binary":
        most = mean = bernoulli_kl(t.mu, t.pi)
    return float(most <= o["delta_max"] and mean <= o["delta_mean"])


def cppo_mask(t: Token, o: dict[str, Any]) -> float:
    """A response of one token: its weight is 1, and there is nothing before it."""
    return float(t.adv * (t.pi - t.mu) <= 0 or abs(t.pi - t.mu) <= o["delta"])


def drpo_delta(t: Token, o: dict[str, Any]) -> float:
    given: float | None = o["delta_low"] if t.adv < 0 else o["delta_high"]
    return float(o["delta"]) if given is None else given


def clip(r: float, low: float, high: float) -> float:
    return max(low, min(high, r))


def surrogate(t: Token, o: dict[str, Any]) -> float:
    """PPO's objective to maximise, Eq. 5 of the dual clip's paper where c is given."""
    kept: float = min(t.r * t.adv, clip(t.r, 1 - o["epsilon_low"], 1 + o["epsilon_high"]) * t.adv)
    dual: float | None = o.get("dual_clip")
    return max(kept, dual * t.adv) if dual is not None and t.adv < 0 else kept


def cispo_ratio(t: Token, o: dict[str, Any]) -> float:
    low = 0 if o["epsilon_low"] is None else 1 - o["epsilon_low"]
    return clip(t.r, low, 1 + o["epsilon_high"])


def sapo_slope(t: Token, o: dict[str, Any]) -> tuple[float, float]:
    tau = o["tau_pos"] if t.adv > 0 else o["tau_neg"]
    return tau, tau * (t.r - 1)


def sapo_loss(t: Token, o: dict[str, Any]) -> float:
    tau, x = sapo_slope(t, o)
    return -t.adv * 4 / tau / (1 + math.exp(-x))


def sapo_weight(t: Token, o: dict[str, Any]) -> float:
    x = abs(sapo_slope(t, o)[1])
    return 4 * math.exp(-x) / (1 + math.exp(-x)) ** 2


def ppo_weight(t: Token, o: dict[str, Any]) -> float:
    beyond = (t.adv > 0 and t.r > 1 + o["epsilon_high"]) or (
        t.adv < 0 and t.r < 1 - o["epsilon_low"]
    )
    dual = o.get("dual_clip") or math.inf
    return float(not (beyond or (t.adv < 0 and t.r > dual)))


def away(t: Token) -> float:
    """sign(A (r − 1)): 1 for a diverging token, −1 for a converging one."""
    return float(t.adv * (t.r - 1) > 0) - float(t.adv * (t.r - 1) < 0)


Formula = Callable[[Token, dict[str, Any]], float]
LOSS: dict[str, Formula] = {
    "none": lambda t, o: -t.adv * t.r,
    "ppo_clip": lambda t, o: -surrogate(t, o),
    "spo": lambda t, o: -t.adv * t.r + abs(t.adv) * (t.r - 1) ** 2 / (2 * o["epsilon"]),
    "dppo": lambda t, o: -t.adv * dppo_mask(t, o) * min(t.r, o["ratio_cap"] or math.inf),
    "drpo": lambda t, o: -t.adv * t.r + abs(t.adv) * t.mu * (t.r - 1) ** 2 / (2 * drpo_delta(t, o)),
    "cispo": lambda t, o: -t.adv * cispo_ratio(t, o) * t.logp,
    "gspo": lambda t, o: -surrogate(t, o),
    "sapo": sapo_loss,
    "trm": lambda t, o: -t.adv * t.r * trm_mask(t, o),
    "cppo": lambda t, o: -t.adv * t.r * cppo_mask(t, o),
}
WEIGHT: dict[str, Formula] = {
    "none": lambda t, o: 1.0,
    "ppo_clip": ppo_weight,
    "spo": lambda t, o: 1 - away(t) * abs(t.r - 1) / o["epsilon"],
    "dppo": lambda t, o: dppo_mask(t, o) * min(1.0, (o["ratio_cap"] or math.inf) / t.r),
    "drpo": lambda t, o: 1 - away(t) * abs(t.pi - t.mu) / drpo_delta(t, o),
    "cispo": lambda t, o: cispo_ratio(t, o) / t.r,
    "gspo": ppo_weight,  # a response of one token: s = r
    "sapo": sapo_weight,
    "trm": trm_mask,
    "cppo": cppo_mask,
}


def rows(tokens: Tokens) -> list[tuple[float, float, float]]:
    return list(zip(*(column.tolist() for column in tokens[:3]), strict=True))


def expected_weight(
    name: str, options: dict[str, Any], logp: float, old: float, adv: float
) -> float:
    if abs(logp - old) > 20:
        return 0.0
    return WEIGHT[name](token(logp, old, adv), {**DEFAULTS[name], **options})


def expected_loss(name: str, options: dict[str, Any], logp: float, old: float, adv: float) -> float:
    return LOSS[name](token(logp, old, adv), {**DEFAULTS[name], **options})


def test_every_objective_is_here_with_its_documented_defaults() -> None:
    assert sorted(DEFAULTS) == plugins.available("objectives")
    for name, values in DEFAULTS.items():
        assert plugins.load("objectives", name).Config().model_dump() == values


@cases
def test_weight_is_the_closed_form_within_the_clamp_and_zero_beyond(
    name: Any, options: Any
) -> None:
    tokens = grid()
    weights = run(name, options, tokens).weight_T.tolist()
    for row, weight in zip(rows(tokens), weights, strict=True):
        expected = expected_weight(name, options, *row)
        assert weight == pytest.approx(expected, rel=1e-10, abs=1e-10), row


@cases
def test_gradient_is_minus_advantage_times_ratio_times_weight(name: Any, options: Any) -> None:
    tokens = grid()
    grads = run(name, options, tokens).grad_T.tolist()
    for row, grad in zip(rows(tokens), grads, strict=True):
        weight, t = expected_weight(name, options, *row), token(*row)
        # Relative to the two terms of the gradient, which may cancel.
        scale = abs(t.adv) * t.r * (1 + abs(weight))
        assert abs(grad + t.adv * t.r * weight) <= 1e-10 * scale, row


@cases
def test_loss_is_the_formula(name: str, options: dict[str, Any]) -> None:
    tokens = grid()
    losses = run(name, options, tokens).loss_T.tolist()
    for row, loss in zip(rows(tokens), losses, strict=True):
        assert loss == pytest.approx(expected_loss(name, options, *row), rel=1e-10, abs=1e-10), row


# Where a stop-gradient stands in the loss, its slope is not its gradient.
SMOOTH = [c for c in CASES if c[0] != "cispo" and "ratio_cap" not in c[1]]


@pytest.mark.parametrize(("name", "options"), SMOOTH)
def test_gradient_is_the_finite_difference_of_the_formula(
    name: str, options: dict[str, Any]
) -> None:
    """Away from cliffs and the clamp's edge, where a central difference has no meaning."""
    checked, step = 0, 1e-6
    for row in itertools.product([-9.0, -2.0, -0.7, -0.2], [-8.0, -2.1, -0.9, -0.25], [-1.5, 0.5]):
        logp, old, adv = row
        beside = [expected_loss(name, options, logp + s * step, old, adv) for s in (-1, 1)]
        here = expected_loss(name, options, *row)
        if max(abs(b - here) for b in beside) > 1e-2 * max(1, abs(here)):
            continue
        slope = (beside[1] - beside[0]) / (2 * step)
        grad = run(name, options, singles([row])).grad_T.item()
        assert grad == pytest.approx(slope, rel=1e-5, abs=1e-5)
        checked += 1
    assert checked >= 20


@cases
def test_float32_stays_a_number_at_extreme_log_probs(name: str, options: dict[str, Any]) -> None:
    logps = [0.0, 1e-7, -1e-7, -1e-3, -1.0, -20.0, -60.0, -100.0, -1000.0]
    extreme = singles(list(itertools.product(logps, logps, [-100.0, -1.0, 0.0, 1.0, 100.0])))
    logp_T, old_logp_T, adv_T = (column.float() for column in extreme[:3])
    for response_T in (extreme.response_T, None):
        for values_T in run(name, options, Tokens(logp_T, old_logp_T, adv_T, response_T)):
            assert values_T.dtype == torch.float32
            assert values_T.isfinite().all()

"""Every objective against its closed form, in float64, over a grid that reaches the extremes."""

import itertools
import math

import pytest
import torch

from drpo_cli import plugins
from drpo_cli.types import Tokens

CASES = [
    ("none", {}),
    ("ppo_clip", {}),
    ("ppo_clip", {"epsilon_low": 0.1, "epsilon_high": 0.4}),
    ("spo", {"epsilon": 0.3}),
    ("spo", {"epsilon": 12.5}),
    ("dppo", {}),
    ("dppo", {"ratio_cap": 20.0}),
    ("dppo", {"divergence": "kl", "delta_low": 0.02}),
    ("drpo", {"delta": 0.05}),
    ("drpo", {"delta": 0.2}),
    ("drpo", {"delta": 12.5}),
]
MU = [1e-30, 1e-9, 1e-6, 1e-3, 0.05, 0.3, 0.5, 0.9, 1 - 1e-6, 1 - 1e-9]
LOG_RATIO = [
    -25.0,
    -20.0,
    -5.0,
    -0.5,
    -0.1,
    -1e-6,
    0.0,
    1e-9,
    1e-3,
    0.1,
    0.5,
    3.0,
    19.5,
    20.0,
    21.0,
]
ADVANTAGE = [-3.0, -0.5, 0.0, 0.5, 1.0]


def grid() -> Tokens:
    """All of MU × LOG_RATIO × ADVANTAGE with π ≤ 1, and tokens at exactly ±20 and at π = μ = 1."""
    rows = [
        (math.log(mu) + shift, math.log(mu), adv)
        for mu, shift, adv in itertools.product(MU, LOG_RATIO, ADVANTAGE)
        if math.log(mu) + shift <= 0
    ]
    exact = [(0.0, -20.0), (-20.0, 0.0), (-1.0, -21.0), (0.0, 0.0), (0.0, -60.0), (-60.0, 0.0)]
    rows += [(logp, old, adv) for (logp, old), adv in itertools.product(exact, ADVANTAGE)]
    columns = torch.tensor(rows, dtype=torch.float64).T
    return Tokens(*columns.clone())


def run(
    name: str, options: dict, tokens: Tokens
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss, autograd's ∂loss/∂log π, and the objective's own weight."""
    module = plugins.load("objectives", name)
    logp_T = tokens.logp_T.clone().requires_grad_()
    result = module.loss(module.Config(**options), tokens._replace(logp_T=logp_T))
    (grad_T,) = torch.autograd.grad(result.per_token_T.sum(), logp_T)
    return result.per_token_T.detach(), grad_T, result.metrics["weight"]


def reference_loss(name: str, options: dict, logp: float, old: float, adv: float) -> float:
    """The loss of one token in plain floats, straight from the table of docs/objectives.md."""
    mu, pi, r = math.exp(old), math.exp(logp), math.exp(max(-20.0, min(20.0, logp - old)))
    if name == "drpo":
        return -adv * r + abs(adv) * mu * (r - 1) ** 2 / (2 * options["delta"])
    if name == "spo":
        return -adv * r + abs(adv) * (r - 1) ** 2 / (2 * options["epsilon"])
    if name == "ppo_clip":
        low, high = options.get("epsilon_low", 0.2), options.get("epsilon_high", 0.2)
        return max(-adv * r, -adv * max(1 - low, min(1 + high, r)))
    if name == "dppo":
        kl = options.get("divergence") == "kl"
        low = options.get("delta_low", 0.05 if kl else 0.15)
        high = options.get("delta_high", 0.05 if kl else 0.15)
        distance = reference_kl(mu, pi) if kl else abs(pi - mu)
        masked = (adv > 0 and pi > mu and distance > high) or (
            adv < 0 and pi < mu and distance > low
        )
        return 0.0 if masked else -adv * min(r, options.get("ratio_cap", math.inf))
    return -adv * r


def reference_kl(mu: float, pi: float) -> float:
    first = mu * math.log(mu / pi)
    if mu == 1:
        return first
    return math.inf if pi == 1 else first + (1 - mu) * math.log((1 - mu) / (1 - pi))


def closed_form(name: str, options: dict, logp: float, old: float, adv: float) -> float:
    """The gradient weight of the table, for a token within the clamp."""
    mu, pi, r = math.exp(old), math.exp(logp), math.exp(logp - old)
    direction = math.copysign(1, adv * (r - 1)) if adv * (r - 1) else 0.0
    if name == "drpo":
        return 1 - direction * abs(pi - mu) / options["delta"]
    if name == "spo":
        return 1 - direction * abs(r - 1) / options["epsilon"]
    if name == "ppo_clip":
        low, high = options.get("epsilon_low", 0.2), options.get("epsilon_high", 0.2)
        return float(not ((adv > 0 and r > 1 + high) or (adv < 0 and r < 1 - low)))
    if name == "dppo":
        return reference_loss(name, options, logp, old, adv) / (-adv * r) if adv else 1.0
    return 1.0


@pytest.mark.parametrize(("name", "options"), CASES)
def test_gradient_is_minus_advantage_times_ratio_times_weight(name, options):
    tokens = grid()
    _, grad_T, weight_T = run(name, options, tokens)
    ratio_T = (tokens.logp_T - tokens.old_logp_T).clamp(-20, 20).exp()
    # Relative to the two terms of the gradient, which may cancel.
    scale_T = tokens.adv_T.abs() * ratio_T * (1 + weight_T.abs())
    error_T = (grad_T + tokens.adv_T * ratio_T * weight_T).abs()
    assert (error_T <= 1e-10 * scale_T).all()


@pytest.mark.parametrize(("name", "options"), CASES)
def test_weight_is_the_closed_form_within_the_clamp_and_zero_beyond(name, options):
    tokens = grid()
    _, _, weight_T = run(name, options, tokens)
    rows = zip(*(column.tolist() for column in tokens), strict=True)
    for (logp, old, adv), weight in zip(rows, weight_T.tolist(), strict=True):
        if abs(logp - old) > 20:
            assert weight == 0
        elif name == "dppo" and adv == 0 and "ratio_cap" in options:
            assert 0 < weight <= 1
        else:
            expected = closed_form(name, options, logp, old, adv)
            assert weight == pytest.approx(expected, rel=1e-10, abs=1e-10), (logp, old, adv)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_loss_is_the_formula(name, options):
    tokens = grid()
    loss_T, _, _ = run(name, options, tokens)
    rows = zip(*(column.tolist() for column in tokens), strict=True)
    for (logp, old, adv), loss in zip(rows, loss_T.tolist(), strict=True):
        expected = reference_loss(name, options, logp, old, adv)
        assert loss == pytest.approx(expected, rel=1e-10, abs=1e-10), (logp, old, adv)


@pytest.mark.parametrize(("name", "options"), [c for c in CASES if "ratio_cap" not in c[1]])
def test_gradient_is_the_finite_difference_of_the_formula(name, options):
    """Away from cliffs and the clamp's edge, where a central difference has no meaning."""
    checked, step = 0, 1e-6
    for logp, old, adv in itertools.product(
        [-9.0, -2.0, -0.7, -0.2], [-8.0, -2.1, -0.9, -0.25], [-1.5, 0.5]
    ):
        beside = [reference_loss(name, options, logp + s * step, old, adv) for s in (-1, 1)]
        here = reference_loss(name, options, logp, old, adv)
        if max(abs(b - here) for b in beside) > 1e-2 * max(1, abs(here)):
            continue
        tokens = Tokens(*torch.tensor([[logp], [old], [adv]], dtype=torch.float64))
        _, grad_T, _ = run(name, options, tokens)
        slope = (beside[1] - beside[0]) / (2 * step)
        assert grad_T.item() == pytest.approx(slope, rel=1e-5, abs=1e-5)
        checked += 1
    assert checked >= 20


def test_drpo_is_spo_with_the_tokens_own_epsilon():
    tokens, delta = grid(), 0.2
    loss_T, grad_T, weight_T = run("drpo", {"delta": delta}, tokens)
    for i, old in enumerate(tokens.old_logp_T.tolist()):
        one = Tokens(*(column[i : i + 1] for column in tokens))
        loss, grad, weight = run("spo", {"epsilon": delta / math.exp(old)}, one)
        torch.testing.assert_close(loss[0], loss_T[i], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(grad[0], grad_T[i], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(weight[0], weight_T[i], rtol=1e-10, atol=1e-10)


def weights_at(name: str, options: dict, mu: float, pi: list[float], adv: float) -> list[float]:
    logp_T = torch.tensor(pi, dtype=torch.float64).log()
    old_logp_T = torch.full_like(logp_T, math.log(mu))
    tokens = Tokens(logp_T, old_logp_T, torch.full_like(logp_T, adv))
    return run(name, options, tokens)[2].tolist()


@pytest.mark.parametrize(("mu", "adv", "side"), [(0.3, 1.0, 1), (0.6, -2.0, -1)])
def test_at_the_edge_drpo_fades_through_zero_and_dppo_falls_off_a_cliff(mu, adv, side):
    delta, near = 0.15, 1e-6
    pi = [mu + side * (delta - near), mu + side * (delta + near)]
    inside, outside = weights_at("drpo", {"delta": delta}, mu, pi, adv)
    assert 0 < inside < 1e-5 and -1e-5 < outside < 0
    masks = {"delta_low": delta, "delta_high": delta}
    assert weights_at("dppo", masks, mu, pi, adv) == [1.0, 0.0]


@pytest.mark.parametrize("delta", [0.05, 0.2, 0.999, 1.0, 12.5])
def test_drpo_weight_is_bounded_and_corrects_only_below_delta_one(delta):
    within = grid()
    keep_T = (within.logp_T - within.old_logp_T).abs() <= 20
    tokens = Tokens(*(column[keep_T] for column in within))
    weight_T = run("drpo", {"delta": delta}, tokens)[2]
    assert (weight_T >= 1 - 1 / delta - 1e-12).all()
    assert (weight_T <= 1 + 1 / delta + 1e-12).all()
    assert (weight_T < 0).any().item() == (delta < 1)


def test_spo_weight_has_no_bound_where_drpo_has_one():
    rare = {"mu": 1e-6, "pi": [0.1], "adv": 1.0}
    assert weights_at("spo", {"epsilon": 0.2}, **rare)[0] < -1e5
    assert weights_at("drpo", {"delta": 0.2}, **rare)[0] == pytest.approx(0.5, abs=1e-4)


def test_kl_of_certain_tokens_is_a_number_or_infinite():
    binary_kl = plugins.load("objectives", "dppo").binary_kl
    for dtype in (torch.float32, torch.float64):
        logp_T = torch.tensor([0.0, 0.0, -1e-12, -60.0, 1e-7, -0.5], dtype=dtype)
        old_T = torch.tensor([0.0, -1.0, 0.0, 0.0, 0.0, -0.5], dtype=dtype)
        kl_T = binary_kl(logp_T, old_T)
        assert kl_T.tolist() == [0.0, math.inf, pytest.approx(1e-12), 60.0, 0.0, 0.0]


def test_dppo_takes_the_threshold_of_its_divergence_unless_told():
    config = plugins.load("objectives", "dppo").Config
    assert (config().delta_low, config().delta_high) == (0.15, 0.15)
    kl = config(divergence="kl", delta_high=0.3)
    assert (kl.delta_low, kl.delta_high) == (0.05, 0.3)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_float32_stays_a_number_at_extreme_log_probs(name, options):
    logps = [0.0, 1e-7, -1e-7, -1e-3, -1.0, -20.0, -60.0, -100.0, -1000.0]
    rows = list(itertools.product(logps, logps, [-100.0, -1.0, 0.0, 1.0, 100.0]))
    tokens = Tokens(*torch.tensor(rows, dtype=torch.float32).T.clone())
    for values_T in run(name, options, tokens):
        assert values_T.dtype == torch.float32
        assert values_T.isfinite().all()


@pytest.mark.parametrize(("name", "options"), CASES)
def test_no_tokens_no_loss(name, options):
    for values_T in run(name, options, Tokens(*torch.empty(3, 0))):
        assert values_T.shape == (0,)

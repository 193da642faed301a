"""The curves to draw: the objective's own `loss`, called at many π for a few μ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from drpo_cli.errors import UserError
from drpo_cli.tools.explain.request import Variant
from drpo_cli.types import Tokens

Array = NDArray[np.float64]

LIMIT = 6.0
"""The vertical axis ends at most this far from 0; drpo at δ = 0.2 just fits."""


@dataclass(frozen=True)
class Curve:
    """w, or A r w, of one token at each π in (0, 1], for one μ; arrays of shape [T]."""

    mu: float
    pi_T: Array
    value_T: Array


@dataclass(frozen=True)
class Panel:
    """One objective at one advantage: a curve of w, or with `gradient` of A r w, for each μ."""

    variant: Variant
    advantage: float
    gradient: bool
    curves: tuple[Curve, ...]

    @property
    def title(self) -> str:
        """What the panel draws, in symbols."""
        return f"{'A r w' if self.gradient else 'w'}, A = {'+' if self.advantage > 0 else '−'}1"

    @property
    def pulled_up(self) -> bool:
        """Whether values above 0 mean w < 0: true for −r w, the gradient at A = −1."""
        return self.gradient and self.advantage < 0

    def edges(self, curve: Curve) -> list[float]:
        """The π of a curve at which w goes from positive to zero or less, or back."""
        weight_T = -curve.value_T if self.pulled_up else curve.value_T
        here_T, next_T = weight_T[:-1], weight_T[1:]
        # A weight that fades out reaches 0 only by rounding, in smaller steps than this.
        crosses_T = ((here_T > 0) != (next_T > 0)) & (np.abs(next_T - here_T) > 1e-9)
        cut = np.flatnonzero(crosses_T)
        part = weight_T[cut] / (weight_T[cut] - weight_T[cut + 1])
        pi_T = curve.pi_T
        return [float(pi) for pi in pi_T[cut] + part * (pi_T[cut + 1] - pi_T[cut])]


def values(variant: Variant, pi_T: Array, mu: float, adv: float, gradient: bool) -> Array:
    """The gradient weight w at each π, or with `gradient` A r w = −∂loss/∂log π; shape [T].

    Each token is a response of its own. Raises UserError when the objective reports no weight.
    """
    logp_T = torch.from_numpy(pi_T).log().requires_grad_()
    old_logp_T = torch.full_like(logp_T, mu, requires_grad=False).log()
    tokens = Tokens(logp_T, old_logp_T, torch.full_like(old_logp_T, adv), torch.arange(len(logp_T)))
    result = variant.plugin.entry(variant.config, tokens)
    if gradient:
        (grad_T,) = torch.autograd.grad(result.per_token_T.sum(), logp_T)
        gradient_T: Array = -grad_T.numpy()
        return gradient_T
    if "weight" not in result.metrics:
        raise UserError(
            f"{variant.type}: its metrics have no 'weight'",
            "add the w of ∂loss/∂log π = −A r w, or draw A r w with --gradient",
        )
    weight_T: Array = result.metrics["weight"].numpy()
    return weight_T


def make_panel(variant: Variant, advantage: float, mu: Sequence[float], gradient: bool) -> Panel:
    """The curves of one objective at one advantage."""
    grids = [(m, _probabilities(m)) for m in mu]
    return Panel(
        variant,
        advantage,
        gradient,
        tuple(Curve(m, pi_T, values(variant, pi_T, m, advantage, gradient)) for m, pi_T in grids),
    )


def limits(panels: Iterable[Panel]) -> tuple[float, float]:
    """The vertical range of all panels: their values, 0 and 1, at most LIMIT from 0."""
    extremes = [0.0, 1.0]
    for curve in (curve for panel in panels for curve in panel.curves):
        extremes += [float(curve.value_T.min()), float(curve.value_T.max())]
    return max(min(extremes), -LIMIT), min(max(extremes), LIMIT)


def _probabilities(mu: float) -> Array:
    """Even steps over (0, 1], and denser ones around μ, where clips of the ratio lie."""
    near_T = mu * np.geomspace(1 / 8, 8, 301)
    return np.unique(np.concatenate([np.linspace(0, 1, 501)[1:], [mu], near_T[near_T <= 1]]))

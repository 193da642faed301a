"""What a loss has besides its objective: anchor, importance weights, divergence, entropy.

With log π_old and log π_ref replayed once, before the first update of a step:

    loss_t = ρ_t (objective_t + β w_t k(d_t)) − c H_t,    d = log π − log π_ref

ρ = min(π_old / μ, cap) is truncated importance sampling (fengyao.notion.site/off-policy-rl): an
objective anchored on the trainer has the ratio π / π_old, and ρ carries the step from μ to π_old.
k estimates KL(π ‖ π_ref) (http://joschu.net/blog/kl-approx.html):

    k1 = d,    k2 = d² / 2,    k3 = e^−d + d − 1

k1 belongs to the reward (`step.divergence`). A loss on sampled tokens has the mean gradient
E_π[k′(d) ∇ log π], which leaves out that sampling itself depends on π:

    k2′ = d           E_π[d ∇ log π] = ∇ KL(π ‖ π_ref), since E_π[∇ log π] = 0
    k3′ = 1 − e^−d    E_π[−(π_ref / π) ∇ log π] = −E_π_ref[∇ log π] = ∇ KL(π_ref ‖ π)

So k2 has the gradient of the divergence that is named, and k3, the term of GRPO, that of the other
direction. The tokens come from another policy, for which the constant w = π / π_old corrects. To
bound a token's gradient, w is at most `MOST_WEIGHT` and |k′| at most `MOST_SLOPE`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

from drpo_cli.dist import World
from drpo_cli.experience import Experience
from drpo_cli.settings import ReferenceSettings, TeacherSettings
from drpo_cli.trainer.batches import replay
from drpo_cli.trainer.lora import adapters_off
from drpo_cli.trainer.model import Policy
from drpo_cli.trainer.pack import Packed
from drpo_cli.types import LOG_RATIO_LIMIT

MOST_WEIGHT = 10.0
"""Largest w: that of a token which π makes ten times as likely as the policy that sampled it."""

MOST_SLOPE = 10.0
"""Largest |k′|: that of k2 where log π and log π_ref are 10 nats apart."""


@dataclass(frozen=True)
class Reference:
    """A frozen policy, and how strongly the trained one is kept near it.

    policy  the policy; with adapters, the trained one, of which the base is meant
    """

    policy: Policy
    settings: ReferenceSettings

    def replay(self, exp: Experience, budget: int, world: World) -> Tensor:
        """log π_ref of every sampled token: [T], float32, on the CPU. Collective."""
        with adapters_off(self.policy.adapted):
            return replay(self.policy, exp, budget, world)


@dataclass(frozen=True)
class Teacher:
    """A frozen policy that the trained one learns from, and how strongly."""

    policy: Policy
    settings: TeacherSettings

    def replay(self, exp: Experience, budget: int, world: World) -> Tensor:
        """log π of every sampled token: [T], float32, on the CPU. Collective."""
        return replay(self.policy, exp, budget, world)


def with_anchor(exp: Experience, logp_T: Tensor, cap: float | None) -> Experience:
    """Takes ratios against the trainer's own log π_old; with a cap, adds the weights ρ.

    `logp_T` is log π_old of every sampled token, float32.
    """
    if cap is None:
        return replace(exp, anchor_logp_T=logp_T)
    gap_T = (logp_T - exp.logp_mu_T.float()).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return replace(exp, anchor_logp_T=logp_T, importance_T=gap_T.exp().clamp(max=cap))


def mean_divergence(exp: Experience, ref_logp_T: Tensor, world: World) -> float:
    """The mean of k3 over all sampled tokens, at the policy that the ratios start from: nats.

    Collective.
    """
    known_T = exp.sampled_T & exp.old_logp_T.isfinite()
    k_T = divergence("k3", exp.old_logp_T.float(), ref_logp_T)[known_T]
    total, count = world.sum([float(k_T.double().sum()), len(k_T)])
    return total / max(1, count)


def divergence(kl: str, logp_T: Tensor, ref_logp_T: Tensor) -> Tensor:
    """The estimate of KL(π ‖ π_ref) at each token, [T] nats; k2 and k3 are never negative."""
    d_T = (logp_T - ref_logp_T).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    if kl == "k1":
        return d_T
    return d_T**2 / 2 if kl == "k2" else (-d_T).exp() + d_T - 1


def with_terms(
    objective_T: Tensor,
    packed: Packed,
    outputs: tuple[Tensor, Tensor],
    reference: ReferenceSettings | None,
    entropy_bonus: float,
) -> Tensor:
    """Each token's loss, [T]: importance weight × (objective + divergence) − entropy bonus.

    `outputs` are log π and the entropy, both [T].
    """
    logp_T, entropy_T = outputs
    loss_T = objective_T
    if reference is not None and packed.ref_logp_T is not None and reference.kl != "k1":
        k_T = _weighted(reference.kl, logp_T, packed.old_logp_T, packed.ref_logp_T)
        loss_T = loss_T + reference.coefficient * k_T
    if packed.importance_T is not None:
        loss_T = packed.importance_T * loss_T
    return loss_T - entropy_bonus * entropy_T if entropy_bonus else loss_T


def _weighted(kl: str, logp_T: Tensor, old_logp_T: Tensor, ref_logp_T: Tensor) -> Tensor:
    """w k(d) of each token, [T], whose gradient on log π is w k′(d)."""
    own_T = logp_T.detach()
    weight_T = (own_T - old_logp_T).clamp(max=math.log(MOST_WEIGHT)).exp()
    d_T = own_T - ref_logp_T
    slope_T = d_T if kl == "k2" else -(-d_T).clamp(max=LOG_RATIO_LIMIT).expm1()
    k_T = divergence(kl, own_T, ref_logp_T)
    return weight_T * (k_T + slope_T.clamp(-MOST_SLOPE, MOST_SLOPE) * (logp_T - own_T))

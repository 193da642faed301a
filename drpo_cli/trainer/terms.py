"""What a loss has besides its objective: anchor, importance weights, divergence, entropy.

With log π_old and log π_ref replayed once, before the first update of a step:

    loss_t = ρ_t objective_t + β k(log π_t − log π_ref,t) − c H_t

ρ = min(π_old / μ, cap) is truncated importance sampling (fengyao.notion.site/off-policy-rl): an
objective anchored on the trainer has the ratio π / π_old, and ρ carries the step from μ to π_old.
k estimates KL(π ‖ π_ref) (http://joschu.net/blog/kl-approx.html) from d = log π − log π_ref:

    k1 = d,    k2 = d² / 2,    k3 = e^−d + d − 1
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from drpo_cli.dist import World
from drpo_cli.experience import Experience
from drpo_cli.settings import ReferenceSettings
from drpo_cli.trainer.batches import replay
from drpo_cli.trainer.lora import adapters_off
from drpo_cli.trainer.model import Policy
from drpo_cli.trainer.pack import Packed
from drpo_cli.types import LOG_RATIO_LIMIT


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


def with_anchor(exp: Experience, logp_T: Tensor, cap: float | None) -> Experience:
    """Takes ratios against the trainer's own log π_old; with a cap, adds the weights ρ.

    `logp_T` is log π_old of every sampled token, float32.
    """
    if cap is None:
        return replace(exp, anchor_logp_T=logp_T)
    gap_T = (logp_T - exp.logp_mu_T.float()).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return replace(exp, anchor_logp_T=logp_T, importance_T=gap_T.exp().clamp(max=cap))


def with_reference(exp: Experience, ref_logp_T: Tensor, settings: ReferenceSettings) -> Experience:
    """Adds log π_ref for the divergence; k1 is subtracted from the advantages instead."""
    if settings.kl != "k1":
        return replace(exp, ref_logp_T=ref_logp_T)
    d_T = exp.old_logp_T.float() - ref_logp_T
    return replace(exp, advantage_T=exp.advantage_T.float() - settings.coefficient * d_T)


def mean_divergence(exp: Experience, ref_logp_T: Tensor, world: World) -> float:
    """The mean of k3 over all tokens with a loss, at the policy that the ratios start from: nats.

    Collective.
    """
    k_T = divergence("k3", exp.old_logp_T.float(), ref_logp_T)[exp.loss_mask_T]
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
    """Each token's loss, [T]: importance weight × objective + divergence − entropy bonus.

    `outputs` are log π and the entropy, both [T].
    """
    logp_T, entropy_T = outputs
    loss_T = objective_T if packed.importance_T is None else packed.importance_T * objective_T
    if reference is not None and packed.ref_logp_T is not None:
        k_T = divergence(reference.kl, logp_T, packed.ref_logp_T)
        loss_T = loss_T + reference.coefficient * k_T
    return loss_T - entropy_bonus * entropy_T if entropy_bonus else loss_T

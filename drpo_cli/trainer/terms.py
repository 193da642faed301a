"""What a loss has besides its objective: anchor, importance weights, divergence, entropy.

With log π_old and log π_ref replayed once, before the first update of a step:

    loss_t = ρ_t objective_t + β k(log π_t − log π_ref,t) − c H_t

ρ = min(π_old / μ, cap) is truncated importance sampling (fengyao.notion.site/off-policy-rl):
an objective anchored on the trainer has the ratio π / π_old, which leaves the step from μ to π_old
to ρ. k estimates KL(π ‖ π_ref) (http://joschu.net/blog/kl-approx.html) from d = log π − log π_ref:

    k1 = d,    k2 = d² / 2,    k3 = e^−d + d − 1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from drpo_cli.dist import World
from drpo_cli.settings import ReferenceSettings
from drpo_cli.trainer.model import Policy
from drpo_cli.trainer.pack import Packed, Sample
from drpo_cli.types import LOG_RATIO_LIMIT


@dataclass(frozen=True)
class Reference:
    """A frozen policy, and how the trained one is kept near it."""

    policy: Policy
    settings: ReferenceSettings


def anchored(
    samples: Sequence[Sample], logp_SR: Sequence[Tensor], cap: float | None
) -> list[Sample]:
    """Samples whose old log-probs are the trainer's own; with a cap, the weights ρ besides."""
    return [
        replace(
            sample,
            old_logps=tuple(logp_R.tolist()),
            importance=None if cap is None else _importance(logp_R, sample, cap),
        )
        for sample, logp_R in zip(samples, logp_SR, strict=True)
    ]


def near_reference(
    samples: Sequence[Sample], ref_logp_SR: Sequence[Tensor], settings: ReferenceSettings
) -> list[Sample]:
    """Samples with log π_ref, or with the divergence taken off their advantages already (k1)."""
    changed = []
    for sample, ref_logp_R in zip(samples, ref_logp_SR, strict=True):
        if settings.kl == "k1":
            d_R = ref_logp_R.new_tensor(sample.old_logps) - ref_logp_R
            adv_R = ref_logp_R.new_tensor(sample.advantages) - settings.coefficient * d_R
            changed.append(replace(sample, advantages=tuple(adv_R.tolist())))
        else:
            changed.append(replace(sample, ref_logps=tuple(ref_logp_R.tolist())))
    return changed


def mean_divergence(
    samples: Sequence[Sample], ref_logp_SR: Sequence[Tensor], world: World
) -> float:
    """Mean of k3 over all tokens, at the policy the samples came from: nats. Collective."""
    totals = [
        (float(divergence("k3", ref_R.new_tensor(s.old_logps), ref_R).sum()), len(ref_R))
        for s, ref_R in zip(samples, ref_logp_SR, strict=True)
    ]
    total, count = world.sum([sum(t for t, _ in totals), sum(n for _, n in totals)])
    return total / max(1, count)


def divergence(kl: str, logp_R: Tensor, ref_logp_R: Tensor) -> Tensor:
    """The estimate of KL(π ‖ π_ref) at each token, [R] nats; k2 and k3 are never negative."""
    d_R = (logp_R - ref_logp_R).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    if kl == "k1":
        return d_R
    return d_R**2 / 2 if kl == "k2" else (-d_R).exp() + d_R - 1


def with_terms(
    objective_R: Tensor,
    packed: Packed,
    outputs: tuple[Tensor, Tensor],
    reference: ReferenceSettings | None,
    entropy_bonus: float,
) -> Tensor:
    """The loss of each token with everything that is switched on, [R].

    `outputs` are log π and the entropy, both [R].
    """
    logp_R, entropy_R = outputs
    loss_R = objective_R if packed.importance_R is None else packed.importance_R * objective_R
    if reference is not None and packed.ref_logp_R is not None:
        k_R = divergence(reference.kl, logp_R, packed.ref_logp_R)
        loss_R = loss_R + reference.coefficient * k_R
    return loss_R - entropy_bonus * entropy_R if entropy_bonus else loss_R


def _importance(logp_R: Tensor, sample: Sample, cap: float) -> tuple[float, ...]:
    gap_R = (logp_R - logp_R.new_tensor(sample.old_logps)).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return tuple(gap_R.exp().clamp(max=cap).tolist())

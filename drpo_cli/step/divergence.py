"""The divergence from a reference as a part of the reward (`reference.kl = "k1"`)."""

from __future__ import annotations

from dataclasses import replace

import torch

from drpo_cli.experience import Experience
from drpo_cli.step.credit import Turns
from drpo_cli.trainer.terms import divergence
from drpo_cli.trainer.trainer import Trainer


def with_divergence(exp: Experience, trainer: Trainer) -> Experience:
    """Takes β Σ_t d_t off the score of each episode, d = log π − log π_ref of its sampled tokens.

    The mean gradient of R − β Σ d, with any baseline that does not depend on the response, is that
    of E[R] − β KL(π ‖ π_ref) over whole responses (RLOO, arXiv 2402.14740, and InstructGPT,
    arXiv 2203.02155, Eq. 2). So it has to come off before the baseline: what a token does to the
    divergence of the later ones counts too. Each turn has its own part, for `credit = "turn"` and
    for a critic. Without such a reference nothing changes. Collective.
    """
    reference = trainer.reference
    if reference is None or reference.settings.kl != "k1":
        return exp
    exp = trainer.replay_once(exp)
    if exp.ref_logp_T is None:
        raise AssertionError("the trainer has a reference and did not replay it")
    d_T = divergence("k1", exp.old_logp_T, exp.ref_logp_T.double())
    known_T = exp.sampled_T & exp.old_logp_T.isfinite()
    penalty_T = torch.where(known_T, d_T * reference.settings.coefficient, 0.0)
    turns = Turns.of(exp)
    own_N = exp.sampled_part(penalty_T)
    turn_N = torch.arange(len(turns.tokens_U)).repeat_interleave(turns.tokens_U)
    own_U = own_N.new_zeros(len(turns.tokens_U)).index_add(0, turn_N, own_N)
    last_U = torch.where(exp.sampled_T)[0][turns.tokens_U.cumsum(0) - 1]
    own_E = own_N.new_zeros(len(exp.first_E)).index_add(0, turns.episode_U, own_U)
    return replace(
        exp,
        score_S=exp.score_S - own_E[exp.place_in_episodes],
        reward_T=exp.reward_T.index_add(0, last_U, own_U, alpha=-1),
    )

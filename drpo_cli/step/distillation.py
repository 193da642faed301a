"""On-policy distillation: the log-probs of a teacher as a part of each token's advantage."""

from __future__ import annotations

from dataclasses import replace

import torch

from drpo_cli.experience import Experience
from drpo_cli.trainer.terms import MOST_SLOPE
from drpo_cli.trainer.trainer import Trainer


def with_teacher(exp: Experience, trainer: Trainer) -> Experience:
    """Adds β (log π_T − log π_old) of each sampled token to its advantage, or replaces it by that.

    With π_T the teacher, the mean gradient of the policy is that of −β Σ_t KL(π ‖ π_T) over the
    states that it reached itself (arXiv 2306.13649, with λ = 1 and the reverse KL): what a token
    does to the divergence of later ones does not count. As an advantage, it is subject to the trust
    region of the objective. At most `MOST_SLOPE` nats of a token count. Without a teacher nothing
    changes. Collective.
    """
    if trainer.teacher is None:
        return exp
    settings, exp = trainer.teacher.settings, trainer.replay_once(exp)
    if exp.teacher_logp_T is None:
        raise AssertionError("the trainer has a teacher and did not replay it")
    known_T = exp.sampled_T & exp.old_logp_T.isfinite()
    gain_T = (exp.teacher_logp_T.double() - exp.old_logp_T).clamp(-MOST_SLOPE, MOST_SLOPE)
    own_T = torch.where(known_T, settings.coefficient * gain_T, 0.0)
    return replace(exp, advantage_T=exp.advantage_T + own_T if settings.rewards else own_T)

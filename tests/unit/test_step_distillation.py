"""On-policy distillation: what a teacher's log-probs do to advantages, gradients and the policy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from drpo_cli.errors import UserError
from drpo_cli.experience import Experience
from drpo_cli.settings import TeacherSettings
from drpo_cli.spec import load
from drpo_cli.step import teachers
from drpo_cli.step.distillation import with_teacher
from drpo_cli.trainer.terms import MOST_SLOPE
from support.models import experience, samples, tiny_model, world
from support.training import (
    caught_gradients,
    furthest,
    gradients_by_hand,
    log_probs_by_hand,
    open_trainer,
)

LENGTHS = [(3, 9), (6, 2), (1, 5), (4, 4)]
BETA = 0.3
FREE: dict[str, Any] = {"max_gradient_norm": 1e9, "tokens_per_microbatch": 20}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("other"), seed=1)


def taught(exp: Experience, folder: Path, settings: TeacherSettings) -> Experience:
    with world() as here:
        return with_teacher(exp, open_trainer(folder, here, teacher=settings, **FREE))


@pytest.mark.parametrize("rewards", [True, False])
def test_the_advantages_are_the_teachers(folder: Path, other: Path, rewards: bool) -> None:
    batch = samples(LENGTHS)
    exp = experience(batch)
    settings = TeacherSettings(path=str(other), coefficient=BETA, rewards=rewards)
    gain_T = torch.cat(log_probs_by_hand(other, batch)) - exp.old_logp_T
    assert 0 < gain_T.abs().max() < MOST_SLOPE
    before_T = exp.advantage_T if rewards else torch.zeros_like(exp.advantage_T)
    found = taught(exp, folder, settings)
    assert torch.allclose(found.advantage_T, before_T + BETA * gain_T, atol=1e-5)


def test_what_has_no_finite_probability_or_was_not_sampled_gets_none(
    folder: Path, other: Path
) -> None:
    exp = experience(samples(LENGTHS))
    logp_T, sampled_T = exp.logp_mu_T.clone(), exp.sampled_T.clone()
    logp_T[1], sampled_T[2], logp_T[3] = -torch.inf, False, -40.0
    exp = replace(exp, logp_mu_T=logp_T, sampled_T=sampled_T)
    settings = TeacherSettings(path=str(other), rewards=False)
    found_T = taught(exp, folder, settings).advantage_T
    assert found_T[1:4].tolist() == [0.0, 0.0, MOST_SLOPE]


def test_the_gradient_is_that_of_the_divergence_from_the_teacher(folder: Path, other: Path) -> None:
    """With the samples of the policy itself: Σ_t (log π − log π_T) ∇ log π."""
    batch = samples(LENGTHS)
    own_T, theirs_T = (
        torch.cat(log_probs_by_hand(folder, batch)),
        torch.cat(log_probs_by_hand(other, batch)),
    )
    expected, _ = gradients_by_hand(
        folder,
        batch,
        lambda seen: ((own_T - theirs_T) * torch.cat([each.logp_T for each in seen])).mean(),
    )
    settings = TeacherSettings(path=str(other), rewards=False)
    with world() as here:
        trainer = open_trainer(folder, here, "none", anchor="trainer", teacher=settings, **FREE)
        exp = with_teacher(experience(batch), trainer)
        with caught_gradients(trainer) as gradients:
            metrics = trainer.step(exp)
    norm = float(torch.stack([gradient.norm() for gradient in expected.values()]).norm())
    assert furthest(gradients[0], expected) < 1e-5 * max(1.0, norm)
    d_T = own_T - theirs_T
    assert metrics["teacher_kl"] == pytest.approx(float(((-d_T).expm1() + d_T).mean()), rel=1e-4)


def test_without_a_teacher_nothing_changes(folder: Path) -> None:
    exp = experience(samples(LENGTHS))
    with world() as here:
        assert with_teacher(exp, open_trainer(folder, here)) is exp


def test_a_teacher_with_other_tokens_is_refused(folder: Path, tmp_path: Path) -> None:
    spec_of = tmp_path / "run.toml"
    teacher = tiny_model(tmp_path / "teacher")
    spec_of.write_text(
        f'[run]\nname = "r"\nsteps = 1\n[model]\npath = "{folder}"\n[[data]]\ntype = "arithmetic"\n'
        f'[[reward]]\ntype = "exact_match"\n[teacher]\npath = "{teacher}"\n'
    )
    spec, tokens = load(spec_of), AutoTokenizer.from_pretrained(folder)
    teachers.check(spec, tokens, 32, 0)
    tokens.add_tokens(["brand new"])
    with pytest.raises(UserError, match=r"teacher.path: .* it has fewer tokens"):
        teachers.check(spec, tokens, 32, 0)
    theirs = AutoTokenizer.from_pretrained(teacher)
    theirs.add_tokens(["other first", "brand new"])
    theirs.save_pretrained(teacher)
    with pytest.raises(UserError, match="the token 'brand new' has another id"):
        teachers.check(spec, tokens, 32, 0)

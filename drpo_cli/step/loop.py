"""The algorithm on one page: what a run does, and every stage of a step in order."""

from __future__ import annotations

from drpo_cli import progress
from drpo_cli.experience import Experience
from drpo_cli.runs.folder import RunFolder
from drpo_cli.step.advantage import with_advantages
from drpo_cli.step.checkpoint import save_if_due
from drpo_cli.step.distillation import with_teacher
from drpo_cli.step.divergence import with_divergence
from drpo_cli.step.evaluate import evaluate, is_due
from drpo_cli.step.overlong import with_overlong
from drpo_cli.step.proof import check_sync, prove_sync, push
from drpo_cli.step.record import record, record_base
from drpo_cli.step.run import Run, open_run
from drpo_cli.step.sample import Draws, sample, score
from drpo_cli.step.suites import score_suites
from drpo_cli.step.warm_up import warm_up


def run(folder: RunFolder) -> int:
    """Trains this rank's part of the run in `folder`; returns the exit code."""
    with open_run(folder) as r:
        warm_up(r)  # supervised, on answers, if the spec asks for it
        if r.stopping:
            return r.finish()
        prove_sync(r)
        if r.done == 0:
            r.say("scoring the untrained model …")
            progress.enter("evaluate")
            record_base(r, evaluate(r, step=0), score_suites(r, step=0))
        for step in r.steps():
            take(r, step)
        return r.finish()


def take(r: Run, step: int) -> None:
    """One step of DRPO.

    μ is the probability that the engine gave a token when it sampled it, π that of the policy
    being trained. Every rank runs the same stages on prompts of its own.
    """
    spec, rollout = r.spec, r.spec.rollout.config

    draws = Draws(rollout.dynamic_sampling_rounds, r.world)
    while draws.wanted():  # once; more often with dynamic sampling
        with r.phase("rollout"):  # prompts to responses, with log μ of every token;
            groups, grading = sample(r, step, draws.rounds)  # each is scored as soon as it ends
        with r.phase("reward"):  # the scores that sampling did not hide
            draws.add(groups, score(grading, r.quarantine, step))
    r.engine.sleep()
    r.data.stream.observe(draws.pass_rates(spec.eval.threshold))  # a curriculum follows these
    groups, scores = draws.chosen()
    exp = Experience.of(groups, scores)  # columns over response tokens

    with r.phase("train"):
        r.gap = check_sync(r, groups)  # did the weights that were trained also sample?
        exp = with_overlong(exp, spec.train, rollout.max_new_tokens)
        exp = with_divergence(exp, r.trainer)
        exp = with_advantages(exp, spec.advantage, r.trainer.critic, r.world, groups)
        exp = with_teacher(exp, r.trainer)
        trained = r.trainer.step(exp)  # all optimizer updates on this experience
    with r.phase("sync"):
        push(r, step)  # the new weights go into the engine
    with r.phase("evaluate"):
        held_out = evaluate(r, step) if is_due(spec, step) else None
        suites = score_suites(r, step)
    with r.phase("log"):
        record(r, step, draws, exp, trained, held_out, suites)
    with r.phase("checkpoint"):
        save_if_due(r, step, held_out)

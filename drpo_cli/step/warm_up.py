"""The supervised warm-up: the policy learns the answers of rows before the first step (`[sft]`).

An answer is the one response of its prompt, so packing, masks, micro-batches and the balance over
ranks are those of every other update. Its loss is −log π, at temperature 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from drpo_cli import progress
from drpo_cli.data.pipeline.answers import AnsweredPrompts
from drpo_cli.dist import World
from drpo_cli.experience import Experience
from drpo_cli.runs.records import Records
from drpo_cli.settings import ObjectiveSettings, SftSettings
from drpo_cli.step import build
from drpo_cli.step.checkpoint import save_warm, save_warming
from drpo_cli.step.suites import rows_of
from drpo_cli.trainer.model import Policy
from drpo_cli.trainer.trainer import Objective, Trainer
from drpo_cli.types import Group, Prompt, Rollout, TokenLoss, Tokens

if TYPE_CHECKING:
    from drpo_cli.step.run import Run

MEASURE_EVERY = 10  # updates between looks at `sft.stop_at`
LINES = 10  # about a whole warm-up


def warm_up(r: Run) -> None:
    """Takes the supervised updates, and saves the policy as of step 0.

    Nothing happens without `[sft]`, or in a run that continues from a later checkpoint. Asked to
    stop, it saves its own state, and continues when the run is resumed. Collective.
    """
    if r.spec.sft is None or r.restored:
        return
    _learn(r, r.spec.sft)  # drops its moments, whose room a checkpoint needs
    if not r.stopping:
        save_warm(r)
        r.warming = None


def _learn(r: Run, settings: SftSettings) -> None:
    progress.enter("warm-up")
    stream, answers = build.answers(r.plan, r.tokenizer, r.world.rank, rows_of(r.suites))
    learner = build.supervised(r.plan, r.trainer, Objective(likelihood, ObjectiveSettings()))
    loud, done_before = max(1, settings.updates // LINES), 0
    if r.warming is not None:
        record = r.checkpoints.load(r.warming, learner)
        done_before = record["warm_up"]
        stream.load_state_dict(record["data"])
        r.say(f"warm-up: continues after update {done_before}")
    with at_temperature_1(r.trainer.policy):
        for update in range(done_before + 1, settings.updates + 1):
            exp = as_experience(stream.next(), answers)
            if settings.stop_at is not None and update % MEASURE_EVERY == 0:
                given = share_given(exp, learner, r.world)
                if given >= settings.stop_at:
                    r.say(f"warm-up: {given:.0%} of answers are given after {update - 1} updates")
                    return
            done = learner.step(exp)
            line = {key: done[key] for key in ("loss", "grad_norm", "learning_rate")}
            if r.world.rank == 0:
                Records(r.folder.warm_up).append({"step": update, **line})
            if update in (1, settings.updates) or update % loud == 0:
                r.say(f"warm-up: update {update} of {settings.updates}, loss {done['loss']:.3f}")
            progress.enter("warm-up")
            r.stopping = r.stop.agree(r.world)
            every, last = settings.save_every, update == settings.updates
            if r.stopping or (every and update % every == 0 and not last):
                save_warming(r, learner, update, stream.state_dict())
            if r.stopping:
                return


def likelihood(config: ObjectiveSettings, tokens: Tokens) -> TokenLoss:
    """−log π of each token, [T]: nats."""
    return TokenLoss(-tokens.logp_T, {"weight": torch.ones_like(tokens.logp_T)})


def as_experience(prompts_P: list[Prompt], answers: AnsweredPrompts) -> Experience:
    """Each prompt with its answer as the one response."""
    groups_P = []
    for prompt in prompts_P:
        ids = answers.response_ids(prompt)
        response = Rollout(ids, (0.0,) * len(ids), str(prompt.answer), truncated=False)
        groups_P.append(Group(prompt, (response,)))
    return Experience.of(groups_P)


def share_given(exp: Experience, learner: Trainer, world: World) -> float:
    """The mean probability of the policy to sample exactly these responses. Collective."""
    logp_S = [float(row_T.double().sum()) for row_T in exp.split(learner.replay(exp))]
    total, count = world.sum([float(torch.tensor(logp_S).exp().sum()), len(logp_S)])
    return total / count


@contextmanager
def at_temperature_1(policy: Policy) -> Iterator[None]:
    """Leaves logits as they are, whatever the temperature of rollouts."""
    own, policy.head.temperature = policy.head.temperature, 1.0
    try:
        yield
    finally:
        policy.head.temperature = own

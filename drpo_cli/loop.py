"""The one screen: what a step of DRPO is."""

from __future__ import annotations

from typing import TextIO

from drpo_cli.run import open_run
from drpo_cli.run_folder import RunFolder


def run(folder: RunFolder, screen: TextIO) -> int:
    """Trains this rank's part of the run in `folder`; returns the exit code."""
    with open_run(folder, screen) as r:
        r.prove_sync()
        r.evaluate_base()
        for step in r.steps():
            with r.phase("rollout"):
                groups_P = r.rollout(step)
            with r.phase("reward"):
                scores_P = r.scorer.score(groups_P)
                adv_PG = r.advantages(scores_P)
            with r.phase("train"):
                r.check_sync(groups_P)
                trained = r.train(groups_P, adv_PG)
            with r.phase("sync"):
                r.push(step)
            with r.phase("evaluate"):
                held_out = r.maybe_evaluate(step)
            with r.phase("checkpoint"):
                r.maybe_save(step, held_out)
            r.log(step, groups_P, scores_P, trained, held_out)
        return r.finish()

"""The `lag` axis: how old rollouts may be, with everything else of training held constant.

With lag n a step samples n times as many prompts and trains on them in n updates, so a rollout is
0 to n − 1 updates old when it is used. Mini-batch, samples, updates and the learning rate of each
update stay the same. `train.updates_per_rollout` alone changes the mini-batch and the number of
updates as well.
"""

from __future__ import annotations

from collections.abc import Sequence

from drpo_cli.errors import UserError
from drpo_cli.spec import Spec

LAG = "lag"


def read_lag(text: str) -> str:
    """The normal spelling of a value of the axis. Raises UserError for anything but a count."""
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--vary {LAG}={text}: is not a number of updates", "write lag=1,4,16")
    return str(int(text))


def lag_settings(base: Spec, lag: int) -> dict[str, str]:
    """The keys that one value of the axis sets in the base spec.

    Whole groups stay in one mini-batch, as with lag 1, so `train.minibatches` is "groups". A
    checkpoint changes no number: where its interval does not divide, it is rounded down.

    Raises UserError where a number of steps does not divide, or the base has several updates.
    """
    updates, prompts = base.train.updates_per_rollout, base.rollout.config.prompts_per_step
    if updates != 1:
        raise UserError(
            f"--vary {LAG}: train.updates_per_rollout is {updates} in the base spec, and must be 1",
            "set it to 1, and rollout.prompts_per_step to the prompts of one update",
        )
    found = {
        "rollout.prompts_per_step": prompts * lag,
        "train.updates_per_rollout": lag,
        "run.steps": _divide("run.steps", base.run.steps, lag),
        "eval.every": _divide("eval.every", base.eval.every, lag),
    }
    if base.checkpoint.every:
        found["checkpoint.every"] = max(1, base.checkpoint.every // lag)
    if base.critic is not None:
        steps = base.critic.warmup_steps
        found["critic.warmup_steps"] = _divide("critic.warmup_steps", steps, lag)
    return {**{key: str(value) for key, value in found.items()}, "train.minibatches": '"groups"'}


def unit_of(keys: Sequence[str]) -> str:
    """What the learning curves of a grid with these keys are counted in."""
    return "update" if LAG in keys else "step"


def _divide(key: str, steps: int, lag: int) -> int:
    if steps % lag:
        raise UserError(
            f"--vary {LAG}={lag}: {key} is {steps}, which does not divide by {lag}",
            f"make it a multiple of every lag, such as {-(-steps // lag) * lag}",
        )
    return steps // lag

"""Rules that join several keys, one small function each: it yields what is wrong, if anything."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from drpo_cli.errors import UserError
from drpo_cli.spec import rules_data, rules_rewards, rules_trackers, rules_train
from drpo_cli.spec.model import Spec
from drpo_cli.spec.positions import KeyPath
from drpo_cli.spec.problems import Problem

Rule = Callable[[Spec], Iterator[Problem]]

PROMPTS: KeyPath = ("rollout", "prompts_per_step")
SAMPLES: KeyPath = ("rollout", "samples_per_prompt")
UPDATES: KeyPath = ("train", "updates_per_rollout")


def broken(spec: Spec, partial: bool = False, more: Sequence[Rule] = ()) -> list[Problem]:
    """The rules a spec breaks, `more` rules than those here included.

    `partial`: some keys failed and are absent from `spec`.
    """
    return _apply((*ERRORS, *more), spec, partial)


def doubtful(spec: Spec, partial: bool = False) -> list[Problem]:
    """What runs, but hardly does what its writer expects."""
    return _apply(WARNINGS, spec, partial)


def _apply(rules: Sequence[Rule], spec: Spec, partial: bool) -> list[Problem]:
    problems: list[Problem] = []
    for rule in rules:
        # A rule that needs a key which failed by itself has nothing to say.
        with contextlib.suppress(*((AttributeError, UserError) if partial else ())):
            problems.extend(rule(spec))
    return problems


def full_distribution(spec: Spec) -> Iterator[Problem]:
    no_ops = {"top_p": 1.0, "top_k": 0, "min_p": 0.0}
    for key, no_op in no_ops.items():
        value = getattr(spec.rollout.config, key, no_op)
        if value != no_op:
            yield Problem(
                ("rollout", key),
                f"is {value}; must stay {no_op:g} in training: truncated sampling corrupts μ, "
                "since tokens then come from another distribution than the probabilities that "
                "the ratio π/μ and the trust region are computed with",
            )


def group_is_large_enough(spec: Spec) -> Iterator[Problem]:
    size = spec.rollout.config.samples_per_prompt
    least = spec.advantage.plugin.min_group
    smallest = getattr(spec.advantage.config, "min_group", least)
    if size < smallest:
        yield Problem(
            SAMPLES,
            f"is {size}; must be at least {smallest} for advantage {spec.advantage.type!r}: a "
            "group of one is its own baseline, so every advantage would be 0",
            also=(("advantage", "type"),),
        )


def samples_divide_into_updates(spec: Spec) -> Iterator[Problem]:
    prompts, samples = spec.rollout.config.prompts_per_step, spec.rollout.config.samples_per_prompt
    updates = spec.train.updates_per_rollout
    if prompts * samples % updates:
        yield Problem(
            UPDATES,
            f"is {updates}; must divide the {prompts} × {samples} = {prompts * samples} samples "
            "of a step (rollout.prompts_per_step × rollout.samples_per_prompt)",
            also=(PROMPTS, SAMPLES),
        )


def warmup_fits(spec: Spec) -> Iterator[Problem]:
    warmup, total = spec.train.warmup_updates, spec.run.steps * spec.train.updates_per_rollout
    if warmup > total:
        yield Problem(
            ("train", "warmup_updates"),
            f"is {warmup}; must be at most {total}, the updates of the whole run "
            "(run.steps × train.updates_per_rollout)",
            also=(("run", "steps"), UPDATES),
        )


def context_holds_response(spec: Spec) -> Iterator[Problem]:
    context = spec.rollout.config.context_length
    lengths = {
        ("rollout", "max_new_tokens"): spec.rollout.config.max_new_tokens,
        ("eval", "max_new_tokens"): spec.eval.max_new_tokens,
    }
    for key, length in lengths.items():
        if context is not None and length is not None and length >= context:
            yield Problem(
                key,
                f"is {length}; must be below rollout.context_length, which is {context}: "
                "the prompt needs room too",
                also=(("rollout", "context_length"),),
            )


def trust_region_bites(spec: Spec) -> Iterator[Problem]:
    config = spec.objective.config
    given = [getattr(config, name, None) for name in ("delta", "delta_low", "delta_high")]
    if spec.objective.type != "drpo" or given[0] is None:
        return
    deltas = [given[0] if side is None else side for side in given[1:]]
    if min(deltas) >= 1:
        delta = min(deltas)
        low, high = 1 - 1 / delta, 1 + 1 / delta
        yield Problem(
            ("objective", "delta"),
            f"is {delta:g}: |π−μ| ≤ 1, so every gradient weight lies in [1−1/δ, 1+1/δ] = "
            f"[{low:.3g}, {high:.3g}] and no token is ever corrected: close to plain "
            "importance-weighted policy gradient; for a trust region that corrects, set it below 1",
            also=(("objective", "delta_low"), ("objective", "delta_high")),
        )


def reuse_is_bounded(spec: Spec) -> Iterator[Problem]:
    updates = spec.train.updates_per_rollout
    if spec.objective.type == "none" and updates > 1:
        yield Problem(
            UPDATES,
            f"is {updates}, and objective 'none' has no trust region: nothing holds π near μ "
            "after the first update; set it to 1, or choose another objective",
            also=(("objective", "type"),),
        )


def final_rate_is_used(spec: Spec) -> Iterator[Problem]:
    if spec.train.schedule == "constant" and spec.train.final_learning_rate:
        yield Problem(
            ("train", "final_learning_rate"),
            "has no effect with the constant schedule; set train.schedule to 'linear' or 'cosine'",
            also=(("train", "schedule"),),
            on_key=True,
        )


ERRORS: tuple[Rule, ...] = (
    full_distribution,
    group_is_large_enough,
    samples_divide_into_updates,
    warmup_fits,
    context_holds_response,
    *rules_data.RULES,
    *rules_rewards.RULES,
    *rules_train.RULES,
    *rules_trackers.RULES,
)
WARNINGS: tuple[Rule, ...] = (
    trust_region_bites,
    reuse_is_bounded,
    final_rate_is_used,
    *rules_data.DOUBTS,
    *rules_train.DOUBTS,
    *rules_trackers.DOUBTS,
)

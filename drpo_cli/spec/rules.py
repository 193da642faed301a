"""Rules over several keys of a spec. Each is a function that yields what is wrong, if anything.

The rules here are about sampling, training and how a run's methods go together; those about data,
rewards and trackers are in `rules_data`, and other files have those about their own sections.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from drpo_cli.settings import AbsentKeyError
from drpo_cli.spec import (
    rules_data,
    rules_environment,
    rules_environment_credit,
    rules_lora,
    rules_precision,
    rules_sft,
    rules_teacher,
)
from drpo_cli.spec.model import Spec
from drpo_cli.spec.positions import KeyPath
from drpo_cli.spec.problems import Problem

Rule = Callable[[Spec], Iterator[Problem]]

PROMPTS: KeyPath = ("rollout", "prompts_per_step")
SAMPLES: KeyPath = ("rollout", "samples_per_prompt")
UPDATES: KeyPath = ("train", "updates_per_rollout")
OBJECTIVE: KeyPath = ("objective", "type")
ADVANTAGE: KeyPath = ("advantage", "type")


def find_errors(spec: Spec, more: Sequence[Rule] = ()) -> list[Problem]:
    """Finds the errors of a spec by the rules here and by `more` rules.

    Keys that are wrong by themselves are absent from `spec`; a rule that reads one ends there.
    """
    return _apply((*ERRORS, *more), spec)


def find_warnings(spec: Spec) -> list[Problem]:
    """Finds what can run, but hardly does what the writer of the spec expects."""
    return _apply(WARNINGS, spec)


def _apply(rules: Iterable[Rule], spec: Spec) -> list[Problem]:
    problems: list[Problem] = []
    for rule in rules:
        with contextlib.suppress(AbsentKeyError):
            problems.extend(rule(spec))
    return problems


# --- sampling ---


def full_distribution(spec: Spec) -> Iterator[Problem]:
    no_ops = {"top_p": 1.0, "top_k": 0, "min_p": 0.0}
    for key, no_op in no_ops.items():
        value = getattr(spec.rollout.config, key, no_op)
        if value != no_op:
            yield Problem(
                ("rollout", key),
                f"is {value}; must stay {no_op:g} in training: truncated sampling corrupts μ, "
                "because tokens then come from another distribution than the probabilities that "
                "the ratio π/μ and the trust region are computed with",
            )


def group_is_large_enough(spec: Spec) -> Iterator[Problem]:
    size, advantage = spec.rollout.config.samples_per_prompt, spec.advantage
    smallest = getattr(advantage.config, "min_group", advantage.plugin.min_group)
    only_taught = spec.teacher is not None and not spec.teacher.rewards
    if size < smallest and not only_taught:
        yield Problem(
            SAMPLES,
            f"is {size}; must be at least {smallest} for advantage {advantage.type!r}: a group of "
            "one is its own baseline, so every advantage would be 0",
            also=(ADVANTAGE,),
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


def dynamic_sampling_has_groups(spec: Spec) -> Iterator[Problem]:
    rollout = spec.rollout.config
    if rollout.dynamic_sampling_rounds and rollout.samples_per_prompt == 1:
        yield Problem(
            ("rollout", "dynamic_sampling_rounds"),
            "replaces groups whose rewards are all equal, and the rewards of a group of one "
            "always are; set it to 0, or raise rollout.samples_per_prompt",
            also=(SAMPLES,),
        )


def equal_rewards_teach_a_critic(spec: Spec) -> Iterator[Problem]:
    if spec.rollout.config.dynamic_sampling_rounds and spec.advantage.plugin.token_level:
        yield Problem(
            ("rollout", "dynamic_sampling_rounds"),
            f"drops groups whose rewards are all equal, and advantage {spec.advantage.type!r} "
            "does learn from them: its baseline is the critic, not the group; set it to 0",
            also=(ADVANTAGE,),
        )


# --- updates ---


def samples_divide_into_updates(spec: Spec) -> Iterator[Problem]:
    rollout, updates = spec.rollout.config, spec.train.updates_per_rollout
    prompts, samples = rollout.prompts_per_step, rollout.samples_per_prompt
    if prompts * samples % updates:
        yield Problem(
            UPDATES,
            f"is {updates}; must divide the {prompts} × {samples} = {prompts * samples} samples "
            "of a step (rollout.prompts_per_step × rollout.samples_per_prompt)",
            also=(PROMPTS, SAMPLES),
        )


def resting_updates(spec: Spec) -> int:
    """The first updates of a run, in which only the critic learns."""
    return spec.critic.warmup_steps * spec.train.updates_per_rollout if spec.critic else 0


def warmup_fits(spec: Spec) -> Iterator[Problem]:
    warmup, rest = spec.train.warmup_updates, resting_updates(spec)
    total = spec.run.steps * spec.train.updates_per_rollout - rest
    if warmup > total:
        without = ", without those of critic.warmup_steps" if rest else ""
        yield Problem(
            ("train", "warmup_updates"),
            f"is {warmup}; must be at most {total}, the updates of the whole run "
            f"(run.steps × train.updates_per_rollout){without}",
            also=(("run", "steps"), UPDATES),
        )


def final_rate_is_used(spec: Spec) -> Iterator[Problem]:
    if spec.train.schedule == "constant" and spec.train.final_learning_rate:
        yield Problem(
            ("train", "final_learning_rate"),
            "has no effect with the constant schedule; set train.schedule to 'linear' or 'cosine'",
            also=(("train", "schedule"),),
            on_key=True,
        )


def checkpointing_options(spec: Spec) -> Iterator[Problem]:
    if spec.train.checkpointing_keeps != "inputs" and not spec.train.gradient_checkpointing:
        yield Problem(
            ("train", "checkpointing_keeps"),
            "has no effect without gradient checkpointing; remove it, or set "
            "train.gradient_checkpointing to true",
            also=(("train", "gradient_checkpointing"),),
            on_key=True,
        )


def checkpoint_options(spec: Spec) -> Iterator[Problem]:
    if spec.checkpoint.asynchronous and not spec.checkpoint.every:
        yield Problem(
            ("checkpoint", "asynchronous"),
            "has no effect with checkpoint.every = 0: the run waits for its last checkpoint, and "
            "there is no other; remove it, or set checkpoint.every",
            also=(("checkpoint", "every"),),
            on_key=True,
        )


def anchor_options(spec: Spec) -> Iterator[Problem]:
    if spec.train.importance_cap is not None and spec.train.anchor == "engine":
        yield Problem(
            ("train", "importance_cap"),
            "has no effect with anchor 'engine': the ratio π/μ starts from the engine's own μ; "
            "remove it, or set train.anchor to 'trainer'",
            also=(("train", "anchor"),),
            on_key=True,
        )


def varlen_has_a_kernel(spec: Spec) -> Iterator[Problem]:
    if spec.train.attention == "varlen" and spec.model.dtype != "bfloat16":
        yield Problem(
            ("train", "attention"),
            f"is 'varlen', whose kernel computes in bfloat16 only, and model.dtype is "
            f"{spec.model.dtype!r}; remove it, or set model.dtype to 'bfloat16'",
            also=(("model", "dtype"),),
        )


def reduction_options(spec: Spec) -> Iterator[Problem]:
    if spec.train.horizon is not None and spec.train.reduction != "fixed_horizon":
        yield Problem(
            ("train", "horizon"),
            f"has no effect with reduction {spec.train.reduction!r}; remove it, or set "
            "train.reduction to 'fixed_horizon'",
            also=(("train", "reduction"),),
            on_key=True,
        )


def overlong_options(spec: Spec) -> Iterator[Problem]:
    buffer, longest = spec.train.overlong_buffer, spec.rollout.config.max_new_tokens
    if buffer is not None and spec.train.overlong != "soft":
        yield Problem(
            ("train", "overlong_buffer"),
            f"has no effect with overlong {spec.train.overlong!r}; remove it, or set "
            "train.overlong to 'soft'",
            also=(("train", "overlong"),),
            on_key=True,
        )
    elif buffer is not None and buffer > longest:
        yield Problem(
            ("train", "overlong_buffer"),
            f"is {buffer}; must be at most rollout.max_new_tokens, which is {longest}",
            also=(("rollout", "max_new_tokens"),),
        )


# --- objective, advantage, critic ---


def trust_region_bites(spec: Spec) -> Iterator[Problem]:
    config = spec.objective.config
    given = [getattr(config, name, None) for name in ("delta", "delta_low", "delta_high")]
    if spec.objective.type != "drpo" or given[0] is None:
        return
    delta = min(given[0] if side is None else side for side in given[1:])
    if delta >= 1:
        low, high = 1 - 1 / delta, 1 + 1 / delta
        yield Problem(
            ("objective", "delta"),
            f"is {delta:g}: |π−μ| ≤ 1, so every gradient weight is in [1−1/δ, 1+1/δ] = "
            f"[{low:.3g}, {high:.3g}] and no token is ever corrected: close to plain "
            "importance-weighted policy gradient; for a trust region that corrects, set it below 1",
            also=(("objective", "delta_low"), ("objective", "delta_high")),
        )


def reuse_is_bounded(spec: Spec) -> Iterator[Problem]:
    updates = spec.train.updates_per_rollout
    if spec.objective.type == "none" and updates > 1:
        yield Problem(
            UPDATES,
            f"is {updates}, and objective 'none' has no trust region: nothing keeps π near μ "
            "after the first update; set it to 1, or choose another objective",
            also=(OBJECTIVE,),
        )


def one_advantage_per_response(spec: Spec) -> Iterator[Problem]:
    objective, advantage = spec.objective, spec.advantage
    if objective.plugin.sequence_level and advantage.plugin.token_level:
        yield Problem(
            OBJECTIVE,
            f"is {objective.type!r}, which works on whole responses, and advantage "
            f"{advantage.type!r} gives every token its own; choose an advantage per response, "
            "such as group_norm, or another objective",
            also=(ADVANTAGE,),
        )


def critic_where_needed(spec: Spec) -> Iterator[Problem]:
    needed = spec.advantage.plugin.token_level
    if needed and spec.critic is None:
        yield Problem(
            ADVANTAGE,
            f"is {spec.advantage.type!r}, which needs a critic; add a [critic] section "
            "(it may be empty), or choose an advantage that compares a group",
        )
    if spec.critic is not None and not needed:
        yield Problem(
            ("critic",),
            f"has no effect with advantage {spec.advantage.type!r}; remove the section, or set "
            "advantage.type to 'gae'",
            also=(ADVANTAGE,),
            on_key=True,
        )


def critic_warmup_leaves_steps(spec: Spec) -> Iterator[Problem]:
    if spec.critic is not None and spec.critic.warmup_steps >= spec.run.steps:
        yield Problem(
            ("critic", "warmup_steps"),
            f"is {spec.critic.warmup_steps}; must be below run.steps, which is {spec.run.steps}, "
            "or the policy never learns",
            also=(("run", "steps"),),
        )


def restarts_find_a_checkpoint(spec: Spec) -> Iterator[Problem]:
    every = spec.checkpoint.every
    if spec.run.restarts and not 0 < every < spec.run.steps:
        yield Problem(
            ("run", "restarts"),
            f"starts the run again from step 1 every time: checkpoint.every is {every}, so nothing "
            "is saved before the end; set it below run.steps",
            also=(("checkpoint", "every"),),
        )


ERRORS: tuple[Rule, ...] = (
    full_distribution,
    group_is_large_enough,
    samples_divide_into_updates,
    warmup_fits,
    context_holds_response,
    *rules_data.ERRORS,
    *rules_environment.ERRORS,
    *rules_environment_credit.ERRORS,
    *rules_precision.ERRORS,
    *rules_lora.ERRORS,
    *rules_sft.ERRORS,
    *rules_teacher.ERRORS,
    one_advantage_per_response,
    critic_where_needed,
    checkpointing_options,
    checkpoint_options,
    anchor_options,
    varlen_has_a_kernel,
    reduction_options,
    overlong_options,
    dynamic_sampling_has_groups,
    critic_warmup_leaves_steps,
)
WARNINGS: tuple[Rule, ...] = (
    trust_region_bites,
    reuse_is_bounded,
    final_rate_is_used,
    equal_rewards_teach_a_critic,
    *rules_teacher.WARNINGS,
    restarts_find_a_checkpoint,
    *rules_data.WARNINGS,
    *rules_environment.WARNINGS,
    *rules_environment_credit.WARNINGS,
    *rules_lora.WARNINGS,
)

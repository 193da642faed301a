"""Rules on how objective, advantage, anchor, reference and critic go together."""

from __future__ import annotations

from collections.abc import Iterator

from drpo_cli.spec.model import Spec
from drpo_cli.spec.positions import KeyPath
from drpo_cli.spec.problems import Problem

OBJECTIVE: KeyPath = ("objective", "type")
ADVANTAGE: KeyPath = ("advantage", "type")


def one_advantage_a_response(spec: Spec) -> Iterator[Problem]:
    if spec.objective.plugin.sequence_level and spec.advantage.plugin.token_level:
        yield Problem(
            OBJECTIVE,
            f"is {spec.objective.type!r}, whose ratio is that of a whole response, and advantage "
            f"{spec.advantage.type!r} gives every token its own; choose an advantage of the "
            "response, such as group_norm, or another objective",
            also=(ADVANTAGE,),
        )
    if spec.objective.plugin.sequence_level and spec.reference and spec.reference.kl == "k1":
        yield Problem(
            ("reference", "kl"),
            f"is 'k1', which changes the advantage of every token, and objective "
            f"{spec.objective.type!r} needs one a response; set it to 'k2' or 'k3'",
            also=(OBJECTIVE,),
        )


def critic_where_needed(spec: Spec) -> Iterator[Problem]:
    needed = spec.advantage.plugin.token_level
    if needed and spec.critic is None:
        yield Problem(
            ADVANTAGE,
            f"is {spec.advantage.type!r}, which needs a critic; add a [critic] section "
            "(it may be empty), or choose an advantage of the group",
        )
    if spec.critic is not None and not needed:
        yield Problem(
            ("critic",),
            f"has no use with advantage {spec.advantage.type!r}; take the section out, or set "
            "advantage.type to 'gae'",
            also=(ADVANTAGE,),
            on_key=True,
        )


def anchor_options(spec: Spec) -> Iterator[Problem]:
    if spec.train.importance_cap is not None and spec.train.anchor == "engine":
        yield Problem(
            ("train", "importance_cap"),
            "has no use with anchor 'engine': the ratio π/μ starts from the engine's own μ "
            "already; take it out, or set train.anchor to 'trainer'",
            also=(("train", "anchor"),),
            on_key=True,
        )


def reduction_options(spec: Spec) -> Iterator[Problem]:
    if spec.train.horizon is not None and spec.train.reduction != "fixed_horizon":
        yield Problem(
            ("train", "horizon"),
            f"has no use with reduction {spec.train.reduction!r}; take it out, or set "
            "train.reduction to 'fixed_horizon'",
            also=(("train", "reduction"),),
            on_key=True,
        )


def overlong_options(spec: Spec) -> Iterator[Problem]:
    buffer, longest = spec.train.overlong_buffer, spec.rollout.config.max_new_tokens
    if buffer is not None and spec.train.overlong != "soft":
        yield Problem(
            ("train", "overlong_buffer"),
            f"has no use with overlong {spec.train.overlong!r}; take it out, or set "
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


def dynamic_sampling_has_groups(spec: Spec) -> Iterator[Problem]:
    rollout = spec.rollout.config
    if rollout.dynamic_sampling_rounds and rollout.samples_per_prompt == 1:
        yield Problem(
            ("rollout", "dynamic_sampling_rounds"),
            "replaces groups whose rewards are all equal, as those of a group of one always are; "
            "set it to 0, or raise rollout.samples_per_prompt",
            also=(("rollout", "samples_per_prompt"),),
        )


def warmup_leaves_steps(spec: Spec) -> Iterator[Problem]:
    if spec.critic is not None and spec.critic.warmup_steps >= spec.run.steps:
        yield Problem(
            ("critic", "warmup_steps"),
            f"is {spec.critic.warmup_steps}; must be below run.steps, which is {spec.run.steps}, "
            "or the policy never learns",
            also=(("run", "steps"),),
        )


def equal_rewards_teach_a_critic(spec: Spec) -> Iterator[Problem]:
    if spec.rollout.config.dynamic_sampling_rounds and spec.advantage.plugin.token_level:
        yield Problem(
            ("rollout", "dynamic_sampling_rounds"),
            f"drops groups whose rewards are all equal, from which advantage "
            f"{spec.advantage.type!r} does learn: its baseline is the critic, not the group",
            also=(ADVANTAGE,),
        )


DOUBTS = (equal_rewards_teach_a_critic,)
RULES = (
    one_advantage_a_response,
    critic_where_needed,
    anchor_options,
    reduction_options,
    overlong_options,
    dynamic_sampling_has_groups,
    warmup_leaves_steps,
)

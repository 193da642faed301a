"""Rules about environments: their names and rewards, their limits, and what they cannot go with."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator
from typing import Any

from drpo_cli.plugins import Selected
from drpo_cli.settings import EnvironmentSettings
from drpo_cli.spec.model import Spec
from drpo_cli.spec.positions import KeyPath
from drpo_cli.spec.problems import Problem
from drpo_cli.spec.rules_data import sources_of

METHODS = ("start", "step", "close")
NEW_TOKENS: KeyPath = ("rollout", "max_new_tokens")
CONTEXT: KeyPath = ("rollout", "context_length")


def environments_exist(spec: Spec) -> Iterator[Problem]:
    known = [str(one.config.name) for one in spec.environment]
    for key, source in sources_of(spec):
        if source.environment is None or source.environment in known:
            continue
        if not known:
            what = "and there is no [[environment]]; add one, or remove this key"
        else:
            close = difflib.get_close_matches(source.environment, known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            what = f"and no [[environment]] has this name; {hint}there are: {', '.join(known)}"
        yield Problem((*key, "environment"), f"is {source.environment!r}, {what}")


def every_environment_is_used(spec: Spec) -> Iterator[Problem]:
    used = [spec.environment_of(source) for _, source in sources_of(spec)]
    for index, one in enumerate(spec.environment):
        if one not in used and None not in used:
            yield Problem(
                ("environment", index, "name"),
                f"is {one.config.name!r}, which no [[data]] names, and it is not the first, so no "
                "episode takes place in it; name it in one as its `environment`, or remove it",
                also=(("environment", index, "type"),),
            )


def names_differ_from_rewards(spec: Spec) -> Iterator[Problem]:
    rewards = {reward.config.name for reward in spec.reward}
    for index, one in enumerate(spec.environment):
        if one.config.name in rewards:
            yield Problem(
                ("environment", index, "name"),
                f"is {one.config.name!r}, like the name of a [[reward]], and the environment's own "
                "reward is recorded under its name; give one of them another `name`",
                also=(("environment", index, "type"),),
            )


def every_episode_is_rewarded(spec: Spec) -> Iterator[Problem]:
    """An environment whose own reward does not count needs a [[reward]] that does.

    Where a source names its rewards, `rules_data.rewards_of_a_source_count` tells.
    """
    counting = any(one.config.weight and not one.config.gate for one in spec.reward)
    for index, one in enumerate(spec.environment):
        if not one.config.weight and not counting:
            yield Problem(
                ("environment", index, "weight"),
                "is 0, and no [[reward]] adds to the total (weight not 0, and not a gate), so "
                "every episode would score 0; give it another weight, or add a [[reward]]",
            )


def rounds_need_an_environment(spec: Spec) -> Iterator[Problem]:
    if spec.rollout.config.in_rounds and not spec.environment:
        yield Problem(
            ("rollout", "in_rounds"),
            "has no effect without an [[environment]]: a response is one turn; remove it",
            on_key=True,
        )


def tools_are_answered(spec: Spec) -> Iterator[Problem]:
    for index, one in enumerate(spec.environment):
        if one.config.max_turns == 1 and one.config.tools:
            yield Problem(
                ("environment", index, "max_turns"),
                "is 1, so the model never sees what a tool answers: an episode ends after its "
                "first action; raise it, or remove `tools`",
                also=(("environment", index, "tools"),),
            )


def episodes_fit_the_context(spec: Spec) -> Iterator[Problem]:
    context, longest = spec.rollout.config.context_length, spec.rollout.config.max_new_tokens
    for index, one in enumerate(spec.environment):
        key, most = ("environment", index, "max_tokens_per_episode"), one.config
        tokens = most.max_tokens_per_episode
        if tokens is None:
            continue
        if context is not None and tokens >= context:
            yield Problem(
                key,
                f"is {tokens}; must be below rollout.context_length, which is {context}: the first "
                "prompt needs room too",
                also=(CONTEXT,),
            )
        elif tokens < longest:
            yield Problem(
                key,
                f"is {tokens}; must be at least rollout.max_new_tokens, which is {longest}, or no "
                "turn could be that long; lower that, or raise this",
                also=(NEW_TOKENS,),
            )


def limits_of_time_agree(spec: Spec) -> Iterator[Problem]:
    for index, one in enumerate(spec.environment):
        whole, call = one.config.episode_timeout_s, one.config.timeout_s
        default = type(one.config).model_fields["timeout_s"].default
        if whole is not None and whole < call != default:
            yield Problem(
                ("environment", index, "timeout_s"),
                f"is {call:g}, and an episode ends after episode_timeout_s = {whole:g} seconds, "
                "so no call can take that long; lower it, or raise episode_timeout_s",
                also=(("environment", index, "episode_timeout_s"),),
            )


def prompts_are_not_continued(spec: Spec) -> Iterator[Problem]:
    for key, source in sources_of(spec):
        if source.continue_final_message and spec.environment:
            yield Problem(
                (*key, "continue_final_message"),
                "is true, and a run with an [[environment]] cannot continue a message of the "
                "assistant: every action of an episode is a message of its own; remove it",
                also=(("environment", 0, "type"),),
            )


def experts_are_not_replayed(spec: Spec) -> Iterator[Problem]:
    if spec.train.router_replay and spec.environment:
        yield Problem(
            ("train", "router_replay"),
            "is true, and the experts of an episode are not known: the engine keeps its earlier "
            "turns in the prefix cache, and chooses experts for new tokens only; set it to false",
            also=(("environment", 0, "type"),),
        )


def concurrency_is_used(spec: Spec) -> Iterator[Problem]:
    for index, one in enumerate(spec.environment):
        default = type(one.config).model_fields["concurrency"].default
        if one.config.concurrency != default and not is_async(one.plugin.entry):
            yield Problem(
                ("environment", index, "concurrency"),
                "has no effect: none of its methods is async, so each process has one episode "
                "at a time; remove it, or make them async",
                also=(("environment", index, "type"),),
                on_key=True,
            )


def is_async(entry: Any) -> bool:
    """Whether a method of an environment's class is awaited."""
    methods = (getattr(entry, name, None) for name in METHODS)
    return any(inspect.iscoroutinefunction(inspect.unwrap(m)) for m in methods if callable(m))


def episodes_fit_the_model(spec: Spec, limit: int, origin: str) -> Iterator[Problem]:
    """Finds episodes that are longer than `limit`, the longest sequence of the model."""
    for index, one in enumerate(spec.environment):
        tokens = one.config.max_tokens_per_episode
        if tokens is not None and tokens >= limit:
            yield Problem(
                ("environment", index, "max_tokens_per_episode"),
                f"is {tokens}; must be below the {limit} tokens that the model in "
                f"{spec.model.path} takes ({origin}): the first prompt needs room too",
            )


def describe(spec: Spec) -> Iterator[tuple[str, str]]:
    """A row for `drpo check`: the environments with their limits and tools."""
    if spec.environment:
        yield "environments", "\n".join(_describe(one) for one in spec.environment)


def _describe(environment: Selected[EnvironmentSettings]) -> str:
    config = environment.config
    title = config.name if config.weight == 1 else f"{config.weight:g} × {config.name}"
    parts = [f"at most {config.max_turns:,} turn{'s' * (config.max_turns > 1)}"]
    if config.max_tokens_per_episode is not None:
        parts[0] += f" and {config.max_tokens_per_episode:,} tokens"
    if config.episode_timeout_s is not None:
        parts[0] += f" in {config.episode_timeout_s:g} s"
    if config.tools:
        parts.append(f"tools {', '.join(config.tools)}")
    each = f" of {config.concurrency} episodes" if is_async(environment.plugin.entry) else ""
    parts.append(f"up to {config.workers} process{'es' * (config.workers > 1)}{each} per rank")
    parts += [f"{config.timeout_s:g} s per call", f"on error {config.on_error}"]
    return f"{title}: {', '.join(parts)}"


ERRORS = (
    environments_exist,
    names_differ_from_rewards,
    every_episode_is_rewarded,
    episodes_fit_the_context,
    prompts_are_not_continued,
    experts_are_not_replayed,
)
WARNINGS = (
    every_environment_is_used,
    rounds_need_an_environment,
    tools_are_answered,
    limits_of_time_agree,
    concurrency_is_used,
)

"""Rules on data sources: templates, lengths, mixture, curriculum, and which rewards score what."""

from __future__ import annotations

from collections.abc import Iterator

from drpo_cli.settings import RewardSettings, SourceSettings
from drpo_cli.spec.model import Spec
from drpo_cli.spec.positions import KeyPath
from drpo_cli.spec.problems import Problem

DATA: KeyPath = ("data",)
EVAL_DATA: KeyPath = ("eval", "data")
UNCHANGED = SourceSettings().template


def _sources(spec: Spec) -> Iterator[tuple[KeyPath, SourceSettings]]:
    """Every source's options, training and evaluation, with the key of its table."""
    for key, sources in ((DATA, spec.data), (EVAL_DATA, spec.eval_data)):
        for index, source in enumerate(sources):
            yield (*key, index), source.config


def _rewards(spec: Spec) -> dict[str | None, RewardSettings]:
    return {reward.config.name: reward.config for reward in spec.reward}


def template_has_prompt(spec: Spec) -> Iterator[Problem]:
    for key, source in _sources(spec):
        given = source.template
        what = None if given == UNCHANGED else _wrong_with(given)
        if what is not None:
            yield Problem((*key, "template"), what)


def _wrong_with(template: str) -> str | None:
    from jinja2 import TemplateSyntaxError, meta
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    sandbox = ImmutableSandboxedEnvironment()
    try:
        sandbox.from_string(template)  # finds filters that do not exist, which parsing does not
        names = meta.find_undeclared_variables(sandbox.parse(template))
    except TemplateSyntaxError as error:
        return (
            f"is not a Jinja template: line {error.lineno}: {(error.message or '').rstrip('.')}; "
            "a literal {{, {% or {# goes between {% raw %} and {% endraw %}"
        )
    if "answer" in names:
        return (
            "asks for the answer, which no template gets: the model would read it off the "
            "prompt; take it out"
        )
    if "prompt" not in names and "{prompt}" in template:
        return "is a Jinja template: write {{ prompt }} in place of {prompt}"
    if "prompt" not in names:
        return (
            "has no {{ prompt }}, so the model would never see the prompt; "
            "write {{ prompt }} where it goes"
        )
    return None


def lengths_leave_prompts(spec: Spec) -> Iterator[Problem]:
    for key, source in _sources(spec):
        least, most = source.min_prompt_tokens, source.max_prompt_tokens
        if most is not None and least > most:
            yield Problem(
                (*key, "min_prompt_tokens"),
                f"is {least}; must be at most max_prompt_tokens, which is {most}, or every "
                "prompt is skipped",
                also=((*key, "max_prompt_tokens"),),
            )


def all_weights_or_none(spec: Spec) -> Iterator[Problem]:
    weights = {key: config.weight for key, config in _sources(spec) if key[:1] == DATA}
    given = [key for key, weight in weights.items() if weight is not None]
    for key, weight in weights.items():
        if given and weight is None:
            yield Problem(
                (*key, "weight"),
                "is missing, and other [[data]] have one; give every [[data]] its share, or none",
                also=tuple((*other, "weight") for other in given),
            )


def evaluation_draws_alike(spec: Spec) -> Iterator[Problem]:
    for key, source in _sources(spec):
        if key[: len(EVAL_DATA)] == EVAL_DATA:
            why = "has no use here: held-out problems are chosen once, from all rows alike"
            if source.weight is not None:
                yield Problem((*key, "weight"), f"{why}; take it out", on_key=True)
            if source.sampling != "uniform":
                yield Problem((*key, "sampling"), f"{why}; take it out", on_key=True)


def overlap_is_used(spec: Spec) -> Iterator[Problem]:
    if spec.eval.overlap != "refuse" and not spec.eval_data:
        yield Problem(
            ("eval", "overlap"),
            "has no use without [[eval.data]]: problems held out of the training data are never "
            "trained on; take it out",
            on_key=True,
        )


def rewards_exist(spec: Spec) -> Iterator[Problem]:
    known = _rewards(spec)
    for key, source in _sources(spec):
        for index, name in enumerate(source.rewards or ()):
            if name not in known:
                yield Problem(
                    (*key, "rewards", index),
                    f"is {name!r}, and no [[reward]] has this name; "
                    f"there are: {', '.join(map(str, known))}",
                )


def rewards_of_a_source_count(spec: Spec) -> Iterator[Problem]:
    known = _rewards(spec)
    for key, source in _sources(spec):
        if source.rewards is None or not all(name in known for name in source.rewards):
            continue
        used = [known[name] for name in source.rewards]
        if not any(reward.weight and not reward.gate for reward in used):
            yield Problem(
                (*key, "rewards"),
                "has no reward that adds to the total (a weight other than 0, and no gate), so "
                "every response of this source would score 0; name one",
            )


def every_reward_is_used(spec: Spec) -> Iterator[Problem]:
    chosen = [config.rewards for key, config in _sources(spec) if key[:1] == DATA]
    if None in chosen:
        return
    used = {name for names in chosen for name in names or ()}
    for index, (name, reward) in enumerate(_rewards(spec).items()):
        if (reward.weight or reward.gate) and name not in used:
            yield Problem(
                ("reward", index, "name"),
                f"is {name!r}, which no [[data]] names among its rewards: it is never asked; "
                "name it in one, or take it out",
                also=(("reward", index, "type"),),
            )


RULES = (
    template_has_prompt,
    lengths_leave_prompts,
    all_weights_or_none,
    evaluation_draws_alike,
    overlap_is_used,
    rewards_exist,
    rewards_of_a_source_count,
)
DOUBTS = (every_reward_is_used,)

"""Rules about data sources, rewards and trackers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib import util
from pathlib import Path
from typing import Any

from drpo_cli.plugins import Selected
from drpo_cli.settings import (
    EnvironmentSettings,
    RewardSettings,
    SourceSettings,
    TrackerSettings,
)
from drpo_cli.spec.model import SUITES, Spec
from drpo_cli.spec.positions import KeyPath
from drpo_cli.spec.problems import Problem

DATA: KeyPath = ("data",)
EVAL_DATA: KeyPath = ("eval", "data")
SFT_DATA: KeyPath = ("sft", "data")
NO_TEMPLATE = SourceSettings().template


# --- data sources ---


def sources_of(spec: Spec) -> Iterator[tuple[KeyPath, SourceSettings]]:
    """The options of every source, with the key of its table."""
    arrays = ((DATA, spec.data), (EVAL_DATA, spec.eval_data), (SFT_DATA, spec.sft_data))
    for key, sources in arrays:
        for index, source in enumerate(sources):
            yield (*key, index), source.config


def template_has_prompt(spec: Spec) -> Iterator[Problem]:
    for key, source in sources_of(spec):
        needed = not spec.environment  # which says itself what the model sees of a row
        what = None if source.template == NO_TEMPLATE else _wrong_with(source.template, needed)
        if what is not None:
            yield Problem((*key, "template"), what)


def _wrong_with(template: str, needs_prompt: bool) -> str | None:
    from jinja2 import TemplateSyntaxError, meta
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    sandbox = ImmutableSandboxedEnvironment()
    try:
        sandbox.from_string(template)  # finds unknown filters, which parsing alone does not
        names = meta.find_undeclared_variables(sandbox.parse(template))
    except TemplateSyntaxError as error:
        return (
            f"is not a Jinja template: line {error.lineno}: {(error.message or '').rstrip('.')}; "
            "put a literal {{, {% or {# between {% raw %} and {% endraw %}"
        )
    if "answer" in names:
        return (
            "asks for the answer, which no template gets: the model would read it from the "
            "prompt; remove {{ answer }}"
        )
    if "prompt" not in names and "{prompt}" in template:
        return "is a Jinja template: write {{ prompt }} in place of {prompt}"
    if "prompt" not in names and needs_prompt:
        return (
            "has no {{ prompt }}, so the model would never see the prompt; "
            "write {{ prompt }} where it goes"
        )
    return None


def lengths_leave_prompts(spec: Spec) -> Iterator[Problem]:
    for key, source in sources_of(spec):
        least, most = source.min_prompt_tokens, source.max_prompt_tokens
        if most is not None and least > most:
            yield Problem(
                (*key, "min_prompt_tokens"),
                f"is {least}; must be at most max_prompt_tokens, which is {most}, or every "
                "prompt is skipped",
                also=((*key, "max_prompt_tokens"),),
            )


def all_weights_or_none(spec: Spec) -> Iterator[Problem]:
    for array, name in ((DATA, "[[data]]"), (SFT_DATA, "[[sft.data]]")):
        weights = {key: config.weight for key, config in sources_of(spec) if key[:-1] == array}
        given = [key for key, weight in weights.items() if weight is not None]
        for key, weight in weights.items():
            if given and weight is None:
                yield Problem(
                    (*key, "weight"),
                    f"is missing, and other {name} have one; give every {name} a weight, or none",
                    also=tuple((*other, "weight") for other in given),
                )


def evaluation_draws_uniformly(spec: Spec) -> Iterator[Problem]:
    for key, source in sources_of(spec):
        if key[: len(EVAL_DATA)] == EVAL_DATA:
            what = (
                "has no effect here: held-out problems are chosen once, uniformly from all rows; "
                "remove it"
            )
            if source.weight is not None:
                yield Problem((*key, "weight"), what, on_key=True)
            if source.sampling != "uniform":
                yield Problem((*key, "sampling"), what, on_key=True)


def bos_is_written_once(spec: Spec) -> Iterator[Problem]:
    """Where a template begins with the text of the BOS token that the tokenizer adds as well."""
    folder = Path(spec.model.path)  # a hub id is not a folder
    tokenizer = _read_json(folder / "tokenizer_config.json") if folder.is_absolute() else {}
    bos = tokenizer.get("bos_token")
    bos = bos.get("content") if isinstance(bos, dict) else bos
    if not isinstance(bos, str) or not bos:
        return
    for key, source in sources_of(spec):
        plain = not source.chat and source.add_special_tokens is not False
        if plain and source.template.startswith(bos) and _adds(folder, tokenizer, bos):
            yield Problem(
                (*key, "template"),
                f"begins with {bos!r}, which the tokenizer adds by itself, so text prompts begin "
                "with two; remove it, or set add_special_tokens = false",
            )
        if source.chat and source.add_special_tokens and _adds(folder, tokenizer, bos):
            yield Problem(
                (*key, "add_special_tokens"),
                f"is true: the tokenizer adds {bos!r} to what the chat template writes, and most "
                "chat templates write one; remove it unless `drpo data show` shows only one",
            )


def _adds(folder: Path, tokenizer: dict[str, Any], bos: str) -> bool:
    """Whether the tokenizer puts the BOS token before text."""
    stated = tokenizer.get("add_bos_token")
    if isinstance(stated, bool):
        return stated
    after = _read_json(folder / "tokenizer.json").get("post_processor")
    return json.dumps(bos) in json.dumps(after)


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty where there is none, which others report."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def overlap_is_used(spec: Spec) -> Iterator[Problem]:
    if spec.eval.overlap != "refuse" and not spec.eval_data and not spec.eval_suites:
        yield Problem(
            ("eval", "overlap"),
            "has no effect without [[eval.data]] or [[eval.suite]]: problems held out of the "
            "training data are never trained on; remove it",
            on_key=True,
        )


def suites_differ(spec: Spec) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, suite in enumerate(spec.eval_suites):
        if suite.label in seen:
            what = f"is {suite.label} a second time; give each suite a name of its own"
            yield Problem((*SUITES, index, "name"), what)
        seen.add(suite.label)


# --- rewards ---


def _rewards_by_name(spec: Spec) -> dict[str | None, RewardSettings]:
    return {reward.config.name: reward.config for reward in spec.reward}


def rewards_exist(spec: Spec) -> Iterator[Problem]:
    known = _rewards_by_name(spec)
    for key, source in sources_of(spec):
        for index, name in enumerate(source.rewards or ()):
            if name not in known:
                yield Problem(
                    (*key, "rewards", index),
                    f"is {name!r}, and no [[reward]] has this name; "
                    f"there are: {', '.join(map(str, known))}",
                )


def rewards_of_a_source_count(spec: Spec) -> Iterator[Problem]:
    known = _rewards_by_name(spec)
    for key, source in sources_of(spec):
        if source.rewards is None or not all(name in known for name in source.rewards):
            continue
        used = [known[name] for name in source.rewards]
        environment = spec.environment_of(source)
        if environment is not None and environment.config.weight:
            continue
        if not any(reward.weight and not reward.gate for reward in used):
            yield Problem(
                (*key, "rewards"),
                "has no reward that adds to the total (weight not 0, and not a gate), so every "
                "response of this source would score 0; add one",
            )


def every_reward_is_used(spec: Spec) -> Iterator[Problem]:
    chosen = [config.rewards for key, config in sources_of(spec) if key[:1] == DATA]
    if None in chosen:
        return
    used = {name for names in chosen for name in names or ()}
    for index, (name, reward) in enumerate(_rewards_by_name(spec).items()):
        if (reward.weight or reward.gate) and name not in used:
            yield Problem(
                ("reward", index, "name"),
                f"is {name!r}, which no [[data]] names among its rewards, so it is never called; "
                "name it in one, or remove it",
                also=(("reward", index, "type"),),
            )


def some_reward_counts(spec: Spec) -> Iterator[Problem]:
    rewards = [reward.config for reward in spec.reward]
    if spec.environment:
        return  # whose own reward may count; see `rules_environment`
    if rewards and not any(reward.weight for reward in rewards if not reward.gate):
        if any(reward.gate for reward in rewards):
            what = (
                "leaves only gates: they multiply a sum that no reward adds to; give at least one "
                "[[reward]] that is not a gate a weight other than 0"
            )
        else:
            what = (
                "is 0, and so is every other weight, so nothing would be learned; give at least "
                "one [[reward]] a weight other than 0"
            )
        gates = tuple(("reward", i, "gate") for i in range(len(rewards)))
        yield Problem(("reward", 0, "weight"), what, also=gates)


def gates_have_no_weight(spec: Spec) -> Iterator[Problem]:
    for index, reward in enumerate(reward.config for reward in spec.reward):
        if reward.gate and reward.weight != 1:
            yield Problem(
                ("reward", index, "weight"),
                f"is {reward.weight:g}, but a gate multiplies the sum of the other rewards "
                "directly; remove weight, or gate",
                also=(("reward", index, "gate"),),
            )


def only_metrics_pause(spec: Spec) -> Iterator[Problem]:
    for index, reward in enumerate(reward.config for reward in spec.reward):
        if reward.every > 1 and (reward.weight or reward.gate):
            yield Problem(
                ("reward", index, "every"),
                f"is {reward.every}, and the total needs this reward in every step; "
                "set weight = 0 to only record it, or every = 1",
                also=(("reward", index, "weight"), ("reward", index, "gate")),
            )


def names_differ(spec: Spec) -> Iterator[Problem]:
    rewards = [reward.config for reward in spec.reward]
    yield from _names_differ("reward", rewards)
    yield from _names_differ("environment", [one.config for one in spec.environment])
    yield from _names_differ("tracker", [tracker.config for tracker in spec.tracker])


def _names_differ(
    section: str, several: Iterable[EnvironmentSettings | RewardSettings | TrackerSettings]
) -> Iterator[Problem]:
    seen: Counter[str] = Counter()
    for index, one in enumerate(several):
        name = getattr(one, "name", None)  # a bad name of one does not hide two others
        if name is None:
            continue
        seen[name] += 1
        if seen[name] == 2:
            yield Problem(
                (section, index, "name"),
                f"is {name!r}, like the name of an earlier {section}; give each [[{section}]] a "
                "name of its own",
                also=((section, index, "type"),),
            )


# --- trackers ---


def clients_are_installed(spec: Spec) -> Iterator[Problem]:
    for index, tracker in enumerate(spec.tracker):
        if what := missing_client(tracker):
            yield Problem(("tracker", index, "type"), what)


def missing_client(tracker: Selected[TrackerSettings]) -> str | None:
    """What to install if a tracker's client package is missing; does not import the package."""
    client = tracker.plugin.client
    found = util.find_spec(client) if client else None
    if client is None or (found is not None and found.origin is not None):
        return None  # a package without an origin is only a folder, such as a client leaves behind
    return f"is {tracker.type!r}, which is not installed; pip install 'drpo[{tracker.type}]'"


ERRORS = (
    template_has_prompt,
    lengths_leave_prompts,
    all_weights_or_none,
    evaluation_draws_uniformly,
    overlap_is_used,
    suites_differ,
    rewards_exist,
    rewards_of_a_source_count,
    some_reward_counts,
    names_differ,
    gates_have_no_weight,
    only_metrics_pause,
)
WARNINGS = (every_reward_is_used, clients_are_installed, bos_is_written_once)

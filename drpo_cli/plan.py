"""Spec + devices → Plan: the arithmetic of a run, checked before anything starts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from drpo_cli import architecture, devices
from drpo_cli.model_folder import find_wrong_kind, read_shapes
from drpo_cli.plugins import Selected, short_name
from drpo_cli.settings import RewardSettings, TrackerSettings
from drpo_cli.spec import Spec, rules_environment, rules_experts, rules_lora, rules_sft
from drpo_cli.spec.lengths import describe_longest, longest_sampled
from drpo_cli.spec.model import OTHER_MODELS
from drpo_cli.spec.presets import summary
from drpo_cli.spec.problems import Problem
from drpo_cli.spec.rules import Rule
from drpo_cli.spec.rules_layout import layout_fits
from drpo_cli.spec.rules_parallel import (
    engines_fit,
    heads_divide,
    mesh_fits,
    tensor_parallel,
)


@dataclass(frozen=True)
class Plan:
    """A spec on `world` processes, one per device.

    `replicate` × `shard` is the mesh of the weights: copies, and the processes that share one.
    A sequence is one prompt with one sampled response. `context` is the longest sequence in
    tokens: `rollout.context_length`, or the limit of the model, or None if neither is known yet
    (a hub id, or a model folder that is still to be prepared). `rows` is their layout.
    """

    spec: Spec
    world: int
    replicate: int
    shard: int
    run_folder: Path
    prompts_per_rank: int
    sequences_per_step: int
    sequences_per_update: int
    sequences_per_update_per_rank: int
    total_updates: int
    context: int | None
    rows: architecture.Rows

    def microbatches(self, sequence_tokens: int) -> int:
        """Micro-batches of one update on one device, if every sequence is this long."""
        fit = max(1, self.spec.train.tokens_per_microbatch // sequence_tokens)
        return math.ceil(self.sequences_per_update_per_rank / fit)


class ContextLimit(NamedTuple):
    """The longest sequence of a model in tokens, and where that number comes from."""

    tokens: int
    origin: str


def context_limit(config: Mapping[str, Any]) -> ContextLimit | None:
    """The longest sequence that trainer and engine compute alike, by a config.json; None: unknown.

    Rope scaling decides. A fixed one holds up to `max_position_embeddings` (a linear one, to its
    factor times that). The frequencies of a dynamic one or of longrope change with the length of
    the sequence, or of the engine's context, so beyond the original length the two disagree.
    """
    text = config.get("text_config")
    parts = [part for part in (config, text) if isinstance(part, Mapping)]
    limits = [part.get("max_position_embeddings") for part in parts]
    limit = next((limit for limit in limits if isinstance(limit, int)), None)
    if limit is None:
        return None
    ropes = [part.get(key) for part in parts for key in ("rope_parameters", "rope_scaling")]
    rope = next((rope for rope in ropes if isinstance(rope, Mapping)), {})
    kind = str(rope.get("rope_type", rope.get("type", "default")))
    factor = rope.get("factor")
    originals = [part.get("original_max_position_embeddings") for part in (rope, *parts)]
    original = next((one for one in originals if isinstance(one, int)), limit)
    if kind in ("dynamic", "longrope", "su"):
        return ContextLimit(
            original,
            f"the original length of its rope, {kind!r}, which changes its frequencies beyond: "
            "trainer and engine would compute different models",
        )
    if not isinstance(factor, int | float) or kind == "default":
        return ContextLimit(limit, "max_position_embeddings")
    if kind == "linear" and "gemma3" not in str(config.get("model_type")):
        origin = f"max_position_embeddings × {factor:g}, the factor of its rope"
        return ContextLimit(int(limit * factor), origin)
    reach = int(original * factor)
    further = f", which reaches {reach} if config.json says so" if reach > limit else ""
    return ContextLimit(limit, f"max_position_embeddings; its rope is {kind!r}{further}")


def check_plan(spec: Spec, world: int) -> int | None:
    """Checks that `spec` can run on `world` processes; returns the model's longest sequence.

    That is None where it is not known yet. Raises SpecError when the work, the mesh or the engines
    do not divide over the processes, or when the model folder is missing, is not a model, or has
    too short a context.
    """
    over = [*_divides(spec, world), *mesh_fits(spec, world), *engines_fit(spec, world)]
    return _check(spec, [*over, *layout_fits(spec, _read_config(spec)[0])])


def _check(spec: Spec, problems: list[Problem]) -> int | None:
    config, wrong = _read_config(spec)
    limit = None if config is None else context_limit(config)
    others, engines = _other_models_fit(spec), heads_divide(spec, config)
    experts = rules_experts.experts_fit(spec, config)
    if found := [*problems, *wrong, *others, *engines, *experts, *context_fits(spec, limit)]:
        raise spec.source.error(found)
    return limit.tokens if limit else None


def make_plan(spec: Spec, world: int) -> Plan:
    """Works out the plan of `spec` on `world` processes. Raises SpecError as `check_plan` does."""
    return _plan(spec, world, spec.parallel.mesh(world), check_plan(spec, world))


def lone_plan(spec: Spec) -> Plan:
    """The plan of one process that samples without training; the mesh of a run does not matter.

    Raises SpecError for a model folder that is missing, is not a model, or has too short a context.
    """
    return _plan(spec, 1, (1, 1), _check(spec, []))


def _plan(spec: Spec, world: int, mesh: tuple[int, int], limit: int | None) -> Plan:
    rollout, updates = spec.rollout.config, spec.train.updates_per_rollout
    prompts, samples = rollout.prompts_per_step, rollout.samples_per_prompt
    per_rank = prompts // world * samples
    return Plan(
        spec=spec,
        world=world,
        replicate=mesh[0],
        shard=mesh[1],
        run_folder=spec.run.folder / spec.run.name,
        prompts_per_rank=prompts // world,
        sequences_per_step=prompts * samples,
        sequences_per_update=prompts * samples // updates,
        sequences_per_update_per_rank=per_rank // updates,
        total_updates=spec.run.steps * updates,
        context=rollout.context_length or limit,
        rows=architecture.choose(spec.train.layout, _read_config(spec)[0]),
    )


def describe(plan: Plan) -> list[tuple[str, str]]:
    """Describes a plan as rows of label and value."""
    spec, rollout, evaluation = plan.spec, plan.spec.rollout.config, plan.spec.eval
    updates = spec.train.updates_per_rollout
    processes = f"{plan.world}" + (f" × {plan.prompts_per_rank} prompts" if plan.world > 1 else "")
    sampled = evaluation.problems * evaluation.samples_per_prompt
    rounds = 2 if not evaluation.every else 1 + math.ceil(spec.run.steps / evaluation.every)
    return [
        ("run folder", str(plan.run_folder)),
        ("model", f"{spec.model.path} ({spec.model.dtype})"),
        ("data", ", ".join(source.type for source in spec.data)),
        *rules_environment.describe(spec),
        *([("rewards", "\n".join(map(_reward, spec.reward)))] if spec.reward else []),
        *([("preset", summary(spec))] if spec.preset else []),
        ("advantage, objective", f"{spec.advantage.describe()}, {spec.objective.describe()}"),
        ("trust region", regime(spec)),
        ("loss", _loss(spec)),
        *rules_experts.describe(spec, _read_config(spec)[0]),
        *([("adapters", _adapters(spec))] if spec.lora else []),
        ("rollout", _engine(spec)),
        *([("trackers", ", ".join(_tracker(one) for one in spec.tracker))] if spec.tracker else []),
        ("processes", processes),
        *_over_processes(plan),
        (
            "one step",
            f"{rollout.prompts_per_step:,} prompts × {rollout.samples_per_prompt:,} samples = "
            f"{plan.sequences_per_step:,} sequences",
        ),
        (
            "updates per step",
            f"{updates:,} of {plan.sequences_per_update:,} sequences, at most "
            f"{plan.sequences_per_update * longest_sampled(spec):,} response tokens",
        ),
        ("micro-batches per update", _microbatches(plan)),
        ("layout", plan.rows.text),
        *devices.describe_each(spec.train, spec.model.dtype, plan.rows.padded),
        *rules_sft.describe(spec),
        ("checkpoints", _checkpoints(spec)),
        ("longest sequence", describe_longest(spec, plan.context)),
        (
            "whole run",
            f"{spec.run.steps:,} steps × {updates:,} updates = {plan.total_updates:,} updates",
        ),
        (
            "held-out evaluation",
            f"{evaluation.problems:,} problems × {evaluation.samples_per_prompt:,} samples = "
            f"{sampled:,} sequences, {rounds} times",
        ),
    ]


def _over_processes(plan: Plan) -> Iterator[tuple[str, str]]:
    """Rows on copies of the weights and on engines, where a spec asks for more than the default."""
    if plan.replicate > 1:
        yield "weights", f"{plan.replicate} copies, each over {plan.shard} processes"
    if (size := tensor_parallel(plan.spec)) > 1:
        yield "engines", f"{max(1, plan.world // size)}, each over {size} processes"


def regime(spec: Spec) -> str:
    """What the objective does to a token whose probability moved, in a sentence."""
    explain, config = spec.objective.plugin.regime, spec.objective.config
    return explain(config) if explain else f"as objective {spec.objective.type} defines it"


def _microbatches(plan: Plan) -> str:
    budget = plan.spec.train.tokens_per_microbatch
    least = plan.microbatches(longest_sampled(plan.spec))
    text = f"{least:,} when every response is full-length, prompts not counted"
    if plan.context and (most := plan.microbatches(plan.context)) > least:
        text = f"{least:,} when every response is full-length, to {most:,} with the longest prompts"
    return f"{text} ({budget:,} tokens each, per device)"


def _checkpoints(spec: Spec) -> str:
    saved = spec.checkpoint
    every = f"every {saved.every:,} steps" if saved.every else "after the last step"
    goes_on = [n for k, n in devices.NAMES.items() if devices.saves_asynchronously(saved, k)]
    meanwhile = f"; on a {' or a '.join(goes_on)} training goes on meanwhile" if goes_on else ""
    return f"{every}, {saved.keep:,} kept and the best{meanwhile}"


def _reward(reward: Selected[RewardSettings]) -> str:
    """Weight and name; where it runs, the longest time of a call, and what a failed call does."""
    config = reward.config
    title = config.name if config.weight == 1 else f"{config.weight:g} × {config.name}"
    title = f"{config.name}, a gate" if config.gate else title
    if reward.plugin.inline:
        where = "in the trainer's process"
    else:
        processes = f"{config.workers} process{'es' * (config.workers > 1)}"
        where = f"in {processes} per rank, {config.timeout_s:g} s per call"
    often = f"every {config.every} steps, " if config.every > 1 else ""
    return f"{title}: {often}{where}, on error {config.on_error}"


def _tracker(tracker: Selected[TrackerSettings]) -> str:
    config = tracker.config
    short = short_name(tracker.type)
    return short if config.name == short else f"{config.name} ({short})"


def _engine(spec: Spec) -> str:
    rollout = spec.rollout.config
    parts = [spec.rollout.type, f"temperature {rollout.temperature:g}"]
    if chosen := rollout.describe():
        parts.append(chosen)
    if rollout.dtype and rollout.dtype != spec.model.dtype:
        parts.append(f"computing in {rollout.dtype}")
    if (dtype := rollout.dtype or spec.model.dtype) != "float32":
        parts.append(f"head in {dtype if rollout.head_dtype == 'model' else rollout.head_dtype}")
    if rounded := rollout.quantised_to() or rollout.weight_rounding:
        what = "weights and inputs of layers in" if rollout.quantised_to() else "weights rounded to"
        parts.append(f"{what} {rounded}")
    if rounds := rollout.dynamic_sampling_rounds:
        parts.append(f"up to {rounds} more rounds for groups with unequal rewards")
    return ", ".join(parts)


def _loss(spec: Spec) -> str:
    """Reduction, anchor, and the optional terms of the loss."""
    train, reference = spec.train, spec.reference
    horizon = train.horizon or longest_sampled(spec)
    fixed = train.reduction == "fixed_horizon"
    parts = [f"{train.reduction} ({horizon:,} tokens)" if fixed else train.reduction]
    parts.append(f"ratio from the {train.anchor}'s log-probs")
    if train.importance_cap is not None:
        parts.append(f"importance weights up to {train.importance_cap:g}")
    if reference is not None:
        near = reference.path or "the starting model"
        parts.append(f"{reference.coefficient:g} × {reference.kl} from {near}")
    if (teacher := spec.teacher) is not None:
        beside = "" if teacher.rewards else ", in place of the rewards"
        who = teacher.path or f"{teacher.model} at {teacher.url}"
        parts.append(f"{teacher.coefficient:g} × log-probs of {who}{beside}")
    if train.entropy_bonus:
        parts.append(f"entropy bonus {train.entropy_bonus:g}")
    if train.overlong != "keep":
        parts.append(f"truncated responses: {train.overlong}")
    return ", ".join(parts)


def _adapters(spec: Spec) -> str:
    """What is trained in place of the weights."""
    assert spec.lora is not None
    lora, named = spec.lora, spec.lora.target_modules
    where = "all linear layers" if isinstance(named, str) else ", ".join(named)
    if any(".experts." in name for name in read_shapes(Path(spec.model.path))):
        where += " (experts have none)"
    pushed = rules_lora.describe_sync(lora, spec.rollout.config)
    return f"rank {lora.rank}, scaled by {lora.scaling:g}, in {where}; a sync pushes {pushed}"


def rules(world: int) -> tuple[Rule, ...]:
    """The rules for running a spec on `world` processes with the model folder as it is now."""
    return (
        lambda spec: _divides(spec, world),
        lambda spec: rules_sft.divides(spec, world),
        lambda spec: mesh_fits(spec, world),
        lambda spec: engines_fit(spec, world),
        _model_fits,
    )


def _divides(spec: Spec, world: int) -> Iterator[Problem]:
    rollout, updates = spec.rollout.config, spec.train.updates_per_rollout
    prompts, samples = rollout.prompts_per_step, rollout.samples_per_prompt
    if prompts % world:
        yield Problem(
            ("rollout", "prompts_per_step"),
            f"is {prompts}, which {world} processes cannot share evenly; make it a multiple of "
            f"{world}, or change --nproc",
        )
    elif world > 1 and (per_rank := prompts // world * samples) % updates:
        yield Problem(
            ("train", "updates_per_rollout"),
            f"is {updates}; must divide the {per_rank} samples per step of each of the {world} "
            f"processes ({prompts} prompts / {world} × {samples})",
            also=(("rollout", "prompts_per_step"), ("rollout", "samples_per_prompt")),
        )


def _model_fits(spec: Spec) -> Iterator[Problem]:
    config, wrong = _read_config(spec)
    yield from wrong
    yield from heads_divide(spec, config)
    yield from layout_fits(spec, config)
    yield from rules_experts.experts_fit(spec, config)
    yield from context_fits(spec, None if config is None else context_limit(config))
    yield from _other_models_fit(spec)


def _read_config(spec: Spec) -> tuple[Mapping[str, Any] | None, list[Problem]]:
    """The config.json of the model folder, and what is wrong with the folder.

    None for a hub id, and for a folder that is not there yet.
    """
    folder, prepare = Path(spec.model.path), spec.model.prepare
    if not folder.is_absolute():
        return None, []
    if prepare is not None and not (folder / "config.json").is_file():
        if prepare.is_file():
            return None, []
        what = f"there is no file {prepare}; name the script that makes the model folder"
        return None, [Problem(("model", "prepare"), what)]
    if finding := find_wrong_kind(folder):
        absent = not folder.exists()
        more = ", or set model.prepare to a script that makes the folder" if absent else ""
        return None, [Problem(("model", "path"), f"{finding.what}; {finding.fix}{more}")]
    config: Mapping[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config, []


def _other_models_fit(spec: Spec) -> Iterator[Problem]:
    """What is wrong with the folders of other models, or with the targets of adapters."""
    if spec.lora is not None:
        yield from rules_lora.targets_exist(spec, read_shapes(Path(spec.model.path)))
    for name in OTHER_MODELS:
        section = getattr(spec, name)
        path = None if section is None else section.path
        if path is not None and Path(path).is_absolute() and (wrong := find_wrong_kind(Path(path))):
            yield Problem((name, "path"), f"{wrong.what}; {wrong.fix}")


def context_fits(spec: Spec, limit: ContextLimit | None) -> Iterator[Problem]:
    """Finds lengths of the spec that are beyond the longest sequence of the model."""
    if limit is None:
        return
    wanted = spec.rollout.config.context_length
    if wanted is not None and wanted > limit.tokens:
        yield Problem(
            ("rollout", "context_length"),
            f"is {wanted}; the model in {spec.model.path} takes at most {limit.tokens} tokens "
            f"({limit.origin})",
        )
    yield from rules_environment.episodes_fit_the_model(spec, *limit)
    lengths = {"rollout": spec.rollout.config.max_new_tokens, "eval": spec.eval.max_new_tokens}
    for section, length in lengths.items():
        if length is not None and length >= limit.tokens:
            yield Problem(
                (section, "max_new_tokens"),
                f"is {length}; must be below the {limit.tokens} tokens that the model in "
                f"{spec.model.path} takes ({limit.origin}): the prompt needs room too",
            )

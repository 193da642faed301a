"""Builds the parts of a run from its plan: the one place where the rooms meet the spec."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from drpo_cli import pretrained
from drpo_cli.data.pipeline.answers import AnsweredPrompts
from drpo_cli.data.pipeline.prompts import Prompts
from drpo_cli.data.pipeline.rows import Row
from drpo_cli.data.pipeline.split import NO_SUITES, hold_out, split
from drpo_cli.data.pipeline.stream import (
    Batching,
    Data,
    PromptStream,
    make_held_out,
    open_data,
    open_stream,
)
from drpo_cli.devices import resolve
from drpo_cli.dist import World
from drpo_cli.errors import UserError
from drpo_cli.plan import ContextLimit, Plan, context_fits, context_limit
from drpo_cli.rewards.grading.contract import prepare_all
from drpo_cli.rollout.engine.ends import find_ends, load_config
from drpo_cli.rollout.engine.precision import Precision
from drpo_cli.rollout.engine.protocol import EngineContext, EngineProtocol
from drpo_cli.settings import ModelSettings, TrainSettings
from drpo_cli.spec import Spec
from drpo_cli.spec.lengths import longest_sampled, room_for_responses
from drpo_cli.spec.rules import resting_updates
from drpo_cli.spec.rules_lora import shares_base
from drpo_cli.step import teachers
from drpo_cli.step.play import Player
from drpo_cli.suites import Suite
from drpo_cli.types import Prompt


def tokenizer(model: ModelSettings) -> Any:
    """Loads the model's tokenizer. Raises UserError if the folder or hub id has none."""
    from transformers import AutoTokenizer

    code = model.trust_remote_code
    return pretrained.read(AutoTokenizer, model.path, "model.path", trust_remote_code=code)


def context_length(plan: Plan) -> int:
    """The longest sequence in tokens: the plan's, or for a hub id the model's own limit."""
    if plan.context is not None:
        return plan.context
    limit = _model_limit(plan.spec.model)
    if limit is None:
        raise UserError(
            f"rollout.context_length: {plan.spec.model.path} names no longest sequence",
            "set it to the most tokens of a prompt and its response",
        )
    return limit.tokens


def _model_limit(model: ModelSettings) -> ContextLimit | None:
    text = load_config(model).get_text_config()
    known = {"max_position_embeddings": getattr(text, "max_position_embeddings", None)}
    return context_limit(text.to_dict() | known)  # some configurations have it by another name


def precision(spec: Spec) -> Precision:
    """The numeric formats of the trainer and the engine."""
    rollout = spec.rollout.config
    return Precision(
        train=spec.model.dtype,
        rollout=rollout.dtype or spec.model.dtype,
        rounding=rollout.weight_rounding,
        quantization=rollout.quantised_to(),
        float8=spec.train.float8,
    )


def engine(plan: Plan, adapted: Collection[str] = ()) -> EngineProtocol:
    """Starts the rollout engine for a trainer that pushes weights before anything is sampled.

    `adapted` are the layers that have adapters, by name.
    """
    context = replace(_engine_context(plan), awaits_weights=True)
    if context.lora is not None:
        found = context.lora.model_copy(update={"target_modules": tuple(adapted)})
        context = replace(context, lora=found)
    return _start(plan, context)


def lone_engine(plan: Plan) -> EngineProtocol:
    """Checks the model, as a trainer does when it loads one, then starts the engine without one."""
    pretrained.check(plan.spec.model, "model.path")
    return _start(plan, replace(_engine_context(plan), experts=False, lora=None))


def _start(plan: Plan, context: EngineContext) -> EngineProtocol:
    options = plan.spec.rollout
    started: EngineProtocol = options.plugin.entry(options.config, context)
    return started


def check_engine(plan: Plan, tokenizer: Any) -> None:
    """Raises UserError for what is known to keep the engine from starting, before anything loads.

    That is an end of sequence that the model does not have, or what the engine's own check finds.
    """
    options = plan.spec.rollout
    if wrong := list(context_fits(plan.spec, _model_limit(plan.spec.model))):
        raise plan.spec.source.error(wrong)  # of a hub id, which the plan has not read
    find_ends(options.config, plan.spec.model, tokenizer)
    check = getattr(options.plugin.entry, "check", None)  # engines of users may have none
    if check is not None:
        check(options.config, _engine_context(plan))


def player(plan: Plan, tokenizer: Any) -> Player | None:
    """Sets up the environments of a run; None if it has none."""
    spec = plan.spec
    if not spec.environment:
        return None
    ends = find_ends(spec.rollout.config, spec.model, tokenizer)
    in_rounds = spec.rollout.config.in_rounds
    return Player(spec.environment, tokenizer, ends.ids, context_length(plan), in_rounds)


def _engine_context(plan: Plan) -> EngineContext:
    model = plan.spec.model.model_copy(update={"dtype": precision(plan.spec).rollout})
    return EngineContext(
        model,
        context_length(plan),
        plan.world,
        experts=plan.spec.train.router_replay,
        lora=plan.spec.lora,
    )


def _vocabulary(model: ModelSettings) -> int:
    """The rows of the embedding: token ids are below it."""
    return int(load_config(model).get_text_config().vocab_size)


def data(
    plan: Plan, tokenizer: Any, rank: int, of_suites: Mapping[str, Sequence[Row]] = NO_SUITES
) -> Data:
    """Opens the data: this rank's training stream, and the held-out prompts.

    Rows that ask the same as those `of_suites`, by name, are not trained on.
    """
    spec, rollout = plan.spec, plan.spec.rollout.config
    batching = Batching(rollout.prompts_per_step, spec.run.seed, rank, plan.world)
    prompts = _prompts(plan, tokenizer)
    return open_data(spec.data, spec.eval_data, spec.eval, prompts, batching, of_suites)


def suite_rows(suites: Sequence[Suite]) -> dict[str, list[Row]]:
    """The rows of suites of a run, by name; the first use may download them."""
    return {one.name: hold_out(one.spec.data, (), one.spec.eval.problems) for one in suites}


def suite_prompts(plan: Plan, suite: Suite, rows: Sequence[Row], tokenizer: Any) -> list[Prompt]:
    """The prompts of a suite's rows.

    Raises UserError for one that cannot be made, and for responses that the context has no room
    for.
    """
    longest, context = suite.spec.rollout.config.max_new_tokens, context_length(plan)
    if longest >= context:
        raise UserError(
            f"eval.suite {suite.name}: a response may have {longest:,} tokens, and the context has "
            f"{context:,}",
            "set max_new_tokens in its table, or a longer rollout.context_length",
        )
    needed = _rewards_with_answer(suite.spec)
    prompts = Prompts(tokenizer, context - longest, _vocabulary(plan.spec.model), needed)
    return make_held_out(rows, prompts)[0]


def answers(
    plan: Plan, tokenizer: Any, rank: int, of_suites: Mapping[str, Sequence[Row]]
) -> tuple[PromptStream, AnsweredPrompts]:
    """Opens the data of the warm-up: this rank's rows, and what makes responses of their answers.

    Held-out problems and those of suites are left out. Raises UserError for a row that cannot be
    learned.
    """
    spec = plan.spec
    assert spec.sft is not None
    ends = find_ends(spec.rollout.config, spec.model, tokenizer).ids
    prompts = AnsweredPrompts(tokenizer, ends, context_length(plan), _vocabulary(spec.model))
    batching = Batching(spec.sft.examples_per_update, spec.run.seed, rank, plan.world)
    held_out_of = spec.eval_data or (spec.data if spec.sft_data else ())
    overlap = spec.eval.overlap if spec.eval_data else "drop"
    sources = spec.sft_data or spec.data
    rows = split(sources, held_out_of, spec.eval.problems, overlap, of_suites)
    return open_stream(rows, prompts, batching), prompts


def held_out(plan: Plan, tokenizer: Any) -> list[Prompt]:
    """The held-out prompts of `data`, without reading what is trained on."""
    spec = plan.spec
    rows = hold_out(spec.data, spec.eval_data, spec.eval.problems)
    return make_held_out(rows, _prompts(plan, tokenizer))[0]


def _prompts(plan: Plan, tokenizer: Any) -> Prompts:
    spec = plan.spec
    room = context_length(plan) - room_for_responses(spec)
    names = [str(one.config.name) for one in spec.environment]
    rewards = _rewards_with_answer(spec)
    return Prompts(tokenizer, room, _vocabulary(spec.model), rewards, names)


def _rewards_with_answer(spec: Spec) -> list[str]:
    return [
        reward.name
        for reward in prepare_all(spec.reward)
        if (asks := reward.selected.plugin.needs_answer) and asks(reward.selected.config)
    ]


def trainer(plan: Plan, world: World) -> Any:
    """Builds the trainer: sharded policy, optimizer, objective; reference and critic if asked."""
    from drpo_cli.trainer import float8, optim
    from drpo_cli.trainer.attention import name_for
    from drpo_cli.trainer.loading import load_policy
    from drpo_cli.trainer.routing import prepare
    from drpo_cli.trainer.trainer import Objective, Trainer

    spec, rollout = plan.spec, plan.spec.rollout.config
    float8.check(spec.train.float8, world.device.type)
    horizon = spec.train.horizon or longest_sampled(spec)
    train = resolve(spec.train, world.device.type, spec.model.dtype)
    train = train.model_copy(update={"horizon": horizon})
    attention = name_for(str(train.attention), world.device.type)
    policy = load_policy(
        spec.model,
        rollout.temperature,
        train.logits_in_a_block,
        train.checkpointing,
        world,
        attention,
        spec.lora,
        spec.run.seed,
        train.layout,
        train.float8,
        train.head_dtype,
    )
    routing = prepare(policy, train)
    return Trainer(
        policy,
        optim.build(policy, train, plan.total_updates, resting_updates(spec)),
        Objective(spec.objective.plugin.entry, spec.objective.config),
        train,
        world,
        reference=_reference(spec, train, attention, policy, world),
        teacher=teachers.load(spec, train, attention, world),
        critic=_critic(spec, train, attention, world),
        routing=routing,
    )


def supervised(plan: Plan, trainer: Any, objective: Any) -> Any:
    """Builds the trainer of the warm-up: the policy of `trainer`, an optimizer of its own."""
    from drpo_cli.trainer import optim
    from drpo_cli.trainer.trainer import Trainer

    sft = plan.spec.sft
    assert sft is not None
    settings = trainer.settings.model_copy(
        update={
            "updates_per_rollout": 1,
            "learning_rate": sft.learning_rate,
            "schedule": sft.schedule,
            "final_learning_rate": 0.0,
            "warmup_updates": sft.warmup_updates,
            "reduction": "token_mean",
            "anchor": "engine",
            "entropy_bonus": 0.0,
        }
    )
    optimizer = optim.build(trainer.policy, settings, sft.updates)
    return Trainer(trainer.policy, optimizer, objective, settings, trainer.world)


def _reference(spec: Spec, train: TrainSettings, attention: str, policy: Any, world: World) -> Any:
    from drpo_cli.trainer.loading import load_reference
    from drpo_cli.trainer.terms import Reference

    if spec.reference is None:
        return None
    if shares_base(spec):
        return Reference(policy, spec.reference)
    model = spec.model.model_copy(update={"path": spec.reference.path or spec.model.path})
    temperature, block = spec.rollout.config.temperature, train.logits_in_a_block
    how = (train.layout, train.float8, train.head_dtype)
    reference = load_reference(model, temperature, block, world, attention, *how)
    return Reference(reference, spec.reference)


def _critic(spec: Spec, train: TrainSettings, attention: str, world: World) -> Any:
    from drpo_cli.trainer import optim
    from drpo_cli.trainer.critic import Critic
    from drpo_cli.trainer.loading import load_value_model

    if spec.critic is None:
        return None
    source = spec.model.model_copy(update={"path": spec.critic.path or spec.model.path})
    model = load_value_model(source, train.checkpointing, world, attention, train.layout)
    optimizer = optim.adamw(model, train, spec.critic.learning_rate)
    return Critic(model, optimizer, spec.critic, train, world)

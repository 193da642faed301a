"""Builds a run's parts from its plan: the one place where rooms meet the spec."""

from __future__ import annotations

from typing import Any

from drpo_cli.data.pipeline.prompts import Prompts
from drpo_cli.data.pipeline.stream import Batching, Data, open_data
from drpo_cli.dist import World
from drpo_cli.errors import UserError
from drpo_cli.plan import Plan
from drpo_cli.rollout.engine.precision import Precision
from drpo_cli.rollout.engine.protocol import EngineContext, EngineProtocol, Sampling, derive_seed
from drpo_cli.settings import ModelSettings, ObjectiveSettings, RolloutSettings
from drpo_cli.spec import Spec


def rollout_settings(spec: Spec) -> RolloutSettings:
    """The `[rollout]` section, typed."""
    assert isinstance(spec.rollout.config, RolloutSettings)
    return spec.rollout.config


def tokenizer(model: ModelSettings) -> Any:
    """The model's tokenizer. Raises UserError when the folder or hub id has none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model.path, trust_remote_code=model.trust_remote_code)
    except (OSError, ValueError) as error:
        raise UserError(f"model.path: {model.path} has no tokenizer that loads: {error}") from error


def context_length(plan: Plan) -> int:
    """The longest sequence: the plan's, or for a hub id what the model's configuration says."""
    if plan.context is not None:
        return plan.context
    from transformers import AutoConfig

    settings = plan.spec.model
    config = AutoConfig.from_pretrained(settings.path, trust_remote_code=settings.trust_remote_code)
    return int(config.get_text_config().max_position_embeddings)


def precision(spec: Spec) -> Precision:
    """What the trainer and the engine compute with."""
    rollout = rollout_settings(spec)
    return Precision(spec.model.dtype, rollout.dtype or spec.model.dtype, rollout.weight_rounding)


def engine(plan: Plan, model: ModelSettings | None = None) -> EngineProtocol:
    """Starts the rollout engine on the plan's model, or on another of the same context."""
    model = model or plan.spec.model
    model = model.model_copy(update={"dtype": precision(plan.spec).rollout})
    context = EngineContext(model, context_length(plan), plan.world)
    started: EngineProtocol = plan.spec.rollout.module.Engine(plan.spec.rollout.config, context)
    return started


def data(plan: Plan, tokenizer: Any, rank: int) -> Data:
    """Opens the data: training stream of this rank, and the held-out prompts."""
    spec, rollout = plan.spec, rollout_settings(plan.spec)
    longest = max(rollout.max_new_tokens, spec.eval.max_new_tokens or 0)
    batching = Batching(rollout.prompts_per_step, spec.run.seed, rank, plan.world)
    prompts = Prompts(tokenizer, context_length(plan) - longest)
    return open_data(spec.data, spec.eval_data, spec.eval, prompts, batching)


def train_sampling(spec: Spec, *key: object) -> Sampling:
    """Training's sampling, seeded by the run's seed and `key`."""
    rollout = rollout_settings(spec)
    return Sampling(
        samples=rollout.samples_per_prompt,
        max_new_tokens=rollout.max_new_tokens,
        temperature=rollout.temperature,
        seed=derive_seed(spec.run.seed, *key),
        stop=rollout.stop,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        min_p=rollout.min_p,
    )


def eval_sampling(spec: Spec, *key: object, samples: int | None = None) -> Sampling:
    """Evaluation's sampling; seeded apart from the run's seed, so that targets compare."""
    rollout = rollout_settings(spec)
    return Sampling(
        samples=samples or spec.eval.samples_per_prompt,
        max_new_tokens=spec.eval.max_new_tokens or rollout.max_new_tokens,
        temperature=spec.eval.temperature or rollout.temperature,
        seed=derive_seed("eval", *key),
        stop=rollout.stop,
    )


def trainer(plan: Plan, world: World) -> Any:
    """Loads the policy, shards it, and builds its optimizer and objective; the rest if any."""
    from drpo_cli.trainer import optim
    from drpo_cli.trainer.model import load_policy
    from drpo_cli.trainer.step import Objective, Trainer

    spec, rollout = plan.spec, rollout_settings(plan.spec)
    horizon = spec.train.horizon or rollout.max_new_tokens
    train = spec.train.model_copy(update={"horizon": horizon})
    policy = load_policy(
        spec.model,
        rollout.temperature,
        train.logits_in_a_block,
        train.gradient_checkpointing,
        world,
    )
    assert isinstance(spec.objective.config, ObjectiveSettings)
    return Trainer(
        policy,
        optim.build(policy, train, plan.total_updates),
        Objective(spec.objective.module, spec.objective.config),
        train,
        world,
        reference=_reference(spec, world),
        critic=_critic(spec, world),
    )


def _reference(spec: Spec, world: World) -> Any:
    from drpo_cli.trainer.model import load_reference
    from drpo_cli.trainer.terms import Reference

    if spec.reference is None:
        return None
    model = spec.model.model_copy(update={"path": spec.reference.path or spec.model.path})
    temperature, block = rollout_settings(spec).temperature, spec.train.logits_in_a_block
    return Reference(load_reference(model, temperature, block, world), spec.reference)


def _critic(spec: Spec, world: World) -> Any:
    from drpo_cli.trainer import optim
    from drpo_cli.trainer.critic import Critic
    from drpo_cli.trainer.model import load_value_model

    if spec.critic is None:
        return None
    source = spec.model.model_copy(update={"path": spec.critic.path or spec.model.path})
    model = load_value_model(source, spec.train.gradient_checkpointing, world)
    optimizer = optim.adamw(model, spec.train, spec.critic.learning_rate)
    return Critic(model, optimizer, spec.critic, spec.train, world)

"""Builds the parts of a run from its plan: the one place where the rooms meet the spec."""

from __future__ import annotations

from typing import Any

from drpo_cli import pretrained
from drpo_cli.data.pipeline.prompts import Prompts
from drpo_cli.data.pipeline.stream import Batching, Data, open_data
from drpo_cli.dist import World
from drpo_cli.plan import Plan
from drpo_cli.rollout.engine.precision import Precision
from drpo_cli.rollout.engine.protocol import EngineContext, EngineProtocol
from drpo_cli.settings import ModelSettings
from drpo_cli.spec import Spec


def tokenizer(model: ModelSettings) -> Any:
    """Loads the model's tokenizer. Raises UserError if the folder or hub id has none."""
    from transformers import AutoTokenizer

    code = model.trust_remote_code
    return pretrained.read(AutoTokenizer, model.path, "model.path", trust_remote_code=code)


def context_length(plan: Plan) -> int:
    """The longest sequence in tokens: the plan's, or for a hub id the model's own limit."""
    if plan.context is not None:
        return plan.context
    from transformers import AutoConfig

    settings = plan.spec.model
    config = AutoConfig.from_pretrained(settings.path, trust_remote_code=settings.trust_remote_code)
    return int(config.get_text_config().max_position_embeddings)


def precision(spec: Spec) -> Precision:
    """The numeric formats of the trainer and the engine."""
    rollout = spec.rollout.config
    return Precision(spec.model.dtype, rollout.dtype or spec.model.dtype, rollout.weight_rounding)


def engine(plan: Plan, model: ModelSettings | None = None) -> EngineProtocol:
    """Starts the rollout engine on the plan's model, or on another with the same context."""
    model = model or plan.spec.model
    model = model.model_copy(update={"dtype": precision(plan.spec).rollout})
    context = EngineContext(model, context_length(plan), plan.world)
    started: EngineProtocol = plan.spec.rollout.plugin.entry(plan.spec.rollout.config, context)
    return started


def lone_engine(plan: Plan) -> EngineProtocol:
    """Checks the model, as a trainer does when it loads one, then starts the engine without one."""
    pretrained.check(plan.spec.model, "model.path")
    return engine(plan)


def _vocabulary(model: ModelSettings) -> int:
    """The rows of the embedding: token ids are below it."""
    from transformers import AutoConfig

    code = model.trust_remote_code
    config = pretrained.read(AutoConfig, model.path, "model.path", trust_remote_code=code)
    return int(config.get_text_config().vocab_size)


def data(plan: Plan, tokenizer: Any, rank: int) -> Data:
    """Opens the data: this rank's training stream, and the held-out prompts."""
    spec, rollout = plan.spec, plan.spec.rollout.config
    longest = max(rollout.max_new_tokens, spec.eval.max_new_tokens or 0)
    batching = Batching(rollout.prompts_per_step, spec.run.seed, rank, plan.world)
    prompts = Prompts(tokenizer, context_length(plan) - longest, _vocabulary(spec.model))
    return open_data(spec.data, spec.eval_data, spec.eval, prompts, batching)


def trainer(plan: Plan, world: World) -> Any:
    """Builds the trainer: sharded policy, optimizer, objective; reference and critic if asked."""
    from drpo_cli.trainer import optim
    from drpo_cli.trainer.model import load_policy
    from drpo_cli.trainer.trainer import Objective, Trainer

    spec, rollout = plan.spec, plan.spec.rollout.config
    horizon = spec.train.horizon or rollout.max_new_tokens
    train = spec.train.model_copy(update={"horizon": horizon})
    policy = load_policy(
        spec.model,
        rollout.temperature,
        train.logits_in_a_block,
        train.gradient_checkpointing,
        world,
    )
    return Trainer(
        policy,
        optim.build(policy, train, plan.total_updates),
        Objective(spec.objective.plugin.entry, spec.objective.config),
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
    temperature, block = spec.rollout.config.temperature, spec.train.logits_in_a_block
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

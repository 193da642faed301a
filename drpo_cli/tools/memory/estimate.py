"""Phases of a run and what each takes on a device: the trainer's passes and the engine together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from drpo_cli.plan import Plan
from drpo_cli.step.build import context_length, precision
from drpo_cli.tools.memory import engine as engines
from drpo_cli.tools.memory.batch import Lengths
from drpo_cli.tools.memory.device import GIB, Device
from drpo_cli.tools.memory.engine import Engine
from drpo_cli.tools.memory.model import config_of
from drpo_cli.tools.memory.passes import Batch, Job, Measured, highest, measure, parameters
from drpo_cli.tools.memory.tracker import GATHERED, GRADIENTS, OPTIMIZER, WEIGHTS, Parts
from drpo_cli.tools.memory.transfer import Transfer, transfer

ASSUMED_PROMPT = 1024  # tokens, where neither the spec nor its sources bound them
PROBE = 8  # sequences of a probe, of `PROBE_TOKENS` new tokens each
PROBE_TOKENS = 32
WIDTH = {"float32": 4, "bfloat16": 2}
# Allowances: what no tensor shows. On a GPU none of them has been measured by this project.
# A process that has used CUDA: 781 MiB in github.com/pytorch/pytorch/issues/34323.
CONTEXT = int(0.8 * GIB)
# A communicator of several GPUs: 1.6 GB in github.com/NVIDIA/nccl/issues/864.
COMMUNICATOR = int(1.6 * GIB)
# Blocks of the caching allocator that are free but too small to be used, of what is allocated.
FRAGMENTS = 0.05
# On a CPU, measured (docs/plan.md): a process that has imported what a run needs, without tensors,
# and what the C library's allocator keeps beyond the tensors under the settings that a run has.
PROCESS = {"vllm": int(0.75 * GIB), "transformers": int(0.5 * GIB)}
HEAP = 0.35


@dataclass(frozen=True)
class Phase:
    """A part of a step, and the bytes of its peak by what they are for."""

    name: str
    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Estimate:
    """What a plan takes on each device.

    sequence        bytes of KV cache that a sequence of full length takes
    at_once         sequences of full length that the cache holds, and of half of it
    loading         main memory of a node while its processes load the model, bytes
    microbatches    passes of an update, of the fullest micro-batches
    notes           what was assumed, and what the code cannot do
    """

    plan: Plan
    device: Device
    nodes: int
    phases: tuple[Phase, ...]
    engine: Engine
    lengths: Lengths
    sequence: int
    at_once: tuple[int, int]
    parameters: int
    transfer: Transfer
    loading: int
    batch_tokens: int
    microbatches: int
    notes: tuple[str, ...]

    @property
    def tightest(self) -> Phase:
        """The phase that takes most."""
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def free(self) -> int:
        """Bytes that the tightest phase leaves; negative where it does not fit."""
        return self.device.bytes - self.tightest.total

    @property
    def fits(self) -> bool:
        """Whether every phase fits, and the cache holds a sequence of full length."""
        return self.free >= 0 and self.at_once[0] > 0


def estimate(plan: Plan, device: Device, nodes: int) -> Estimate:
    """What the plan takes. Raises UserError where a model's configuration cannot be had."""
    spec, rollout = plan.spec, plan.spec.rollout.config
    config = config_of(spec.model, "model.path")
    lengths = _lengths(plan)
    policy = _policy_job(plan, lengths, device, config)
    passes, count = measure(policy), parameters(spec.model)
    width = WIDTH[precision(spec).rollout]
    engine = _engine(plan, config, count * width, lengths, device)
    sequence = engines.cache_bytes(config, width, lengths.total)
    longest = engines.cache_bytes(config, width, context_length(plan))
    phases = _phases(plan, passes, policy, engine, device)
    at_once = [
        engine.cache // engines.cache_bytes(config, width, max(1, tokens))
        for tokens in (lengths.total, lengths.total // 2)
    ]
    if device.cuda and spec.rollout.type == "vllm" and engine.cache < longest:
        at_once = [0, 0]  # vLLM starts only where its longest sequence fits
    return Estimate(
        plan=plan,
        device=device,
        nodes=nodes,
        phases=phases,
        engine=engine,
        lengths=lengths,
        sequence=sequence,
        at_once=(at_once[0], at_once[1]),
        parameters=count,
        transfer=transfer(count * width, plan.world, nodes),
        loading=count * WIDTH["float32"] * (plan.world // nodes),
        batch_tokens=policy.batch.tokens,
        microbatches=math.ceil(_update_tokens(plan, lengths) / policy.batch.tokens),
        notes=tuple(_notes(plan, policy, lengths, nodes, rollout)),
    )


def _notes(plan: Plan, job: Job, lengths: Lengths, nodes: int, rollout: Any) -> list[str]:
    notes = []
    if not lengths.known:
        notes.append(
            f"prompts are taken to have {lengths.prompt:,} tokens: set rollout.context_length, or "
            f"max_prompt_tokens of the sources, to say what they have"
        )
    if job.all_scores:
        notes.append(
            "attention: this device may have no fused kernel for "
            + ("shared prompts" if job.precision.train != "float32" else "float32")
            + " where heads share their keys, and then holds all scores; counted as if it had none"
        )
    if nodes > 1:
        notes.append(
            f"drpo train runs on one node today; this is a plan of {nodes} nodes with the shards "
            f"over all of their devices"
        )
    return notes


def _lengths(plan: Plan) -> Lengths:
    """The longest prompt and response: by context_length, or as the sources bound the prompt."""
    rollout = plan.spec.rollout.config
    response = rollout.max_new_tokens
    if rollout.context_length is not None:
        return Lengths(max(1, rollout.context_length - response), response)
    room = max(1, context_length(plan) - response)
    bounds = [source.config.max_prompt_tokens for source in plan.spec.data]
    known = [bound for bound in bounds if bound is not None]
    if bounds and len(known) == len(bounds):
        return Lengths(min(room, max(known)), response)
    return Lengths(min(room, ASSUMED_PROMPT), response, known=room <= ASSUMED_PROMPT)


def _group(plan: Plan) -> int:
    """Samples of a prompt that an update has."""
    samples = plan.spec.rollout.config.samples_per_prompt
    if plan.spec.train.minibatches == "groups":
        return min(samples, plan.sequences_per_update_per_rank)
    return max(1, samples // plan.spec.train.updates_per_rollout)


def _update_tokens(plan: Plan, lengths: Lengths) -> int:
    """Tokens of an update on one device, were every sequence of full length."""
    sequences = plan.sequences_per_update_per_rank
    prompts = math.ceil(sequences / _group(plan))
    return prompts * lengths.prompt + sequences * (lengths.response - 1)


def _policy_job(plan: Plan, lengths: Lengths, device: Device, config: Any) -> Job:
    spec = plan.spec
    sequences = plan.sequences_per_update_per_rank
    batch = Batch(lengths, _group(plan), sequences, spec.train.tokens_per_microbatch)
    probe = Batch(Lengths(lengths.prompt, PROBE_TOKENS), 1, PROBE, batch.budget)
    job = Job(
        model=spec.model,
        precision=precision(spec),
        settings=spec.train,
        ranks=plan.world,
        batch=batch,
        probe=probe,
        temperature=spec.rollout.config.temperature,
        accumulate=_update_tokens(plan, lengths) > batch.budget,
    )
    return job.on(device, config)


def _engine(plan: Plan, config: Any, weights: int, lengths: Lengths, device: Device) -> Engine:
    spec, width = plan.spec, WIDTH[precision(plan.spec).rollout]
    if spec.rollout.type == "transformers":
        rows = plan.sequences_per_step // plan.world
        tokens = lengths.total, lengths.response
        return engines.transformers(spec.rollout.config, config, weights, width, tokens, rows)
    return engines.vllm(spec.rollout.config, config, weights, width, device)


def _phases(
    plan: Plan, passes: Measured, job: Job, engine: Engine, device: Device
) -> tuple[Phase, ...]:
    """Every phase of a step, in order."""
    trained, gradients = _held(passes), passes["optimizer", "all"][GRADIENTS]
    beside: Parts = {}  # what the policy's passes have beside them
    awake = {"engine weights": engine.weights, "KV cache": engine.cache}
    awake["engine's work"] = engine.working
    asleep = awake if engine.asleep is None else {"engine asleep": engine.asleep}
    found: list[tuple[str, list[Parts]]] = []
    values: Measured = {}
    if plan.spec.critic is not None:
        values = measure(job.of_critic(plan.spec.critic.path))
        beside["critic"] = sum(_held(values).values())
    if plan.spec.reference is not None:
        frozen = measure(job.of_reference(plan.spec.reference.path))
        replayed = highest(frozen, ["replay"])
        shards = replayed.pop(WEIGHTS)
        if not device.cuda:  # on a GPU they wait in main memory
            beside["reference"] = shards
        found.append(("reference", [trained, replayed, beside, asleep]))
    start = {WEIGHTS: trained[WEIGHTS]}
    if values:
        start["critic"] = values["optimizer", "all"][WEIGHTS]
    sync = {"engine weights": engine.weights, "engine asleep": engine.asleep or 0}
    sync[GATHERED] = engine.reload
    sync = awake if engine.asleep is None else sync
    gathered = _renamed(passes["sync", "all"])
    phases = [
        ("start", [start, awake]),
        ("rollout", [trained, beside, awake]),
        ("replay", [highest(passes, ["replay"]), beside, asleep]),
        *found,
        ("train", [highest(passes, ["train"]), beside, asleep]),
    ]
    if values:
        learning = highest(values, ["train"])
        critic = {"critic": learning.pop(WEIGHTS) + learning.pop(OPTIMIZER)}
        rest = {part: size for part, size in beside.items() if part != "critic"}
        phases.append(("critic", [trained, {GRADIENTS: gradients}, learning, critic, rest, asleep]))
    phases += [
        ("optimizer", [dict(passes["optimizer", "all"]), beside, asleep]),
        ("sync", [gathered, beside, sync]),
        ("proof", [highest(passes, ["probe"]), beside, awake]),
    ]
    return tuple(Phase(name, _with_allowance(_sum(parts), plan, device)) for name, parts in phases)


def _held(passes: Measured) -> Parts:
    """What a trained model holds between its passes."""
    return {part: passes["optimizer", "all"][part] for part in (WEIGHTS, OPTIMIZER)}


def _renamed(parts: Parts) -> Parts:
    """A sync's temporary tensors are gathered weights, whatever the tracker takes them for."""
    held = {part: parts[part] for part in (WEIGHTS, OPTIMIZER)}
    return {**held, GATHERED: sum(parts.values()) - sum(held.values())}


def _sum(parts: list[Parts]) -> Parts:
    total: Parts = {}
    for some in parts:
        for part, size in some.items():
            total[part] = total.get(part, 0) + size
    return total


ENGINE_PARTS = ("engine weights", "KV cache", "engine's work", "engine asleep")


def _with_allowance(parts: Parts, plan: Plan, device: Device) -> Parts:
    trainer = sum(size for part, size in parts.items() if part not in ENGINE_PARTS)
    if not device.cuda:
        process = PROCESS.get(plan.spec.rollout.type, PROCESS["transformers"])
        return {**parts, "allowance": process + int(HEAP * trainer)}
    communicator = COMMUNICATOR if plan.world > 1 else 0
    return {**parts, "allowance": CONTEXT + communicator + int(FRAGMENTS * trainer)}

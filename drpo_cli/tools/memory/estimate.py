"""The phases of a step, and the memory that each needs: the trainer's passes and the engine."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from drpo_cli.devices import idle_options, resolve, saves_asynchronously
from drpo_cli.plan import Plan
from drpo_cli.rollout.engine.capacity import GIB, WIDTH, cache_bytes
from drpo_cli.spec.lengths import longest_sampled
from drpo_cli.spec.rules_lora import syncs_of
from drpo_cli.spec.rules_parallel import tensor_parallel
from drpo_cli.step.build import context_length, precision
from drpo_cli.tools.memory.engine import Device, Engine, estimate_transformers, estimate_vllm
from drpo_cli.tools.memory.inputs import Batch, Lengths, find_rows, load_config
from drpo_cli.tools.memory.passes import (
    Job,
    Measured,
    count_adapters,
    count_parameters,
    highest,
    largest_weight,
    measure,
    replayed_models,
)
from drpo_cli.tools.memory.tracker import GATHERED, GRADIENTS, OPTIMIZER, WEIGHTS, Parts
from drpo_cli.tools.memory.traffic import Layout, Transfer, Work, estimate_transfer

ASSUMED_PROMPT = 1024
"""Tokens of a prompt, where neither the spec nor its sources limit them."""
PROBE, PROBE_TOKENS = 8, 32
"""Sequences of the replay that proves a sync, and the new tokens of each."""
# Allowances: memory that is in no tensor. On a GPU this project has measured none of them.
# A process that uses CUDA: 781 MiB in github.com/pytorch/pytorch/issues/34323.
CONTEXT = int(0.8 * GIB)
# NCCL between several GPUs: 1.6 GB in github.com/NVIDIA/nccl/issues/864.
COMMUNICATOR = int(1.6 * GIB)
# Free blocks of the caching allocator that are too small to use, as a part of what is allocated.
FRAGMENTS = 0.05
# On a CPU, measured (docs/plan.md): a process that has imported what a run needs, without tensors;
# and what the C library's allocator keeps beyond the tensors, with the settings of a run.
PROCESS = {"vllm": int(0.75 * GIB), "transformers": int(0.5 * GIB)}
HEAP = 0.35
# Copies of its rows of a weight that a rank holds at most while it reads them, in float32: experts
# are read one by one, then stacked. The ranks of a node hold the rows of one weight between them.
LOADED = 2
ENGINE_PARTS = ("engine weights", "KV cache", "engine's work", "engine asleep")


@dataclass(frozen=True)
class Phase:
    """A part of a step, and the bytes at its peak by their purpose."""

    name: str
    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Estimate:
    """What a plan needs on each device.

    sequence        bytes of KV cache of a sequence of full length
    longest         bytes of KV cache of the longest sequence that the engine takes
    at_once         sequences of full length that the cache holds, and sequences of half of it
    loading         main memory of a node while its processes read the weights of the model beside
                    their shards, bytes; files that the system caches are not counted
    offloaded       main memory of a node for what is offloaded between updates, bytes
    frozen          main memory of a node for the weights of reference and teacher, bytes; 0 where
                    the devices hold them
    copied          bytes of a node's copies of weights and moments, from which checkpoints are
                    written; 0 where the run waits for them
    work, layout    what a step does, and where ranks and shards are
    microbatches    passes per update, each of a largest micro-batch
    notes           what is assumed, and what the code cannot do
    """

    plan: Plan
    device: Device
    nodes: int
    phases: tuple[Phase, ...]
    engine: Engine
    lengths: Lengths
    sequence: int
    longest: int
    at_once: tuple[int, int]
    parameters: int
    transfer: Transfer
    loading: int
    offloaded: int
    frozen: int
    copied: int
    work: Work
    layout: Layout
    batch_tokens: int
    microbatches: int
    notes: tuple[str, ...]

    @property
    def tightest(self) -> Phase:
        """The phase that needs the most."""
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def free(self) -> int:
        """Bytes that the tightest phase leaves; negative when it does not fit."""
        return self.device.bytes - self.tightest.total

    @property
    def fits(self) -> bool:
        """Whether every phase fits, and the cache holds a sequence of full length."""
        return self.free >= 0 and self.at_once[0] > 0


def estimate(plan: Plan, device: Device, nodes: int) -> Estimate:
    """Estimates a plan. Raises UserError where the configuration of a model does not load."""
    spec = plan.spec
    config = load_config(spec.model, "model.path")
    rows = find_rows(spec.train.layout, config, spec.model.trust_remote_code)
    plan = replace(plan, rows=rows)
    lengths = _lengths(plan)
    policy = _policy_job(plan, lengths, device)
    passes, count = measure(policy), count_parameters(spec.model)
    adapters = count_adapters(spec.model, spec.lora)
    syncs = syncs_of(spec.lora, spec.rollout.config) if spec.lora else {}
    pushed = adapters if syncs.get("cuda") == "adapter" else count
    width = WIDTH[precision(spec).rollout]
    held = count + pushed if pushed == adapters else count
    engine = _engine(plan, config, held * width, lengths, device)
    ranks = tensor_parallel(spec)
    sequence = cache_bytes(config, width, lengths.total, ranks)
    longest = cache_bytes(config, width, context_length(plan), ranks)
    phases = _phases(plan, passes, policy, engine, device)
    at_once = [
        engine.cache // cache_bytes(config, width, max(1, tokens), ranks)
        for tokens in (lengths.total, lengths.total // 2)
    ]
    if spec.rollout.type == "vllm" and engine.cache < longest:
        at_once = [0, 0]  # vLLM starts only if its longest sequence fits
    microbatches = math.ceil(_update_tokens(plan, lengths) / policy.batch.tokens)
    return Estimate(
        plan=plan,
        device=device,
        nodes=nodes,
        phases=phases,
        engine=engine,
        lengths=lengths,
        sequence=sequence,
        longest=longest,
        at_once=(at_once[0], at_once[1]),
        parameters=count,
        transfer=estimate_transfer(pushed * width, plan.world, nodes, plan.replicate),
        copied=_copied(plan, passes, policy, device) * (plan.world // nodes),
        loading=LOADED
        * largest_weight(spec.model)
        * WIDTH["float32" if spec.lora is None else spec.model.dtype]
        * (plan.world // nodes)
        // plan.shard,
        offloaded=_offloaded(phases) * (plan.world // nodes),
        frozen=device.cuda
        * sum(parts[WEIGHTS] for _, parts in replayed_models(spec, policy))
        * (plan.world // nodes),
        work=_work(plan, lengths, (count, adapters, pushed), microbatches),
        layout=Layout(plan.world, plan.shard, nodes),
        batch_tokens=policy.batch.tokens,
        microbatches=microbatches,
        notes=(
            *idle_options(spec.train, device.kind),
            *_notes(lengths),
            *_on_adapters(plan, count, adapters),
        ),
    )


def _notes(lengths: Lengths) -> list[str]:
    notes = []
    if not lengths.known:
        notes.append(
            f"assumes prompts of {lengths.prompt:,} tokens: set rollout.context_length, or "
            f"max_prompt_tokens of every source, to use their real length"
        )
    return notes


def _on_adapters(plan: Plan, weights: int, adapters: int) -> Iterator[str]:
    if adapters:
        yield (
            f"trains {adapters / 1e6:,.1f} M weights of adapters, {adapters / weights:.2%} of the "
            f"model's, which stay frozen in {plan.spec.model.dtype}"
        )


def _lengths(plan: Plan) -> Lengths:
    """The longest prompt and response: by context_length, or by the limits of the sources.

    Of an episode, the response is all that the policy can sample in it; what it observes beside
    that is not counted where there is no context_length.
    """
    rollout = plan.spec.rollout.config
    response = min(longest_sampled(plan.spec), max(1, context_length(plan) - 1))
    if rollout.context_length is not None:
        return Lengths(max(1, rollout.context_length - response), response)
    room = max(1, context_length(plan) - response)
    bounds = [source.config.max_prompt_tokens for source in plan.spec.data]
    known = [bound for bound in bounds if bound is not None]
    if bounds and len(known) == len(bounds):
        return Lengths(min(room, max(known)), response)
    return Lengths(min(room, ASSUMED_PROMPT), response, known=room <= ASSUMED_PROMPT)


def _group(plan: Plan) -> int:
    """Samples per prompt in one update."""
    samples = plan.spec.rollout.config.samples_per_prompt
    if plan.rows.padded:
        return 1  # samples share nothing
    if plan.spec.train.minibatches == "groups":
        return min(samples, plan.sequences_per_update_per_rank)
    return max(1, samples // plan.spec.train.updates_per_rollout)


def _update_tokens(plan: Plan, lengths: Lengths) -> int:
    """Tokens of an update on one device, if every sequence has full length."""
    sequences = plan.sequences_per_update_per_rank
    prompts = math.ceil(sequences / _group(plan))
    return prompts * lengths.prompt + sequences * (lengths.response - 1)


def _work(plan: Plan, lengths: Lengths, counts: tuple[int, int, int], microbatches: int) -> Work:
    """What a step does; `counts` are of a model's weights, of its adapters', of what is pushed."""
    weights, adapters, pushed = counts
    train, kinds = plan.spec.train, precision(plan.spec)
    passes = train.updates_per_rollout * microbatches
    return Work(
        weights=weights + adapters,
        trained=adapters or weights,
        pushed=pushed,
        width=WIDTH[kinds.train],
        engine=WIDTH[kinds.rollout],
        passes=passes,
        replays=1 + (passes if train.anchor == "trainer" else 0),  # 1 checks the last sync
        updates=train.updates_per_rollout,
        reductions=passes
        if train.reduce_gradients == "per_microbatch"
        else train.updates_per_rollout,
        tokens=train.updates_per_rollout * _update_tokens(plan, lengths),
    )


def _policy_job(plan: Plan, lengths: Lengths, device: Device) -> Job:
    spec = plan.spec
    sequences = plan.sequences_per_update_per_rank
    batch = Batch(
        lengths, _group(plan), sequences, spec.train.tokens_per_microbatch, plan.rows.padded
    )
    probe = Batch(Lengths(lengths.prompt, PROBE_TOKENS), 1, PROBE, batch.budget)
    return Job(
        model=spec.model,
        precision=precision(spec),
        settings=resolve(spec.train, device.kind, spec.model.dtype),
        ranks=plan.world,
        batch=batch,
        probe=probe,
        temperature=spec.rollout.config.temperature,
        accumulate=_update_tokens(plan, lengths) > batch.budget,
        device=device.kind,
        copies=plan.replicate,
        lora=spec.lora,
    )


def _engine(plan: Plan, config: Any, weights: int, lengths: Lengths, device: Device) -> Engine:
    spec, width = plan.spec, WIDTH[precision(plan.spec).rollout]
    if spec.rollout.type == "transformers":
        rows = plan.sequences_per_step // plan.world
        options = spec.rollout.config
        return estimate_transformers(options, config, weights, width, lengths.total, rows, device)
    return estimate_vllm(
        spec.rollout.config, config, weights // tensor_parallel(spec), width, device
    )


def _phases(
    plan: Plan, passes: Measured, job: Job, engine: Engine, device: Device
) -> tuple[Phase, ...]:
    """Every phase of a step, in order."""
    trained = _weights_and_moments(passes)
    offloads = job.settings.offload == "optimizer"
    awake = {
        "engine weights": engine.weights,
        "KV cache": engine.cache,
        "engine's work": engine.working,
    }
    asleep, syncing = awake, awake
    if engine.asleep is not None:
        asleep = {"engine asleep": engine.asleep}
        syncing = {"engine weights": engine.weights, **asleep, GATHERED: engine.reload}
    start: Parts = {WEIGHTS: trained[WEIGHTS]}
    critic: Parts = {}  # what the critic holds while there are updates
    resting: Parts = {}  # and otherwise
    frozen: Parts = {}  # what the reference, and the copy for a checkpoint, hold during the others
    if not device.cuda and (copied := _copied(plan, passes, job, device)):
        frozen["checkpoint"] = copied
    replays: list[tuple[str, Parts]] = []  # of other models, where the spec has them
    learn = []  # of the critic
    for name, replayed in replayed_models(plan.spec, job):
        shards = replayed.pop(WEIGHTS)
        if not device.cuda:  # on a GPU the shards stay in main memory
            frozen[name] = shards
        replays.append((name, replayed))
    if plan.spec.critic is not None:
        values = measure(job.of_critic(plan.spec.critic.path))
        critic = {"critic": sum(_weights_and_moments(values).values())}
        start["critic"] = values["optimizer", "all"][WEIGHTS]
        resting = {"critic": start["critic"]} if offloads else critic
        trains = highest(values, ["train"])
        own = {"critic": trains.pop(WEIGHTS) + trains.pop(OPTIMIZER)}
        gradients = {GRADIENTS: passes["optimizer", "all"][GRADIENTS]}
        learn = [_add(trains, own, gradients)]

    def outside(parts: Parts) -> Parts:
        """The parts that are there although no update needs the moments."""
        return {part: n for part, n in parts.items() if part != OPTIMIZER or not offloads}

    phases = [
        ("start", [start, awake]),
        ("rollout", [outside(trained), resting, frozen, awake]),
        ("replay", [outside(highest(passes, ["replay"])), resting, frozen, asleep]),
        *((name, [outside(trained), one, resting, frozen, asleep]) for name, one in replays),
        ("train", [highest(passes, ["train"]), critic, frozen, asleep]),
        *(("critic", [trained, one, frozen, asleep]) for one in learn),
        ("optimizer", [passes["optimizer", "all"], critic, frozen, asleep]),
        ("sync", [outside(_as_gathered(passes["sync", "all"])), resting, frozen, syncing]),
        ("proof", [outside(highest(passes, ["probe"])), resting, frozen, awake]),
    ]
    return tuple(Phase(name, _with_allowance(_add(*parts), plan, device)) for name, parts in phases)


def _offloaded(phases: Sequence[Phase]) -> int:
    """Bytes of each device that are in main memory while there are no updates."""
    parts = {phase.name: phase.parts for phase in phases}
    working, resting = parts["optimizer"], parts["rollout"]
    return sum(working.get(part, 0) - resting.get(part, 0) for part in (OPTIMIZER, "critic"))


def _copied(plan: Plan, passes: Measured, job: Job, device: Device) -> int:
    """Bytes of a rank's copy of weights and moments; 0 if no checkpoint is written from one."""
    if not saves_asynchronously(plan.spec.checkpoint, "cuda" if device.cuda else "cpu"):
        return 0
    trained = [_weights_and_moments(passes)]
    if plan.spec.lora is not None:  # whose base is not copied
        moments = trained[0][OPTIMIZER]
        trained = [{WEIGHTS: moments // 2, OPTIMIZER: moments}]
    if plan.spec.critic is not None:
        trained.append(_weights_and_moments(measure(job.of_critic(plan.spec.critic.path))))
    return sum(sum(each.values()) for each in trained)


def _weights_and_moments(passes: Measured) -> Parts:
    """What a trained model holds between passes."""
    return {part: passes["optimizer", "all"][part] for part in (WEIGHTS, OPTIMIZER)}


def _as_gathered(parts: Parts) -> Parts:
    """Counts the temporary tensors of a sync as gathered weights, which they are."""
    held = {part: parts[part] for part in (WEIGHTS, OPTIMIZER)}
    return {**held, GATHERED: sum(parts.values()) - sum(held.values())}


def _add(*parts: Parts) -> Parts:
    total: Parts = {}
    for some in parts:
        for part, size in some.items():
            total[part] = total.get(part, 0) + size
    return total


def _with_allowance(parts: Parts, plan: Plan, device: Device) -> Parts:
    trainer = sum(size for part, size in parts.items() if part not in ENGINE_PARTS)
    if not device.cuda:
        process = PROCESS.get(plan.spec.rollout.type, PROCESS["transformers"])
        return {**parts, "allowance": process + int(HEAP * trainer)}
    communicator = COMMUNICATOR if plan.world > 1 else 0
    return {**parts, "allowance": CONTEXT + communicator + int(FRAGMENTS * trainer)}

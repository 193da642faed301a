"""Peak memory of the trainer's own passes, measured on fake tensors that compute nothing.

Model, packing, sharding, log-probs, optimizer and the gathering of a sync are the code that trains.
The process group is torch's fake one, whose collectives return the right shapes and move no data.
Only the loop around them is a copy, because the trainer's loop reads numbers (a loss, a norm) that
fake tensors do not have.

Decoder layers are alike, so a model is measured with three and with four of them: each further
layer adds the same to each stretch of a pass. A model whose layers differ is measured whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import masking_utils

from drpo_cli.dist import World
from drpo_cli.rollout.engine.precision import Precision
from drpo_cli.settings import LoraSettings, ModelSettings, TrainSettings
from drpo_cli.spec import Spec
from drpo_cli.spec.rules_lora import shares_base
from drpo_cli.step.sync import trainer_weights
from drpo_cli.tools.memory.inputs import Batch, find_rows, load_config, make_model
from drpo_cli.tools.memory.tracker import Parts, Peaks, mark_layers
from drpo_cli.tools.memory.workspace import Workspace
from drpo_cli.trainer import optim
from drpo_cli.trainer.attention import name_for
from drpo_cli.trainer.decoder import find_decoder, find_layers
from drpo_cli.trainer.loading import (
    DTYPES,
    _recompute_activations,
    reshard,
    shard,
    sync_gradients,
)
from drpo_cli.trainer.logprobs import cut
from drpo_cli.trainer.lora import inject
from drpo_cli.trainer.model import Policy, ValueModel

Measured = dict[tuple[str, str], Parts]
"""The parts at the peak of each stretch, by (work, stretch)."""
FEW = (3, 4)
"""Layers to measure: the difference is what one more layer adds."""
BLOCKS = 3
"""Blocks of log-probs to measure: they are alike, and the first ones show what each leaves."""


@dataclass(frozen=True)
class Job:
    """A model, and what is done with it.

    batch, probe  the micro-batch to train on, and the one that proves a sync
    critic        a value model on the decoder, in place of the policy
    train         whether it is trained, or only replayed
    accumulate    whether an update has several micro-batches
    device        the kind of device that it is planned for, by its name in torch
    copies        copies of the weights, over which the ranks are spread
    lora          the adapters that are trained in place of the weights, if any
    """

    model: ModelSettings
    precision: Precision
    settings: TrainSettings
    ranks: int
    batch: Batch
    probe: Batch
    temperature: float = 1.0
    critic: bool = False
    train: bool = True
    accumulate: bool = False
    device: str = "cpu"
    copies: int = 1
    lora: LoraSettings | None = None

    def of_critic(self, path: str | None) -> Job:
        """The same work for a value model on the decoder in `path`, or on the policy's."""
        return replace(self, critic=True, model=self._at(path), lora=None)

    def of_reference(self, path: str | None) -> Job:
        """The replay of a frozen policy, in `path` or the policy's own."""
        return replace(self, train=False, model=self._at(path), lora=None)

    def _at(self, path: str | None) -> ModelSettings:
        return self.model.model_copy(update={"path": path or self.model.path})


@lru_cache
def count_parameters(model: ModelSettings) -> int:
    """The number of weights of a model; tied ones count once."""
    with FakeTensorMode():
        lm = make_model(load_config(model, "model.path"), model.trust_remote_code)
        return sum(weight.numel() for weight in lm.parameters())


@lru_cache
def count_adapters(model: ModelSettings, lora: LoraSettings | None) -> int:
    """The number of weights in a model's adapters."""
    if lora is None:
        return 0
    with FakeTensorMode():
        lm = make_model(load_config(model, "model.path"), model.trust_remote_code)
        inject(lm, lora, None, "lora.target_modules")
        return sum(weight.numel() for weight in lm.parameters() if weight.requires_grad)


@lru_cache
def largest_weight(model: ModelSettings) -> int:
    """The numbers in the largest weight of a model."""
    with FakeTensorMode():
        lm = make_model(load_config(model, "model.path"), model.trust_remote_code)
        return max(int(weight.numel()) for weight in lm.parameters())


@lru_cache
def measure(job: Job) -> Measured:
    """Measures the job: the parts at the peak of every stretch of its work."""
    config = load_config(job.model, "model.path")
    padded = find_rows(job.settings.layout, config, job.model.trust_remote_code).padded
    job = replace(
        job, batch=replace(job.batch, padded=padded), probe=replace(job.probe, padded=padded)
    )
    with _fake_world(job.ranks, job.copies) as world:
        whole = _count_layers(config, job.model.trust_remote_code)
        if whole is None or whole <= FEW[1]:
            return _measure(job, config, world, None)
        fewer, more = (_measure(job, config, world, layers) for layers in FEW)
        return {key: _extrapolate(fewer[key], more[key], whole - FEW[1]) for key in more}


def _extrapolate(fewer: Parts, more: Parts, times: int) -> Parts:
    return {part: more[part] + (more[part] - fewer[part]) * times for part in more}


def _count_layers(config: Any, code: bool) -> int | None:
    """The number of decoder layers; None when they are not alike."""
    with FakeTensorMode():
        layers = find_layers(find_decoder(make_model(config, code)))
        shapes = [[(n, w.shape) for n, w in layer.named_parameters()] for layer in layers]
    return len(shapes) if all(shape == shapes[0] for shape in shapes) else None


def in_rows() -> Any:
    """Tells transformers that no row of a padded batch is packed, as it sees in real numbers.

    It cannot look into fake tensors, and would make a mask for what it cannot exclude.
    """
    return patch.object(masking_utils, "find_packed_sequence_indices", return_value=None)


@contextmanager
def _fake_world(ranks: int, copies: int) -> Iterator[World]:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        world = World(0, ranks, torch.device("cpu"), init_device_mesh("cpu", (ranks,)))
        yield world.in_shards(ranks // copies)
    finally:
        dist.destroy_process_group()


def _measure(job: Job, config: Any, world: World, layers: int | None) -> Measured:
    batch, probe = job.batch, job.probe
    assert batch.packed and probe.packed  # packed here: in the fake mode the tensors would be fake
    with ExitStack() as stack:
        mode = stack.enter_context(FakeTensorMode())
        model = _model(job, config, world, layers)
        optimizer = _optimizer(model, job.settings) if job.train else None
        peaks = Peaks(model, optimizer)
        mark_layers(model.layers, peaks)
        with peaks, Workspace(), in_rows():
            _replay(model, peaks, probe.make_fake(mode), "probe")
            _replay(model, peaks, batch.make_fake(mode), "replay")
            if optimizer is not None:
                _update(job, model, optimizer, peaks, batch.make_fake(mode))
            if not job.critic and job.train:
                peaks.begin("sync")
                for _ in trainer_weights(model, job.precision, world):
                    pass
                peaks.mark("all")
        return peaks.peaks


def _model(job: Job, config: Any, world: World, layers: int | None) -> Any:
    packed = None if job.batch.padded else name_for(str(job.settings.attention), job.device)
    dtype = DTYPES[job.precision.train]
    kept = torch.float32 if job.lora is None else dtype
    lm = make_model(config, job.model.trust_remote_code, layers, packed, kept)
    adapters = None if job.lora is None else inject(lm, job.lora, None, "lora.target_modules")
    if not job.train:
        lm.requires_grad_(False)
    else:
        _recompute_activations(lm, job.settings.checkpointing, _apart)
    if job.critic:
        return shard(ValueModel(lm), dtype, world)
    settings = job.settings
    policy = Policy(lm, job.temperature, settings.logits_in_a_block, adapters, settings.head_dtype)
    policy.head.slices, policy.head.device = _few_slices, job.device
    return shard(policy, dtype, world)


def _apart() -> saved_tensors_hooks:
    """Moves tensors to where the tracker does not count them: fake tensors are all on the CPU."""
    return saved_tensors_hooks(
        lambda tensor: tensor.to("meta"), lambda tensor: torch.empty_like(tensor, device="cpu")
    )


def _optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """The optimizer with its moments, which the first step creates."""
    optimizer = optim.adamw(model, settings, settings.learning_rate)
    for weight in optimizer.param_groups[0]["params"]:
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return optimizer


@torch.no_grad()
def _replay(model: Any, peaks: Peaks, batch: Any, work: str) -> None:
    """Replays one micro-batch as the trainer does."""
    peaks.begin(work)
    model(batch)
    peaks.mark("head")
    reshard(model)


def _update(job: Job, model: Any, optimizer: torch.optim.AdamW, peaks: Peaks, batch: Any) -> None:
    """Trains on one micro-batch as the trainer does, or on two, which stand for any number."""
    for last in (False, True) if job.accumulate else (True,):
        sync_gradients(model, job.settings, last)
        peaks.begin("train" if last else "train, an earlier micro-batch")
        found = model(batch)
        value_T = found[0] if isinstance(found, tuple) else found
        if isinstance(found, tuple) and job.settings.entropy_bonus:
            value_T = value_T - job.settings.entropy_bonus * found[1]
        ((value_T * batch.scale_T).sum() * job.ranks).backward()
        del found, value_T
        peaks.mark("embedding backward")
    # The copy neither clips nor steps: the one scales in place and the other is fused, so they
    # allocate no tensor of a weight's size, but DTensor's own bookkeeping would be counted.
    peaks.begin("optimizer")
    peaks.mark("all")
    optimizer.zero_grad(set_to_none=True)


def _few_slices(total: int, size: int) -> list[slice]:
    """The first slices and the last one, in place of `logprobs.cut`."""
    slices = cut(total, size)
    return slices if len(slices) <= BLOCKS else [*slices[:BLOCKS], slices[-1]]


def replayed_models(spec: Spec, job: Job) -> Iterator[tuple[str, Parts]]:
    """The frozen models that a step replays, by section, each with the parts of its replay.

    A teacher behind an endpoint is not among them.
    """
    reference = None if shares_base(spec) else spec.reference
    teacher = None if spec.teacher is None or spec.teacher.url else spec.teacher
    for name, section in (("reference", reference), ("teacher", teacher)):
        if section is not None:
            yield name, highest(measure(job.of_reference(section.path)), ["replay"])


def highest(measured: Measured, works: Sequence[str]) -> Parts:
    """The parts at the highest peak of all work whose name begins with one of `works`."""
    found = [parts for (work, _), parts in measured.items() if work.startswith(tuple(works))]
    most = max(found, key=lambda parts: sum(parts.values()))
    return dict(most)

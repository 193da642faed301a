"""The trainer's own passes on fake tensors: what each takes at its peak, without computing it.

Model, packing, sharding, log-probs, gradient clipping, optimizer and the sync's gathering are the
code that trains; the process group is torch's fake one, whose collectives have the right shapes and
move nothing. Only the loop around them is written here again, since the trainer's own reads numbers
(a loss, a norm) that fake tensors do not have.

Decoder layers are alike, so a model is measured with three and with four of them; what each stretch
of a pass takes grows by the same amount with every further one. A model whose layers differ in
their weights is measured whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing._internal.distributed.fake_pg import FakeStore

from drpo_cli.dist import World
from drpo_cli.experience import Experience
from drpo_cli.rollout.engine.precision import Precision
from drpo_cli.settings import ModelSettings, TrainSettings
from drpo_cli.step.sync import trainer_weights
from drpo_cli.tools.memory.batch import Lengths, fullest, imitated, packed
from drpo_cli.tools.memory.device import Device
from drpo_cli.tools.memory.model import causal_lm, config_of
from drpo_cli.tools.memory.tracker import Parts, Peaks, follow
from drpo_cli.trainer import logprobs, optim
from drpo_cli.trainer.model import (
    DTYPES,
    Policy,
    ValueModel,
    _recompute_activations,
    reshard,
    shard,
    sync_gradients,
)
from drpo_cli.trainer.pack import Packed

Measured = dict[tuple[str, str], Parts]
FEW = (3, 4)  # layers that show what a further one takes
FUSED_HEAD = 128  # numbers of a head that cuDNN's attention takes with a mask, forward and backward
BLOCKS = 3  # of log-probs, all of which are alike: the first ones show what one more leaves behind


@dataclass(frozen=True)
class Batch:
    """The fullest micro-batch of sequences of these lengths: see `batch.fullest`."""

    lengths: Lengths
    group: int
    sequences: int
    budget: int

    @property
    def rows(self) -> Experience:
        """Its rows."""
        return fullest(self.lengths, self.group, self.sequences, self.budget)

    @property
    def tokens(self) -> int:
        """Tokens that go through the model."""
        return len(packed(self.rows).input_ids_I)

    @property
    def shares(self) -> bool:
        """Whether samples share a prompt, so that attention takes a mask."""
        return any(bucket.context for bucket in packed(self.rows).layout.buckets)


@dataclass(frozen=True)
class Job:
    """A model and what is done with it.

    critic      a value model on its decoder, in place of the policy
    train       whether it is trained, or only replayed
    accumulate  whether an update has several micro-batches
    all_scores  whether attention holds all scores, for want of a fused kernel
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
    all_scores: bool = False

    def on(self, device: Device, config: Any) -> Job:
        """The job with the attention that a device has for it."""
        text = config.get_text_config()
        queries = text.num_attention_heads
        shared_keys = (getattr(text, "num_key_value_heads", None) or queries) != queries
        size = getattr(text, "head_dim", None) or text.hidden_size // queries
        half = self.precision.train == "bfloat16"
        masked = self.batch.shares or getattr(text, "sliding_window", None) is not None
        fused = half and (not masked or (device.masked_groups and size <= FUSED_HEAD))
        return replace(self, all_scores=device.cuda and shared_keys and not fused)

    def of_critic(self, path: str | None) -> Job:
        """The same work of a value model on the decoder in `path`, or on the policy's."""
        return replace(self, critic=True, model=self._at(path))

    def of_reference(self, path: str | None) -> Job:
        """The replay of a frozen policy."""
        return replace(self, train=False, model=self._at(path))

    def _at(self, path: str | None) -> ModelSettings:
        return self.model.model_copy(update={"path": path or self.model.path})


@lru_cache
def parameters(model: ModelSettings) -> int:
    """How many weights a model has; tied ones count once."""
    with FakeTensorMode():
        lm = causal_lm(config_of(model, "model.path"))
        return sum(weight.numel() for weight in lm.parameters())


@lru_cache
def measure(job: Job) -> Measured:
    """The parts at the peak of every stretch of the job's work, by (work, stretch)."""
    config = config_of(job.model, "model.path")
    with _fake_world(job.ranks) as world:
        whole = _layers(config)
        if whole is None or whole <= FEW[1]:
            return _measured(job, config, world, None)
        fewer, more = (_measured(job, config, world, layers) for layers in FEW)
        return {key: _grown(fewer[key], more[key], whole - FEW[1]) for key in more}


def _grown(fewer: Parts, more: Parts, times: int) -> Parts:
    return {part: more[part] + (more[part] - fewer[part]) * times for part in more}


def _layers(config: Any) -> int | None:
    """How many decoder layers there are; None when they are not alike."""
    with FakeTensorMode():
        layers = causal_lm(config).get_decoder().layers
        shapes = [[(n, w.shape) for n, w in layer.named_parameters()] for layer in layers]
    return len(shapes) if all(shape == shapes[0] for shape in shapes) else None


@contextmanager
def _fake_world(ranks: int) -> Iterator[World]:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        yield World(0, ranks, torch.device("cpu"), init_device_mesh("cpu", (ranks,)))
    finally:
        dist.destroy_process_group()


def _measured(job: Job, config: Any, world: World, layers: int | None) -> Measured:
    batch, probe = packed(job.batch.rows), packed(job.probe.rows)
    with ExitStack() as stack:
        mode = stack.enter_context(FakeTensorMode())
        stack.enter_context(mock.patch.object(logprobs, "_slices", _few_slices))
        if job.all_scores:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        model = _model(job, config, world, layers)
        optimizer = _optimizer(model, job.settings) if job.train else None
        peaks = Peaks(model, optimizer)
        follow(model.layers, peaks)
        with peaks:
            _replay(model, peaks, imitated(probe, mode), "probe")
            _replay(model, peaks, imitated(batch, mode), "replay")
            if optimizer is not None:
                _update(job, model, optimizer, peaks, imitated(batch, mode))
            if not job.critic and job.train:
                peaks.begin("sync")
                for _ in trainer_weights(model, job.precision, world):
                    pass
                peaks.mark("all")
        return peaks.peaks


def _model(job: Job, config: Any, world: World, layers: int | None) -> Any:
    lm = causal_lm(config, layers)
    if not job.train:
        lm.requires_grad_(False)
    elif job.settings.gradient_checkpointing:
        _recompute_activations(lm)
    dtype = DTYPES[job.precision.train]
    if job.critic:
        return shard(ValueModel(lm), dtype, world)
    return shard(Policy(lm, job.temperature, job.settings.logits_in_a_block), dtype, world)


def _optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """The optimizer with its moments, which its first step makes."""
    optimizer = optim.adamw(model, settings, settings.learning_rate)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return optimizer


@torch.no_grad()
def _replay(model: Any, peaks: Peaks, batch: Packed, work: str) -> None:
    """As `trainer.batches.replay`, of one micro-batch."""
    peaks.begin(work)
    model(batch)
    peaks.mark("head")
    reshard(model)


def _update(
    job: Job, model: Any, optimizer: torch.optim.AdamW, peaks: Peaks, batch: Packed
) -> None:
    """As `Trainer._descend`, of one micro-batch or of two, which stand for more."""
    for last in (False, True) if job.accumulate else (True,):
        sync_gradients(model, last)
        peaks.begin("train" if last else "train, an earlier micro-batch")
        found = model(batch)
        value_T = found[0] if isinstance(found, tuple) else found
        if isinstance(found, tuple) and job.settings.entropy_bonus:
            value_T = value_T - job.settings.entropy_bonus * found[1]
        ((value_T * batch.scale_T).sum() * job.ranks).backward()
        del found, value_T
        peaks.mark("embedding backward")
    # clipping scales in place and AdamW is fused: neither makes a tensor of a weight's size (on
    # fake tensors DTensor's own bookkeeping would be counted)
    peaks.begin("optimizer")
    peaks.mark("all")
    optimizer.zero_grad(set_to_none=True)


def _few_slices(total: int, size: int) -> list[slice]:
    slices = [slice(at, min(at + size, total)) for at in range(0, total, size)]
    return slices if len(slices) <= BLOCKS else [*slices[:BLOCKS], slices[-1]]


def highest(measured: Measured, works: Sequence[str]) -> Parts:
    """The parts at the highest peak of some pieces of work."""
    found = [parts for (work, _), parts in measured.items() if work.startswith(tuple(works))]
    most = max(found, key=lambda parts: sum(parts.values()))
    return dict(most)

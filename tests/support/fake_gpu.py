"""A GPU that computes nothing, for the trainer's real step: what it would launch, move and hold.

Tensors on the device are fake: they have shapes and a device, and no values. Tensors in main memory
are real. So the trainer's code runs as it is, with numbers wherever it asks the device for one (1,
always), and an operation that mixes devices is an error, as on a real GPU. Ranks are those of
torch's fake process group.

torch without CUDA refuses a backward pass over tensors that say in C++ that they are on a GPU, so
they say it in Python only.
"""

from __future__ import annotations

import importlib
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from drpo_cli.dist import World
from support.kernels import FREE

DEVICE = torch.device("cuda", 0)
aten = torch.ops.aten
FSDP = "torch.distributed.fsdp._fully_shard"


class Stream(torch.cpu.Stream):
    """A stream on which everything is done at once."""

    def record_event(self, event: Any = None) -> Any:
        """An event that has happened."""
        return torch.cpu.Event()

    def synchronize(self) -> None:
        """Waits for nothing."""


HANDLE = SimpleNamespace(
    Event=torch.cpu.Event,
    Stream=Stream,
    current_stream=lambda *_: Stream(),
    stream=torch.cpu.stream,
    current_device=lambda: 0,
)


@dataclass(frozen=True)
class OneOfMany(World):
    """A rank among others that have the same values and rows; it keeps its own rows."""

    def _reduce(self, values: Sequence[float], op: Any) -> list[float]:
        return list(values)

    def gather(self, values_T: Tensor) -> Tensor:
        """See `World.gather`."""
        return values_T.detach().cpu()

    def gather_objects(self, value: Any) -> list[Any]:
        """See `World.gather_objects`."""
        return [value] * self.size

    def exchange(self, values_R: Sequence[Any]) -> list[Any]:
        """See `World.exchange`."""
        return list(values_R)


class FakeGpu(TorchDispatchMode):
    """Counts what is done on the device.

    kernels      by operation; each launches at least one
    moved        bytes that they read and write, as if nothing stayed in a cache
    collectives  by operation
    reads        numbers that the host waited for
    peak         the most bytes that were allocated at a time
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._sizes: dict[int, int] = {}
        self.held = self.peak = 0
        self.begin()

    def begin(self) -> None:
        """Counts from now on."""
        self.kernels: Counter[str] = Counter()
        self.collectives: Counter[str] = Counter()
        self.moved = self.reads = 0
        self.peak = self.held

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        given = tree_leaves((args, kwargs))
        if any(isinstance(value, DTensor) for value in given):
            return NotImplemented  # it comes again with the shards
        fake = [value for value in given if isinstance(value, FakeTensor)]
        place = kwargs.get("device")
        place = None if place is None else torch.device(place).type
        if fake and func is aten._local_scalar_dense.default:
            self.reads += 1
            return 1.0
        if fake and func is aten._to_copy.default and place == "cpu":
            self.reads += 1
            with unset_fake_temporarily():
                return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if place == "meta":  # what C++ takes the device of a fake tensor for
            kwargs["device"] = DEVICE
        if not fake and place not in ("cuda", "meta"):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        found = func(*args, **kwargs)
        self._count(func, [x for x in tree_leaves((args, kwargs, found)) if isinstance(x, Tensor)])
        return found

    def _count(self, func: Any, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            if tensor.device == DEVICE:
                self._hold(tensor.untyped_storage())
        name = func.overloadpacket.__name__
        if func.namespace in ("c10d", "_c10d_functional"):
            self.collectives[name] += 1
        elif name not in FREE:
            self.kernels[name] += 1
            self.moved += sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = 0
            weakref.finalize(storage, self._resize, key, 0, last=True)
        self._resize(key, storage.nbytes())

    def _resize(self, key: int, size: int, last: bool = False) -> None:
        if key in self._sizes:
            self.held += size - self._sizes[key]
            self._sizes[key] = size
            self.peak = max(self.peak, self.held)
        if last:
            self._sizes.pop(key, None)


@contextmanager
def fake_gpu(ranks: int, copies: int = 1) -> Iterator[tuple[World, FakeGpu]]:
    """Rank 0 of a group of `ranks`, each with a fake GPU, where there is no other group.

    Together they hold the weights `copies` times.
    """
    gpu = FakeGpu()
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        with ExitStack() as stack:
            for patch in _patches(gpu):
                stack.enter_context(patch)
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            stack.enter_context(gpu)
            places, names = torch.arange(ranks), None
            if copies > 1:
                places, names = places.view(copies, -1), ("copy", "shard")
            mesh = DeviceMesh("cuda", places, mesh_dim_names=names)
            yield OneOfMany(0, ranks, DEVICE, mesh), gpu
    finally:
        dist.destroy_process_group()


def _patches(gpu: FakeGpu) -> Iterator[Any]:
    make = torch.Tensor._make_subclass
    resize = torch.UntypedStorage.resize_

    def in_python_only(cls: Any, data: Any, grad: bool = False, **options: Any) -> Any:
        if cls is FakeTensor:
            options["dispatch_device"] = False
        return make(cls, data, grad, **options)

    def noted(storage: torch.UntypedStorage, size: int) -> Any:
        gpu._resize(storage._cdata, size)
        return resize(storage, size)

    yield mock.patch.object(torch.Tensor, "_make_subclass", in_python_only)
    yield mock.patch.object(torch.UntypedStorage, "resize_", noted)
    own_device = property(lambda tensor: tensor._local_tensor.device)
    yield mock.patch.object(DTensor, "device", own_device, create=True)
    yield mock.patch.object(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    yield mock.patch.object(torch.cuda, "current_stream", HANDLE.current_stream)
    for part in ("_fsdp_collectives", "_fsdp_init", "_fsdp_param_group", "_fsdp_state"):
        module = importlib.import_module(f"{FSDP}.{part}")
        yield mock.patch.object(module, "_get_device_handle", lambda *_: HANDLE)
    yield mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", _fused)


def _fused(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The memory-efficient kernel: C++ would choose the one for its own idea of the device."""
    copies = q.shape[1] // k.shape[1]
    k, v = (part.repeat_interleave(copies, dim=1) for part in (k, v))
    if attn_mask is not None:
        attn_mask = torch.zeros_like(attn_mask, dtype=q.dtype).expand(*q.shape[:-1], k.shape[2])
    efficient = aten._scaled_dot_product_efficient_attention.default
    found: Tensor = efficient(q, k, v, attn_mask, True, dropout_p, is_causal, scale=scale)[0]
    return found

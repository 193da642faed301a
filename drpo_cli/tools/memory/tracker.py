"""Peak memory of each stretch of a pass, from FSDP2's own tracker.

`FSDPMemTracker` sees every tensor that is allocated and freed, fake ones too, and keeps the highest
total. Here a pass is cut into stretches with a peak each, because the peak of a stretch is linear
in the number of decoder layers, and the peak of the whole pass is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker, _FSDPRefType
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer

Parts = dict[str, int]
"""Bytes by their purpose."""

WEIGHTS, OPTIMIZER, GRADIENTS = "weights", "optimizer", "gradients"
GATHERED, ACTIVATIONS, LOGPROBS = "gathered", "activations", "log-probs"
PART_OF = {
    _FSDPRefType.SHARDED_PARAM: WEIGHTS,
    _FSDPRefType.BUFFER: WEIGHTS,
    _FSDPRefType.OPT: OPTIMIZER,
    _FSDPRefType.SHARDED_GRAD: GRADIENTS,
    _FSDPRefType.UNSHARDED_GRAD: GRADIENTS,
    _FSDPRefType.UNSHARDED_PARAM: GATHERED,
    _FSDPRefType.ALL_GATHER: GATHERED,
    _FSDPRefType.REDUCE_SCATTER: GATHERED,
    _FSDPRefType.ACT: ACTIVATIONS,
    _FSDPRefType.TEMP: ACTIVATIONS,
    _FSDPRefType.INP: ACTIVATIONS,
}


class Peaks(FSDPMemTracker):
    """Tracks a sharded model and its optimizer. `peaks`: the parts at each stretch's peak."""

    def __init__(self, model: nn.Module, optimizer: Optimizer | None):
        super().__init__(model, optimizer)
        self.peaks: dict[tuple[str, str], Parts] = {}
        self.work = ""
        self.backward = False
        self._before = 0  # bytes of activations when the stretch began

    def begin(self, work: str) -> None:
        """Starts a piece of work, such as a pass or an optimizer step."""
        self.reset_mod_stats()
        self.work, self.backward = work, False
        self._restart()

    def mark(self, *stretches: str) -> None:
        """Ends a stretch of the work, and records it under these names."""
        parts = self._parts(self.get_tracker_snapshot("peak"))
        if "head" in stretches:
            kept = min(self._before, parts[ACTIVATIONS])
            parts[LOGPROBS], parts[ACTIVATIONS] = parts[ACTIVATIONS] - kept, kept
        for stretch in stretches:
            known = self.peaks.get((self.work, stretch), {})
            if sum(parts.values()) > sum(known.values()):
                self.peaks[self.work, stretch] = parts
        self._restart()

    def _restart(self) -> None:
        self._mark_gradients()
        now = self.get_tracker_snapshot("current")
        self._peak_mem_snap = now
        self._peak_mem = {device: held["Total"] for device, held in now.items()}
        self._before = self._parts(now)[ACTIVATIONS]

    def _mark_gradients(self) -> None:
        """Counts gradients as gradients; the tracker counts them as temporary until a step ends."""
        for gradient in find_gradients(self._root_mod):
            self._update_and_maybe_create_winfos(gradient, _FSDPRefType.UNSHARDED_GRAD)

    @staticmethod
    def _parts(snapshot: Any) -> Parts:
        parts = dict.fromkeys((*PART_OF.values(), LOGPROBS), 0)
        for held in (held for device, held in snapshot.items() if device.type != "meta"):
            for kind, part in PART_OF.items():
                parts[part] += held.get(kind, 0)
        return parts


def find_gradients(model: nn.Module) -> list[Tensor]:
    """All gradients that a sharded model holds: of shards, and of whole weights."""
    # a unit has one group of parameters; torch before 2.13 has no list of them
    groups = [
        group
        for module in model.modules()
        if isinstance(module, FSDPModule)
        and (group := module._get_fsdp_state()._fsdp_param_group) is not None
    ]
    found: list[Tensor | None] = []
    for parameter in (parameter for group in groups for parameter in group.fsdp_params):
        unsharded = getattr(parameter, "_unsharded_param", None)
        found += (
            parameter.sharded_param.grad,
            parameter.unsharded_accumulated_grad,
            None if unsharded is None else unsharded.grad,
        )
    return [gradient for gradient in found if gradient is not None]


def mark_layers(layers: Sequence[nn.Module], peaks: Peaks) -> None:
    """Makes every decoder layer mark the stretches of the passes that go through it.

    Forward: `embedding`, then each layer; what follows is the head. Backward: the head, each layer,
    and last the embedding, which the caller of the pass marks. A layer is named by its position
    from the front (0, 1) and from the back (-1, -2); the others are `middle`.
    """
    count = len(layers)

    def names(way: str, i: int) -> list[str]:
        return [f"{way} {k}" for k in (i, i - count) if k in (0, 1, -1, -2)] or [f"{way} middle"]

    def before(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not peaks.backward:  # recomputing activations runs this hook again
            peaks.mark("embedding")
            _on_gradient(inputs[0], lambda: peaks.mark(*names("backward", 0)))

    def after(i: int, output: Any) -> None:
        if peaks.backward:
            return
        peaks.mark(*names("forward", i))

        def reached() -> None:
            peaks.backward = True
            peaks.mark(*(["head"] if i == count - 1 else names("backward", i + 1)))

        _on_gradient(output[0] if isinstance(output, tuple) else output, reached)

    layers[0].register_forward_pre_hook(before)
    for i, layer in enumerate(layers):
        layer.register_forward_hook(lambda _m, _i, output, i=i: after(i, output))


def _on_gradient(hidden: Tensor, done: Callable[[], None]) -> None:
    def hook(_: Tensor) -> None:
        done()

    if hidden.requires_grad:
        hidden.register_hook(hook)

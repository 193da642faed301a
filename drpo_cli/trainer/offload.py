"""Keeps the moments of optimizers in main memory while no update needs them.

Between the updates of one step and the next, the rollout engine has the device. The moments are
two thirds of what a trainer holds then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer


class Offload:
    """Inside a `with` block, the moments are on the device; outside, in main memory.

    They are this rank's shards. Main memory is pinned where the device is a GPU, and stays
    allocated. Checkpoints read the moments where they are.
    """

    def __init__(self, optimizers: Sequence[Optimizer], device: torch.device):
        self.optimizers = optimizers
        self.device = device
        self._homes: dict[tuple[Tensor, str], Tensor] = {}

    def __enter__(self) -> None:
        for _, state, name in self._moments():
            here = torch.empty_like(state[name], device=self.device)
            state[name] = here.copy_(state[name], non_blocking=True)

    def __exit__(self, *failure: object) -> None:
        self.put_away()

    def put_away(self) -> None:
        """Moves the moments to main memory, wherever they are; done when it returns."""
        pinned = self.device.type == "cuda"
        for weight, state, name in self._moments():
            home = self._homes.get((weight, name))
            if home is None:
                home = torch.empty_like(state[name], device="cpu", pin_memory=pinned)
                self._homes[weight, name] = home
            state[name] = home.copy_(state[name], non_blocking=True)
        if pinned and self._homes:
            torch.cuda.current_stream(self.device).synchronize()

    def _moments(self) -> Iterator[tuple[Tensor, dict[str, Tensor], str]]:
        """Of every moment the weight, the dict that holds it, and its name there."""
        for optimizer in self.optimizers:
            for weight, state in optimizer.state.items():
                # the number of updates stays where it is: a kernel of AdamW reads it
                yield from ((weight, state, name) for name in tuple(state) if name != "step")

"""What `[train]` says about the routers of a mixture of experts, done to a policy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from drpo_cli.dist import World
from drpo_cli.errors import UserError
from drpo_cli.routers import Routers, compute_in_float32, find_blocks
from drpo_cli.settings import TrainSettings
from drpo_cli.trainer.model import Policy
from drpo_cli.trainer.pack import Packed


class Routing:
    """Routes each micro-batch as the engine did, and counts where the policy would not have."""

    def __init__(self, policy: Policy) -> None:
        self.routers = Routers(policy.lm, self._compare)
        self.same: Tensor | int = 0
        self.all: Tensor | int = 0
        policy.register_forward_pre_hook(self._route)

    def _route(self, policy: Any, args: tuple[Packed]) -> None:
        experts_I = args[0].experts_I
        if experts_I is not None:
            experts_I = experts_I.to(args[0].input_ids_I.device).long()
            self.padding = experts_I[:, 0, :1] < 0
            experts_I = experts_I.clamp(min=0)
        self.routers.given = experts_I

    @torch.no_grad()
    def _compare(self, place: int, own: Tensor, given: Tensor | None) -> None:
        if given is not None:
            same = (own[:, :, None] == given[:, None, :]).any(-1)
            counts = ~self.padding.expand_as(same)
            self.same = self.same + (same & counts).sum()
            self.all = self.all + counts.sum()

    def metrics(self, world: World) -> dict[str, float]:
        """The share of the engine's choices that the policy would not have made. Collective.

        Over all tokens, layers and passes since the last call.
        """
        same, count = world.sum([float(self.same), float(self.all)])
        self.same, self.all = 0, 0
        return {"router_disagreement": 1 - same / count} if count else {}


def prepare(policy: Policy, settings: TrainSettings) -> Routing | None:
    """Does what `[train]` says about routers to a policy that has computed nothing yet.

    Returns its routing with `train.router_replay`, else None. Raises UserError for a model without
    experts, if anything is asked for.
    """
    asked = {
        "router_replay": settings.router_replay,
        "router_dtype": settings.router_dtype == "float32",
        "freeze_routers": settings.freeze_routers,
    }
    keys = [f"train.{key}" for key, is_asked in asked.items() if is_asked]
    if not keys:
        return None
    blocks = find_blocks(policy.lm)
    if not blocks or any(block.router is None for block in blocks):
        raise UserError(
            f"{keys[0]}: the model has no routers: a mixture of experts has them as `gate` or "
            "`router`, beside a module `experts`",
            f"leave {' and '.join(keys)} out",
        )
    for block in blocks:
        assert block.router is not None
        if settings.freeze_routers:
            block.router.requires_grad_(False)
        if settings.router_dtype == "float32":
            compute_in_float32(block)
    return Routing(policy) if settings.router_replay else None

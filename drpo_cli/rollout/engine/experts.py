"""Which experts an engine's routers chose for every token that it computed (`Rollout.experts`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from drpo_cli.errors import UserError
from drpo_cli.types import Rollout

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Experts = NDArray[np.integer[Any]]
    """[tokens, blocks, experts of a token]."""


def small(experts: Tensor) -> Tensor:
    """The numbers of experts in one byte each where that is enough, else in two. [...] as given."""
    import torch

    return experts.to(torch.int16 if int(experts.max()) > 255 else torch.uint8)


class TransformersExperts:
    """What the routers of a model choose while it generates for a batch, padded on the left."""

    def __init__(self, model: Any) -> None:
        from drpo_cli.routers import Routers

        self.blocks: list[list[Tensor]] = []
        self._routers = Routers(model, self._keep)

    def _keep(self, place: int, own: Tensor, given: Tensor | None) -> None:
        self.blocks[place].append(own)

    def begin(self) -> None:
        """Forgets what earlier batches chose."""
        self.blocks = [[] for _ in self._routers.blocks]

    def take(self, rows: int) -> Experts:
        """[rows, tokens, blocks, experts]: whole prompts were computed first, then each token."""
        import torch

        found = [
            torch.cat([own.unflatten(0, (rows, -1)) for own in block], dim=1)
            for block in self.blocks
        ]
        self.begin()
        taken: Experts = small(torch.stack(found, dim=2)).cpu().numpy()
        return taken


class VllmExperts:
    """What the routers of a vLLM engine choose.

    On a GPU vLLM returns it with each response. Its runner on a CPU does not, so there the routers
    are heard by the same hook, and their rows given to the requests of each batch.
    """

    def __init__(self, llm: Any) -> None:
        from vllm.model_executor.layers.fused_moe.layer import MoERunner
        from vllm.platforms import current_platform

        self.runner = llm.llm_engine.model_executor.driver_worker.worker.model_runner
        modules = self.runner.get_model().modules()
        blocks = {m.layer_id: m for m in modules if isinstance(m, MoERunner)}
        self.layers = sorted(blocks)
        self.returned = current_platform.is_cuda_alike()
        self.parts: dict[str, list[tuple[int, Tensor]]] = {}
        if not self.returned:
            self._chosen: dict[int, Tensor] = {}
            for layer, block in blocks.items():
                block.router.set_capture_fn(partial(self._chosen.__setitem__, layer))
            self.runner.execute_model = partial(self._execute, self.runner.execute_model)

    def _execute(self, plain: Callable[..., Any], scheduled: Any, *rest: Any) -> Any:
        import torch

        self._chosen.clear()
        output = plain(scheduled, *rest)
        if self._chosen:  # else there was nothing to compute
            rows = small(torch.stack([self._chosen[layer] for layer in self.layers], dim=1))
            start = 0
            for name in self.runner.input_batch.req_ids:
                count = scheduled.num_scheduled_tokens[name]
                place = self.runner.requests[name].num_computed_tokens
                part = place, rows[start : start + count].clone()
                # vLLM adds something random to the name that a request was given
                self.parts.setdefault(name.partition("-")[0], []).append(part)
                start += count
        return output

    def begin(self) -> None:
        """Forgets what earlier batches chose."""
        self.parts.clear()

    def add(self, rollout: Rollout, prompt_ids: Sequence[int], output: Any) -> Rollout:
        """The rollout with its experts; `output` is vLLM's `RequestOutput` of it."""
        tokens = len(prompt_ids) + len(rollout.token_ids)
        if self.returned:
            found: Experts = output.outputs[0].routed_experts[:, self.layers]
            if found.dtype.itemsize > 1:
                found = found.astype("int16")
        else:
            import torch

            parts = self.parts.pop(output.request_id)
            whole = torch.zeros(tokens, *parts[0][1].shape[1:], dtype=torch.int16)
            for place, rows in parts:  # in order: what was computed again replaces what was before
                whole[place : place + len(rows)] = rows[: tokens - place]
            found = small(whole[: tokens - 1]).numpy()
        if len(found) != tokens - 1:
            raise RuntimeError(f"vLLM returned experts of {len(found)} of {tokens - 1} tokens")
        return replace(rollout, experts=found)


def vllm_arguments(cuda: bool, eager: bool) -> dict[str, Any]:
    """The arguments of `vllm.LLM` that have it return what its routers choose.

    What is in the prefix cache is not computed again. On a GPU vLLM keeps the experts of what is in
    it; on a CPU nobody does. Raises UserError where the engine would not tell.
    """
    if cuda:
        return {"enable_return_routed_experts": True}
    if not eager:
        raise UserError(
            "train.router_replay: a compiled engine on a CPU does not tell which experts it chose",
            "leave rollout.eager out",
        )
    return {"enable_prefix_caching": False}

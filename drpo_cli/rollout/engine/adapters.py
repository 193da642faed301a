"""vLLM's slot for one adapter of `[lora]`: A and B are put into it from memory, without a file.

vLLM wraps the layers that may have adapters, and adds s B A x to what they compute for the requests
that name the adapter. Here every request does. The slot keeps its place in memory, where captured
graphs read it, and every rank that shares an engine takes the rows of it that it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from drpo_cli.errors import UserError
from drpo_cli.model_folder import listed
from drpo_cli.rollout.engine.ends import load_config
from drpo_cli.rollout.engine.protocol import EngineContext
from drpo_cli.rollout.engine.text_model import architectures
from drpo_cli.settings import LoraSettings, ModelSettings, RolloutSettings

if TYPE_CHECKING:
    from torch import Tensor

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The sizes of slots that vLLM has."""
ID = 1
PREFIX = "base_model.model."
"""What peft puts before the names of a model's layers in files."""
MERGED = 'set lora.sync = "merged"'


def wants_slot(config: RolloutSettings, context: EngineContext) -> bool:
    """Whether the engine is to start with a slot. Imports vLLM's class of the model.

    Raises UserError for adapters that vLLM cannot take.
    """
    import torch

    lora = context.lora
    if lora is None or lora.sync_into(config, torch.cuda.is_available()) == "merged":
        return False
    if lora.rank > RANKS[-1]:
        raise UserError(
            f"lora.rank is {lora.rank}, and a slot for adapters in vLLM has a rank of at most "
            f"{RANKS[-1]}",
            f"lower it, or {MERGED}",
        )
    name = _class_without_slots(context.model)
    if name is not None and lora.sync == "adapter":
        raise UserError(
            f'lora.sync is "adapter", and vLLM has no slots for adapters in its {name}',
            f"{MERGED}, or remove it",
        )
    return name is None


def _class_without_slots(model: ModelSettings) -> str | None:
    """vLLM's class of the model, if it takes no adapters."""
    from vllm.model_executor.models import ModelRegistry, supports_lora

    for name in architectures(load_config(model)):
        if (known := ModelRegistry.models.get(name)) is not None:
            found: Any = known.load_model_cls()
            return None if supports_lora(found) else str(found.__name__)
    return "code that runs models through transformers"


def slot_arguments(lora: LoraSettings) -> dict[str, Any]:
    """The arguments of `vllm.LLM` for a slot in the layers that have adapters."""
    targets = lora.target_modules
    assert targets != "all-linear", "the trainer has found the layers"
    return {
        "enable_lora": True,
        "max_loras": 1,
        "max_lora_rank": min(size for size in RANKS if size >= lora.rank),
        # no others: vLLM would also wrap the head, and experts with a slot for each of them
        "lora_target_modules": sorted({name.rpartition(".")[2] for name in targets}),
    }


class Slot:
    """The slot of one engine.

    request  names the adapter, in every request for responses
    """

    def __init__(self, lora: LoraSettings, worker: Any, rename: Callable[[str], str]) -> None:
        """Finds the slot in the worker of an engine that was started with `slot_arguments`.

        `rename` gives the engine's name of a weight, from that in the model's checkpoint.
        """
        from vllm.lora.request import LoRARequest

        self.lora = lora
        self.manager = worker.model_runner.lora_manager._adapter_manager
        self.rename = rename
        self.request = LoRARequest("drpo", ID, "in memory")
        mapper = getattr(worker.model_runner.get_model(), "hf_to_vllm_mapper", None)
        self.mapper = mapper and mapper.get_rename_mapper()

    def without_place(self) -> list[str]:
        """The layers with adapters that vLLM has not wrapped."""
        from vllm.lora.utils import parse_fine_tuned_lora_name

        inside = (part for parts in self.manager.packed_modules.values() for part in parts)
        places = {*self.manager.modules, *inside}
        names = {
            parse_fine_tuned_lora_name(self._name(f"{PREFIX}{layer}.lora_A.weight"), self.mapper)[0]
            for layer in self.lora.target_modules
        }
        return sorted(names - places)

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Replaces what is in the slot by A and B, whole, under their names in peft's files."""
        from vllm.lora.lora_model import LoRAModel
        from vllm.lora.peft_helper import PEFTHelper

        adapter = LoRAModel.from_lora_tensors(
            ID,
            # copies: vLLM scales B in place, and on one rank these are the trainer's own
            {self._name(name): weight.clone() for name, weight in weights},
            PEFTHelper(self.lora.rank, self.lora.alpha, [], use_rslora=self.lora.rslora),
            device="cpu",
            dtype=self.manager.lora_config.lora_dtype,
            weights_mapper=self.mapper,
        )
        self.manager.remove_adapter(ID)
        self.manager.add_adapter(adapter)
        self.manager.activate_adapter(ID)

    def _name(self, name: str) -> str:
        return PREFIX + self.rename(name.removeprefix(PREFIX))


def open_slot(lora: LoraSettings, worker: Any, rename: Callable[[str], str]) -> Slot | None:
    """The slot of an engine; None if a layer has none, so that adapters must come merged.

    Raises UserError in that case if `lora.sync` is `adapter`.
    """
    slot = Slot(lora, worker, rename)
    missing = slot.without_place()
    if missing and lora.sync == "adapter":
        raise UserError(
            f'lora.sync is "adapter", and vLLM has no slot for adapters in {listed(missing)}',
            f"{MERGED}, or take these layers out of lora.target_modules",
        )
    return None if missing else slot

"""vLLM with quantised weights: quantised by the engine at each sync, from the weights pushed.

The trainer pushes weights in the engine's dtype, as it does to any engine. vLLM keeps the layers of
such a model on the meta device, fills one as its weights arrive, and quantises it at once: one
scale per output channel, as in `precision.round_weight`. Inputs of products are quantised too, one
scale per token. "fp8" is vLLM's own online method; "int8" is made here from vLLM's kernels.

Importing this module imports vLLM's layers.
"""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn
from vllm.model_executor.kernels.linear import init_int8_linear_kernel
from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod
from vllm.model_executor.layers.quantization import register_quantization_config
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig
from vllm.model_executor.layers.quantization.online.fp8 import OnlineLinearBase, _is_tp_sharded
from vllm.model_executor.layers.quantization.utils.quant_utils import amax_for_tp_weight_quant
from vllm.model_executor.utils import replace_parameter
from vllm.utils.torch_utils import set_default_torch_dtype

from drpo_cli.rollout.engine.precision import to_int8

INT8 = "drpo_int8"
ROUTERS = ("*.gate", "*.router", "*.shared_expert_gate")  # vLLM itself quantises some of them


def arguments(kind: str, cuda: bool) -> dict[str, Any]:
    """The arguments of `vllm.LLM` for weights of this kind."""
    if kind == "int8":
        return {"quantization": INT8}
    kinds = ["linear", "moe"] if cuda else ["linear"]  # vLLM's experts on a CPU have one scale each
    layers: dict[str, Any] = dict.fromkeys(kinds, "fp8_per_channel")
    return {
        "quantization": "online",
        "quantization_config": layers | {"ignore": list(ROUTERS)},
    }


@register_quantization_config(INT8)
class Int8Config(QuantizationConfig):  # type: ignore[misc]
    """Quantises the weights of linear layers to int8 as they arrive; the experts stay whole."""

    def get_name(self) -> str:
        """The name under which vLLM knows it."""
        return INT8

    def get_supported_act_dtypes(self) -> list[torch.dtype]:
        """The compute dtypes of models whose layers it can quantise."""
        return [torch.bfloat16, torch.float32]

    @classmethod
    def get_min_capability(cls) -> int:
        """The oldest GPU, as vLLM numbers them: Turing."""
        return 75

    @staticmethod
    def get_config_filenames() -> list[str]:
        """No file: nothing about it is in a model folder."""
        return []

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Int8Config:
        """Makes one; it has no options."""
        return cls()

    def get_quant_method(self, layer: nn.Module, prefix: str) -> Any:
        """The method of a layer; None for those that stay as they are."""
        if not isinstance(layer, LinearBase):
            return None
        is_router = any(fnmatch(prefix, pattern) for pattern in ROUTERS)
        return UnquantizedLinearMethod() if is_router else Int8Linear()


class Int8Linear(OnlineLinearBase):  # type: ignore[misc]
    """A linear layer in int8: channels of the weight and tokens of the input have a scale each."""

    def create_weights(self, layer: Any, *sizes: Any, **more: Any) -> None:
        """See `LinearMethodBase`: the weight is on the meta device until it arrives."""
        super().create_weights(layer, *sizes, **more)
        layer.input_scale = layer.input_zero_point = layer.azp_adj = None
        self.kernel = init_int8_linear_kernel(
            is_channelwise=True,
            is_static_input_scheme=False,
            input_symmetric=True,
            module_name=type(self).__name__,
        )

    def process_weights_after_loading(self, layer: Any) -> None:
        """Quantises a weight that has arrived."""
        if getattr(layer, "_already_called_process_weights_after_loading", False):
            return  # vLLM calls it again after the first load
        amax = layer.weight.abs().amax(-1, keepdim=True)
        sharded = _is_tp_sharded(layer, reduces_output_dim=False)
        stored, scale = to_int8(layer.weight.data, amax_for_tp_weight_quant(amax, sharded))
        replace_parameter(layer, "weight", stored)
        replace_parameter(layer, "weight_scale", scale)
        with set_default_torch_dtype(layer.orig_dtype):  # the dtype of the products
            self.kernel.process_weights_after_loading(layer)
        # On a CPU the kernel has a copy of the weight, and the address of the scales. A reload puts
        # back the parameters of the first load, so there must be a weight, and these scales stay.
        self.scale = layer.weight_scale.data
        if layer.weight is None:
            layer.weight = nn.Parameter(torch.empty(0), requires_grad=False)
        layer._already_called_process_weights_after_loading = True

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """The product of quantised input and weight, in the dtype of the input."""
        product: Tensor = self.kernel.apply_weights(layer, x, bias)
        return product

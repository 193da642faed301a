"""What vLLM would do on a machine with eight H100s, asked on one without a GPU.

`python -m support.h100 FOLDER` prints it as one line of JSON. vLLM's own CUDA platform answers, of
which only the questions to the driver are replaced; its configuration, and the sampler's table of
seeds, are the real ones. Nothing runs on a device, so no kernel is tried.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch

from drpo_cli.rollout import vllm as rollout
from drpo_cli.rollout.engine.ends import Ends
from drpo_cli.rollout.engine.protocol import EngineContext, Sampling
from drpo_cli.settings import ModelSettings
from support.seeds import sample_each

GIB = 2**30


class Missing(ModuleType):
    """A module of kernels: it has every name, and none does anything."""

    def __getattr__(self, name: str) -> Any:
        """None for whatever is imported from it."""
        if name.startswith("__"):
            raise AttributeError(name)
        return None


def pretend() -> None:
    """Makes vLLM, and our choices by device, believe in eight H100s."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # else vLLM's Triton asks for a driver
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    for kernels_of in ("vllm._C_stable_libtorch", "vllm.vllm_flash_attn"):
        sys.modules[kernels_of] = Missing(kernels_of)
    with suppress(ImportError):  # vLLM imports it, and on a GPU it asks the driver for more
        import_module("torchao.prototype.mx_formats.mx_tensor")
    for what in ("scaled_mm_supports_fp8", "scaled_mm_supports_block_fp8", "group_gemm_supported"):
        torch.library.define(f"_C::cutlass_{what}", "(int capability) -> bool")
        torch.library.impl(f"_C::cutlass_{what}", "default", lambda capability: True)
    import vllm.platforms as platforms

    platforms.vllm_version_matches_substr = lambda part: False  # a CUDA wheel is no "cpu" one
    from vllm.platforms import cuda
    from vllm.platforms.interface import DeviceCapability

    facts = {
        "get_device_capability": DeviceCapability(9, 0),
        "get_device_name": "NVIDIA H100 80GB HBM3",
        "get_device_total_memory": 80 * GIB,
        "device_count": 8,
        "import_kernels": None,
        "is_cumem_allocator_available": True,
        "is_pin_memory_available": False,
        "num_compute_units": 132,
        "check_if_supports_dtype": None,
        "get_cuda_runtime_major": 12,
    }

    def answer(value: Any) -> Any:
        return classmethod(lambda cls, *args, **more: value)

    faked = type("FakedH100", (cuda.NonNvmlCudaPlatform,), {n: answer(v) for n, v in facts.items()})
    platforms._current_platform = faked()
    torch.cuda.is_available = lambda: True
    from vllm.model_executor.models.registry import _LazyRegisteredModel

    # to save what it finds out about a model, vLLM imports kernels
    _LazyRegisteredModel._save_modelinfo_to_cache = lambda *given: None


def resolved(
    folder: str, ranks: int, experts: bool | None = None, **options: Any
) -> dict[str, Any]:
    """What vLLM makes of our arguments for a run of `ranks` processes."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext

    model = ModelSettings(path=folder, dtype="bfloat16")
    context = EngineContext(model, 256, ranks, awaits_weights=True, experts=bool(experts))
    arguments = rollout.engine_arguments(rollout.Config(**options), context)
    config = EngineArgs(**arguments).create_engine_config(UsageContext.LLM_CLASS)
    more = {} if experts is None else {"returns experts": config.aux_output_config.enabled}
    return more | {
        "runner": "V2" if config.use_v2_model_runner else "V1",
        "worker": config.parallel_config.worker_cls,
        "graphs": config.compilation_config.cudagraph_mode.name,
        "compiled": config.compilation_config.mode.name,
        "async": config.scheduler_config.async_scheduling,
        "executor": config.parallel_config.distributed_executor_backend,
        "ranks of an engine": config.parallel_config.world_size,
        "sleep": config.model_config.enable_sleep_mode,
        "cumem": config.model_config.enable_cumem_allocator,
        "logprobs": config.model_config.logprobs_mode,
        "seed": config.model_config.seed,
        "tokens per batch": config.scheduler_config.max_num_batched_tokens,
        "sequences": config.scheduler_config.max_num_seqs,
        "memory": config.cache_config.gpu_memory_utilization,
        "dtype": str(config.model_config.dtype),
        "head": str(config.model_config.head_dtype),
        "load format": config.load_config.load_format,
        "tokenizer": config.model_config.tokenizer_mode,
        "quantised": None if config.quant_config is None else _methods(config.quant_config),
    }


def _methods(quantisation: Any) -> dict[str, str]:
    """The quantisation's name, and its method for layers and experts of these classes."""
    from vllm.model_executor.layers.fused_moe import RoutedExperts
    from vllm.model_executor.layers.linear import ColumnParallelLinear

    layers = {
        "layer": (ColumnParallelLinear, "mlp.up_proj"),
        "router": (ColumnParallelLinear, "mlp.gate"),
        "experts": (RoutedExperts, "mlp.experts"),
    }
    find = getattr(quantisation, "resolve_quant_method_cls", lambda *given: None)
    found = {kind: find(layer, f"model.layers.0.{name}") for kind, (layer, name) in layers.items()}
    methods = {kind: one[-1].__name__ for kind, one in found.items() if one is not None}
    return {"name": quantisation.get_name(), **methods}


def kernels() -> dict[str, str]:
    """The kernels that vLLM takes for products with a scale per channel and per token."""
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.kernels.linear import init_fp8_linear_kernel, init_int8_linear_kernel
    from vllm.model_executor.layers.quantization.online.fp8 import Fp8PtpcOnlineLinearMethod as Fp8

    dtype = torch.bfloat16
    with set_current_vllm_config(VllmConfig()):
        fp8 = init_fp8_linear_kernel(
            Fp8.activation_quant_key, Fp8.weight_quant_key, dtype, dtype, (256, 128)
        )
        int8 = init_int8_linear_kernel(True, False, True, "")
    return {"fp8": type(fp8).__name__, "int8": type(int8).__name__}


class Asked(Exception):
    """The engine was asked to compute."""


class Requests:
    """Stands for vLLM's engine, and keeps what it is asked for."""

    def __init__(self) -> None:
        self.params: dict[str, Any] = {}

    def add_request(self, name: str, prompt: Any, params: Any, **more: Any) -> None:
        """Keeps a request."""
        self.params[name] = params

    def step(self) -> None:
        """Raises Asked: there is no device."""
        raise Asked

    def abort_request(self, names: list[str]) -> None:
        """Does nothing."""


def requested(sampling: Sampling, prompts: list[int]) -> list[Any]:
    """The requests that our engine sends for these prompts, in order."""
    requests, engine = Requests(), rollout.Engine.__new__(rollout.Engine)
    engine.llm = SimpleNamespace(llm_engine=requests, reset_prefix_cache=lambda **more: True)
    engine.ends, engine.requests, engine.sharers = Ends(frozenset({2})), 0, None
    ids_P = [(5, prompt) for prompt in prompts]
    with suppress(Asked):
        list(sample_each(engine, ids_P, sampling))
    return list(requests.params.values())


def seeds_on_a_gpu(requests: list[Any], torch_seed: int) -> list[int]:
    """The seeds that the GPU's sampler takes for these requests."""
    import vllm.v1.worker.gpu.sample.states as states

    class HostTensor:
        """The host's side of a tensor that both see."""

        def __init__(self, size: int, dtype: torch.dtype) -> None:
            self.np = torch.zeros(size, dtype=dtype).numpy()

        def copy_to_uva(self) -> None:
            """Does nothing: there is no device."""

    states.UvaBackedTensor = HostTensor
    np.random.seed(0)
    torch.manual_seed(torch_seed)
    table = states.SamplingStates(len(requests), 100)
    for row, params in enumerate(requests):
        table.add_request(row, params)
    taken: list[int] = table.seeds.np.tolist()
    return taken


def seeds() -> Iterator[tuple[str, Any]]:
    """The seeds of some batches, and of requests that have none."""
    from vllm import SamplingParams

    sampling = Sampling(samples=3, max_new_tokens=4, temperature=1.0, seed=7)
    for torch_seed in (1, 2):
        yield f"none, torch {torch_seed}", seeds_on_a_gpu([SamplingParams()] * 3, torch_seed)
        yield f"ours, torch {torch_seed}", seeds_on_a_gpu(requested(sampling, [0, 1]), torch_seed)
    yield "other order", seeds_on_a_gpu(requested(sampling, [1, 0]), 1)
    yield "other step", seeds_on_a_gpu(requested(replace(sampling, seed=8), [0, 1]), 1)


def main(folder: str) -> dict[str, Any]:
    """Everything that the tests ask for."""
    pretend()
    return {
        "1": resolved(folder, 1),
        "8": resolved(folder, 8),
        "tensor": resolved(folder, 8, tensor_parallel=2),
        "eager": resolved(folder, 1, eager=True, sleep=False, gpu_memory_fraction=0.3),
        "fp8": resolved(folder, 1, quantization="fp8"),
        "int8": resolved(folder, 1, quantization="int8"),
        "mixture": resolved(f"{folder}/../mixture", 1, experts=False),
        "experts": resolved(f"{folder}/../mixture", 1, experts=True),
        "kernels": kernels(),
        "seeds": dict(seeds()),
    }


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(main(sys.argv[1])) + "\n")

"""vLLM in the trainer's own process: one engine per rank, on CPUs and on GPUs.

The log-probabilities are taken after the temperature (`processed_logprobs`), so they are log μ.
"""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from drpo_cli import progress
from drpo_cli.errors import UserError
from drpo_cli.rollout.engine.adapters import Slot, open_slot, slot_arguments, wants_slot
from drpo_cli.rollout.engine.capacity import CPU_BLOCK, require_cache
from drpo_cli.rollout.engine.ends import NEUTRAL, find_ends, load_config
from drpo_cli.rollout.engine.experts import VllmExperts, vllm_arguments
from drpo_cli.rollout.engine.feed import Feed
from drpo_cli.rollout.engine.protocol import EngineContext, Sampling
from drpo_cli.rollout.engine.requests import Key, Request, Requests
from drpo_cli.rollout.engine.text_model import (
    set_head_dtype,
    stored_weights,
    text_arguments,
    text_name,
)
from drpo_cli.rollout.engine.vllm_errors import Start, explain
from drpo_cli.rollout.engine.vllm_ranks import (
    find_sharers,
    keep_from_shared_memory,
    tell_every_rank,
)
from drpo_cli.rollout.engine.vllm_requests import read_output, sampling_options
from drpo_cli.rollout.engine.vllm_seeds import keep_generators
from drpo_cli.rollout.engine.vllm_weights import (
    copy_in_place,
    find_embedding,
    repack_tied_head,
    require_experts,
    unpack_experts,
)
from drpo_cli.settings import PLAIN_PATH, Count, RolloutSettings
from drpo_cli.types import Rollout

if TYPE_CHECKING:
    from torch import Tensor


PUSHED = "drpo_push"  # our load format: no file is read


class Config(RolloutSettings):
    """Options of the vLLM engine."""

    gpu_memory_fraction: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of each GPU's memory that the engine may use, weights and KV cache together."""
    cpu_cache_gib: Count = 1
    """Size of the KV cache on a CPU, in whole GiB per rank."""
    max_sequences: Count = 256
    """Responses sampled at the same time, per engine."""
    tensor_parallel: Count = 1
    """Neighbouring ranks that share one engine, each with a part of every weight matrix and of the
    KV cache: for a model that does not fit into one device beside the trainer. It must divide the
    ranks and the attention heads; the devices should be of one node."""
    eager: bool | None = None
    """Skip compilation and the capture of CUDA graphs: a faster start, slower sampling on a GPU.
    If not set, a GPU samples with graphs and a CPU without."""
    quantization: Literal["int8", "fp8"] | None = None
    """Compute the layers' products in 8 bits: the weights are quantised at each sync, per output
    channel, their inputs per token. `fp8` (E4M3) is for GPUs since Ada, `int8` for older ones and
    CPUs with VNNI. Embedding, head, norms and routers stay as they are, and so do experts, except
    for fp8 on a GPU."""
    sleep: bool = True
    """Give GPU memory to the trainer between rollouts; no effect on a CPU."""

    def describe(self) -> str:
        """See `RolloutSettings.describe`."""
        if self.eager is None:
            return "CUDA graphs on a GPU, eager on a CPU"
        return "eager" if self.eager else "compiled, with CUDA graphs on a GPU"

    def skips_graphs(self, cuda: bool) -> bool:
        """Whether the engine runs without compilation and graphs on such a device."""
        return not cuda if self.eager is None else self.eager

    def pools_device_memory(self) -> bool:
        """See `RolloutSettings`: what sleeps is in a pool."""
        return self.sleep

    def pushes_adapters(self, cuda: bool) -> bool:
        """See `RolloutSettings`. On a CPU vLLM samples faster from merged weights.

        What rounds weights must round those of the trainer, which has adapters apart.
        """
        return cuda or (self.quantization or self.weight_rounding) is not None

    def quantised_to(self) -> Literal["int8", "fp8"] | None:
        """See `RolloutSettings`."""
        return self.quantization


class Engine:
    """An in-process `vllm.LLM`."""

    checkpoint_names = True
    takes_adapters = False
    slot: Slot | None = None  # for adapters that a trainer pushes
    has_weights = False  # those of a push, or of the folder
    returns_experts = True
    experts: VllmExperts | None = None
    text_alone = False  # whether it runs the text model of a multimodal checkpoint

    @staticmethod
    def check(config: Config, context: EngineContext) -> None:
        """See `EngineProtocol.check`: the device, and on a CPU the KV cache."""
        import torch

        from drpo_cli.rollout.engine.precision import check_device

        check_device(config.quantization, context.model.dtype)
        if context.lora is not None:
            _set_environment(config)
            wants_slot(config, context)
        if not torch.cuda.is_available():
            model = load_config(context.model)
            require_cache(config, model, context.model.dtype, context.context_length, context.ranks)

    def __init__(self, config: Config, context: EngineContext) -> None:
        """Starts vLLM. Raises UserError when it is not installed, or refuses model or options.

        Consumes: the model folder. With several ranks, the process group, which must be joined.
        Waits for: with several ranks, all ranks to start their engines: vLLM makes process groups.
        Produces: an engine that is awake.
        """
        self.check(config, context)
        _set_environment(config)
        self.explained = partial(_explained, config, context)
        self.llm = _start(config, context)
        self.text_alone = "hf_overrides" in _text_arguments(config, context)
        self.sharers = find_sharers(config.tensor_parallel, context.ranks)
        self.tokenizer = self.llm.get_tokenizer()
        self.ends = find_ends(config, context.model, self.tokenizer)
        from vllm.platforms import current_platform

        self.can_sleep = config.sleep and current_platform.is_cuda_alike()
        if current_platform.is_cpu():
            keep_generators(self._worker.model_runner)
        self.asleep: set[str] = set()
        self.requests = 0  # sent so far: no two have the same name
        self.has_weights = not context.awaits_weights
        if context.lora is not None and wants_slot(config, context):
            rename = text_name if self.text_alone else str
            self.slot = open_slot(context.lora, self._worker, rename)
        self.takes_adapters = self.slot is not None
        self.experts = VllmExperts(self.llm) if context.experts else None
        if self.text_alone and not context.awaits_weights:
            self.load_weights(stored_weights(context.model))

    def generate(
        self, requests: Requests, sampling: Sampling
    ) -> Generator[tuple[Key, Rollout], None, None]:
        """See `EngineProtocol.generate`. Requests enter the running batch as they come."""
        from vllm import SamplingParams

        feed, options = Feed(requests, self.sharers), sampling_options(sampling, self.ends)
        # A cached prefix would make a resumed run's first batch differ from an uninterrupted run's.
        self._drop_prefix_cache()
        if self.experts is not None:
            self.experts.begin()
        engine, running = self.llm.llm_engine, dict[str, Request]()
        try:
            while running or not feed.ended:
                progress.tick()
                # One request per sample: with `n`, the first of a group would wait for its last.
                for request in feed.take(busy=bool(running)):
                    own = {"seed": request.seed, "max_tokens": request.max_new_tokens}
                    running[self._add(request, SamplingParams(**options, **own))] = request
                for output in engine.step() if running else ():
                    request = running.pop(output.request_id)
                    if (key := feed.answered(request.key)) is not None:
                        yield key, self._make_rollout(request.prompt_ids, output)
        finally:
            if running:
                engine.abort_request([*running])

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """See `EngineProtocol.load_weights`. Takes names as in a Hugging Face checkpoint."""
        model = self._worker.model_runner.get_model()
        unpacked = unpack_experts(model)
        if self.text_alone:
            weights = ((text_name(name), weight) for name, weight in weights)
        # found before the reload, which removes the weights from the model while it runs
        embedding = find_embedding(model)
        # the worker's method, which gives vLLM's code its configuration, and not the runner's
        with self.explained():
            self._worker.reload_weights(weights_iterator=copy_in_place(embedding, weights))
        require_experts(unpacked)
        repack_tied_head(model)
        self._drop_prefix_cache()
        self.has_weights = True

    def load_adapter(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """See `EngineProtocol.load_adapter`."""
        assert self.slot is not None
        self.slot.load(weights)
        self._drop_prefix_cache()

    @property
    def _worker(self) -> Any:
        return self.llm.llm_engine.model_executor.driver_worker.worker

    @property
    def quantised(self) -> frozenset[str]:
        """See `find_quantised`."""
        from drpo_cli.rollout.engine.precision import find_quantised

        return find_quantised(self._worker.get_model())

    def sleep(self) -> None:
        """See `EngineProtocol.sleep`. Level 2 drops the weights; the next sync sends them again.

        Level 1 keeps those that syncs of adapters do not send in main memory.
        """
        if self.can_sleep:
            self.llm.sleep(level=1 if self.slot and self.has_weights else 2)
            self.asleep = {"weights", "kv_cache"}

    def wake(self, what: str) -> None:
        """See `EngineProtocol.wake`."""
        if what in self.asleep:
            self.llm.wake_up(tags=[what])
            self.asleep.remove(what)

    def close(self) -> None:
        """See `EngineProtocol.close`."""
        del self.llm
        gc.collect()

    def _drop_prefix_cache(self) -> None:
        """Drops what earlier weights left in the KV cache. Raises where vLLM refuses to."""
        # With asynchronous scheduling the last batch may still hold blocks, for no request
        if not self.llm.reset_prefix_cache(reset_running_requests=True):
            raise RuntimeError("vLLM did not drop its prefix cache")

    def _add(self, request: Request, params: Any) -> str:
        """Adds a request to the running batch, under a name that no other had."""
        name, self.requests = str(self.requests), self.requests + 1
        self.llm.llm_engine.add_request(
            name,
            {"prompt_token_ids": list(request.prompt_ids)},
            params,
            lora_request=self.slot.request if self.slot else None,
        )
        return name

    def _make_rollout(self, prompt_ids: Sequence[int], output: Any) -> Rollout:
        rollout = read_output(self.tokenizer, prompt_ids, output)
        return rollout if self.experts is None else self.experts.add(rollout, prompt_ids, output)


def _set_environment(config: Config) -> None:
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(config.cpu_cache_gib)
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


def _start(config: Config, context: EngineContext) -> Any:
    try:
        from vllm import LLM
    except ImportError as error:
        raise UserError(
            f"rollout.engine: vllm does not import ({error})",
            "install it with pip install 'drpo[cpu]' or 'drpo[gpu]', or set engine = "
            '"transformers"',
        ) from error
    from vllm.model_executor.model_loader import register_model_loader

    from drpo_cli.rollout.engine.vllm_loader import PushLoader

    register_model_loader(PUSHED)(PushLoader)
    if config.tensor_parallel > 1:
        keep_from_shared_memory()
        tell_every_rank()
    with _plain_folder(context.model.path) as path, _explained(config, context):
        arguments = engine_arguments(config, context) | _text_arguments(config, context)
        return LLM(**(arguments | {"model": path}))


def _text_arguments(config: Config, context: EngineContext) -> dict[str, Any]:
    # of a lone engine of several devices, vLLM's own processes read the files
    in_process = context.ranks > 1 or config.tensor_parallel == 1
    return text_arguments(context.model, PUSHED if in_process else None, config.head_dtype)


@contextmanager
def _explained(config: Config, context: EngineContext) -> Iterator[None]:
    """Raises UserError for those of vLLM's errors that are a user's mistake."""
    import torch

    try:
        yield
    except (ValueError, RuntimeError) as error:
        cuda = torch.cuda.is_available()
        start = Start(config, context.model.path, context.context_length, cuda)
        if (known := explain(error, start)) is None:
            raise
        raise known from error


@contextmanager
def _plain_folder(path: str) -> Iterator[str]:
    """A path to the model folder for vLLM, which expands patterns in it to find the weights."""
    if PLAIN_PATH.fullmatch(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="drpo-model-") as scratch:
        plain = Path(scratch) / "model"
        plain.symlink_to(path, target_is_directory=True)
        yield str(plain)


def engine_arguments(config: Config, context: EngineContext) -> dict[str, Any]:
    """The arguments of `vllm.LLM`: those of every device, then those of GPUs and several ranks."""
    import torch

    cuda = torch.cuda.is_available()
    arguments: dict[str, Any] = {
        "model": context.model.path,
        "dtype": context.model.dtype,
        "hf_overrides": partial(set_head_dtype, config.head_dtype),
        "trust_remote_code": context.model.trust_remote_code,
        # whatever the model folder asks for: the spec alone says how to sample
        "generation_config": str(NEUTRAL),
        "max_model_len": context.context_length,
        "max_num_seqs": config.max_sequences,
        "tensor_parallel_size": config.tensor_parallel,
        "enforce_eager": config.skips_graphs(cuda),
        "logprobs_mode": "processed_logprobs",
        "disable_log_stats": True,
        "seed": 0,  # every request has its own
        "tokenizer_mode": "hf",  # as the trainer reads it, whatever other files the folder has
        "load_format": PUSHED if context.awaits_weights else "auto",
    }
    if context.lora is not None and wants_slot(config, context):
        arguments |= slot_arguments(context.lora)
    if config.quantization is not None:
        from drpo_cli.rollout.engine import quantized

        arguments |= quantized.arguments(config.quantization, cuda)
    if cuda:
        arguments["gpu_memory_utilization"] = config.gpu_memory_fraction
        arguments["enable_sleep_mode"] = config.sleep
    else:
        arguments["block_size"] = CPU_BLOCK
    if context.experts:
        arguments |= vllm_arguments(cuda, arguments["enforce_eager"])
    if context.ranks > 1:
        arguments["distributed_executor_backend"] = "external_launcher"
        # ranks that share an engine wait in `Feed` for the last of them, as other collectives do
        arguments["cpu_distributed_timeout_seconds"] = 7200
    return arguments

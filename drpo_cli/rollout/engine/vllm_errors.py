"""Why vLLM does not start, in the keys of a spec: its own messages name its own options."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from drpo_cli.errors import UserError
from drpo_cli.rollout.engine.capacity import too_long

KEYS = {
    "max_model_len": "rollout.context_length",
    "gpu_memory_utilization": "rollout.gpu_memory_fraction",
    "GPU memory utilization": "rollout.gpu_memory_fraction",
    "VLLM_CPU_KVCACHE_SPACE": "rollout.cpu_cache_gib",
    "max_num_seqs": "rollout.max_sequences",
    "enforce_eager": "rollout.eager",
    "trust_remote_code": "model.trust_remote_code",
}
"""vLLM's options that keys of the spec set."""


@dataclass(frozen=True)
class Start:
    """What vLLM was started with: `[rollout]`, the model folder, its longest sequence, on a GPU?"""

    options: Any
    path: str
    context: int
    cuda: bool

    @property
    def memory(self) -> str:
        """The key that gives the engine its memory."""
        return "gpu_memory_fraction" if self.cuda else "cpu_cache_gib"

    @property
    def memory_is(self) -> str:
        """That key and its value."""
        return f"rollout.{self.memory} is {getattr(self.options, self.memory)}"


def explain(error: Exception, start: Start) -> UserError | None:
    """The user's mistake behind an error at vLLM's start; None if it is none that is known."""
    for pattern, make in _KNOWN:
        if found := re.search(pattern, str(error), re.DOTALL):
            return make(found, start)
    # vLLM's own checks of its options; pydantic puts words and a link around the message
    if refused := re.search(r"Value error, (.*?)(?: \[type=|$)", str(error), re.DOTALL):
        what = refused[1].strip()
        for theirs, ours in KEYS.items():
            what = what.replace(theirs, ours)
        return UserError(
            f"rollout.engine: vLLM refuses {start.path} or these settings: {what}",
            "change the setting or the model folder",
        )
    return None


_Maker = Callable[["re.Match[str]", Start], UserError]


def _cache_too_small(found: re.Match[str], start: Start) -> UserError:
    needed, available, fits = found[1], found[2], int(found[3] or 0)
    larger: str | None = f"rollout.{start.memory} = {int(float(needed)) + 1}"
    if start.cuda:
        fraction = start.options.gpu_memory_fraction
        larger = f"rollout.{start.memory} above {fraction}" if fraction < 0.9 else None
    left = f"the engine has {available} GiB left for it ({start.memory_is})"
    return too_long(start.options, start.context, f"{needed} GiB", left, fits, larger)


def _no_cache(found: re.Match[str], start: Start) -> UserError:
    return UserError(
        f"{start.memory_is}: the engine's weights and its work take all of that, and nothing is "
        "left for the KV cache",
        "raise it, lower rollout.max_sequences, or use a smaller model",
    )


def _device_is_full(found: re.Match[str], start: Start) -> UserError:
    return UserError(
        f"{start.memory_is}, and of {found[2]} GiB only {found[1]} are free when the engine "
        "starts: the trainer's weights and other processes hold the rest",
        f"lower rollout.{start.memory}, or end what else uses the memory",
    )


def _too_many(found: re.Match[str], start: Start) -> UserError:
    what = f"rollout.max_sequences is {found[2]}: vLLM computes at most {found[1]} tokens at a time"
    return UserError(what, f"set it to {found[1]} or less")


def _too_long_for_model(found: re.Match[str], start: Start) -> UserError:
    return UserError(
        f"rollout.context_length is {found[1]}: the model in {start.path} takes at most "
        f"{float(found[3]):.0f} tokens ({found[2]}, with the scaling of its rope)",
        "set it to that or less",
    )


def _unknown_architecture(found: re.Match[str], start: Start) -> UserError:
    return UserError(
        f"rollout.engine: vLLM does not know the architecture {found[1]} of {start.path}",
        'set rollout.engine = "transformers", or install a vLLM that knows it',
    )


def _no_weights(found: re.Match[str], start: Start) -> UserError:
    what = f"model.path: {start.path} has no weights that vLLM reads"
    return UserError(what, "put its safetensors files there")


def _other_names(found: re.Match[str], start: Start) -> UserError:
    return UserError(
        f"model.path: {start.path} has a weight {found[1]!r} under a name that vLLM does not know",
        "load and save it once with transformers (from_pretrained, save_pretrained), or set "
        'rollout.engine = "transformers"',
    )


def _out_of_memory(found: re.Match[str], start: Start) -> UserError:
    return UserError(
        f"{start.memory_is}, and the device ran out of memory while the engine started or loaded "
        "weights: the trainer's are there too",
        f"lower rollout.{start.memory} or rollout.max_sequences; `drpo plan` shows what fits",
    )


_KNOWN: tuple[tuple[str, _Maker], ...] = (
    (
        r"([\d.]+) GiB KV cache is needed.*?available KV cache memory \(([\d.]+) GiB\)"
        r"(?:.*?estimated maximum model length is (\d+))?",
        _cache_too_small,
    ),
    (r"No available memory for the cache blocks", _no_cache),
    (
        r"(?:Free memory|Available memory|Externally held weights) on (?:device|node) [^(]*"
        r"\(([\d.]+)/([\d.]+)\)? GiB",
        _device_is_full,
    ),
    (r"max_num_batched_tokens \((\d+)\) must be greater.*?max_num_seqs \((\d+)\)", _too_many),
    (r"max_model_len \((\d+)\) is greater.*?max_model_len \((\w+)=([\d.]+)", _too_long_for_model),
    (r"Model architectures \[(.*?)\] are not supported", _unknown_architecture),
    (r"Cannot find any model weights", _no_weights),
    (r"There is no module or parameter named '([^']*)'", _other_names),
    (r"CUDA out of memory", _out_of_memory),
)

"""The devices that a run can be planned for, and what the rollout engine needs on them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from drpo_cli.architecture import by_layer, query_dimensions
from drpo_cli.errors import UserError
from drpo_cli.rollout.engine.capacity import GIB, cache_bytes

FLOAT32 = 4
GRAPHS = 1 * GIB
"""The memory pool of captured graphs. Assumed: nothing in a spec determines it."""

# GiB that torch can use: the "total capacity" in its out-of-memory messages, which is less than the
# vendor's round number. Where drivers differ, the smallest value.
GPUS = {
    "h100-80g": 79.1,
    "h200-141g": 139.7,
    "b200-180g": 178.3,
    "a100-80g": 79.1,
    "a100-40g": 39.4,
    "l40s-48g": 44.3,
    "a10g-24g": 22.0,
    "l4-24g": 22.0,
    "rtx4090-24g": 23.5,
    "mi300x-192g": 191.7,
}


@dataclass(frozen=True)
class Device:
    """What one process of the run has for itself.

    bytes  its memory
    cuda   true for a GPU, false for a process on a CPU
    """

    name: str
    bytes: int
    cuda: bool

    @property
    def kind(self) -> str:
        """Its name in torch, without a number."""
        return "cuda" if self.cuda else "cpu"


def parse_device(text: str, processes: int) -> Device:
    """Reads `--gpu`: a name in the table, `48g`, `cpu-24g`, or `cpu` for this machine.

    `cpu` gives each process an equal share of this machine's memory. Raises UserError.
    """
    name = text.lower()
    if name in GPUS:
        return Device(name, int(GPUS[name] * GIB), True)
    if name == "cpu":
        import psutil

        return Device(name, int(psutil.virtual_memory().total) // processes, False)
    found = re.fullmatch(r"(cpu-)?(\d+(?:\.\d+)?)g(?:i?b)?", name)
    if found is None or not float(found[2]):
        raise UserError(
            f"--gpu {text}: is not a device",
            f"give one of {', '.join(GPUS)}; or a size such as 48g; or cpu-24g for processes of "
            f"that many GiB; or cpu for this machine",
        )
    return Device(name, int(float(found[2]) * GIB), found[1] is None)


@dataclass(frozen=True)
class Engine:
    """Bytes of the engine on one device.

    weights   the model in the engine's dtype, and the engine's own copies of parts of it
    working   activations of the largest batch that vLLM plans for, the sampler's logits, graphs
    cache     the KV cache
    asleep    what stays allocated while the engine sleeps; None where it never sleeps
    reload    what loading new weights needs in addition
    """

    weights: int
    working: int
    cache: int
    asleep: int | None
    reload: int


def estimate_vllm(options: Any, config: Any, weights: int, width: int, device: Device) -> Engine:
    """A vLLM engine with these options; `weights` are bytes at `width` bytes per number.

    On a GPU it takes its whole fraction of the memory; the cache gets what the rest leaves of it.
    """
    text = config.get_text_config()
    logits = options.max_sequences * text.vocab_size * FLOAT32
    layer = weights // text.num_hidden_layers  # arrives in the engine's dtype
    if kind := options.quantised_to():
        experts = not (device.cuda and kind == "fp8")
        whole = _whole(config, experts) * width // options.tensor_parallel
        weights = whole + (weights - whole) // width
    if not device.cuda:
        # a tied head is packed separately from the embedding; the sampler's buffers are small
        head = text.vocab_size * text.hidden_size * width if config.tie_word_embeddings else 0
        working = 3 * logits + _wide_head(options, text, width) // options.tensor_parallel
        return Engine(weights + head, working, options.cpu_cache_gib * GIB, None, 0)
    graphs = 0 if options.skips_graphs(cuda=True) else GRAPHS
    working = _batch_tokens(device) * _widest(text) * width + 3 * logits + graphs
    cache = int(options.gpu_memory_fraction * device.bytes) - weights - working
    # by vLLM's own test of sleep mode, the buffer of the logits stays allocated; graphs do not:
    # their pool goes to main memory at every level (CuMemBackend.suspend)
    asleep = logits if options.sleep else None
    return Engine(weights, working, max(0, cache), asleep, layer)


def _wide_head(options: Any, text: Any, width: int) -> int:
    """Bytes of the head's copy in float32, which a CPU makes for each step that it samples."""
    if options.head_dtype == "model" or width == FLOAT32:
        return 0
    return int(text.vocab_size * text.hidden_size * FLOAT32)


def _whole(config: Any, experts: bool) -> int:
    """Numbers that stay as they are in a quantised engine: embedding, head, and maybe experts."""
    text = config.get_text_config()
    found = text.vocab_size * text.hidden_size * (1 if config.tie_word_embeddings else 2)
    names = ("num_experts", "n_routed_experts", "num_local_experts")
    count = next((n for name in names if (n := getattr(text, name, None))), 0)
    if experts and count:
        inner = getattr(text, "moe_intermediate_size", None) or text.intermediate_size
        found += text.num_hidden_layers * count * 3 * text.hidden_size * inner
    return int(found)


def _batch_tokens(device: Device) -> int:
    """Tokens per batch that vLLM 0.32 plans for by default: EngineArgs.get_batch_defaults."""
    large = device.bytes >= 70 * GIB and not device.name.startswith("a100")
    return 16384 if large else 8192


def _widest(text: Any) -> int:
    """Numbers per token at the widest place of a layer: in the MLP, or in attention."""
    inner = getattr(text, "intermediate_size", None) or text.hidden_size
    if getattr(text, "num_experts_per_tok", None) and getattr(text, "moe_intermediate_size", None):
        inner = max(inner, text.num_experts_per_tok * text.moe_intermediate_size)
    queries = max(map(query_dimensions, by_layer(text)))
    return int(2 * text.hidden_size + max(3 * inner, 3 * queries))


def estimate_transformers(
    options: Any, config: Any, weights: int, width: int, length: int, rows: int, device: Device
) -> Engine:
    """Plain `generate`: a second copy of the model, the cache of a batch, and its logits.

    length  tokens of a whole sequence
    rows    sequences per device
    """
    rows = min(rows, options.max_sequences)
    text = config.get_text_config()
    cache = rows * cache_bytes(config, width, length)
    cache += cache // text.num_hidden_layers  # one layer's cache is copied when it grows
    logits = rows * text.vocab_size * FLOAT32
    # the model's and in float32, log-probs, probabilities, noise, and the quotient of the two
    working = 6 * logits + (0 if device.cuda else _wide_head(options, text, width))
    return Engine(weights, working, cache, None, 0)

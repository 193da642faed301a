"""The numbers an engine computes with: its dtype, and weights that are quantised or as if.

Quantised engines store an output channel w as round(w / s) with a scale of its own, s = max |w| /
the largest value of the format. Those that quantise weights only dequantise before they multiply:
an engine that gets weights rounded in this way has the same log μ. Embeddings, head, norms and the
router of a mixture are not rounded, as in those engines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from drpo_cli.errors import UserError

NOT_ROUNDED = ("embed", "lm_head", "norm", ".gate.")


@dataclass(frozen=True)
class Precision:
    """The number formats of trainer and engine.

    train         compute dtype of the trainer
    rollout       compute dtype of the engine, in which it gets the weights
    rounding      the format to which weights are rounded before the engine gets them
    quantization  the format to which the engine quantises them, and the inputs of products
    float8        the recipe by which the trainer computes products in FP8
    """

    train: str
    rollout: str
    rounding: str | None = None
    quantization: str | None = None
    float8: str | None = None

    @property
    def coarsest(self) -> str:
        """The coarsest format of products, which decides how large a sound gap of the two is.

        Rounded weights do not count: the trainer's are rounded as well before the gap is measured.
        """
        formats = ("fp8" if self.float8 else None, self.quantization, self.train, self.rollout)
        return next(kind for kind in ("fp8", "int8", "bfloat16", "float32") if kind in formats)

    def convert(self, name: str, weight: Tensor) -> Tensor:
        """Rounds a weight of the trainer and casts it to the engine's dtype."""
        if self.rounding is not None:
            weight = round_weight(name, weight, self.rounding)
        return weight.to(self._dtype)

    @property
    def rounds(self) -> bool:
        """Whether the engine computes with weights that the trainer does not have."""
        return (self.rounding or self.quantization) is not None

    def imitate(self, name: str, weight: Tensor, quantised: frozenset[str]) -> Tensor:
        """Rounds a weight to the values that the engine computes with; the dtype stays.

        `quantised` names the modules that the engine quantises, inside of their decoder layer.
        """
        if self.rounding is not None:
            return round_weight(name, weight, self.rounding)
        module = inside(name) + "."
        if self.quantization is None or weight.ndim < 2 or name.endswith("bias"):
            return weight
        if not any(module.startswith(f"{path}.") for path in quantised):
            return weight
        return round_rows(weight.to(self._dtype), self.quantization).to(weight.dtype)

    @property
    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.rollout)
        return dtype


def check_device(kind: str | None, dtype: str) -> None:
    """Raises UserError if vLLM has no such products on this process's device, or wrong ones."""
    if kind is None:
        return
    if not torch.cuda.is_available():
        if kind == "int8" and not cpu_has_exact_int8():
            raise UserError(
                "rollout.quantization: this CPU has no dot products of 8-bit integers (AVX-VNNI, "
                "AVX512-VNNI, AMX), and vLLM's products in int8 are wrong without them",
                'remove it, or study int8 weights with rollout.weight_rounding = "int8"',
            )
        return
    major, minor = torch.cuda.get_device_capability()
    has, needs = f"and this GPU has compute capability {major}.{minor}", ""
    if kind == "fp8" and (major, minor) < (8, 9):
        needs = "products in FP8 need 8.9 (Ada) or later"
    if kind == "int8" and not (7, 5) <= (major, minor) < (10, 0):
        needs = "vLLM's products in int8 are for 7.5 (Turing) to 9.0 (Hopper)"
    if needs:
        other = "int8" if kind == "fp8" else "fp8"
        raise UserError(
            f"rollout.quantization: {needs}, {has}", f'remove it, or set it to "{other}"'
        )
    if kind == "int8" and dtype == "float32":
        raise UserError(
            "rollout.quantization: on a GPU, vLLM's products in int8 have results of 16 bits, and "
            "the engine's dtype is float32",
            'set rollout.dtype = "bfloat16"',
        )


def cpu_has_exact_int8() -> bool:
    """Whether oneDNN's products in int8 are exact on this CPU.

    Where an x86 CPU adds pairs of 8-bit products in 16 bits, oneDNN's signed products saturate:
    an identity matrix times weights in -127 ... 127 differs from the weights by up to 122.
    """
    has = torch.cpu.get_capabilities()
    named = ("avx_vnni", "avx512_vnni", "amx_int8")
    return has["architecture"] != "x86_64" or any(has.get(name) for name in named)


def find_quantised(model: Any) -> frozenset[str]:
    """The modules of a vLLM model that it quantises, as checkpoints name them inside of a layer."""
    parts_of = getattr(model, "packed_modules_mapping", {})
    found: set[str] = set()
    for name, module in model.named_modules():
        if not getattr(getattr(module, "quant_method", None), "uses_meta_device", False):
            continue
        name = name.removesuffix(".base_layer")  # of a layer with room for adapters
        path, dot, last = re.sub(r"\bexperts\b.*", "experts", inside(name)).rpartition(".")
        found.update(f"{path}{dot}{part}" for part in parts_of.get(last, [last]))
    return frozenset(found)


def inside(name: str) -> str:
    """A name without what comes before the number of its decoder layer, and without the number."""
    return re.sub(r"^.*?\.\d+\.", "", name)


def round_weight(name: str, weight: Tensor, kind: str) -> Tensor:
    """Rounds a weight as `round_rows` does, unless quantised engines keep one of its name whole."""
    if weight.ndim < 2 or any(part in name for part in NOT_ROUNDED):
        return weight
    return round_rows(weight, kind)


def round_rows(weight: Tensor, kind: str) -> Tensor:
    """Rounds a matrix with one scale per row of its last axis; shape and dtype stay."""
    stored, scale = QUANTISE[kind](weight, weight.abs().amax(-1, keepdim=True))
    return (stored.float() * scale).to(weight.dtype)


def to_int8(weight: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    """The weight in int8 and the scale of each row, whose largest absolute values are given."""
    scale = _scale(largest, 127.0)
    return (weight.float() / scale).round().to(torch.int8), scale


def to_fp8(weight: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    """The weight in E4M3 and the scale of each row, whose largest absolute values are given."""
    scale = _scale(largest, torch.finfo(torch.float8_e4m3fn).max)
    return (weight.float() / scale).to(torch.float8_e4m3fn), scale


def _scale(largest: Tensor, of_format: float) -> Tensor:
    return (largest.float() / of_format).clamp(min=torch.finfo(torch.float32).tiny)


QUANTISE = {"int8": to_int8, "fp8": to_fp8}

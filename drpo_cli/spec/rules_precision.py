"""Rules over number formats: those of the trainer, of the engine, and the two together."""

from __future__ import annotations

from collections.abc import Iterator

from drpo_cli.spec import rules_lora
from drpo_cli.spec.model import Spec
from drpo_cli.spec.positions import KeyPath
from drpo_cli.spec.problems import Problem

QUANTIZATION: KeyPath = ("rollout", "quantization")
DTYPE: KeyPath = ("model", "dtype")


def weights_are_rounded_once(spec: Spec) -> Iterator[Problem]:
    """An engine that quantises its weights needs no imitation of one."""
    rollout = spec.rollout.config
    if rollout.weight_rounding and (quantised := rollout.quantised_to()):
        yield Problem(
            ("rollout", "weight_rounding"),
            f"is {rollout.weight_rounding!r}, which imitates an engine with quantised weights, "
            f"and rollout.quantization {quantised!r} is one; remove one of the two",
            also=(QUANTIZATION,),
        )


def fp8_engine_computes_in_bfloat16(spec: Spec) -> Iterator[Problem]:
    """vLLM quantises weights to FP8 in models of 16 bits only."""
    rollout = spec.rollout.config
    dtype = rollout.dtype or spec.model.dtype
    if rollout.quantised_to() == "fp8" and dtype != "bfloat16":
        yield Problem(
            QUANTIZATION,
            f"is 'fp8', with which vLLM computes the rest in bfloat16, and the engine's dtype is "
            f"{dtype!r}; set rollout.dtype to 'bfloat16'",
            also=(("rollout", "dtype"), DTYPE),
        )


def fp8_training_is_in_bfloat16(spec: Spec) -> Iterator[Problem]:
    """What is not cast to FP8 is in bfloat16: there are no products of it with float32."""
    if spec.train.float8 and spec.model.dtype != "bfloat16":
        yield Problem(
            ("train", "float8"),
            f"is {spec.train.float8!r}, with which the rest of training is in bfloat16, and "
            f"model.dtype is {spec.model.dtype!r}; set model.dtype to 'bfloat16', or remove it",
            also=(DTYPE,),
        )


def heads_have_another_dtype(spec: Spec) -> Iterator[Problem]:
    """Where everything is in float32, there is nothing to choose for a head."""
    rollout = spec.rollout.config
    engine: tuple[KeyPath, str, str | None] = (("rollout",), rollout.head_dtype, rollout.dtype)
    for section, head, dtype in ((("train",), spec.train.head_dtype, None), engine):
        if head == "model" and (dtype or spec.model.dtype) == "float32":
            yield Problem(
                (*section, "head_dtype"),
                "has no effect: the head is in the dtype of everything else, which is float32; "
                "leave it out",
                also=((*section, "dtype"),) if dtype else (DTYPE,),
            )


def rounded_weights_are_not_merged(spec: Spec) -> Iterator[Problem]:
    """The trainer has no merged weights that it could round as the engine does."""
    if spec.lora is None:
        return
    rollout = spec.rollout.config
    merged = "merged" in rules_lora.syncs_of(spec.lora, rollout).values()
    key = "quantization" if rollout.quantised_to() else "weight_rounding"
    if merged and (rollout.quantised_to() or rollout.weight_rounding):
        yield Problem(
            ("rollout", key),
            "rounds weights that have adapters merged into them, and the trainer, which has the "
            "two apart, cannot round the same, so no sync could be proven; remove it, or have the "
            "adapter pushed alone (vLLM with lora.sync 'adapter')",
            also=(("lora", "sync"),),
        )


ERRORS = (
    weights_are_rounded_once,
    fp8_engine_computes_in_bfloat16,
    fp8_training_is_in_bfloat16,
    heads_have_another_dtype,
    rounded_weights_are_not_merged,
)

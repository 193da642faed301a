"""Rules over the processes of a run: its mesh, and engines that several processes share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from drpo_cli.spec.model import Spec
from drpo_cli.spec.problems import Problem


def tensor_parallel(spec: Spec) -> int:
    """The ranks that share one engine: 1 for an engine without this option."""
    return int(getattr(spec.rollout.config, "tensor_parallel", 1))


def mesh_fits(spec: Spec, world: int) -> Iterator[Problem]:
    """The mesh of `[parallel]` has a place for every process."""
    chosen, (replicate, shard) = spec.parallel, spec.parallel.mesh(world)
    if replicate * shard == world:
        return
    if chosen.shard and chosen.replicate:
        yield Problem(
            ("parallel", "shard"),
            f"is {shard}; {replicate} × {shard} are {replicate * shard} processes, and the run has "
            f"{world}; leave one of the two out, or change --nproc",
            also=(("parallel", "replicate"),),
        )
    else:
        key = "shard" if chosen.shard else "replicate"
        yield Problem(
            ("parallel", key),
            f"is {getattr(chosen, key)}; must divide the {world} processes of the run; change it "
            f"or --nproc",
        )


def engines_fit(spec: Spec, world: int) -> Iterator[Problem]:
    """Engines that share processes leave none over."""
    if world % (size := tensor_parallel(spec)):
        yield Problem(
            ("rollout", "tensor_parallel"),
            f"is {size}; must divide the {world} processes of the run, since each engine takes "
            f"{size} of them; change it or --nproc",
        )


def heads_divide(spec: Spec, config: Mapping[str, Any] | None) -> Iterator[Problem]:
    """Tensor parallelism cuts heads and hidden layers evenly; few key heads can be repeated."""
    size = tensor_parallel(spec)
    if config is None or size == 1:
        return
    text = config.get("text_config")
    parts = [part for part in (text, config) if isinstance(part, Mapping)]

    def number(key: str) -> int | None:
        found = (part.get(key) for part in parts)
        return next((one for one in found if isinstance(one, int)), None)

    uneven = [
        f"{count} {things}"
        for key, things in (
            ("num_attention_heads", "attention heads"),
            ("intermediate_size", "numbers per token in an MLP"),
            ("moe_intermediate_size", "numbers per token in an expert"),
        )
        if (count := number(key)) and count % size
    ]
    keys = number("num_key_value_heads")
    if keys and number("kv_lora_rank") is None and keys % size and size % keys:
        uneven.append(f"{keys} key heads")
    if uneven:
        yield Problem(
            ("rollout", "tensor_parallel"),
            f"is {size}; cannot cut the model in {spec.model.path} evenly: it has "
            f"{' and '.join(uneven)}; choose a number that divides them",
        )

"""Tensor parallelism: the ranks that share one engine sample their prompts together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Ids = tuple[int, ...]


class Pooled(NamedTuple):
    """The prompts of all ranks of one engine, the seeds of their rollouts, and which are ours.

    The ranks of an engine must ask it for the same, in the same order. They all compute every
    response, and each keeps those to its own prompts, so that nothing is counted twice.
    """

    prompt_ids: Sequence[Ids]
    seeds_PG: Sequence[Sequence[int]]
    own: range


def pool(
    prompt_ids: Sequence[Ids], seeds_PG: Sequence[Sequence[int]], group: ProcessGroup | None
) -> Pooled:
    """Joins the prompts of the ranks that share an engine; without a group, there is one rank.

    Consumes: token ids of this rank's prompts, of which there may be none, and the seeds of each.
    Waits for: the ranks of `group`.
    Produces: on each of them the same prompts and seeds, in rank order.
    """
    if group is None:
        return Pooled(prompt_ids, seeds_PG, range(len(prompt_ids)))
    import torch.distributed as dist

    own = list(zip(prompt_ids, seeds_PG, strict=True))
    parts = [own] * dist.get_world_size(group)
    dist.all_gather_object(parts, own, group)
    first = sum(len(part) for part in parts[: dist.get_rank(group)])
    joined = [pair for part in parts for pair in part]
    return Pooled(
        [ids for ids, _ in joined],
        [seeds_G for _, seeds_G in joined],
        range(first, first + len(own)),
    )

"""Tensor parallelism: the ranks that share one engine sample their prompts together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from drpo_cli.rollout.engine.protocol import Sampling

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Pooled(NamedTuple):
    """The prompts of all ranks of one engine, and which of them are this rank's.

    The ranks of an engine must ask it for the same, in the same order. They all compute every
    response, and each keeps those to its own prompts, so that nothing is counted twice.
    """

    prompt_ids: Sequence[tuple[int, ...]]
    sampling: Sampling
    own: range


def pool(
    prompt_ids: Sequence[tuple[int, ...]], sampling: Sampling, group: ProcessGroup | None
) -> Pooled:
    """Joins the prompts of the ranks that share an engine; without a group, there is one rank.

    Consumes: token ids of this rank's prompts, of which there may be none, and how to sample them;
        only the seed may differ between ranks.
    Waits for: the ranks of `group`.
    Produces: on each of them the same prompts, in rank order, with the seed of the first rank.
    """
    if group is None:
        return Pooled(prompt_ids, sampling, range(len(prompt_ids)))
    import torch.distributed as dist

    everyone: list[tuple[list[tuple[int, ...]], Sampling]]
    everyone = [([], sampling)] * dist.get_world_size(group)
    dist.all_gather_object(everyone, (list(prompt_ids), sampling), group)
    joined = [ids for theirs, _ in everyone for ids in theirs]
    first = sum(len(theirs) for theirs, _ in everyone[: dist.get_rank(group)])
    return Pooled(joined, everyone[0][1], range(first, first + len(prompt_ids)))

"""What an engine samples next: one feed, or those of the ranks that share the engine."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from drpo_cli.rollout.engine.requests import Key, Request, Requests

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class News(NamedTuple):
    """What has come on one rank."""

    requests: tuple[Request, ...]
    coming: bool
    ended: bool


class Feed:
    """The requests of all ranks that share an engine, under keys that begin with the rank.

    The ranks of an engine (tensor parallelism) must ask it for the same, in the same order, and
    take as many steps. So they exchange what has come in front of a step, until every rank's feed
    has ended. They all compute every response, and each keeps its own, so that nothing is
    counted twice. A rank alone exchanges nothing.
    """

    def __init__(
        self, requests: Requests, group: ProcessGroup | None = None, in_rounds: bool = False
    ) -> None:
        """A feed of the ranks of `group`, or of this process; `in_rounds` forces rounds."""
        self.in_rounds = in_rounds or requests.in_rounds
        self.rank = 0
        self._requests, self._group = requests, group
        self._open, self._coming, self._answered = True, True, False
        self._told = News((), coming=True, ended=False)
        self._kept: list[Request] = []
        if group is not None:
            import torch.distributed as dist

            self.rank = dist.get_rank(group)

    @property
    def ended(self) -> bool:
        """Whether `take` has given the last requests."""
        return not self._open and not self._kept

    def take(self, busy: bool) -> list[Request]:
        """The requests to add now, in order; with rounds, those of a whole round or none.

        Consumes: whether the engine is still sampling, which is the same on all ranks.
        Waits for: the next step of the ranks that share the engine; if it is not busy, for a
            request, but only for a short while.
        Produces: the same on each of these ranks. May be empty.
        """
        # else nothing can have come, and ranks need not ask each other in front of every step
        if self._open and (self._coming or self._answered or not busy):
            self._answered = False
            self._hear(self._take(not busy))
        if self.in_rounds and (busy or self._coming):
            return []
        taken, self._kept = sorted(self._kept, key=attrgetter("key")), []
        return taken

    def answered(self, key: Key) -> Key | None:
        """Notes a response; gives this rank's key of the request, None if it is another rank's."""
        self._answered = True
        return key[1:] if key[0] == self.rank else None

    def _take(self, wait: bool) -> News:
        taken = self._requests.take(wait)
        ended = taken is None
        return News(tuple(taken or ()), not ended and self._requests.coming, ended)

    def _hear(self, own: News) -> None:
        news = self._exchange(own, own != self._told)
        self._told = own._replace(requests=())
        if not news:
            return
        for rank, one in enumerate(news):
            self._kept += (request._replace(key=(rank, *request.key)) for request in one.requests)
        self._coming = any(one.coming for one in news)
        self._open = not all(one.ended for one in news)

    def _exchange(self, own: News, changed: bool) -> list[News]:
        """What has come on each rank; nothing if it changes nothing for any of them."""
        if self._group is None:
            return [own]
        import torch
        import torch.distributed as dist

        any_changed = torch.tensor(changed, dtype=torch.int)
        dist.all_reduce(any_changed, dist.ReduceOp.MAX, self._group)  # cheaper than objects
        if not any_changed:
            return []
        news = [own] * dist.get_world_size(self._group)
        dist.all_gather_object(news, own, self._group)
        return news

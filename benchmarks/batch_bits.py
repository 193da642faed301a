"""`python -m benchmarks.batch_bits small float32`: does what else is sampled change a response?

On vLLM, with a random model (`SHAPES`): 16 requests, prompts of 40 and of 300 tokens of
which half begin alike, responses of up to 64 tokens. They are sampled together, then in another
order, together with other requests, alone, late, and with other hits of the prefix cache. Printed
for each: of the 16 responses, how many have other tokens, how many have the same tokens and other
bits of log μ, and the largest difference of a log μ in front of the first other token.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks._trainers import Shape, make_model
from drpo_cli.rollout.engine.requests import AllAtOnce, Request
from drpo_cli.types import Rollout

SHAPES = {
    "tiny": Shape(512, 64, 128, layers=2, heads=2, kv_heads=1, head_dim=32),
    "small": Shape(512, 256, 1024, layers=4, heads=4, kv_heads=2, head_dim=64),
    "large": Shape(4096, 1024, 3072, layers=2, heads=16, kv_heads=8, head_dim=64),
}
COUNT, TOKENS, SHARED = 16, 64, 256
Found = dict[int, Rollout]


class Late:
    """The requests one by one: the next comes with every `every`th call of `take`."""

    def __init__(self, requests: Iterable[Request], every: int, in_rounds: bool = False) -> None:
        self._left, self._every, self._calls = list(requests), every, 0
        self.in_rounds = in_rounds

    @property
    def coming(self) -> bool:
        """Whether one is left."""
        return bool(self._left)

    def take(self, wait: bool) -> Sequence[Request] | None:
        """At most one."""
        self._calls += 1
        if not self._left:
            return None
        return [self._left.pop(0)] if self._calls % self._every == 0 else []


class Phases:
    """Requests, and others when the first have all been sampled."""

    in_rounds = True
    coming = False

    def __init__(self, *phases: Sequence[Request]) -> None:
        self._phases = list(phases)

    def take(self, wait: bool) -> Sequence[Request] | None:
        """The next phase."""
        if not self._phases:
            return None
        return self._phases.pop(0) if wait else []


@contextmanager
def unread_cache() -> Iterator[None]:
    """No request reads what others left in the cache."""
    from drpo_cli.rollout import vllm

    plain = vllm.sampling_options
    vllm.sampling_options = lambda *given: {**plain(*given), "skip_reading_prefix_cache": True}
    yield
    vllm.sampling_options = plain


def requests(count: int, first: int = 0) -> list[Request]:
    """Requests with prompts and seeds of their own; half are long, and begin alike."""
    made = []
    for number in range(first, first + count):
        draw = random.Random(number)
        own = tuple(draw.randrange(3, 260) for _ in range(40))
        same = tuple(3 + i * i % 250 for i in range(SHARED)) if number % 2 else ()
        made.append(Request((number,), (*same, *own), number, TOKENS))
    return made


def sample(engine: Any, feed: Any) -> Found:
    """The responses to the first 16 requests."""
    from drpo_cli.rollout.engine.protocol import Sampling

    sampling = Sampling(samples=1, max_new_tokens=TOKENS, temperature=1.0, seed=0)
    return {key[0]: one for key, one in engine.generate(feed, sampling) if key[0] < COUNT}


def ways(engine: Any) -> Iterable[tuple[str, Found]]:
    """Each way to sample the same 16 requests."""
    own, others = requests(COUNT), requests(48, first=COUNT)
    yield "together, again", sample(engine, AllAtOnce(own))
    backwards = (one._replace(key=(COUNT - 1 - at,)) for at, one in enumerate(own))
    turned = sample(engine, AllAtOnce(backwards))
    yield "in another order", {COUNT - 1 - at: one for at, one in turned.items()}
    yield "with 48 others after them", sample(engine, AllAtOnce([*own, *others]))
    yield "alone", {k: v for one in own for k, v in sample(engine, AllAtOnce([one])).items()}
    with unread_cache():
        yield "without reading the prefix cache", sample(engine, AllAtOnce(own))
    before = [one._replace(key=(COUNT + at,), max_new_tokens=1) for at, one in enumerate(own)]
    yield "when their prompts are in the cache", sample(engine, Phases(before, own))
    yield "one more with each step", sample(engine, Late(own, 1))
    yield "one more with each fifth step", sample(engine, Late(own, 5))
    yield "one by one, in rounds", sample(engine, Late(own, 5, in_rounds=True))


def compare(found: Found, whole: Found) -> tuple[int, int, float]:
    """Responses with other tokens; with other bits alone; the largest difference of a log μ."""
    tokens = bits = 0
    worst = 0.0
    for number, one in found.items():
        other = whole[number]
        pairs = zip(one.token_ids, other.token_ids, one.logps, other.logps, strict=False)
        for a, b, x, y in pairs:
            if a != b:
                break
            worst = max(worst, abs(x - y))
        tokens += one.token_ids != other.token_ids
        bits += one.token_ids == other.token_ids and one.logps != other.logps
    return tokens, bits, worst


def measure(name: str, dtype: str) -> None:
    """Prints what `ways` finds with a model of this size and dtype."""
    from drpo_cli.rollout import vllm
    from drpo_cli.rollout.engine.protocol import EngineContext
    from drpo_cli.settings import ModelSettings

    with tempfile.TemporaryDirectory() as scratch:
        path = make_model(Path(scratch) / "model", SHAPES[name])
        model = ModelSettings(path=str(path), dtype=dtype)  # type: ignore[arg-type]
        engine = vllm.Engine(vllm.Config(), EngineContext(model, 512, 1))
        whole = sample(engine, AllAtOnce(requests(COUNT)))
        total = sum(len(one.token_ids) for one in whole.values())
        sys.stdout.write(f"{name} {dtype}: {total} tokens of {COUNT} responses\n")
        for way, found in ways(engine):
            tokens, bits, worst = compare(found, whole)
            sys.stdout.write(
                f"{name} {dtype}, {way}: {tokens} with other tokens, {bits} with other bits, "
                f"log μ differs by up to {worst:.2g}\n"
            )
        engine.close()


if __name__ == "__main__":
    measure(*sys.argv[1:3])

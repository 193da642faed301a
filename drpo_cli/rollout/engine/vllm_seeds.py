"""Seeds of requests whose prompts vLLM computes in parts, on a CPU."""

from __future__ import annotations

from typing import Any


def keep_generators(runner: Any) -> None:
    """Has a runner on a CPU draw nothing for a request until its whole prompt is computed.

    vLLM computes at most so many tokens per step, and the rest of a prompt in the next. It draws a
    token in each step, drops it if a part of the prompt is left, and then turns the request's
    generator back. Generators on a CPU cannot be turned back: vLLM raises `CPU Generator does not
    use offset`. Here they are out of its sight in such a step, so that a request draws the same
    tokens whether its prompt was cut or not.
    """
    plain = runner.sample_tokens

    def sample_tokens(*given: Any) -> Any:
        batch = runner.input_batch
        cut = runner.discard_request_mask.np[: batch.num_reqs].nonzero()[0].tolist()
        hidden = {row: batch.generators.pop(row) for row in cut if row in batch.generators}
        try:
            return plain(*given)
        finally:
            batch.generators.update(hidden)

    runner.sample_tokens = sample_tokens

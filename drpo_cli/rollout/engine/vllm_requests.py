"""What vLLM is asked for, and how a response is read from what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from drpo_cli.rollout.engine.ends import Ends
from drpo_cli.rollout.engine.protocol import Sampling
from drpo_cli.rollout.engine.text import decode_response
from drpo_cli.types import Rollout


def sampling_options(sampling: Sampling, ends: Ends) -> dict[str, Any]:
    """What all requests of a feed have in common, as `vllm.SamplingParams` takes it.

    vLLM decodes a text token by token only where it must search it for the texts that end it.
    """
    from vllm.sampling_params import RequestOutputKind

    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "stop": list(ends.texts),
        "stop_token_ids": sorted(ends.ids),
        "ignore_eos": True,  # the ends above are all, with every engine
        "logprobs": 0,
        "flat_logprobs": True,
        "detokenize": bool(ends.texts),
        "output_kind": RequestOutputKind.FINAL_ONLY,
    }


def read_output(tokenizer: Any, prompt_ids: Sequence[int], output: Any) -> Rollout:
    """The rollout of vLLM's `RequestOutput`, without experts."""
    sample = output.outputs[0]
    ids, flat = tuple(sample.token_ids), sample.logprobs
    # per token, the first entry is that of the sampled token: `logprobs = 0` asks for no other
    firsts = flat.start_indices
    if [flat.token_ids[first] for first in firsts] != list(ids):
        raise RuntimeError("vLLM's log-probs are not those of its tokens")
    text = sample.text
    if not isinstance(sample.stop_reason, str):  # not cut at a text
        ended = sample.finish_reason == "stop"
        text = decode_response(tokenizer, prompt_ids, ids[:-1] if ended else ids)
    logps = tuple(flat.logprobs[first] for first in firsts)
    return Rollout(ids, logps, text, truncated=sample.finish_reason == "length")

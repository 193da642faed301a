"""Plain `generate` of transformers: slow, but it runs wherever torch does.

It holds its own copy of the model, so that sampling does not gather sharded weights.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from drpo_cli import pretrained, progress
from drpo_cli.errors import UserError
from drpo_cli.rollout.engine.ends import Ends, find_ends, load_config
from drpo_cli.rollout.engine.experts import TransformersExperts
from drpo_cli.rollout.engine.feed import Feed
from drpo_cli.rollout.engine.protocol import EngineContext, Sampling
from drpo_cli.rollout.engine.requests import Key, Request, Requests
from drpo_cli.rollout.engine.text import decode_response
from drpo_cli.settings import Count, ModelSettings, RolloutSettings
from drpo_cli.types import Rollout

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Config(RolloutSettings):
    """Options of the transformers engine."""

    max_sequences: Count = 128
    """Responses sampled at the same time, per rank."""


class Engine:
    """A second copy of the model, sampled by `model.generate`."""

    checkpoint_names = False
    takes_adapters = False
    returns_experts = True

    @staticmethod
    def check(config: Config, context: EngineContext) -> None:
        """See `EngineProtocol.check`: any model can be sampled, but not to a text."""
        _find_ends(config, context)

    def __init__(self, config: Config, context: EngineContext) -> None:
        """Makes the model, and loads its tokenizer. Not a collective.

        Raises UserError for options that this engine does not support.
        """
        import torch

        self.config = config
        self.tokenizer, self.ends = _find_ends(config, context)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        make = _make_empty if context.awaits_weights else _read
        self.model = make(context.model, device).eval()
        if config.head_dtype == "float32":
            _widen_head(self.model)
        self.model.register_forward_hook(lambda *_: progress.tick())
        self.experts = TransformersExperts(self.model) if context.experts else None
        # experts are recorded of whole rows, and only `past_key_values` continues a prompt
        takes = inspect.signature(self.model.forward).parameters
        own_code = self.model.is_remote_code()
        self.shares = self.experts is None and "past_key_values" in takes and not own_code
        pad, rows = self.tokenizer.pad_token_id, self.model.get_input_embeddings().num_embeddings
        self.pad_id = pad if pad is not None and pad < rows else 0  # it is masked

    def generate(
        self, requests: Requests, sampling: Sampling
    ) -> Generator[tuple[Key, Rollout], None, None]:
        """See `EngineProtocol.generate`. All rollouts of a batch finish at the same time.

        Batches are static, so it samples in rounds: what a response is sampled with must not
        depend on how long an environment takes.
        """
        feed, size = Feed(requests, in_rounds=True), self.config.max_sequences
        while not feed.ended:
            progress.tick()
            come = feed.take(busy=False)
            for first in range(0, len(come), size):
                batch = come[first : first + size]
                for request, rollout in zip(
                    batch, self._sample_batch(batch, sampling), strict=True
                ):
                    yield request.key[1:], rollout  # no other rank shares it

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """See `EngineProtocol.load_weights`. Takes names as in the trainer's own model."""
        import torch

        saved = self.model.state_dict().keys()
        own = dict(self.model.named_parameters())
        own |= {name: buffer for name, buffer in self.model.named_buffers() if name in saved}
        with torch.no_grad():
            for name, tensor in weights:
                own.pop(name).copy_(tensor)
        if own:
            raise RuntimeError(f"the sync did not send {sorted(own)}")

    def load_adapter(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Is never called: adapters come merged."""
        raise NotImplementedError

    def sleep(self) -> None:
        """Does nothing: there is no cache between calls."""

    def wake(self, what: str) -> None:
        """Does nothing, since `sleep` frees nothing."""

    def close(self) -> None:
        """Frees the copy of the model."""
        del self.model

    def _sample_batch(self, batch: Sequence[Request], sampling: Sampling) -> list[Rollout]:
        """A rollout of each request."""
        import torch
        from transformers import GenerationConfig, LogitsProcessorList

        prompts = [request.prompt_ids for request in batch]
        limits = [request.max_new_tokens for request in batch]
        longest = max(map(len, prompts))
        padded = [[self.pad_id] * (longest - len(ids)) + list(ids) for ids in prompts]
        seen = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]
        device = self.model.device
        draw = _Draw(sampling, [request.seed for request in batch], device)
        if self.experts is not None:
            self.experts.begin()
        ids_SP = torch.tensor(padded, device=device)
        seen_SP = torch.tensor(seen, device=device)
        out = self._continue(
            ids_SP,
            seen_SP,
            past_key_values=self._share_prompts(ids_SP, seen_SP) if self.shares else None,
            generation_config=GenerationConfig(
                do_sample=False,  # `draw` has drawn: the highest score is its token
                max_new_tokens=max(limits),
                eos_token_id=sorted(self.ends.ids) or None,
                pad_token_id=self.pad_id,
            ),
            logits_processor=LogitsProcessorList([draw]),
            stopping_criteria=_limits(limits, longest, device),
        )
        responses = out[:, longest:].tolist()
        logp_rows = torch.stack(draw.logps, dim=1).tolist()
        made = [self._make_rollout(*row) for row in zip(batch, responses, logp_rows, strict=True)]
        if self.experts is None:
            return made
        experts = self.experts.take(len(batch))
        return [
            replace(rollout, experts=own[longest - len(ids) :][: len(ids) + len(rollout.logps) - 1])
            for ids, rollout, own in zip(prompts, made, experts, strict=True)
        ]

    def _continue(self, ids_SP: Tensor, seen_SP: Tensor, **options: Any) -> Any:
        """What `generate` gives; not `self.model.generate`, which the model's code may replace."""
        import torch
        from transformers import GenerationMixin

        with torch.no_grad():
            return GenerationMixin.generate(
                self.model, input_ids=ids_SP, attention_mask=seen_SP, **options
            )

    def _share_prompts(self, ids_SP: Tensor, seen_SP: Tensor) -> Any:
        """The cache of all tokens of the prompts but the last, each prompt computed once.

        None where few prompts are repeated.
        """
        import torch
        from transformers import GenerationConfig

        rows, length = ids_SP.shape
        both, row_S = torch.cat([ids_SP, seen_SP], dim=1).unique(dim=0, return_inverse=True)
        if length == 1 or len(both) * 2 > rows:
            return None
        # one token more, which is thrown away, is the least that can be asked for
        config = GenerationConfig(do_sample=False, max_new_tokens=1, return_dict_in_generate=True)
        out = self._continue(both[:, : length - 1], both[:, length:-1], generation_config=config)
        cache = out.past_key_values
        cache.reorder_cache(row_S)
        return cache

    def _make_rollout(self, request: Request, ids: list[int], logps: list[float]) -> Rollout:
        ids = ids[: request.max_new_tokens]
        end = next((t for t, token in enumerate(ids) if token in self.ends.ids), None)
        length = len(ids) if end is None else end + 1
        text = decode_response(self.tokenizer, request.prompt_ids, ids[:end])
        return Rollout(tuple(ids[:length]), tuple(logps[:length]), text, truncated=end is None)


def _limits(limits: Sequence[int], longest: int, device: torch.device) -> Any:
    """Criteria that end each row of a batch at its own length; None if all have the same."""
    import torch
    from transformers import StoppingCriteriaList

    if len(set(limits)) == 1:
        return None
    limit_S = torch.tensor(limits, device=device) + longest
    return StoppingCriteriaList([lambda ids, scores, **more: ids.shape[1] >= limit_S])


def _read(model: ModelSettings, device: torch.device) -> Any:
    """The model with the weights of its folder."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    lm = pretrained.load(
        AutoModelForCausalLM,
        model.path,
        "model.path",
        dtype=getattr(torch, model.dtype),
        trust_remote_code=model.trust_remote_code,
        generation_config=GenerationConfig(),  # else `generate` fills in the model folder's
    )
    return lm.to(device)


def _make_empty(model: ModelSettings, device: torch.device) -> Any:
    """The model with buffers, and with parameters that nobody has written."""
    import torch
    from transformers import GenerationConfig

    lm = pretrained.make(
        load_config(model),
        dtype=getattr(torch, model.dtype),
        trust_remote_code=model.trust_remote_code,
    )
    lm.generation_config = GenerationConfig()  # as in `_read`
    exact = lm._keep_in_fp32_modules_strict  # whatever the dtype, as when it is read
    for name, tensor in [*lm.named_parameters(), *lm.named_buffers()]:
        if any(part in name for part in exact):
            tensor.data = tensor.data.float()
    for parameter in lm.parameters():
        parameter.data = torch.empty_like(parameter, device=device)
    return lm.to(device)


def _widen_head(lm: Any) -> None:
    """Makes the head give float32 logits, which the model then caps and scales in float32."""
    from torch import nn

    from drpo_cli.products import widen

    head = lm.get_output_embeddings()
    if isinstance(head, nn.Linear):
        widen(head)


class _Draw:
    """A logits processor that draws the next token of each row with a generator of its own.

    The token is the first whose cumulated probability, after temperature and truncation, exceeds a
    uniform number: one number for each token, not for each word of the vocabulary, whose making
    would take longer than the rest. `logps` has log μ of the drawn tokens, per step.
    """

    def __init__(self, sampling: Sampling, seeds: Sequence[int], device: torch.device) -> None:
        import torch
        from transformers import LogitsProcessorList
        from transformers.generation import logits_process as change

        self.logps: list[Tensor] = []
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self._truncate = LogitsProcessorList([change.TemperatureLogitsWarper(sampling.temperature)])
        if sampling.top_k:
            self._truncate.append(change.TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            self._truncate.append(change.TopPLogitsWarper(sampling.top_p))
        if sampling.min_p:
            self._truncate.append(change.MinPLogitsWarper(sampling.min_p))

    def __call__(self, ids: Any, scores: Tensor) -> Tensor:
        """Scores that are highest for the drawn tokens; the arguments are every processor's."""
        import torch

        logp_SV: Tensor = self._truncate(ids, scores.float()).log_softmax(-1)
        # in float64: in float32 a sum over a large vocabulary is off by more than rare tokens have
        below_SV = logp_SV.double().exp_().cumsum(-1)
        token_S1 = find_drawn(below_SV, self._uniform(logp_SV))
        self.logps.append(logp_SV.gather(-1, token_S1)[:, 0])
        return torch.zeros_like(logp_SV).scatter_(-1, token_S1, 1.0)

    def _uniform(self, like: Tensor) -> Tensor:
        """A number in [0, 1) for each row, [S], float64."""
        import torch

        uniform_S = like.new_empty(len(self._generators), dtype=torch.float64)
        for uniform_1, generator in zip(uniform_S.split(1), self._generators, strict=True):
            uniform_1.uniform_(generator=generator)
        return uniform_S


def find_drawn(below_SV: Tensor, uniform_S: Tensor) -> Tensor:
    """The first token of each row that exceeds the row's number, [S, 1].

    below_SV   probabilities summed up to and with each token, float64
    uniform_S  numbers in [0, 1)

    A token without probability adds nothing to the sum, so it is never the first.
    """
    import torch

    # a little less than 1, or rounding could reach the whole sum, which no token exceeds
    target_S = uniform_S * below_SV[:, -1] * (1 - 2.0**-52)
    return torch.searchsorted(below_SV, target_S[:, None], right=True)


def _find_ends(config: Config, context: EngineContext) -> tuple[Any, Ends]:
    """The tokenizer and the ends of responses, which are tokens: no text is searched."""
    from transformers import AutoTokenizer

    model = context.model
    tokenizer = AutoTokenizer.from_pretrained(model.path, trust_remote_code=model.trust_remote_code)
    ends = find_ends(config, model, tokenizer)
    if ends.texts:
        raise UserError(
            "rollout.stop: the transformers engine does not search texts for "
            f"{', '.join(map(repr, ends.texts))}",
            "give the ids of single tokens in rollout.stop_token_ids instead, or use "
            'rollout.engine = "vllm"',
        )
    return tokenizer, ends

"""What vLLM's reload of weights leaves undone on a CPU, where layers keep packed copies of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from drpo_cli.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


def unpack_experts(model: Any) -> list[Any]:
    """Has the reload build the kernels of experts anew; returns what they belong to.

    On a CPU a kernel packs its weights only when it is built. A reload into an existing one leaves
    them unpacked, which is silently wrong.
    """
    methods = [getattr(module, "quant_method", None) for module in model.modules()]
    pairs = zip(methods, model.modules(), strict=True)
    found: list[Any] = [
        method
        for method, module in pairs
        if getattr(method, "moe_kernel", None) is not None and _is_on_cpu(module)
    ]
    for method in found:
        method.moe_kernel = None
    return found


def require_experts(unpacked: Iterable[Any]) -> None:
    """Raises UserError if the reload has not built the kernels again (gpt-oss, in vLLM 0.32)."""
    if any(method.moe_kernel is None for method in unpacked):
        raise UserError(
            "sync: vLLM does not take new weights for the experts of this model on a CPU",
            'set rollout.engine = "transformers"',
        )


def find_embedding(model: Any) -> dict[str, Tensor]:
    """On a CPU, the embedding's weight under its name: there it can be overwritten in place.

    Not for a model without a head of its own, whose embedding keeps a packed copy for logits.
    """
    lm = _language_model(model)
    module = _embedding(lm)
    if module is None or getattr(lm, "lm_head", None) is None or not _is_on_cpu(module):
        return {}
    return {n: weight.data for n, weight in model.named_parameters() if weight is module.weight}


def _embedding(lm: Any) -> Any:
    """The embedding of tokens: vLLM's first layer of that kind, heads left out; or None."""
    from vllm.model_executor.layers.vocab_parallel_embedding import (
        ParallelLMHead,
        VocabParallelEmbedding,
    )

    kinds = (part for part in lm.modules() if isinstance(part, VocabParallelEmbedding))
    return next((part for part in kinds if not isinstance(part, ParallelLMHead)), None)


def _language_model(model: Any) -> Any:
    """The part of a multimodal model that has decoder and head; of any other, the model."""
    find = getattr(model, "get_language_model", None)
    return model if find is None else find()


def copy_in_place(
    held: dict[str, Tensor], weights: Iterable[tuple[str, Tensor]]
) -> Iterator[tuple[str, Tensor]]:
    """Copies the weights in `held` into their place, and yields the others for a reload.

    A reload would copy an embedding twice, and pack it for products in which it never takes part.
    """
    for name, weight in weights:
        place = held.get(name)
        if place is not None and place.shape == weight.shape:
            place.copy_(weight)
        else:
            yield name, weight


def repack_tied_head(model: Any) -> None:
    """Refreshes the packed copy of the embedding that a tied head keeps on a CPU.

    A reload does not: the engine would continue to sample from the old head.
    """
    lm = _language_model(model)
    head = getattr(lm, "lm_head", None)
    config = getattr(lm, "config", None)
    if head is None or config is None or not config.get_text_config().tie_word_embeddings:
        return
    embedding = _embedding(lm)
    if embedding is not None and _is_on_cpu(embedding):
        head.weight = embedding.weight
        head.cpu_linear = None  # frees the old copy before the new one is made
        head.quant_method.process_weights_after_loading(head)


def _is_on_cpu(module: Any) -> bool:
    return all(weight.device.type == "cpu" for weight in module.parameters())

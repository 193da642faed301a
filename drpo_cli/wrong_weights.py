"""What is wrong with the weights of a model that transformers loaded from a checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from drpo_cli.model_folder import Finding, Header, find_wrapper, listed

AGAIN = "download or save the model again"
OLD_BUFFERS = (".masked_bias", ".attn.attention.bias")
"""Causal masks that GPT-2 and its kin saved; transformers declares only some as unimportant."""


def find_wrong_weights(
    model: Any, there: Mapping[str, Header], keys: Mapping[str, Any], decoder_only: bool
) -> Finding | None:
    """How the tensors of a checkpoint are not those of the model, whose weights may be deferred.

    there         the tensors of its safetensors files
    keys          what transformers found missing, in excess or misshapen
    decoder_only  whether the heads may be missing, or others
    """
    prefix = _decoder_prefix(model) if decoder_only else ""
    finding = (
        _find_encoder(model)
        or _find_strange(model, there, keys, prefix)
        or _find_twice(model, there)
        or find_lost_parts(model, there)
    )
    return finding if finding or decoder_only else _find_untied(model)


def is_quantised(config: Any) -> bool:
    """Whether the weights are rounded, by the configuration."""
    return getattr(config, "quantization_config", None) is not None


def _decoder_prefix(model: Any) -> str:
    decoder = model.get_decoder()
    return next(f"{name}." for name, module in model.named_modules() if module is decoder)


def _find_encoder(model: Any) -> Finding | None:
    from transformers.models.auto import modeling_auto as known

    name, config = type(model).__name__, model.config
    # elsewhere is_decoder has no effect (GPT-NeoX has it as false)
    both_ways = known.MODEL_FOR_MASKED_LM_MAPPING_NAMES.keys()
    if config.model_type not in both_ways or getattr(config, "is_decoder", True):
        return None
    if name not in known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        return None
    return Finding(
        f"it is an encoder ({name} without is_decoder = true in config.json), whose tokens see the "
        "ones after them",
        "name a causal (decoder-only) language model",
    )


def _find_strange(
    model: Any, there: Mapping[str, Header], keys: Mapping[str, Any], prefix: str
) -> Finding | None:
    """The tensors below `prefix` that the checkpoint lacks, or has in excess or in other shapes."""
    own = model.state_dict()
    missing = sorted(key for key in keys["missing_keys"] if key.startswith(prefix))
    excess = sorted(
        key
        for key in keys["unexpected_keys"]
        if key.startswith(prefix) and not key.endswith(OLD_BUFFERS)
    )
    others = sorted(item for item in keys["mismatched_keys"] if item[0].startswith(prefix))
    if wrapper := find_wrapper([*there, *keys["unexpected_keys"]], own):
        return wrapper
    is_float = {name: tensor.is_floating_point() for name, tensor in own.items()}
    whole = [n for n, header in there.items() if is_float.get(n) and header.dtype[0] in "IU"]
    if whole and not is_quantised(model.config):
        return Finding(
            f"{len(whole)} of its {len(own)} weights are stored as {there[whole[0]].dtype}, "
            f"without a quantization_config that gives their scale: {listed(whole)}",
            "name the model that it was made from",
        )
    if others:
        return _misshapen(len(others), len(own), *others[0])
    if missing:
        there_is = f"; it has {listed(excess)}" if excess else ""
        fix = f"{AGAIN}; if it is made for another task, name a model that was trained for this one"
        if missing == ["lm_head.weight"]:
            fix = f"set tie_word_embeddings = true in config.json if its head is tied, or {AGAIN}"
        return Finding(
            f"the checkpoint lacks {len(missing)} of the model's {len(own)} weights, and they "
            f"would be random: {listed(missing)}{there_is}",
            fix,
        )
    if excess:
        return Finding(
            f"the checkpoint has {len(excess)} weights that the model lacks, and they would be "
            f"dropped: {listed(excess)}",
            "correct config.json (layers, architecture), or remove them from the file",
        )
    return None


def _find_twice(model: Any, there: Mapping[str, Header]) -> Finding | None:
    """A weight under two names, with and without the decoder's prefix: the last one would count."""
    prefix, own = f"{model.base_model_prefix}.", model.state_dict()
    for name in there:
        if (longer := prefix + name) in there and not (name in own and longer in own):
            return Finding(
                f"the checkpoint has both {name} and {longer}, which are one weight", "remove one"
            )
    return None


def find_lost_parts(model: Any, there: Mapping[str, Header]) -> Finding | None:
    """Matrices of experts that lack or have another shape.

    Files have them one by one. transformers joins those that it finds, in order.
    """
    import torch
    from transformers.core_model_loading import revert_weight_conversion

    own = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        for name, tensor in model.state_dict().items()
    }
    plain = copy.copy(model)
    plain._weight_conversions = None  # as for a new model, without prefixes that a file lacks
    saved = revert_weight_conversion(plain, own)
    parts = {n: tensor for n, tensor in saved.items() if n not in own and ".experts." in n}
    if is_quantised(model.config) or not parts.keys() & there.keys():
        return None
    if lost := sorted(parts.keys() - there.keys()):
        return Finding(
            f"the checkpoint lacks {len(lost)} of the {len(parts)} matrices of the model's "
            f"experts: {listed(lost)}",
            AGAIN,
        )
    for name, tensor in parts.items():
        if (found := there[name].shape) != tuple(tensor.shape):
            return _misshapen(1, len(parts), name, found, tensor.shape)
    return None


def _misshapen(
    count: int, all_: int, name: str, saved: Sequence[int], wanted: Sequence[int]
) -> Finding:
    shapes = f"{list(saved)} in the file, {list(wanted)} by config.json"
    return Finding(
        f"{count} of its {all_} weights have another shape: {name} is {shapes}",
        "correct config.json, or take the weights that belong to it",
    )


def _find_untied(model: Any) -> Finding | None:
    """A head that the configuration ties, with values of its own: transformers leaves it untied."""
    wanted = model.get_expanded_tied_weights_keys(all_submodels=True)
    tensors = dict(model.named_parameters(remove_duplicate=False))
    for target, source in wanted.items():
        if target in tensors and source in tensors and tensors[target] is not tensors[source]:
            return Finding(
                f"config.json ties {target} to {source}, and the checkpoint has other values in "
                "each",
                "set tie_word_embeddings = false in config.json if the model was trained untied, "
                f"or remove {target} from the file",
            )
    return None

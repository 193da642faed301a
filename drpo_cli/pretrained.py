"""Loads a model through transformers with every weight from its checkpoint, or refuses it.

transformers makes up weights that a checkpoint lacks, drops those that the model lacks, and unties
a head that its configuration ties. Each of these is another model than the folder's, so each is an
error here, for every model that a run loads.
"""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drpo_cli.errors import UserError
from drpo_cli.model_folder import (
    Finding,
    Header,
    find_broken_weights,
    find_wrapper,
    find_wrong_kind,
    listed,
    read_headers,
)
from drpo_cli.settings import ModelSettings

if TYPE_CHECKING:
    from torch import Tensor

AGAIN = "download or save the model again"
OLD_BUFFERS = (".masked_bias", ".attn.attention.bias")
"""Causal masks that GPT-2 and its kin saved; transformers declares only some as unimportant."""
KINDS = {"AutoConfig": "configuration", "AutoTokenizer": "tokenizer"}
READING = (  # what transformers raises for files that it cannot use
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    ImportError,
    RuntimeError,
    EOFError,
    pickle.UnpicklingError,
)


def load(
    auto: Any,
    path: str,
    where: str,
    *,
    trust_remote_code: bool,
    decoder_only: bool = False,
    **options: Any,
) -> Any:
    """The model, from a class such as `AutoModelForCausalLM`, in evaluation mode.

    Raises UserError, naming `where`, for a folder that is not such a model, and for a checkpoint
    whose tensors are not exactly those of the model, except where transformers itself declares them
    unimportant (old buffers, parts for other tasks). With `decoder_only` the heads may be missing
    or others: the caller does not use them.
    """
    import torch
    from transformers import AutoConfig

    folder = Path(path)
    _require_kind(folder, where, causal=auto.__name__ == "AutoModelForCausalLM")
    if folder.is_dir() and (finding := find_broken_weights(folder)):
        raise UserError(f"{where}: {finding.what}", finding.fix)
    there = read_headers(folder) if folder.is_dir() else {}
    try:
        model, keys = read(
            auto,
            path,
            where,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, with their names
            **options,
        )
    except UserError as error:
        if "conversion" not in error.what:
            raise
        # transformers names the tensors that it could not convert in its log only
        config = read(AutoConfig, path, where, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            empty = auto.from_config(config, trust_remote_code=trust_remote_code)
        if finding := _find_lost_parts(empty, there):
            raise UserError(f"{where}: {path}: {finding.what}", finding.fix) from error
        raise
    prefix = _decoder_prefix(model) if decoder_only else ""
    finding = (
        _find_encoder(model)
        or _find_strange(model, there, keys, prefix)
        or _find_twice(model, there)
        or _find_lost_parts(model, there)
    )
    if finding is None and not decoder_only:
        finding = _find_untied(model)
    if finding:
        raise UserError(f"{where}: {path}: {finding.what}", finding.fix)
    return model.eval()


def read(auto: Any, path: str, where: str, *, trust_remote_code: bool, **options: Any) -> Any:
    """What `auto.from_pretrained` gives: a configuration, a tokenizer or a model.

    Raises UserError, naming `where`, for a folder or hub id that it cannot be read from.
    """
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    _require_kind(Path(path), where)
    try:
        return auto.from_pretrained(path, trust_remote_code=trust_remote_code, **options)
    except (*READING, SafetensorError, StrictDataclassError) as error:
        what, fix = _explain(error, auto)
        kind = KINDS.get(auto.__name__, "model")
        raise UserError(f"{where}: {path} has no {kind} that loads: {what}", fix) from error


def check(model: ModelSettings, where: str) -> None:
    """Raises UserError for a causal language model that `load` refuses, or that is not finite.

    For engines that read the folder themselves. The weights of a quantised model are not checked:
    transformers may not be able to load them.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    code = model.trust_remote_code
    config = read(AutoConfig, model.path, where, trust_remote_code=code)
    if not _is_quantised(config):
        lm = load(
            AutoModelForCausalLM,
            model.path,
            where,
            trust_remote_code=code,
            dtype="auto",
            generation_config=GenerationConfig(),  # the file may be odd
        )
        refuse_not_finite(find_not_finite(lm.state_dict().items()), model.path, where)


def refuse_quantised(model: ModelSettings, where: str) -> None:
    """Raises UserError for a model whose weights are rounded: they cannot be trained."""
    from transformers import AutoConfig

    config = read(AutoConfig, model.path, where, trust_remote_code=model.trust_remote_code)
    if _is_quantised(config):
        raise UserError(
            f"{where}: {model.path} is quantised (quantization_config in its config.json), and "
            "training needs weights that are not",
            "name the model that it was made from",
        )


def save_config(model: Any, folder: Path) -> None:
    """Saves the configuration, and with a model that brings code of its own the code.

    A class of transformers needs none, though its folder may have had some, for another class.
    """
    from transformers.dynamic_module_utils import custom_object_save

    config = model.config
    if model.is_custom_code():
        folder.mkdir(parents=True, exist_ok=True)
        custom_object_save(model, folder, config)
    elif hasattr(config, "auto_map"):
        config = copy.deepcopy(config)
        del config.auto_map
    config.save_pretrained(folder)


def has_code(folder: Path) -> bool:
    """Whether a folder that `save_config` wrote has code of its own."""
    return "auto_map" in json.loads((folder / "config.json").read_text(encoding="utf-8"))


def find_not_finite(weights: Iterable[tuple[str, Tensor]]) -> list[str]:
    """The names of the tensors (or shards) that have NaN or infinite values."""
    return [name for name, weight in weights if not _is_finite(weight)]


def _is_finite(weight: Tensor) -> bool:
    if not weight.is_floating_point() or not weight.numel():
        return True
    # NaN and infinite values are extremes; asking every value takes 20 times as long
    extremes = (weight if weight.element_size() > 1 else weight.float()).aminmax()
    return all(bool(extreme.isfinite()) for extreme in extremes)


def refuse_not_finite(names: Iterable[str], path: str, where: str) -> None:
    """Raises UserError if there are any names of such tensors."""
    if found := sorted(set(names)):
        raise UserError(
            f"{where}: {path}: NaN or infinite values in {listed(found)}",
            "the training that made it diverged, or a file is damaged: take an earlier checkpoint, "
            "or download it again",
        )


def _require_kind(folder: Path, where: str, causal: bool = False) -> None:
    is_hub_id = not folder.is_absolute() and not folder.exists()
    if not is_hub_id and (finding := find_wrong_kind(folder, causal)):
        raise UserError(f"{where}: {finding.what}", finding.fix)


def _decoder_prefix(model: Any) -> str:
    decoder = model.get_decoder()
    return next(f"{name}." for name, module in model.named_modules() if module is decoder)


def _is_quantised(config: Any) -> bool:
    return getattr(config, "quantization_config", None) is not None


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
    if whole and not _is_quantised(model.config):
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


def _find_lost_parts(model: Any, there: Mapping[str, Header]) -> Finding | None:
    """Matrices of experts that lack or have another shape.

    Files have them one by one. transformers joins those that it finds, in order.
    """
    from transformers.core_model_loading import revert_weight_conversion

    own = {name: tensor.to("meta") for name, tensor in model.state_dict().items()}
    plain = copy.copy(model)
    plain._weight_conversions = None  # as for a new model, without prefixes that a file lacks
    saved = revert_weight_conversion(plain, own)
    parts = {n: tensor for n, tensor in saved.items() if n not in own and ".experts." in n}
    if _is_quantised(model.config) or not parts.keys() & there.keys():
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


def _explain(error: BaseException, auto: Any) -> tuple[str, str]:
    text = str(error).strip()
    if "trust_remote_code" in text:
        return (
            "it brings Python code of its own, which could do anything on this machine",
            "read that code; to allow it, set trust_remote_code = true (in [model], for the models "
            "of a run)",
        )
    if "Unrecognized configuration class" in text:
        return f"its architecture is none of {auto.__name__}", "name a model of that kind"
    if isinstance(error, (pickle.UnpicklingError, EOFError)):
        if "GLOBAL" in text:
            return "its .bin file has more than weights, such as code", "save it as safetensors"
        return "its .bin file is damaged", AGAIN
    return " ".join(text.split("\n")[:2]) or type(error).__name__, ""

"""Loads a model through transformers with every weight from its checkpoint, or refuses it.

transformers makes up weights that a checkpoint lacks, drops those that the model lacks, and unties
a head that its configuration ties. Each of these is another model than the folder's, so each is an
error here, for every model that a run loads.
"""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drpo_cli.errors import UserError
from drpo_cli.model_folder import (
    BIN,
    BIN_INDEX,
    INDEX,
    SINGLE,
    find_broken_weights,
    find_wrong_kind,
    listed,
    read_headers,
    weight_files,
)
from drpo_cli.settings import ModelSettings
from drpo_cli.wrong_weights import AGAIN, find_lost_parts, find_wrong_weights, is_quantised

if TYPE_CHECKING:
    from torch import Tensor

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


def load(auto: Any, path: str, where: str, **options: Any) -> Any:
    """The model as `load_deferred` gives it, with the same options, and with all weights read."""
    from drpo_cli import deferred

    model = load_deferred(auto, path, where, **options)
    deferred.compute(model)
    return model


def load_deferred(
    auto: Any,
    path: str,
    where: str,
    *,
    trust_remote_code: bool,
    decoder_only: bool = False,
    **options: Any,
) -> Any:
    """The model, from a class such as `AutoModelForCausalLM`, in evaluation mode.

    Its weights are `deferred` tensors. Those of a quantised model are read at once: what its files
    hold is not what its layers hold.

    Raises UserError, naming `where`, for a folder that is not such a model, and for a checkpoint
    whose tensors are not exactly those of the model, except where transformers itself declares them
    unimportant (old buffers, parts for other tasks). With `decoder_only` the heads may be missing
    or others: the caller does not use them.
    """
    import torch
    from transformers import AutoConfig

    from drpo_cli import deferred

    _require_kind(Path(path), where, causal=auto.__name__ == "AutoModelForCausalLM")
    config = read(AutoConfig, path, where, trust_remote_code=trust_remote_code)
    auto = _choose(auto, config)
    options = _exact_attention(config) | options
    with _explained(auto, path, where):
        folder = find_weights(path)
    if finding := find_broken_weights(folder):
        raise UserError(f"{where}: {finding.what}", finding.fix)
    there = read_headers(folder)
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # refused below
    with _explained(auto, path, where), torch.device("meta"):
        empty = auto.from_config(config, trust_remote_code=trust_remote_code)
    try:
        if is_quantised(config):
            model, keys = read(auto, path, where, trust_remote_code=trust_remote_code, **options)
        else:
            with _explained(auto, path, where):
                weights = deferred.read_files(weight_files(folder))
                model, keys = type(empty).from_pretrained(
                    None, config=config, state_dict=weights, **options
                )
    except UserError as error:
        # transformers names the tensors that it could not convert in its log only
        if "conversion" in error.what and (finding := find_lost_parts(empty, there)):
            raise UserError(f"{where}: {path}: {finding.what}", finding.fix) from error
        raise
    model.name_or_path = model.config.name_or_path = path
    _forget(keys, drop_towers(model))
    if finding := find_wrong_weights(model, there, keys, decoder_only):
        raise UserError(f"{where}: {path}: {finding.what}", finding.fix)
    deferred.compute(model, buffers_only=True)
    return model.eval()


def make(config: Any, **options: Any) -> Any:
    """The language model of a configuration, with weights that nobody has written."""
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    options = _exact_attention(config) | options
    with no_init_weights():  # in a fake mode, that of some towers would fail
        lm = _choose(AutoModelForCausalLM, config).from_config(config, **options)
    drop_towers(lm)
    lm.tie_weights()
    return lm


def _exact_attention(config: Any) -> dict[str, Any]:
    """The option that picks an attention of transformers; none where its default is right.

    The default, torch's fused kernels, leaves soft caps out without a word.
    """
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    return {} if capped is None else {"attn_implementation": "eager"}


def is_multimodal(config: Any) -> bool:
    """Whether a model of transformers has other inputs than text, by its configuration."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING as KNOWN

    has_own_class = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    nested = config.get_text_config() is not config
    return nested and not has_own_class and type(config) in KNOWN


def _choose(auto: Any, config: Any) -> Any:
    """The class that reads a checkpoint with all its names: not one for its text model alone.

    For some multimodal checkpoints, `AutoModelForCausalLM` is such a class; it knows no others.
    """
    from transformers import AutoModelForMultimodalLM

    causal = auto.__name__ == "AutoModelForCausalLM"
    return AutoModelForMultimodalLM if causal and is_multimodal(config) else auto


def drop_towers(lm: Any) -> set[str]:
    """Removes from a multimodal model what only other inputs than text use; returns the names.

    Decoder, embedding and head stay, under the names that they have in the checkpoint.
    """
    decoder = lm.get_decoder()
    if not hasattr(decoder, "layers") and hasattr(
        inner := getattr(decoder, "model", None), "layers"
    ):
        lm.get_decoder = lambda: inner  # Llama 4 gives its text model with the head
        decoder = inner
    if not is_multimodal(lm.config):
        return set()
    kept = {id(part) for part in decoder.modules()}
    kept |= {id(lm.get_output_embeddings()), id(lm.get_input_embeddings())}
    dropped = set()
    for name, module in list(lm.named_modules()):
        inside = {id(part) for part in module.modules()}
        if id(decoder) not in inside:
            continue
        for child, part in list(module.named_children()):
            if module is not decoder and not kept & {id(one) for one in part.modules()}:
                setattr(module, child, None)
                dropped.add(f"{name}.{child}.".removeprefix("."))
    return dropped


def _forget(keys: dict[str, Any], dropped: set[str]) -> None:
    """Takes out the findings about parts that are not in the model any more."""
    gone = tuple(dropped)
    for key in ("missing_keys", "mismatched_keys"):
        names = ((one if isinstance(one, str) else one[0], one) for one in keys[key])
        keys[key] = [one for name, one in names if not name.startswith(gone)]


def read(auto: Any, path: str, where: str, *, trust_remote_code: bool, **options: Any) -> Any:
    """What `auto.from_pretrained` gives: a configuration, a tokenizer or a model.

    Raises UserError, naming `where`, for a folder or hub id that it cannot be read from.
    """
    _require_kind(Path(path), where)
    with _explained(auto, path, where):
        return auto.from_pretrained(path, trust_remote_code=trust_remote_code, **options)


@contextmanager
def _explained(auto: Any, path: str, where: str) -> Iterator[None]:
    """Raises UserError for what transformers raises for files that it cannot use."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except (*READING, SafetensorError, StrictDataclassError) as error:
        what, fix = _explain(error, auto)
        kind = KINDS.get(auto.__name__, "model")
        raise UserError(f"{where}: {path} has no {kind} that loads: {what}", fix) from error


def find_weights(path: str) -> Path:
    """The folder itself, or for a hub id that of its weight files, downloaded if need be."""
    from transformers.utils.hub import cached_file, cached_files

    if (folder := Path(path)).is_dir():
        return folder
    for name in (SINGLE, INDEX, BIN, BIN_INDEX):
        if found := cached_file(path, name, _raise_exceptions_for_missing_entries=False):
            folder = Path(found).parent
            if name in (INDEX, BIN_INDEX):
                cached_files(path, [file.name for file in weight_files(folder)])
            return folder
    raise OSError(f"it has neither {SINGLE} nor {BIN}")


def check(model: ModelSettings, where: str) -> None:
    """Raises UserError for a causal language model that `load` refuses, or that is not finite.

    For engines that read the folder themselves. The weights of a quantised model are not checked:
    transformers may not be able to load them.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    code = model.trust_remote_code
    config = read(AutoConfig, model.path, where, trust_remote_code=code)
    if not is_quantised(config):
        lm = load_deferred(
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
    if is_quantised(config):
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
    from drpo_cli.deferred import whole

    return [name for name, weight in weights if not _is_finite(whole(weight))]


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

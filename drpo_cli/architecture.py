"""What the layers of a model are, by its config.json: whether sequences can be packed end to end.

This is what is known before a model loads, without torch, so that `drpo check` can say it. The
trainer proves it when it loads the model (`trainer.packable`), and finds what is not listed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

PACKABLE_LAYERS = {"full_attention", "sliding_attention"}
OLD_NAMES = {"attention": "full_attention"}
MIXED = {
    *("bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "inkling_text", "jamba"),
    *("kimi_linear", "lfm2", "lfm2_moe", "mamba", "mamba2", "minimax", "nemotron_h"),
    *("olmo_hybrid", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_next"),
    *("qwen4_exp", "qwen4_exp_text", "recurrent_gemma", "rwkv", "xlstm", "zamba", "zamba2"),
    *("zaya", "axk2", "deepseek_v32", "deepseek_v4", "glm_moe_dsa", "hy_v4"),
    *("llama4", "llama4_text"),
}
"""Types of models with layers that mix tokens otherwise, unless config.json lists other layers."""
OWN_ATTENTION = {
    *("blt", "bloom", "codegen", "cpmant", "doge", "falcon", "gpt_neo", "gpt_neox_japanese"),
    *("gptj", "jetmoe", "mllama", "moshi", "mpt", "nemotron", "openai-gpt", "stablelm", "xglm"),
    *("bart", "blenderbot", "blenderbot-small", "marian", "mbart", "mvp", "pegasus", "plbart"),
    *("xlnet", "roformer"),
}
"""Types of models of which transformers lets no other attention take part."""


class Rows(NamedTuple):
    """How sequences become micro-batches, and what `drpo check` and `drpo plan` say of it."""

    padded: bool
    text: str

    @classmethod
    def of(cls, why_padded: str | None) -> Rows:
        """Packed rows, or padded ones for this reason."""
        if why_padded is None:
            return cls(False, "packed end to end")
        return cls(True, f"padded to the longest of similar length: {why_padded}")


ASKED = "train.layout says so"


def choose(layout: str, config: Mapping[str, Any] | None) -> Rows:
    """What `TrainSettings.layout` means for a model; `config` is its config.json, None if unknown.

    That is the expectation; the trainer decides when it has the model.
    """
    if layout == "padded":
        return Rows.of(ASKED)
    if config is None:
        return Rows(False, "packed end to end, or padded if the model's layers need that")
    return Rows.of(why_padded(config))


def why_padded(config: Mapping[str, Any]) -> str | None:
    """What a model has, by its config.json, that packed rows do not allow; None if nothing."""
    parts = [part for part in (config, config.get("text_config")) if isinstance(part, Mapping)]
    kinds = {kind for part in parts for kind in _layers(part)}
    if other := kinds - PACKABLE_LAYERS:
        return f"it has {', '.join(sorted(other))} layers"
    types = {str(part.get("model_type")) for part in parts}
    if not kinds and types & MIXED:
        return "it has layers that are not attention alone"
    if types & OWN_ATTENTION:
        return "it has attention of its own"
    return None


def _layers(config: Mapping[str, Any]) -> Iterator[str]:
    for key in ("layer_types", "layers_block_type"):
        listed = config.get(key)
        for kind in listed if isinstance(listed, list) else ():
            yield OLD_NAMES.get(str(kind), str(kind))


def by_layer(text: Any) -> list[Any]:
    """The configuration of each layer; most models have one for all of them."""
    return list(getattr(text, "per_layer_config", [text] * text.num_hidden_layers))


def query_dimensions(layer: Any) -> int:
    """Dimensions of all query heads of a layer; 0 for one without attention."""
    heads: int = getattr(layer, "num_attention_heads", None) or 0
    names = ("qk_head_dim", "head_dim")  # the first: of latent attention, whose other one is less
    size = next((size for name in names if (size := getattr(layer, name, None))), None)
    return heads * (size or (layer.hidden_size // heads if heads else 0))

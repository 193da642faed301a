"""Tiny configurations of families of transformers, each with a layer of each of its kinds.

`support.models_page` says which parts of drpo serve them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import transformers

VOCABULARY = 64  # a multiple that every engine's kernels accept
EOS_ID = 2
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": EOS_ID,
}
WINDOWS = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 32,
    "mamba_d_state": 16,
    "mamba_chunk_size": 16,
}
LATENT = {  # latent attention: heads of 24 for queries and keys, of 16 for values
    "num_key_value_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "head_dim": 8,
}
ROUTED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "topk_method": "noaux_tc",  # as in files; vLLM has the router's bias with it alone
}
LINEAR_LAYERS = "it has linear_attention layers"


@dataclass(frozen=True)
class Family:
    """A family, with the options of a tiny model that has a layer of each of its kinds.

    name      the start of the names of its classes
    kinds     what its layers are, for the page
    without   keys of `SIZES` that its configuration derives or does not have
    packed    why its rows cannot be packed; empty where they can
    rounding  of log-probs in float32, in nats
    """

    name: str
    kinds: str
    options: dict[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    packed: str = ""
    rounding: float = 1e-5

    def config(self, **overrides: Any) -> Any:
        """The configuration, in which `overrides` come last."""
        named = f"{self.name}TextConfig"
        kind = getattr(transformers, named, None) or getattr(transformers, f"{self.name}Config")
        sizes = {key: size for key, size in SIZES.items() if key not in self.without}
        return kind(**{**sizes, **self.options, **overrides})


UNTIED = {"tie_word_embeddings": False}
FAMILIES: dict[str, Family] = {
    "qwen3": Family("Qwen3", "attention", {"tie_word_embeddings": True}),
    "llama": Family("Llama", "attention", UNTIED),
    "qwen2": Family("Qwen2", "attention", UNTIED, without=("head_dim",)),
    "mistral": Family("Mistral", "attention", {**UNTIED, "sliding_window": None}),
    "phi3": Family(
        "Phi3",
        "attention",
        {**UNTIED, "resid_pdrop": 0.5, "embd_pdrop": 0.5},
        without=("head_dim",),
    ),
    "gemma2": Family(
        "Gemma2",
        "attention with soft caps, windows",
        {"attn_logit_softcapping": 2.0, "sliding_window": 8},
    ),
    "gemma3": Family("Gemma3", "attention, windows", {"tie_word_embeddings": True, **WINDOWS}),
    "qwen3_moe": Family(
        "Qwen3Moe",
        "attention, experts",
        {**UNTIED, **EXPERTS, "decoder_sparse_step": 1, "norm_topk_prob": True},
    ),
    "gpt_oss": Family(
        "GptOss",
        "attention with sinks, windows, experts",
        {**UNTIED, "num_local_experts": 4, "num_experts_per_tok": 2, **WINDOWS},
    ),
    "gemma4": Family(  # heads of two sizes; the last two layers take the keys of the first two
        "Gemma4",
        "attention with heads of two sizes, shared keys, windows",
        {
            "num_hidden_layers": 4,
            "head_dim": 16,
            "global_head_dim": 32,
            "num_global_key_value_heads": 1,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "num_kv_shared_layers": 2,
            "hidden_size_per_layer_input": 16,
            "vocab_size_per_layer_input": VOCABULARY,
        },
        rounding=2e-4,  # float32 against float64 in plain transformers differs as much
    ),
    "deepseek_v3": Family(
        "DeepseekV3", "latent attention, experts", {**UNTIED, **LATENT, **ROUTED}
    ),
    "smollm3": Family("SmolLM3", "attention, some without positions", {"no_rope_layers": [1, 0]}),
    "cohere2": Family("Cohere2", "attention, windows", WINDOWS),
    "ministral3": Family(  # queries grow with their position
        "Ministral3",
        "attention",
        {
            "rope_parameters": {
                **{"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0},
                **{"original_max_position_embeddings": 16, "llama_4_scaling_beta": 0.5},
            }
        },
    ),
    "glm4_moe": Family(  # with a buffer that a checkpoint has
        "Glm4Moe",
        "attention, experts",
        {
            **UNTIED,
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 64,
            "first_k_dense_replace": 1,
        },
    ),
    "ministral": Family("Ministral", "attention, windows", WINDOWS),
    "qwen3_next": Family(
        "Qwen3Next",
        "linear attention, attention, experts",
        {**LINEAR, **EXPERTS, "shared_expert_intermediate_size": 64},
        packed=LINEAR_LAYERS,
    ),
    "qwen3_5": Family("Qwen3_5", "linear attention, attention", LINEAR, packed=LINEAR_LAYERS),
    "qwen3_5_moe": Family(
        "Qwen3_5Moe",
        "linear attention, attention, experts",
        {**LINEAR, **EXPERTS, "shared_expert_intermediate_size": 64},
        packed=LINEAR_LAYERS,
    ),
    "olmo2": Family("Olmo2", "attention"),
    "olmo3": Family("Olmo3", "attention, windows", WINDOWS),
    "olmoe": Family("Olmoe", "attention, experts", {"num_experts": 8, "num_experts_per_tok": 2}),
    "granite": Family(
        "Granite",
        "attention",
        {
            "logits_scaling": 2.0,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.1,
        },
    ),
    "granitemoe": Family(
        "GraniteMoe",
        "attention, experts",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "logits_scaling": 2.0},
    ),
    "granitemoehybrid": Family(
        "GraniteMoeHybrid",
        "state space, attention, experts",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 64,
            "layer_types": ["mamba", "attention"],
            "logits_scaling": 2.0,
            **MAMBA,
        },
        packed=LINEAR_LAYERS,
    ),
    "glm4": Family("Glm4", "attention"),
    "kimi_linear": Family(
        "KimiLinear",
        "linear attention, latent attention, experts",
        {
            **LATENT,
            **ROUTED,
            "q_lora_rank": None,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_heads": 4,
            "linear_head_dim": 16,
            "num_experts": 4,
            "num_experts_per_token": 2,
        },
        without=("head_dim",),
        packed=LINEAR_LAYERS,
    ),
    "minimax_m2": Family(
        "MiniMaxM2",
        "attention, experts",
        {
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "rotary_dim": 16,
            "scoring_func": "sigmoid",
            "use_routing_bias": True,
        },
    ),
    "lfm2": Family(
        "Lfm2",
        "short convolutions, attention",
        {
            **{"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
            **{"conv_dim": 128, "conv_dim_out": 128, "block_dim": 128},
        },
        packed="it has conv layers",
    ),
    "falcon_h1": Family(
        "FalconH1",
        "state space beside attention",
        {"mamba_d_ssm": 256, "lm_head_multiplier": 0.5, "embedding_multiplier": 2.0, **MAMBA},
        packed="it has hybrid layers",
    ),
    "nemotron_h": Family(
        "NemotronH",
        "state space, attention, MLP",
        {
            "num_hidden_layers": 3,
            "hybrid_override_pattern": "M*-",
            "mamba_num_heads": 8,
            "mamba_head_dim": 32,
            "ssm_state_size": 16,
            "n_groups": 2,
            "chunk_size": 16,
        },
        packed="it has linear_attention, mlp layers",
    ),
    "mixtral": Family(
        "Mixtral", "attention, experts", {"num_local_experts": 4, "num_experts_per_tok": 2}
    ),
    "cohere": Family("Cohere", "attention", {"logit_scale": 0.25}),
    "starcoder2": Family("Starcoder2", "attention, windows", {"sliding_window": 8}),
    "ernie4_5": Family("Ernie4_5", "attention"),
    "seed_oss": Family("SeedOss", "attention"),
    "hunyuan": Family("HunYuanDenseV1", "attention"),
    "stablelm": Family(
        "StableLm",
        "attention",
        packed="StableLmAttention needs keyword arguments that its layers do not pass",
    ),
    "gpt2": Family(
        "GPT2", "attention", {"n_embd": 128, "n_layer": 2, "n_head": 4, "n_positions": 512}
    ),
    # beyond the families that were asked for
    "gemma": Family("Gemma", "attention"),
    "gemma3n": Family(
        "Gemma3n",
        "attention, shared keys, windows",
        {
            "num_hidden_layers": 4,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "num_kv_shared_layers": 2,
            "vocab_size_per_layer_input": VOCABULARY,
            "hidden_size_per_layer_input": 16,
            "laurel_rank": 8,
            "altup_num_inputs": 2,
            "intermediate_size": [256] * 4,
            "activation_sparsity_pattern": [0.0] * 4,
        },
    ),
    "llama4": Family(
        "Llama4",
        "attention in chunks, experts",
        {
            "num_local_experts": 4,
            "intermediate_size_mlp": 256,
            "attention_chunk_size": 8,
            "layer_types": ["chunked_attention", "full_attention"],
            "no_rope_layers": [1, 0],
            "interleave_moe_layer_step": 2,
        },
        packed="it has chunked_attention layers",
    ),
    "exaone4": Family("Exaone4", "attention, windows", WINDOWS),
    "glm4_moe_lite": Family("Glm4MoeLite", "latent attention, experts", {**LATENT, **ROUTED}),
    "dots1": Family("Dots1", "attention, experts", {**ROUTED, "n_shared_experts": 1}),
    "ernie4_5_moe": Family(
        "Ernie4_5_Moe",
        "attention, experts",
        {
            "moe_num_experts": 4,
            "moe_k": 2,
            "moe_intermediate_size": 64,
            "moe_layer_start_index": 1,
        },
    ),
    "jamba": Family(
        "Jamba",
        "state space, attention, experts",
        {
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": 4,
            "mamba_d_state": 8,
            "mamba_dt_rank": 8,
            "use_mamba_kernels": False,
        },
        packed=LINEAR_LAYERS,
    ),
    "bamba": Family(
        "Bamba",
        "state space, attention",
        {"attn_layer_indices": [1], **MAMBA},
        packed=LINEAR_LAYERS,
    ),
    "mamba2": Family(
        "Mamba2",
        "state space",
        {"num_heads": 8, "head_dim": 32, "state_size": 16, "n_groups": 2, "chunk_size": 16},
        packed=LINEAR_LAYERS,
    ),
    "olmo_hybrid": Family(
        "OlmoHybrid", "linear attention, attention", LINEAR, packed=LINEAR_LAYERS
    ),
    "phi": Family("Phi", "attention"),
    "gpt_neox": Family("GPTNeoX", "attention"),
    "opt": Family("OPT", "attention", {"ffn_dim": 256, "word_embed_proj_dim": 128}),
    "bloom": Family(
        "Bloom", "attention with biases by distance", packed="it takes no position ids"
    ),
    "apertus": Family("Apertus", "attention"),
    "arcee": Family("Arcee", "attention"),
    "nanochat": Family("NanoChat", "attention"),
}

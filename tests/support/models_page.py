"""Which parts of drpo serve which family, and docs/models.md, which says so.

`python -m support.models_page > docs/models.md`, with `tests` on the path, writes the page. Every
cell is held by a test of `tests/matrix`: one that works, and one that does not, with its reason.
"""

from __future__ import annotations

import textwrap

from support.architectures import NOT_MADE, PACKED, PADDED
from support.families import FAMILIES

IN_VLLM: dict[str, str] = {
    "qwen3": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "mistral": "MistralForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
    "gemma4": "Gemma4ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "smollm3": "TransformersForCausalLM",
    "cohere2": "CohereForCausalLM",
    "ministral3": "MistralForCausalLM",
    "glm4_moe": "Glm4MoeForCausalLM",
    "ministral": "TransformersForCausalLM",
    "qwen3_next": "Qwen3NextForCausalLM",
    "qwen3_5": "Qwen3_5ForCausalLM",
    "qwen3_5_moe": "Qwen3_5MoeForCausalLM",
    "olmo2": "TransformersForCausalLM",
    "olmo3": "TransformersForCausalLM",
    "olmoe": "OlmoeForCausalLM",
    "granite": "GraniteForCausalLM",
    "granitemoe": "GraniteMoeForCausalLM",
    "granitemoehybrid": "GraniteMoeHybridForCausalLM",
    "glm4": "Glm4ForCausalLM",
    "lfm2": "Lfm2ForCausalLM",
    "falcon_h1": "FalconH1ForCausalLM",
    "nemotron_h": "NemotronHForCausalLM",
    "minimax_m2": "MiniMaxM2ForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "cohere": "CohereForCausalLM",
    "starcoder2": "TransformersForCausalLM",
    "ernie4_5": "Ernie4_5ForCausalLM",
    "seed_oss": "TransformersForCausalLM",
    "hunyuan": "TransformersForCausalLM",
    "stablelm": "StablelmForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "gemma": "GemmaForCausalLM",
    "gemma3n": "Gemma3nForCausalLM",
    "llama4": "Llama4ForCausalLM",
    "exaone4": "Exaone4ForCausalLM",
    "glm4_moe_lite": "Glm4MoeLiteForCausalLM",
    "dots1": "TransformersMoEForCausalLM",
    "ernie4_5_moe": "Ernie4_5_MoeForCausalLM",
    "jamba": "JambaForCausalLM",
    "mamba2": "Mamba2ForCausalLM",
    "gpt_neox": "TransformersForCausalLM",
    "opt": "OPTForCausalLM",
    "bloom": "BloomForCausalLM",
    "apertus": "ApertusForCausalLM",
    "arcee": "TransformersForCausalLM",
    "nanochat": "TransformersForCausalLM",
}
"""The class of vLLM 0.32 that runs a family; `Transformers…` is vLLM's own use of transformers."""
NOT_IN_VLLM: dict[str, tuple[str, str]] = {
    "kimi_linear": (
        "mamba-block-size",
        "vLLM's own defaults for it contradict each other on a CPU",
    ),
    "bamba": (
        "does not dispatch",
        "vLLM has no class for it, and its own use of transformers has no state-space layers",
    ),
    "olmo_hybrid": ("triton", "vLLM imports GPU kernels for it, which are not in its CPU build"),
    "phi": (
        "lm_head.bias",
        "vLLM's use of transformers drops the bias of the head; the proof of "
        "the sync stops such a run",
    ),
}
"""Of other families, what vLLM says or the weight that it loses, and what that means."""
SAMPLED = ("qwen3", "llama", "gemma3", "glm4_moe")
"""Families of which tests/e2e/test_sync.py proves the sync, in a vLLM that samples."""

PROVEN = [
    *("qwen2", "mistral", "phi3", "gemma2", "gemma4", "qwen3_moe", "smollm3", "olmo2", "granite"),
    *("granitemoe", "falcon_h1", "nemotron_h", "mixtral", "cohere", "stablelm", "gpt2"),
]
"""Families of which tests/matrix proves the same."""
REFUSED: dict[str, tuple[str, str]] = {
    "gpt_oss": ("does not take new weights for the experts", "vLLM's reload loses its experts"),
    "ministral3": ("already disagree", "vLLM computes another model of the tiny configuration"),
    "lfm2": ("already disagree", "vLLM computes another model of the tiny configuration"),
}
"""Families whose runs on a CPU the sync stops: what it says, and what that means."""


def page() -> str:
    """docs/models.md."""
    reasons = (NOT_IN_VLLM | REFUSED).items()
    parts = [HEAD, *map(_row, FAMILIES), "", TAIL, *(_reason(*one) for one in reasons), "", EVERY]
    for title, kinds in (("Packed", PACKED), ("Padded", PADDED), ("No model", NOT_MADE)):
        names = ", ".join(f"`{kind}`" for kind in kinds)
        parts += ["", textwrap.fill(f"{title}: {names}.", 120, break_on_hyphens=False)]
    return "\n".join([*parts, ""])


def _row(kind: str) -> str:
    family = FAMILIES[kind]
    packed = f"no: {family.packed}" if family.packed else "yes"
    vllm = f"`{IN_VLLM[kind]}`" if kind in IN_VLLM else "no, see below"
    if kind in (*SAMPLED, *PROVEN):
        vllm += ", proven"
    if kind in REFUSED:
        vllm += ", not on a CPU: see below"
    cells = [f"`{kind}`", family.kinds, packed, "yes", "yes", "yes", "yes", vllm]
    return f"| {' | '.join(cells)} |"


def _reason(kind: str, why: tuple[str, str]) -> str:
    said, meaning = why
    return f"- `{kind}` (“{said}”): {meaning}."


HEAD = """\
# Model families

Any causal language model of transformers can be trained: on packed rows where attention alone mixes
tokens, and on padded rows otherwise. `train.layout = "auto"` chooses, and `drpo check` prints the
choice. The families below are tested as tiny random models with a layer of each of their kinds.
This page is written by `python -m support.models_page`, from declarations that the tests of
`tests/matrix` hold, the cells with a “no” too.

| column | what “yes” means |
|---|---|
| packed, padded | log-probs and gradients are those of plain transformers, sequence by sequence, \
to 1e-5 nats (`gemma4` to 2e-4, which its float32 differs from its float64 by) |
| two ranks | sharded, two training steps give the gradients of one process |
| resumed | a run that continues from a checkpoint has bit for bit the weights and moments of one \
that never stopped |
| `transformers` | the rehearsal proves the sync of each weight into that engine |
| `vllm` | the class of vLLM 0.32 that takes the names of the sync: each element of a weight fills \
one of its own, and none is left; “proven”: sampled on a CPU, and each weight proven to arrive. \
Every run proves its own sync before it trains |

| family | layers | packed | padded | two ranks | resumed | `transformers` | `vllm` |
|---|---|---|---|---|---|---|---|"""
TAIL = """\
## Without vLLM

With these families, use `engine = "transformers"`:
"""
EVERY = """\
## Linear attention and state spaces on a GPU

Without kernels of their own, transformers computes these layers by a loop over the sequence, which
is slow: `pip install flash-linear-attention causal-conv1d`, on a machine with a GPU. `drpo plan`
runs that loop, too, so for a large model of this kind it takes minutes.

## Every architecture

For the default configuration of every causal language model of transformers, a test finds its
decoder layers and the layout that `auto` chooses, on tensors without values. Nothing more was tried
of those that are not in the table above: the rehearsal before the first step is what shows whether
one of them works. “No model”: that configuration lacks sizes, or is not of a model alone."""


if __name__ == "__main__":
    import sys

    sys.stdout.write(page())

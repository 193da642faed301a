"""The policy: a Hugging Face causal language model, sharded by FSDP2 at every world size."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from drpo_cli.settings import HeadDtype
from drpo_cli.trainer import heads, lora, tied
from drpo_cli.trainer.attention import NAMES, VARLEN
from drpo_cli.trainer.decoder import find_decoder, find_layers
from drpo_cli.trainer.logprobs import Head, blockwise_logprobs
from drpo_cli.trainer.pack import Packed
from drpo_cli.trainer.rows import take
from drpo_cli.trainer.sharing import Costs, costs


class Policy(nn.Module):
    """Maps a micro-batch to log π and the entropy of its response tokens.


    adapters    what its adapters are, if only these are trained
    why_padded  why micro-batches are padded; None for packed rows
    """

    why_padded: str | None = None

    def __init__(
        self,
        lm: Any,
        temperature: float,
        block: int,
        adapters: lora.Adapters | None = None,
        head_dtype: HeadDtype = "float32",
    ):
        super().__init__()
        self.lm = lm
        self.block = block
        self.adapters = adapters
        self.costs = _costs(self.layers, lm)
        self.adapted = lora.adapted(lm) if adapters else {}
        self.head = Head(temperature, *heads.measure(lm, find_decoder(lm)), head_dtype)
        tied.share(lm)

    def forward(self, packed: Packed) -> tuple[Tensor, Tensor]:
        """log π and entropy (nats) of each response token, both [T], float32, with gradients."""
        out = self.lm.get_output_embeddings()
        gradient = tied.begin_pass(self.lm)
        return blockwise_logprobs(
            _hidden(find_decoder(self.lm), packed),
            out.weight,
            out.bias,
            packed.target_T,
            self.head,
            self.block,
            gradient,
        )

    @property
    def layers(self) -> list[nn.Module]:
        """The decoder layers."""
        return list(find_layers(find_decoder(self.lm)))

    def named_weights(self) -> list[tuple[str, nn.Parameter]]:
        """Every weight of the model once, under its name in transformers; tied ones under one name.

        Without the adapters of `[lora]`, with which all of these are frozen.
        """
        adapters = {id(weight) for _, weight in self.named_adapters()}
        named = self.lm.named_parameters()
        return [(lora.base_name(name), w) for name, w in named if id(w) not in adapters]

    def named_adapters(self) -> list[tuple[str, nn.Parameter]]:
        """The trained matrices A and B of `[lora]`, under their names in peft's files; or none."""
        return list(lora.named_adapters(self.adapted))


class ValueModel(nn.Module):
    """Maps a micro-batch to V of each response token: the value of the text before it."""

    def __init__(self, lm: Any):
        super().__init__()
        self.decoder: Any = find_decoder(lm)
        self.costs = _costs(self.layers, lm)
        weight = next(self.decoder.parameters())
        self.head = nn.Linear(lm.config.get_text_config().hidden_size, 1, dtype=weight.dtype)
        nn.init.zeros_(self.head.weight)  # every state starts with the value 0
        nn.init.zeros_(self.head.bias)

    @property
    def layers(self) -> list[nn.Module]:
        """The decoder layers."""
        return list(find_layers(self.decoder))

    def forward(self, packed: Packed) -> Tensor:
        """V of each response token: [T], float32, with gradients."""
        # always in float32: bfloat16 has no value between 0.996 and 1
        weight_D, bias = self.head.weight[0].float(), self.head.bias.float()
        value_T: Tensor = _hidden(self.decoder, packed).float() @ weight_D + bias
        return value_T


def _hidden(decoder: Any, packed: Packed) -> Tensor:
    """The last hidden state of the token before each response token, [T, D]."""
    options: dict[str, Any] = {}
    if packed.layout is not None:
        options = {"position_ids": packed.position_ids_I[None], "layout": packed.layout}
    # sequences of a padded batch have the positions that a model assumes by itself
    found = decoder(
        input_ids=packed.input_ids_I.view(packed.sequences, -1), use_cache=False, **options
    )
    return take(found.last_hidden_state.flatten(0, 1), packed.predict_T)


def _costs(layers: list[nn.Module], lm: Any) -> Costs:
    config = lm.config.get_text_config()
    attention = config._attn_implementation
    return costs(layers, config, attention != VARLEN, attention not in NAMES.values())

"""Refuses to continue a checkpoint with another model than it is of.

A checkpoint of adapters has no other weights. It says in `adapter/` how they are applied, in the
file that peft reads, and on which weights, by a fingerprint.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from drpo_cli.errors import UserError
from drpo_cli.routers import find_blocks
from drpo_cli.step import saved_state
from drpo_cli.step.export import ADAPTER, BASE, WEIGHT_PREFIX
from drpo_cli.trainer.model import Policy

if TYPE_CHECKING:
    from drpo_cli.trainer.trainer import Trainer

CRITIC_PREFIX, MOMENT_PREFIX = "critic.", "optimizer.state."
SAME = {
    "r": "rank",
    "lora_alpha": "alpha",
    "use_rslora": "rslora",
    "target_modules": "target_modules",
}
"""What makes other adapters if it changes: peft's names, and those of `[lora]`."""


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that are trained, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def is_partial(model: nn.Module) -> bool:
    """Whether only a part of a model's weights, the adapters, is trained."""
    return isinstance(model, Policy) and bool(model.adapted)


def save_adapted(checkpoint: Path, policy: Policy) -> None:
    """Writes how adapters are applied, and what identifies their base; nothing without adapters."""
    if policy.adapters is None:
        return
    for name, value in (
        (ADAPTER, policy.adapters.config),
        (BASE, {"path": policy.lm.name_or_path, "fingerprint": policy.adapters.base}),
    ):
        path = checkpoint / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def require_same(checkpoint: Path, trainer: Trainer) -> None:
    """Raises UserError if a checkpoint is of another model or critic than the trainer's."""
    _require_same_adapters(checkpoint, trainer.policy)
    _require_same_model(checkpoint, trainer.policy)
    _require_same_routers(checkpoint, trainer.policy)
    _require_same_critic(checkpoint, trainer)


def _require_same_adapters(checkpoint: Path, policy: Policy) -> None:
    there = (checkpoint / ADAPTER).exists()
    if there != (policy.adapters is not None):
        what, change = ("adapters", "add") if there else ("a whole model", "take out")
        raise UserError(
            f"{checkpoint} is of {what}, unlike this spec; {change} the [lora] section, or give "
            f"the run another name"
        )
    if policy.adapters is None:
        return
    with saved_state.reading(checkpoint / ADAPTER):
        saved = dict(json.loads((checkpoint / ADAPTER).read_text(encoding="utf-8")))
        base = dict(json.loads((checkpoint / BASE).read_text(encoding="utf-8")))
    own = policy.adapters.config
    for key, name in SAME.items():
        if saved[key] != own[key]:
            raise UserError(
                f"{checkpoint} has adapters with {name} {saved[key]}, this spec has {own[key]}; "
                f"set lora.{name} to {json.dumps(saved[key])}, or give the run another name"
            )
    if base["fingerprint"] != policy.adapters.base:
        raise UserError(
            f"{checkpoint} has adapters of another base: they were trained on {base['path']}, and "
            f"{policy.lm.name_or_path} has other weights, or has them in another model.dtype; set "
            f"both as they were when the run started, or give the run another name"
        )


def _require_same_model(checkpoint: Path, policy: Policy) -> None:
    lm = policy.lm
    config = checkpoint / "hf" / "config.json"
    with saved_state.reading(config):
        saved = dict(json.loads(config.read_text(encoding="utf-8")))
    own = json.loads(lm.config.to_json_string(use_diff=False))
    keys = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size", "tie_word_embeddings")
    there = {key: saved[key] for key in keys if key in saved}
    here = {key: own.get(key) for key in there}
    if there == here:
        there, here = _saved_shapes(checkpoint, WEIGHT_PREFIX), _shapes(lm, policy)
    if there != here:
        names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
        what = ", ".join(f"{n} is {there.get(n)} there, {here.get(n)} here" for n in names[:5])
        raise UserError(
            f"{checkpoint} is a checkpoint of another model ({what}); set model.path to the "
            f"model the run started from, or give the run another name"
        )


def _require_same_routers(checkpoint: Path, policy: Policy) -> None:
    saved = _saved_shapes(checkpoint, MOMENT_PREFIX)
    for name in trained(policy):
        routed = any(name.startswith(f"lm.{block.name}.") for block in find_blocks(policy.lm))
        if routed and f"{name}.exp_avg" not in saved:
            raise UserError(
                f"{checkpoint} has no moments of {name.removeprefix('lm.')}, which was not trained "
                f"then; set train.freeze_routers to true, or give the run another name"
            )


def _require_same_critic(checkpoint: Path, trainer: Trainer) -> None:
    critic = trainer.critic
    there = _saved_shapes(checkpoint, CRITIC_PREFIX)
    here = {} if critic is None else _shapes(critic.model, critic.model)
    if bool(there) != bool(here):
        what, change = ("a", "add") if there else ("no", "take out")
        raise UserError(
            f"{checkpoint} has {what} critic, unlike this spec; {change} the [critic] section, or "
            f"give the run another name"
        )
    if there != here:
        raise UserError(
            f"{checkpoint} has the critic of another model than this spec; set critic.path to the "
            f"model that critic started from, or give the run another name"
        )


def _saved_shapes(checkpoint: Path, prefix: str) -> dict[str, Any]:
    found = saved_state.Tensors(checkpoint / "state", prefix).entries
    return {name: list(entry.size) for name, entry in found.items()}


def _shapes(part: nn.Module, model: nn.Module) -> dict[str, Any]:
    """Shapes of what a checkpoint of `model` has of a part of it."""
    found = trained(part) if is_partial(model) else part.state_dict()
    return {name: list(tensor.shape) for name, tensor in found.items()}

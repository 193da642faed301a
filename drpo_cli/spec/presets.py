"""Presets: baselines of the literature by name. A preset sets keys that the spec leaves unset."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from drpo_cli.plugins import Selected
from drpo_cli.spec.model import CHOICES, Spec
from drpo_cli.spec.positions import KeyPath
from drpo_cli.spec.problems import Problem

KEY = "preset"

_CLIP = {"type": "ppo_clip", "epsilon_low": 0.2, "epsilon_high": 0.2}

# reward minus group mean, and a sum over a response divided by a constant
_CENTRED: dict[str, dict[str, Any]] = {
    "advantage": {"type": "group_mean"},
    "train": {"reduction": "fixed_horizon"},
}
_DPPO = {"type": "dppo", "ratio_cap": 20.0}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "ppo": {
        "objective": _CLIP,
        "advantage": {"type": "gae"},
        "train": {"reduction": "token_mean", "anchor": "trainer"},
    },
    "grpo": {
        "objective": _CLIP,
        "advantage": {"type": "group_norm"},
        "train": {"reduction": "sequence_mean"},
    },
    "dapo": {
        "objective": _CLIP | {"epsilon_high": 0.28},
        "advantage": {"type": "group_norm"},
        "train": {"reduction": "token_mean", "overlong": "soft"},
        "rollout": {"dynamic_sampling_rounds": 4},
    },
    "dr_grpo": {
        "objective": _CLIP,
        **_CENTRED,
    },
    "gspo": {
        "objective": {"type": "gspo", "epsilon_low": 3e-4, "epsilon_high": 4e-4},
        "advantage": {"type": "group_norm"},
        "train": {"reduction": "sequence_mean"},
    },
    "cispo": {
        "objective": {"type": "cispo", "epsilon_high": 3.0},
        "advantage": {"type": "group_norm"},
        "train": {"reduction": "token_mean"},
    },
    "sapo": {
        "objective": {"type": "sapo", "tau_pos": 1.0, "tau_neg": 1.05},
        "advantage": {"type": "group_norm"},
        "train": {"reduction": "sequence_mean"},
    },
    "dppo_tv": {
        "objective": _DPPO | {"divergence": "tv", "delta_low": 0.15, "delta_high": 0.15},
        **_CENTRED,
    },
    "dppo_kl": {
        "objective": _DPPO | {"divergence": "kl", "delta_low": 0.05, "delta_high": 0.05},
        **_CENTRED,
    },
    "spo_released": {
        "objective": {"type": "spo", "epsilon": 12.5},
        **_CENTRED,
    },
    "rloo": {
        "objective": {"type": "none"},
        "advantage": {"type": "rloo"},
        "train": {"reduction": "fixed_horizon", "updates_per_rollout": 1},
    },
    "drpo_released": {
        "objective": {"type": "drpo", "delta": 12.5},
        **_CENTRED,
    },
}
"""Preset → section → keys. docs/presets.md says what differs from the papers."""

SOURCES = {
    "ppo": "arXiv 1707.06347; needs a `[critic]`",
    "grpo": "DeepSeekMath, arXiv 2402.03300; its KL term is a `[reference]`",
    "dapo": "arXiv 2503.14476",
    "dr_grpo": "arXiv 2503.20783",
    "gspo": "arXiv 2507.18071",
    "cispo": "MiniMax-M1, arXiv 2506.13585",
    "sapo": "arXiv 2511.20347",
    "dppo_tv": "arXiv 2602.04879, with the thresholds of verl's script and the cap of its loss",
    "dppo_kl": "arXiv 2602.04879, with the thresholds of verl's script and the cap of its loss",
    "spo_released": "arXiv 2401.16025, with ε of DRPO's recipe (arXiv 2606.09821)",
    "rloo": "arXiv 2402.14740",
    "drpo_released": "the released recipe of DRPO, arXiv 2606.09821",
}
"""The source of each preset, in one line."""


@dataclass(frozen=True)
class Expansion:
    """The preset of a document: its name, the keys it set, and what is wrong.

    `unknown` are the keys that a preset of an unknown name may have been meant to set.
    """

    name: str | None = None
    keys: frozenset[KeyPath] = frozenset()
    problems: tuple[Problem, ...] = ()
    unknown: frozenset[KeyPath] = frozenset()


def expand(document: dict[str, Any]) -> Expansion:
    """Replaces `preset` in `document` by the keys of the preset.

    A key that the document sets itself stays as it is. Naming another plugin than the preset does
    is a problem, and the section is left as it is. The empty name stands for no preset, so that
    `--set preset=` removes one.
    """
    name = document.pop(KEY, "")
    if name == "":
        return Expansion()
    if not isinstance(name, str) or name not in PRESETS:
        unknown = _unset_keys(document)
        return Expansion(problems=(Problem((KEY,), _unknown(name)),), unknown=unknown)
    keys: set[KeyPath] = set()
    problems = []
    for section, given in PRESETS[name].items():
        own = document.setdefault(section, {})
        if not isinstance(own, dict):
            continue  # the reader says what is wrong with it
        if contradiction := _contradiction(name, section, own):
            problems.append(contradiction)
            continue
        added = {key: value for key, value in given.items() if key not in own}
        document[section] = added | own
        keys |= {(section, key) for key in added}
    return Expansion(name, frozenset(keys), tuple(problems))


def _unset_keys(document: dict[str, Any]) -> frozenset[KeyPath]:
    """Every key that some preset sets and the document does not."""
    return frozenset(
        (section, key)
        for sections in PRESETS.values()
        for section, keys in sections.items()
        for key in keys
        if not isinstance(own := document.get(section, {}), dict) or key not in own
    )


def summary(spec: Spec) -> str:
    """What the preset of `spec` sets, and which of its keys the spec sets otherwise."""
    assert spec.preset is not None
    parts: list[str] = []
    changed: list[str] = []
    for section, given in PRESETS[spec.preset].items():
        values = _values(spec, section)
        selector = CHOICES[section].selector if section in CHOICES else ""
        options = [key for key in given if key != selector]
        if selector in given:
            inner = ", ".join(f"{key} {values[key]}" for key in options)
            parts.append(f"{section} {values[selector]}" + (f" ({inner})" if inner else ""))
        else:
            parts += [f"{section}.{key} {values[key]}" for key in options]
        changed += [
            f"{section}.{key} (preset: {given[key]})"
            for key in options
            if values[key] != given[key]
        ]
    own = f"; set by the spec: {', '.join(changed)}" if changed else ""
    return f"{spec.preset}: {', '.join(parts)}{own}"


def _values(spec: Spec, section: str) -> dict[str, Any]:
    part = getattr(spec, section)
    chosen = isinstance(part, Selected)
    values: dict[str, Any] = (part.config if chosen else part).model_dump(mode="json")
    return {CHOICES[section].selector: part.type} | values if chosen else values


def _contradiction(name: str, section: str, own: dict[str, Any]) -> Problem | None:
    selector = CHOICES[section].selector if section in CHOICES else ""
    wanted = PRESETS[name][section].get(selector)
    if wanted is None or own.get(selector, wanted) == wanted:
        return None
    return Problem(
        (section, selector),
        f"is {own[selector]!r}, but preset {name!r} says {wanted!r}; remove one of the two "
        f"(on the command line, --set '{section}={{}}' empties the section, and --set {KEY}= "
        "removes the preset)",
    )


def _unknown(name: object) -> str:
    if not isinstance(name, str):
        return f"is {name!r}; must be a name in quotes: {', '.join(PRESETS)}"
    close = " or ".join(repr(known) for known in difflib.get_close_matches(name, PRESETS, n=2))
    hint = f"did you mean {close}? " if close else ""
    return f"there is no preset {name!r}; {hint}there are: {', '.join(PRESETS)}"

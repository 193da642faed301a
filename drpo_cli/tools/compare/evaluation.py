"""Whether the runs of a grid are scored on the same held-out problems, in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected
from drpo_cli.spec import Spec

FOLLOWS = {"temperature", "max_new_tokens"}
"""Keys of `[eval]` that are the rollout's where they are not set."""


def require_same_evaluation(specs: Mapping[str, Spec]) -> None:
    """Raises UserError when two specs are evaluated on other problems or in another way."""
    (first, base), *others = specs.items()
    expected = evaluated_by(base)
    for label, spec in others:
        found = evaluated_by(spec)
        different = [key for key in expected if expected[key] != found[key]]
        if different:
            raise UserError(
                f"--vary: {first} and {label} differ in what they are evaluated on: "
                f"{', '.join(_said(key, expected, found) for key in different)}; "
                f"a comparison of runs on different evaluation sets says nothing: "
                f"{_advice(different, base)}"
            )


def evaluated_by(spec: Spec) -> dict[str, Any]:
    """All that decides the held-out problems, how they are answered and how answers score."""
    rollout = spec.rollout.config
    sources = spec.eval_data or spec.data
    found = {
        "eval.every": spec.eval.every,
        "eval.problems": spec.eval.problems,
        "eval.samples_per_prompt": spec.eval.samples_per_prompt,
        "eval.temperature": spec.eval.temperature or rollout.temperature,
        "eval.max_new_tokens": spec.eval.max_new_tokens or rollout.max_new_tokens,
        "eval.threshold": spec.eval.threshold,
        "eval.data" if spec.eval_data else "data": _tables(sources),
        "reward": _tables(spec.reward),
        "rollout.stop": rollout.stop,
    }
    if any(getattr(source.config, "too_long", "stop") == "skip" for source in sources):
        longest = max(rollout.max_new_tokens, spec.eval.max_new_tokens or 0)
        found["room for the prompt"] = (rollout.context_length, longest)
    return found


def _tables(chosen: tuple[Selected[Any], ...]) -> list[Any]:
    return [(part.type, part.config.model_dump(mode="json")) for part in chosen]


def _said(key: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    plain = isinstance(expected[key], int | float)
    return f"{key} ({expected[key]} and {found[key]})" if plain else key


def _advice(different: list[str], base: Spec) -> str:
    unset = [
        f"eval.{name}"
        for name in sorted(FOLLOWS)
        if f"eval.{name}" in different and getattr(base.eval, name) is None
    ]
    if unset:
        return f"set {' and '.join(unset)}, which otherwise follow the rollout's"
    if "data" in different:
        return "give the held-out problems a source of their own, [[eval.data]]"
    return "leave these out of the grid"

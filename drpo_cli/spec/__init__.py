"""The spec: a TOML file → a validated, frozen `Spec`. Imports neither torch nor an engine."""

from drpo_cli.spec.dumping import dump
from drpo_cli.spec.loading import load, load_text
from drpo_cli.spec.model import Spec
from drpo_cli.spec.problems import SpecError

__all__ = ["Spec", "SpecError", "dump", "load", "load_text"]

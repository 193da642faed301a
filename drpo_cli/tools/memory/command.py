"""`drpo plan`: estimates a spec on devices that need not be there."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from drpo_cli.launch.launcher import prepare_model
from drpo_cli.plan import make_plan
from drpo_cli.spec import load
from drpo_cli.tools.memory.advice import advise
from drpo_cli.tools.memory.device import parse
from drpo_cli.tools.memory.estimate import Estimate, estimate
from drpo_cli.tools.memory.show import as_dict, show


def plan(
    path: Path, overrides: Sequence[str], devices: int, gpu: str, nodes: int, as_json: bool
) -> int:
    """Prints the plan of a spec on `nodes` × `devices`; returns 0 where it fits, 1 where not."""
    device = parse(gpu, devices)

    def estimated(further: Sequence[str]) -> Estimate:
        spec = load(path, [*overrides, *further])
        prepare_model(spec.model)
        return estimate(make_plan(spec, devices * nodes), device, nodes)

    logging.getLogger("torch").setLevel(logging.ERROR)  # fake processes say that they are alone
    found = estimated(())
    advice = [] if found.fits else advise(found, estimated)
    if as_json:
        sys.stdout.write(json.dumps(as_dict(found, advice), indent=1) + "\n")
    else:
        show(found, advice, Console(markup=False, highlight=False, width=_width()))
    return 0 if found.fits else 1


def _width() -> int | None:
    """80 columns where there is no terminal to ask."""
    return None if Console().is_terminal else 80

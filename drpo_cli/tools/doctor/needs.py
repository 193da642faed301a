"""What one spec needs of the machine: packages and keys of its plugins, models, processes."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import fields
from importlib import util
from pathlib import Path
from typing import Any

from drpo_cli.errors import UserError
from drpo_cli.model_folder import find_broken_weights, find_wrong_kind, read_shapes
from drpo_cli.plan import make_plan
from drpo_cli.plugins import Selected
from drpo_cli.runs.checkpoints import checkpoint_bytes
from drpo_cli.spec import Spec
from drpo_cli.spec.model import OTHER_MODELS
from drpo_cli.spec.rules_lora import count_adapters
from drpo_cli.tools.doctor.findings import Finding, ok, warning, wrong
from drpo_cli.tools.doctor.machine import hub_cache


def check_plugins(spec: Spec) -> Iterator[Finding]:
    """Whether the packages that plugins import are installed, and their variables set.

    A teacher behind an endpoint needs a variable too.
    """
    needed = [
        (f"{one.kind} {one.type}", one.plugin.imports, one.config.needs_environment())
        for one in _selected(spec)
    ]
    if spec.teacher is not None:
        needed.append(("teacher", (), spec.teacher.needs_environment()))
    for check, imports, variables in needed:
        missing = [name for name in imports if util.find_spec(name) is None]
        unset = [name for name in variables if not os.environ.get(name)]
        if missing:
            install = f"pip install {' '.join(missing).replace('_', '-')}"
            yield wrong(check, f"needs {', '.join(missing)}, not installed", install)
        if unset:
            export = ", ".join(f"export {name}=…" for name in unset)
            yield wrong(check, f"needs the environment variable {', '.join(unset)}", export)
        if (imports or variables) and not missing and not unset:
            yield ok(check, "its packages are installed, and its environment variables set")


def _selected(spec: Spec) -> Iterator[Selected[Any]]:
    """Every plugin that the spec selects."""
    for each in fields(spec):
        value = getattr(spec, each.name)
        values = value if isinstance(value, tuple) else (value,)
        yield from (one for one in values if isinstance(one, Selected))


def check_plan(spec: Spec, gpus: int) -> Iterator[Finding]:
    """Whether the work of a step divides over the GPUs, and the model folder can be used."""
    world = max(1, gpus)
    try:
        plan = make_plan(spec, world)
    except UserError as error:
        yield wrong("run", error.what, error.fix or f"drpo check {spec.path} --nproc {world}")
        return
    count = f"{world} process{'es' * (world > 1)}"
    yield ok("run", f"{count}, {plan.sequences_per_step:,} samples per step")


def check_models(spec: Spec) -> Iterator[Finding]:
    """Where each model is that the run loads."""
    paths = {"model": spec.model.path}
    for name in OTHER_MODELS:
        section = getattr(spec, name)
        if section is not None and section.path not in (None, spec.model.path):
            paths[name] = section.path
    for reward in spec.reward:
        if reward.type == "reward_model":
            options = reward.config.model_dump()
            paths[f"reward {options['name']}"] = str(options["path"])
    for name, path in paths.items():
        yield _check_model(name, path, spec.model.prepare if name == "model" else None)


def _check_model(check: str, path: str, prepare: Path | None) -> Finding:
    folder = Path(path)
    if not folder.is_absolute():  # an id on the hub: a spec makes paths absolute
        if (hub_cache() / f"models--{path.replace('/', '--')}").is_dir():
            return ok(check, f"{path}, in the hub's cache")
        fix = f"if the run has no network, first: hf download {path}"
        return warning(check, f"{path} is not in the hub's cache, and will be downloaded", fix)
    if prepare is not None and prepare.is_file() and not (folder / "config.json").is_file():
        return ok(check, f"{path} does not exist yet; the run makes it with {prepare.name}")
    broken = find_wrong_kind(folder, not check.startswith("reward")) or find_broken_weights(folder)
    if broken:
        return wrong(check, broken.what, broken.fix)
    weights = count_weights(folder)
    count = "weights in .bin files" if weights is None else f"{weights / 1e6:,.1f} M weights"
    return ok(check, f"{path}: {count}")


def count_weights(folder: Path) -> int | None:
    """The number of weights in a model folder, by the headers of its safetensors; None if none."""
    from safetensors import safe_open

    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "numpy") as tensors:
            names = list(tensors.keys())
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in names)
    return total or None


def checkpoint_space(spec: Spec) -> int:
    """Bytes that all checkpoints of the run take at most; 0 where the model is not here."""
    folder = Path(spec.model.path)
    weights = count_weights(folder) or 0
    if spec.lora is not None and weights:
        weights = count_adapters(spec, read_shapes(folder)) or weights
    if spec.critic is not None:
        weights += count_weights(Path(spec.critic.path or spec.model.path)) or 0
    return checkpoint_bytes(weights) * (spec.checkpoint.keep + 2) if weights else 0


def count_processes(spec: Spec) -> int:
    """Processes that the rewards and environments of one rank use."""
    rewards = sum(reward.config.workers for reward in spec.reward)
    return rewards + sum(one.config.workers for one in spec.environment)


def sandbox_of(spec: Spec) -> str:
    """The sandbox that rewards and tools of this spec ask for; `none` where none runs code."""
    tests = [reward for reward in spec.reward if reward.type == "python_tests"]
    asked = {reward.config.model_dump()["backend"] for reward in tests}
    for tool in (tool for one in spec.environment for tool in one.config.tools):
        name, _, options = tool.partition(":")
        if name == "python":
            backend = re.search(r"\bbackend=(\w+)", options)
            asked.add(backend[1] if backend else "auto")
    return next((name for name in ("bubblewrap", "auto", "plain") if name in asked), "none")

"""What one spec needs of the machine: its plugins' packages and keys, its models, its processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import fields
from importlib import util
from pathlib import Path
from typing import Any

from drpo_cli.errors import UserError
from drpo_cli.plan import make_plan
from drpo_cli.plugins import Selected
from drpo_cli.runs.checkpoints import checkpoint_bytes
from drpo_cli.spec import Spec
from drpo_cli.tools.doctor.findings import Finding, ok, warning, wrong
from drpo_cli.tools.doctor.folders import hub_cache


def chosen(spec: Spec) -> list[Selected[Any]]:
    """Every plugin that the spec selects."""
    found: list[Selected[Any]] = []
    for each in fields(spec):
        value = getattr(spec, each.name)
        values = value if isinstance(value, tuple) else (value,)
        found += [one for one in values if isinstance(one, Selected)]
    return found


def option(plugin: Selected[Any], name: str) -> Any:
    """The value of an option that plugins of its type have."""
    return getattr(plugin.config, name)


def plugins(spec: Spec) -> Iterator[Finding]:
    """Whether what they import is installed, and the environment variables that they name set."""
    for plugin in chosen(spec):
        check = f"{plugin.kind} {plugin.type}"
        imports = plugin.plugin.imports
        missing = [name for name in imports if util.find_spec(name) is None]
        unset = [name for name in plugin.config.needs_environment() if not os.environ.get(name)]
        if missing:
            install = f"pip install {' '.join(missing).replace('_', '-')}"
            yield wrong(check, f"needs {', '.join(missing)}, not installed", install)
        if unset:
            sets = ", ".join(f"export {name}=…" for name in unset)
            yield wrong(check, f"needs the environment variable {', '.join(unset)}, not set", sets)
        if (imports or plugin.config.needs_environment()) and not missing and not unset:
            yield ok(check, "what it needs is here")


def processes(spec: Spec, gpus: int) -> Iterator[Finding]:
    """Whether the run divides over the GPUs, and its model folder allows it."""
    world = max(1, gpus)
    try:
        plan = make_plan(spec, world)
    except UserError as error:
        found, _, fix = str(error).removeprefix(f"{spec.path}: ").partition("; ")
        yield wrong("run", found, fix)
        return
    count = f"{world} process{'es' * (world > 1)}"
    yield ok("run", f"{count}, {plan.sequences_per_step:,} samples a step")


def models(spec: Spec) -> Iterator[Finding]:
    """Where each model is that the run loads."""
    paths = {"model": spec.model.path}
    for name, section in (("reference", spec.reference), ("critic", spec.critic)):
        if section is not None and section.path not in (None, spec.model.path):
            paths[name] = section.path
    for reward in spec.reward:
        if reward.type == "reward_model":
            paths[f"reward {option(reward, 'name')}"] = str(option(reward, "path"))
    for name, path in paths.items():
        yield _model(name, path, spec.model.prepare if name == "model" else None)


def _model(check: str, path: str, prepare: Path | None) -> Finding:
    weights = weights_of(Path(path)) if Path(path).is_absolute() else None
    if weights is not None:
        return ok(check, f"{path}: {weights / 1e6:,.1f} M weights")
    if Path(path).is_absolute():
        if (Path(path) / "config.json").is_file():
            fix = "copy the folder again, *.safetensors included"
            return wrong(check, f"{path} has a config.json and no safetensors", fix)
        if prepare is not None and prepare.is_file():
            return ok(check, f"{path} is not there yet: {prepare.name} makes it at the start")
        return wrong(check, f"{path} is no model folder", "mend the path, or set model.prepare")
    cached = hub_cache() / f"models--{path.replace('/', '--')}"
    if cached.is_dir():
        return ok(check, f"{path}, in the hub's cache")
    return warning(
        check,
        f"{path} is not in the hub's cache: it will be downloaded",
        f"hf download {path} beforehand, where the run has no network",
    )


def weights_of(folder: Path) -> int | None:
    """Number of weights in a model folder's safetensors, by their headers; None without any."""
    from safetensors import safe_open

    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (it is no mapping)
                shape = tensors.get_slice(name).get_shape()
                size = 1
                for side in shape:
                    size *= side
                total += size
    return total or None


def disk(spec: Spec) -> int:
    """Bytes that the run's checkpoints may take at a time; 0 where the model is not here."""
    weights = weights_of(Path(spec.model.path)) or 0
    if spec.critic is not None:
        weights += weights_of(Path(spec.critic.path or spec.model.path)) or 0
    return checkpoint_bytes(weights) * (spec.checkpoint.keep + 2) if weights else 0


def reward_processes(spec: Spec) -> int:
    """Processes that the rewards of one rank take."""
    return sum(option(reward, "workers") for reward in spec.reward)


def sandbox_of(spec: Spec) -> str:
    """The backend that a reward of this spec asks for, `none` where no reward runs code."""
    asked = {option(r, "backend") for r in spec.reward if r.type == "python_tests"}
    return "bubblewrap" if "bubblewrap" in asked else "auto" if asked else "none"

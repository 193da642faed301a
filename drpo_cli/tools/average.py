"""Averages the weights of models of one architecture: a model soup (arXiv 2203.05482)."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from drpo_cli.errors import UserError
from drpo_cli.model_folder import weight_files
from drpo_cli.runs.folder import write_whole
from drpo_cli.step import choice
from drpo_cli.tools.evaluate import prepare_weights
from drpo_cli.tools.model_card import CARD

ONE_ARCHITECTURE = "average models of one architecture"


def write_average(targets: Sequence[Path], shares: Sequence[float] | None, folder: Path) -> None:
    """Writes Σ share · weights of the targets as a Hugging Face folder, the first's otherwise.

    targets  runs, checkpoints, models or adapters, which are merged in float32
    shares   what each counts, divided by their sum; the same each, if None

    Sums are in float32, of weights as `drpo export` writes them. Raises UserError for models that
    differ by more than weights, and for a folder that is not empty.
    """
    shares = _normalise(targets, shares)
    folder = folder.absolute()
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; name a new folder to export to")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".average-", dir=folder.parent) as scratch:
        models = {
            str(target): prepare_weights(target, Path(scratch, str(i)), "float32")
            for i, target in enumerate(targets)
        }
        if len(models) < len(targets):
            raise UserError("--average: names a model twice", "give it a larger share")
        made = Path(scratch, "average")
        first = models[str(targets[0])]
        weights = [path.name for path in weight_files(first)]
        shutil.copytree(first, made, ignore=shutil.ignore_patterns(*weights, CARD, choice.NOTE))
        _average(models, shares, made)
        rows = zip(targets, shares, strict=True)
        parts = "\n".join(f"- {share:.3g} × `{target.resolve().name}`" for target, share in rows)
        write_whole(made / CARD, f"# {folder.name}\n\nThe average of the weights of\n\n{parts}\n")
        if folder.exists():
            folder.rmdir()
        made.rename(folder)


def _normalise(targets: Sequence[Path], shares: Sequence[float] | None) -> list[float]:
    if shares is None:
        return [1 / len(targets)] * len(targets)
    if len(shares) != len(targets):
        raise UserError(
            f"--shares: has {len(shares)} numbers for {len(targets)} models",
            "give one for each, that of CHECKPOINT first",
        )
    total = math.fsum(shares)
    if not math.isfinite(total) or total <= 0:
        raise UserError(f"--shares: their sum is {total:g}", "make it positive")
    return [share / total for share in shares]


def _average(models: Mapping[str, Path], shares: Sequence[float], folder: Path) -> None:
    """Writes the files of weights that the first model has, with the average in each."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with ExitStack() as opened:
        files: dict[str, dict[str, Any]] = {}
        for target, model in models.items():
            paths = weight_files(model)
            if any(path.suffix != ".safetensors" for path in paths):
                what = f"{target}: its weights are in a .bin file"
                raise UserError(what, "save it with transformers' save_pretrained first")
            files[target] = {p.name: opened.enter_context(safe_open(p, "pt")) for p in paths}
        places = {
            target: {name: file for file in own.values() for name in file.keys()}  # noqa: SIM118
            for target, own in files.items()
        }
        _require_same_names(places)
        for name, file in next(iter(files.values())).items():
            found = {one: _mix(one, places, shares) for one in file.keys()}  # noqa: SIM118
            save_file(found, folder / name, metadata={"format": "pt"})


def _require_same_names(places: Mapping[str, Mapping[str, Any]]) -> None:
    first, *others = places
    for other in others:
        if names := sorted(places[first].keys() ^ places[other].keys()):
            raise UserError(
                f"{other} and {first} differ by {len(names)} weights, such as {names[0]}",
                ONE_ARCHITECTURE,
            )


def _mix(name: str, places: Mapping[str, Mapping[str, Any]], shares: Sequence[float]) -> Any:
    """The average of one weight, in the dtype of the first model; what has no fraction as it is."""
    whole = {target: own[name].get_tensor(name) for target, own in places.items()}
    first, *_ = whole.values()
    for target, tensor in whole.items():
        if tensor.shape != first.shape:
            sizes = f"{list(tensor.shape)} and not {list(first.shape)}"
            raise UserError(f"{target}: {name} is {sizes}", ONE_ARCHITECTURE)
    if not first.is_floating_point():
        return first
    total = torch.zeros(first.shape)
    for tensor, share in zip(whole.values(), shares, strict=True):
        total.add_(tensor.float(), alpha=share)
    return total.to(first.dtype)

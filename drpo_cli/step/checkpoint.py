"""Checkpoints: written whole or not at all, loaded on any world size, exported for any tool.

A checkpoint is a folder `step-000050` with torch's distributed checkpoint of weights and optimizer
(resharded on load), the model's configuration and tokenizer under `hf/`, and `complete.json`,
written last, with the checksums of all files. It is built in `step-000050.partial` and renamed: a
folder under its final name is whole. Random generators need no saving: each step seeds them from
(run seed, step, rank).

A thread of each rank writes it. The run waits for that, or with `asynchronous` goes on at once, and
the thread writes a copy in main memory. All files and names are the same.
"""

from __future__ import annotations

import math
import shutil
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributed import all_gather_object, barrier, new_group
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.optim import AdamW

from drpo_cli.dist import World
from drpo_cli.errors import UserError, writing
from drpo_cli.evaluate.results import HeldOut
from drpo_cli.model_folder import ADAPTER_CONFIG
from drpo_cli.pretrained import save_config
from drpo_cli.rollout.engine.ends import GENERATION, read_generation
from drpo_cli.runs import checkpoints as on_disk
from drpo_cli.runs.checkpoints import checkpoint_bytes, complete, read
from drpo_cli.step import choice, saved_state
from drpo_cli.step.export import merge_folder, write_model
from drpo_cli.step.same_model import is_partial, require_same, save_adapted, trained
from drpo_cli.trainer import optim
from drpo_cli.trainer.trainer import Trainer

if TYPE_CHECKING:
    from drpo_cli.step.run import Run


class Checkpoints:
    """Saves and loads the checkpoints of one run.

    asynchronous  whether `save` returns before the checkpoint is on disk; `finish` waits for it
    """

    def __init__(self, folder: Path, keep: int, world: World, asynchronous: bool = False):
        self.folder = folder
        self.keep = keep
        self.world = world
        self.asynchronous = asynchronous
        self._thread = ThreadPoolExecutor(1, "drpo checkpoints")
        self._written: Future[None] | None = None
        pinned = world.device.type == "cuda"  # the copy is kept, since pinning takes long
        self._stager = BlockingAsyncStager(cache_staged_state_dict=pinned)
        self._group: Any = None

    def save(self, step: int, trainer: Trainer, tokenizer: Any, state: Mapping[str, Any]) -> Path:
        """Saves weights, optimizer, schedule and `state` (JSON values) as of the end of `step`.

        Keeps the newest `keep` checkpoints and the one with the highest `state["score"]`. Raises
        UserError if the disk has no room for it, and OSError for what went wrong with this one, or
        with the one before, which it waits for. Collective.
        """
        final = self.folder / f"step-{step:06d}"
        partial = final.with_suffix(".partial")
        self.finish()
        self._require_room(trainer)
        record = {
            **deepcopy(dict(state)),
            "step": step,
            "updates": trainer.schedule.last_epoch,
            "base": trainer.policy.lm.name_or_path,
        }
        if self.world.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            with self._removed_on_error(partial), writing(partial / "hf"):
                _save_description(partial / "hf", trainer.policy.lm, tokenizer)
                save_adapted(partial, trainer.policy)
        if self._group is None:  # of the threads, whose collectives must not meet those of the run
            self._group = new_group(backend="gloo", timeout=timedelta(hours=2))
        self.world.barrier()
        content = _state(trainer)
        if self.asynchronous:
            content = self._stager.stage(content)
        self._written = self._thread.submit(self._write, partial, final, content, record)
        if not self.asynchronous:
            self.finish()
        return final

    def finish(self) -> None:
        """Waits until the checkpoint of the last `save` is whole. Raises what went wrong with it.

        Not a collective, but the threads of all ranks wait for each other.
        """
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def look(self) -> None:
        """Raises what went wrong with the last checkpoint by now; does not wait."""
        if self._written is not None and self._written.done():
            self.finish()

    def _write(
        self, partial: Path, final: Path, content: dict[str, Any], record: Mapping[str, Any]
    ) -> None:
        """Writes what was staged, and puts the checkpoint under its name.

        Consumes: each rank's shards, and the same record.
        Waits for: the threads of all ranks, in collectives of their own group.
        Produces: the checkpoint; it is whole on the return of every rank.
        """
        rank, size = self.world.rank, self.world.size
        if self.world.device.type == "cuda":
            torch.cuda.set_device(self.world.device)  # each thread has its own
        with self._removed_on_error(partial):
            saved_state.save(content, partial / "state", self._group)
            barrier(self._group)
            own = on_disk.file_names(partial)[rank::size]
            sums: list[Any] = [None] * size
            all_gather_object(sums, on_disk.checksums(partial, own), self._group)
            if rank == 0:
                on_disk.write_marker(partial, record, dict(ChainMap(*sums)))
        if rank == 0:
            on_disk.clear_name(final)
            partial.rename(final)
            self._forget_old()
        barrier(self._group)

    @contextmanager
    def _removed_on_error(self, folder: Path) -> Iterator[None]:
        try:
            yield
        except OSError:  # what is left of it may be what fills the disk
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def newest_whole(self, say: Callable[[str], None]) -> Path | None:
        """Finds the newest checkpoint to continue from; None if the run has none. Collective.

        Sets damaged ones aside and says so. Raises UserError if all are damaged.
        """
        found = complete(self.folder)
        for path in reversed(found):
            damage = on_disk.damage(path, self.world.rank, self.world.size)
            damages = [what for what in self.world.gather_objects(damage) if what]
            if not damages:
                return path
            if path == found[0]:
                raise UserError(
                    f"{path} is damaged ({damages[0]}), and there is no whole checkpoint before it",
                    f"restore one from a copy, or delete {self.folder} to begin again at step 1",
                )
            aside = path.with_suffix(".damaged")
            say(f"{path} is damaged ({damages[0]}): set aside as {aside.name}, not used")
            if self.world.rank == 0:
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
        return None

    def load(
        self, checkpoint: Path, trainer: Trainer, updates: int | None = None
    ) -> dict[str, Any]:
        """Restores the trainer in place; returns the `state` that `save` recorded.

        The optimizer continues with the trainer's own hyperparameters: a learning rate changed in
        the spec counts from here. `updates` is the place in the schedule, if it is not that of the
        checkpoint. Raises UserError if the checkpoint is of another model.
        """
        record = read(checkpoint)
        at = record["updates"] if updates is None else updates
        require_same(checkpoint, trainer)
        state = _state(trainer)
        pairs = _models(trainer)
        settings = [optim.hyperparameters(optimizer) for _, optimizer in pairs.values()]
        saved_state.load(state, checkpoint / "state")
        for name, (model, optimizer) in pairs.items():
            set_state_dict(
                model,
                optimizer,
                model_state_dict=state[name],
                optim_state_dict=state[OPTIMIZER_OF[name]],
                options=StateDictOptions(strict=not is_partial(model)),
            )
        trainer.moments.put_away()  # torch puts what it loads on the device
        optim.resume(trainer.optimizer, trainer.schedule, at, settings[0])
        for (_, optimizer), own in list(zip(pairs.values(), settings, strict=True))[1:]:
            optim.restore(optimizer, own)
        return record

    def _forget_old(self) -> None:
        steps = complete(self.folder)
        scored = [path for path in steps if read(path).get("score") is not None]
        best = max(scored, key=lambda path: read(path)["score"], default=None)
        for path in steps[: -self.keep]:
            if path != best:
                on_disk.discard(path)
        for path in self.folder.glob("*.partial"):
            shutil.rmtree(path, ignore_errors=True)

    def _require_room(self, trainer: Trainer) -> None:
        models = [model for model, _ in _models(trainer).values()]
        weights = sum(w.numel() for model in models for w in trained(model).values())
        needed = checkpoint_bytes(weights)
        existing = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        free = shutil.disk_usage(existing).free
        if self.world.max([float(free < needed)])[0]:
            raise UserError(
                f"checkpoint: {self.folder} has {free / 2**30:.2f} GiB free, a checkpoint needs "
                f"{needed / 2**30:.2f} GiB; free some space or lower checkpoint.keep, then "
                f"continue with --resume"
            )


def save_if_due(r: Run, step: int, held_out: HeldOut | None) -> None:
    """Saves a checkpoint if the spec asks for one now, after the last step, and before a stop.

    Agrees with all ranks whether the run was asked to stop. Collective.
    """
    every, last = r.spec.checkpoint.every, step == r.spec.run.steps
    r.stopping = r.stop.agree(r.world)
    r.checkpoints.look()
    if last or r.stopping or (every > 0 and step % every == 0):
        _save(r, step, held_out)
    if last or r.stopping:
        r.checkpoints.finish()


def save_warm(r: Run) -> None:
    """Saves a checkpoint of the policy before the first step. Collective."""
    _save(r, 0, None)
    r.checkpoints.finish()


def save_warming(r: Run, learner: Trainer, updates: int, data: dict[str, Any]) -> None:
    """Saves the policy in the middle of its warm-up, as step 0. Collective.

    learner  has the optimizer of the warm-up
    data     the state of its stream of rows
    """
    state = {"warm_up": updates, "data": data, "dtype": r.spec.model.dtype, "score": None}
    r.warming = r.checkpoints.save(0, learner, r.tokenizer, state)
    r.checkpoints.finish()


def save_last_step(r: Run) -> None:
    """Saves a checkpoint of the last step taken, unless there is none or it is saved. Collective.

    For a run that must end in the middle of a step.
    """
    r.checkpoints.finish()
    saved = [read(path)["step"] for path in complete(r.folder.checkpoints)[-1:]]
    if r.done and saved != [r.done]:
        _save(r, r.done, None)
        r.checkpoints.finish()


def _save(r: Run, step: int, held_out: HeldOut | None) -> None:
    state = {
        "score": held_out.score.value if held_out else None,
        "data": r.data.stream.state_dict(),
        "gap_floor": None if math.isnan(r.proof.floor) else r.proof.floor,
        "dtype": r.spec.model.dtype,
    }
    r.checkpoints.save(step, r.trainer, r.tokenizer, state)


def export(checkpoint: Path, folder: Path, merged: bool = False, dtype: str | None = None) -> None:
    """Writes the weights of a checkpoint (or a run folder's newest) as a Hugging Face folder.

    Of a run with adapters, that is a folder of the adapter, or `merged` one of a model. A folder of
    an adapter can be merged, too, with weights in `dtype`, or in the base's.

    Raises UserError when `folder` exists and is not empty.
    """
    folder = folder.absolute()
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; name a new folder to export to")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        if (checkpoint / ADAPTER_CONFIG).is_file():
            if not merged:
                raise UserError(
                    f"{checkpoint} is a folder of an adapter already",
                    "give --merged for the model that it makes of its base",
                )
            merge_folder(checkpoint, partial, dtype)
        else:
            with on_disk.open_latest(checkpoint) as source:
                with saved_state.reading(source / on_disk.MARKER):
                    record = read(source)
                    dtype = record["dtype"]
                partial.mkdir(parents=True)
                write_model(source, partial, str(dtype), record.get("base"), merged)
                choice.write_note(source, partial)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except (OSError, UserError):
        shutil.rmtree(partial, ignore_errors=True)
        raise


OPTIMIZER_OF = {"model": "optimizer", "critic": "critic_optimizer"}


def _models(trainer: Trainer) -> dict[str, tuple[nn.Module, AdamW]]:
    """The models that a trainer trains, each with its optimizer."""
    models: dict[str, tuple[nn.Module, AdamW]] = {"model": (trainer.policy, trainer.optimizer)}
    if trainer.critic is not None:
        models["critic"] = (trainer.critic.model, trainer.critic.optimizer)
    return models


def _state(trainer: Trainer) -> dict[str, Any]:
    """Weights and optimizer states by parameter name, sharing storage with the trainer.

    Of a model with adapters, the adapters alone.
    """
    state: dict[str, Any] = {}
    for name, (model, optimizer) in _models(trainer).items():
        _complete(optimizer)
        whole, state[OPTIMIZER_OF[name]] = get_state_dict(model, optimizer)
        kept = trained(model)
        state[name] = {key: whole[key] for key in kept} if is_partial(model) else whole
    trainer.moments.put_away()  # those that have just been made
    return state


def _complete(optimizer: AdamW) -> None:
    """Gives each weight that never had a gradient the state before its first update.

    Some have none: a router's bias that only chooses experts. torch would save nothing of them, and
    ask for it when it loads.
    """
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if weight not in optimizer.state:
                optimizer.state[weight] = {
                    "step": torch.zeros((), device=weight.device),
                    "exp_avg": torch.zeros_like(weight),
                    "exp_avg_sq": torch.zeros_like(weight),
                }


def _save_description(folder: Path, lm: Any, tokenizer: Any) -> None:
    save_config(lm, folder)
    if (generation := read_generation(lm.name_or_path)) is not None:
        (folder / GENERATION).write_bytes(generation)
    tokenizer.save_pretrained(folder)

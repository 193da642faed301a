"""Learning-rate schedules, and that AdamW gets what the spec says."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
from torch import nn

from drpo_cli import devices
from drpo_cli.settings import TrainSettings
from drpo_cli.trainer import optim


def rates(updates: int, **train: Any) -> list[float]:
    """The learning rate that each update really used, as the trainer steps the schedule."""
    settings = TrainSettings(**train)
    optimizer, schedule = optim.build(nn.Linear(1, 1), settings, updates)
    used = []
    for _ in range(updates):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return used


def test_constant() -> None:
    assert rates(4, learning_rate=0.5, schedule="constant") == [0.5] * 4


def test_linear_goes_straight_to_the_final_rate() -> None:
    found = rates(4, learning_rate=0.5, schedule="linear", final_learning_rate=0.1)
    assert found == pytest.approx([0.5, 0.4, 0.3, 0.2])


def test_linear_to_zero_still_learns_in_its_last_update() -> None:
    assert rates(4, learning_rate=1.0, schedule="linear") == pytest.approx([1, 0.75, 0.5, 0.25])


def test_cosine() -> None:
    found = rates(4, learning_rate=1.0, schedule="cosine", final_learning_rate=0.5)
    shape = [(1 + math.cos(math.pi * n / 4)) / 2 for n in range(4)]
    assert found == pytest.approx([0.5 + 0.5 * part for part in shape])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_warmup_rises_linearly_then_the_schedule_starts_at_its_peak(schedule: str) -> None:
    warm = {"learning_rate": 1.0, "schedule": schedule, "warmup_updates": 3}
    found = rates(8, **warm)
    assert found[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert found[3:] == pytest.approx(rates(5, learning_rate=1.0, schedule=schedule))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_beyond_the_planned_updates_the_final_rate_stays(
    schedule: Literal["linear", "cosine"],
) -> None:
    settings = TrainSettings(learning_rate=1.0, final_learning_rate=0.25, schedule=schedule)
    at = optim.factor(settings, 10)
    assert [at(10), at(11), at(1000)] == pytest.approx([0.25] * 3)


def test_warmup_longer_than_the_run() -> None:
    found = rates(2, learning_rate=1.0, schedule="linear", warmup_updates=4)
    assert found == pytest.approx([0.2, 0.4])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_warmup_and_schedule_begin_when_the_policy_does(schedule: Any) -> None:
    settings = TrainSettings(learning_rate=1.0, schedule=schedule, warmup_updates=3)
    late, soon = optim.factor(settings, 20, resting=12), optim.factor(settings, 8)
    assert [late(12 + n) for n in range(9)] == [soon(n) for n in range(9)]


def test_adamw_takes_the_settings() -> None:
    settings = TrainSettings(betas=(0.8, 0.9), epsilon=1e-6, weight_decay=0.3, learning_rate=0.01)
    optimizer, _ = optim.build(nn.Linear(2, 2), settings, 1)
    group = optimizer.param_groups[0]
    keys = ("betas", "eps", "weight_decay", "lr")
    assert [group[key] for key in keys] == [(0.8, 0.9), 1e-6, 0.3, 0.01]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2
    assert isinstance(optimizer, torch.optim.AdamW)


def test_what_goes_to_main_memory_stays_where_it_is_on_a_cpu() -> None:
    train = TrainSettings(
        offload="optimizer", gradient_checkpointing=True, checkpointing_keeps="offloaded_inputs"
    )
    said = devices.idle_options(train, "cpu")
    assert [text.split(" ")[0] for text in said] == ["train.offload", "train.checkpointing_keeps"]
    assert all("has no effect on a CPU" in text for text in said)
    here, there = (devices.resolve(train, device, "bfloat16") for device in ("cpu", "cuda"))
    assert (here.offload, here.checkpointing) == ("none", "inputs")
    assert (there.offload, there.checkpointing) == ("optimizer", "offloaded_inputs")
    assert devices.idle_options(train, "cuda") == devices.idle_options(TrainSettings(), "cpu") == []

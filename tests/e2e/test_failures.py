"""A rank that fails, hangs or is killed: the run ends at once and says why, or starts again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drpo_cli.launch.heartbeat import has_left
from drpo_cli.runs.folder import RunFolder
from support.command import drpo, records, reproducible

ROOT = Path(__file__).parents[2]

ENGINE = '''
"""An engine that fails as the file `fault` beside it says, when the second step samples."""

import os
import signal
import time
from pathlib import Path

from drpo_cli.rollout import transformers

Config = transformers.Config
FAULT = Path(__file__).with_name("fault")


class Engine(transformers.Engine):
    """The transformers engine, until the fault."""

    def generate(self, requests, sampling):
        import torch.distributed as dist

        kind = FAULT.read_text() if FAULT.exists() else ""
        metrics = Path(os.environ["RUN"], "metrics.jsonl")
        if kind and metrics.exists() and metrics.read_text().count("\\n") == 2:
            if kind == "kill":
                FAULT.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            if dist.get_rank() == 1:
                raise KeyError("the fault")
            # As a collective of NCCL: it neither sees that its neighbour is gone, nor lets Python
            # act on a signal
            dist.distributed_c10d._get_default_store().wait(["never"])
        yield from super().generate(requests, sampling)

    def close(self):
        if FAULT.exists():
            time.sleep(3600)  # as an engine whose groups wait for a neighbour
        super().close()
'''


@pytest.fixture
def faulty(small: Path) -> Path:
    """The small run with an engine that can fail; the path of its spec."""
    (small.parent / "engine.py").write_text(ENGINE)
    text = small.read_text().replace('"transformers"', '"./engine.py"')
    small.write_text(text + "[checkpoint]\nevery = 1\n")
    return small


def train(spec: Path, name: str, *arguments: object) -> Any:
    run = RunFolder(spec.parent / "runs" / name)
    named = ("--set", f'run.name="{name}"')
    return run, drpo("train", spec, *named, *arguments, RUN=str(run.path))


def test_a_rank_that_raises_ends_the_run_at_once(faulty: Path) -> None:
    """It records its failure before it unwinds, and its neighbour, which waits for it, leaves."""
    (faulty.parent / "fault").write_text("raise")
    run, done = train(faulty, "crash", "--nproc", 2)
    assert done.returncode == 1
    assert "KeyError: 'the fault'" in done.stderr and "rank 1 failed; its log is" in done.stderr
    assert not run.error(0).exists() and has_left(run, [0]) and not has_left(run, [1])
    left = run.log(0).read_text().partition("rank 1 failed, so this one leaves; it was here:")[2]
    assert "engine.py" in left and "in generate" in left


def test_a_killed_run_starts_again_and_ends_as_an_undisturbed_one(faulty: Path) -> None:
    whole, done = train(faulty, "whole")
    assert done.returncode == 0, done.stderr
    (faulty.parent / "fault").write_text("kill")
    killed, done = train(faulty, "killed", "--set", "run.restarts=1")
    assert done.returncode == 0, done.stderr
    assert "rank 0 was killed (SIGKILL)" in done.stdout
    texts = [event["text"] for event in records(killed.events)]
    (again,) = (text for text in texts if "restart 1 of 1" in text)
    assert "step 2 failed" in again and "resumed after step 1" in texts
    assert reproducible(killed.metrics) == reproducible(whole.metrics)
    assert records(killed.samples) == records(whole.samples)
    assert records(killed.held_out) == records(whole.held_out)
    assert not list(killed.path.glob("logs/*.error"))

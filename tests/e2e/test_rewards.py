"""Rewards that hang, fail and are killed with their run, in whole runs of `drpo train`."""

from __future__ import annotations

import signal
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drpo_cli import plugins
from drpo_cli.rewards.grading.grader import Grader
from drpo_cli.rollout.engine.protocol import (
    EngineContext,
    EngineProtocol,
    Sampling,
    sample_groups,
)
from drpo_cli.runs.folder import RunFolder
from drpo_cli.settings import ModelSettings
from drpo_cli.types import Prompt, Rollout
from support.command import drpo, drpo_until, records, reproducible
from support.models import tiny_model
from support.rewards import Own, numbers_in, wait_until
from support.seeds import sample_each

GRADER = """
import time, zlib
def fn(completion):
    seed = zlib.crc32(completion.encode())
    if seed % 20 == 7:
        time.sleep(1000)
    return seed % 5 / 4
def length(completion):
    return float(len(completion))
def broken(completion):
    return inner(completion)
def inner(completion):
    return {}["score"]
"""
TOLERANT = 'reward=[{type="./rewards.py:fn", timeout_s=4.0, on_error="skip_sample"}, '
TOLERANT += '{type="./rewards.py:length", weight=0.0}]'
LARGER = (
    "--set",
    TOLERANT,
    "--set",
    "run.steps=4",
    "--set",
    "rollout.prompts_per_step=8",
    "--set",
    "rollout.samples_per_prompt=8",
    "--set",
    "checkpoint.every=2",
)


def hangs(completion: str) -> bool:
    return zlib.crc32(completion.encode()) % 20 == 7


def score(completion: str) -> float:
    return zlib.crc32(completion.encode()) % 5 / 4


@pytest.fixture
def grading(small: Path) -> Path:
    """The small run with its rewards; the path of its spec."""
    (small.parent / "rewards.py").write_text(GRADER)
    return small


def without_seconds(path: Path) -> list[dict[str, Any]]:
    lines = [{k: v for k, v in line.items() if k != "seconds"} for line in records(path)]
    return sorted(lines, key=lambda line: (line["step"], line["prompt_id"], line["sample"]))


def test_a_grader_that_hangs_on_some_skips_those_and_no_others(grading: Path) -> None:
    runs = grading.parent / "runs"
    whole, killed = RunFolder(runs / "whole"), RunFolder(runs / "killed")
    done = drpo("train", grading, *LARGER, "--set", 'run.name="whole"')
    assert done.returncode == 0, done.stderr
    samples, quarantine = records(whole.samples), records(whole.quarantine)
    assert_recorded(samples, quarantine)
    for line in records(whole.metrics)[1:]:
        assert_counted(line, [s for s in samples if s["step"] == line["step"]], quarantine)

    name = ("--set", 'run.name="killed"')
    code = drpo_until(killed.metrics, 3, signal.SIGKILL, "train", grading, *LARGER, *name)
    assert code == -signal.SIGKILL
    done = drpo("train", grading, *LARGER, *name, "--resume")
    assert done.returncode == 0, done.stderr
    assert reproducible(killed.metrics) == reproducible(whole.metrics)
    assert records(killed.samples) == samples
    assert without_seconds(killed.quarantine) == without_seconds(whole.quarantine)


def assert_recorded(samples: list[dict[str, Any]], quarantine: list[dict[str, Any]]) -> None:
    """Every sample has the scores it should have, and those that hung are in quarantine."""
    assert len(samples) == 4 * 64 and Counter(s["reward"] is None for s in samples)[True] > 3
    for line in samples:
        expected = None if hangs(line["completion"]) else score(line["completion"])
        assert line["reward"] == line["rewards"]["fn"] == expected
        assert line["rewards"]["length"] == len(line["completion"])
    assert {(q["reward"], q["reason"]) for q in quarantine} == {("fn", "timeout")}
    assert all(hangs(q["completion"]) and q["seconds"] >= 4.0 for q in quarantine)
    trained = {s["prompt_id"] for s in samples}
    keys = ("step", "prompt_id", "sample", "prompt", "answer", "completion")
    found = [tuple(q[key] for key in keys) for q in quarantine if q["prompt_id"] in trained]
    hung = [tuple(s[key] for key in keys) for s in samples if s["reward"] is None]
    assert sorted(found) == sorted(hung)


def assert_counted(
    line: dict[str, Any], samples: list[dict[str, Any]], quarantine: list[dict[str, Any]]
) -> None:
    """The metrics of a step are those of its samples."""
    kept = [s["reward"] for s in samples if s["reward"] is not None]
    assert line["skipped_samples"] == len(samples) - len(kept)
    assert line["reward"] == line["rewards"]["fn"] == pytest.approx(sum(kept) / len(kept))
    grading = line["grading"]
    assert set(grading) == {"fn", "length"} and grading["fn"]["calls"] == 64
    assert grading["fn"]["failures"] == ({"timeout": 64 - len(kept)} if len(kept) < 64 else {})
    assert grading["length"]["failures"] == {} and line["seconds"]["reward"] >= 0


COUNTED = 'reward=[{type="./rewards.py:broken", on_error="zero", name="b"}]'
METRIC = 'reward=[{type="./rewards.py:length"}, '
METRIC += '{type="./rewards.py:broken", on_error="skip_sample", name="b", weight=0.0}]'


@pytest.mark.parametrize(("rewards", "step"), [(COUNTED, 0), (METRIC, 1)])
def test_a_grader_that_fails_on_everything_ends_the_run_within_a_step(
    grading: Path, rewards: str, step: int
) -> None:
    """One that counts does so in the evaluation of the base model, a metric in step 1."""
    done = drpo("train", grading, "--set", rewards)
    run = RunFolder(grading.parent / "runs" / "small")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr
    file = grading.parent / "rewards.py"
    assert "reward 'b', prompt arithmetic/" in done.stderr
    assert f"KeyError: 'score' ({file}:11 in broken → {file}:13 in inner)" in done.stderr
    assert [line["step"] for line in records(run.metrics)] == [0] * step
    assert {line["step"] for line in records(run.quarantine)} == {step}
    assert not records(run.samples)


EOS = list(range(4, 20))  # a quarter of the tokens: responses end at different times
PROMPTS = tuple(Prompt(f"own/{i}", "", (4 + i, 5, 6), None, {}) for i in range(4))
SAMPLING = Sampling(samples=4, max_new_tokens=24, temperature=1.0, seed=3)


def engine_of(name: str, folder: Path, **options: int) -> Any:
    plugin = plugins.load("rollout", name)
    model = tiny_model(folder / "model", eos_token_id=EOS)
    context = EngineContext(ModelSettings(path=str(model), dtype="float32"), 64, 1)
    return plugin.entry(plugin.Config(**options), context)


def graded_meanwhile(engine: EngineProtocol, folder: Path, busy: Callable[[], bool]) -> None:
    """The first sample is graded while others are not finished; their order changes nothing."""
    called = folder / "called"
    order: list[tuple[int, int, Rollout]] = []
    source = f"def fn(tokens): print(1, file=open({str(called)!r}, 'a')); return 1.0"
    with Grader([Own(folder)(source)]) as grader:
        batch = grader.begin(PROMPTS, SAMPLING.samples, step=1)

        def finished(at: int, sample: int, rollout: Rollout) -> None:
            batch.add(at, sample, rollout)
            if not order:
                wait_until(lambda: numbers_in(called) == [1], "it waits for the others")
                assert busy()
            order.append((at, sample, rollout))

        groups_P = sample_groups(engine, PROMPTS, SAMPLING, finished)
        assert batch.wait().usage["fn"].calls == 16
    again: list[tuple[int, int, Rollout]] = []
    sample_groups(engine, PROMPTS, SAMPLING, lambda *one: again.append(one))
    assert again == order
    assert {(at, sample): rollout for at, sample, rollout in order} == {
        (at, sample): rollout
        for at, group in enumerate(groups_P)
        for sample, rollout in enumerate(group.rollouts_G)
    }
    assert len({rollout.text for _, _, rollout in order}) > 4


def test_the_transformers_engine_hands_batches_out_as_they_finish(tmp_path: Path) -> None:
    engine = engine_of("transformers", tmp_path, max_sequences=4)
    graded_meanwhile(engine, tmp_path, busy=lambda: True)  # it continues only when asked


@pytest.mark.engine
@pytest.mark.usefixtures("environment")
def test_vllm_hands_samples_out_as_they_finish(tmp_path: Path) -> None:
    engine = engine_of("vllm", tmp_path)
    try:
        graded_meanwhile(engine, tmp_path, engine.llm.llm_engine.has_unfinished_requests)
        sampled = sample_each(engine, [prompt.token_ids for prompt in PROMPTS], SAMPLING)
        lengths = [len(rollout.token_ids) for _, _, rollout in sampled]
        assert lengths == sorted(lengths)  # all began together: the shortest is there first
    finally:
        engine.close()

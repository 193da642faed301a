"""`drpo eval` and `drpo export` on the folder of a run, with both engines."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.records import Records
from support.command import drpo, records
from support.custom_code import custom_model
from support.damaged import MATRIX, change, without
from support.models import tiny_model

pytestmark = pytest.mark.engine


def test_a_trained_run_is_scored_and_exported(small: Path, tmp_path: Path) -> None:
    changes = ("eval.every=1", "checkpoint.every=1")
    assert drpo("train", small, *(w for c in changes for w in ("--set", c))).returncode == 0
    run = RunFolder(small.parent / "runs" / "small")
    checkpoint = run.checkpoints / "step-000002"
    exported = tmp_path / "exported"

    done = drpo("export", checkpoint, exported)
    assert done.returncode == 0, done.stderr
    trained = AutoModelForCausalLM.from_pretrained(exported)
    base = AutoModelForCausalLM.from_pretrained(small.parent / "model")
    assert (trained.model.embed_tokens.weight != base.model.embed_tokens.weight).any()
    assert AutoTokenizer.from_pretrained(exported)("1+1=").input_ids
    assert "- reward: `length`" in (exported / "README.md").read_text()
    again = drpo("export", checkpoint, exported)
    assert again.returncode == 2
    assert "is not empty" in again.stderr

    out = tmp_path / "scores.json"
    first, *others = records(run.metrics)
    run.metrics.unlink()  # written again as if the first step had the best score
    for record, score in zip((first, *others), (0.0, 0.75, 0.5), strict=True):
        Records(run.metrics).append(record | {"held_out": score})
    best = run.checkpoints / "step-000001"
    targets = (run.path, exported, best)
    done = drpo("eval", *targets, "--samples", 4, "--json", out)
    assert done.returncode == 0, done.stderr
    scores = json.loads(out.read_text())
    assert list(scores["targets"]) == [str(target) for target in targets]
    assert scores["overlap"]["problems"] == 4
    assert "avg@k" in done.stdout
    assert "Paired difference" in done.stdout
    # the exported checkpoint is the run's newest: same weights, same seed, same responses
    of_run, of_export, of_best = scores["targets"].values()
    assert of_run == of_export
    assert (of_run["chosen_of"], of_best["chosen_of"]) == (0, 2)
    line = "chosen as the best of 2 evaluations on these same problems"
    assert line in " ".join(done.stdout.split())


def test_held_out_problems_of_several_sources_are_scored_by_source(small: Path) -> None:
    (small.parent / "own.jsonl").write_text('{"prompt": "Say 7.", "answer": "7"}\n')
    held_out = (
        '[[eval.data]]\ntype = "arithmetic"\n[[eval.data]]\ntype = "jsonl"\npath = "own.jsonl"\n'
    )
    small.write_text(small.read_text().replace("problems = 4", "problems = 8000") + held_out)
    digits = ("--set", "eval.data[0].digits=1", "--set", "eval.overlap=drop")
    done = drpo("train", small, "--set", "data[0].digits=2", "--set", "run.steps=1", *digits)
    assert done.returncode == 0, done.stderr
    run = RunFolder(small.parent / "runs" / "small")
    for line, rates in zip(records(run.metrics), records(run.held_out), strict=True):
        assert line["held_out_by_source"].keys() == {"arithmetic", "jsonl"}
        numbers = rates["rates"]
        of_sums, own = (line["held_out_by_source"][name] for name in ("arithmetic", "jsonl"))
        count = len(numbers)
        assert of_sums * (count - 1) + own == pytest.approx(sum(numbers)) and count > 50


def test_the_same_spec_on_vllm(small: Path) -> None:
    done = drpo("eval", small.parent / "model", "--spec", small)
    assert done.returncode == 0, done.stderr
    small.write_text(small.read_text().replace('"transformers"', '"vllm"'))
    done = drpo("eval", small.parent / "model", "--spec", small)
    assert done.returncode == 0, done.stderr
    assert "avg@k" in done.stdout


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_models_that_share_an_engine_score_as_by_themselves(
    small: Path, tmp_path: Path, engine: str
) -> None:
    small.write_text(small.read_text().replace('"transformers"', f'"{engine}"'))
    models = [str(tiny_model(tmp_path / f"model-{seed}", seed=seed)) for seed in (1, 2)]
    models.append(str(tiny_model(tmp_path / "llama", "llama")))
    together, out = tmp_path / "together.json", tmp_path / "out.json"
    done = drpo("eval", *models, "--spec", small, "--samples", 4, "--json", together)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert f"scoring {models[1]}, with the same engine …" in said
    assert f"scoring {models[2]} …" in said and re.search(rf"{models[1]}: [0-9.]+ s", said)
    found = json.loads(together.read_text())["targets"]
    second = models[1]
    assert drpo("eval", second, "--spec", small, "--samples", 4, "--json", out).returncode == 0
    assert json.loads(out.read_text())["targets"][second] == found[second]
    assert found[models[0]] != found[models[1]]


def test_targets_that_cannot_be_scored(small: Path, tmp_path: Path) -> None:
    done = drpo("eval", tmp_path / "nothing", "--spec", small)
    assert (done.returncode, "does not exist" in done.stderr) == (2, True)
    done = drpo("eval", small.parent / "model")
    assert (done.returncode, "--spec RUN.toml" in done.stderr) == (2, True)
    done = drpo("eval", small.parent, "--spec", small)
    assert (done.returncode, "a folder inside has one: model" in done.stderr) == (2, True)
    small.write_text(small.read_text().replace('"transformers"', '"vllm"'))
    lacking = change(small.parent / "model", tmp_path / "lacking", without(MATRIX))
    done = drpo("eval", lacking, "--spec", small)  # vLLM itself would make the weight up
    assert (done.returncode, f"would be random: {MATRIX}" in done.stderr) == (2, True)


def test_named_suites_are_scored_on_local_copies(small: Path, tmp_path: Path) -> None:
    rows = [{"question": f"{i} + 1?", "answer": f"One more.\n#### {i + 1}"} for i in range(3)]
    (tmp_path / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "aime25.csv").write_text("problem,answer,id\n1 + 1?,2,0\n")
    copies = [
        f"{name}={tmp_path / name}.{kind}" for name, kind in (("gsm8k", "jsonl"), ("aime25", "csv"))
    ]
    settings = (
        *("rollout.engine=transformers", "model.dtype=float32", "data[0].chat=false"),
        "eval.max_new_tokens=4",
    )
    out, model = tmp_path / "scores.json", small.parent / "model"
    words = [w for setting in settings for w in ("--set", setting)]
    words += [w for copy in copies for w in ("--suite-path", copy)]
    done = drpo("eval", model, "--suite", "gsm8k,aime25", "--samples", 2, "--json", out, *words)
    assert done.returncode == 0, done.stderr
    assert "GSM8K, test split (https://huggingface.co/datasets/openai/gsm8k" in done.stdout
    assert "avg@2 of 3 problems, of 1,319, temperature 0.6, top-p 0.95, 4 tokens" in done.stdout
    assert done.stdout.count("Published scores, %") == 2
    found = json.loads(out.read_text())["suites"]
    assert {name: len(one["targets"][str(model)]["problems"]) for name, one in found.items()} == {
        "gsm8k": 3,
        "aime25": 1,
    }
    refused = drpo("eval", model, "--spec", small, "--suite", "gsm8k")
    assert (refused.returncode, "--spec: has no effect" in refused.stderr) == (2, True)
    refused = drpo("eval", model, "--spec", small, "--set", "eval.problems=1")
    assert (refused.returncode, "--set: has no effect without" in refused.stderr) == (2, True)
    refused = drpo("eval", model, "--suite", "gsm8k", "--suite-path", "gsm8k")
    assert (refused.returncode, "is not NAME=PATH" in refused.stderr) == (2, True)


def test_kept_responses_are_sampled_once(small: Path, tmp_path: Path) -> None:
    model, kept, out = small.parent / "model", tmp_path / "kept", tmp_path / "scores.json"
    words = ("eval", model, "--spec", small, "--samples", 4)
    assert drpo(*words, "--json", out).returncode == 0
    scores = json.loads(out.read_text())
    for shard in ("1/2", "2/2"):
        done = drpo(*words, "--out", kept, "--shard", shard)
        assert done.returncode == 0, done.stderr
        assert f"shard {shard} is sampled" in done.stdout
    (folder,) = (kept / "held-out").iterdir()
    files = sorted(folder.glob("responses-*.jsonl"))
    count = len(records(files[0]))
    assert [len(records(file)) for file in files] == [count, 4 * 4 - count]
    files[0].write_bytes(b"".join(files[0].read_bytes().splitlines(keepends=True)[:-3]))

    done = drpo(*words, "--out", kept, "--json", out)
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text()) == scores
    assert len(records(folder / "responses.jsonl")) == 3
    samples = records(folder / "samples.jsonl")
    assert len(samples) == 4 * 4
    assert {"prompt", "completion", "answer", "reward", "rewards"} <= samples[0].keys()
    refused = drpo(*words, "--out", kept, "--shard", "1/2", "--json", out)
    assert (refused.returncode, "has no effect with --shard" in refused.stderr) == (2, True)
    refused = drpo(*words, "--shard", "1/2")
    assert (refused.returncode, "add --out FOLDER" in refused.stderr) == (2, True)
    small.write_text(small.read_text().replace("[eval]\n", "[eval]\ntemperature = 0.5\n"))
    refused = drpo(*words, "--out", kept)
    assert (refused.returncode, "eval.temperature = 1.0" in refused.stderr) == (2, True)


def test_an_interrupt_ends_it(small: Path) -> None:
    words = ["eval", str(small.parent / "model"), "--spec", str(small)]
    command = [sys.executable, "-m", "drpo_cli", *words]
    # A shell's background job inherits SIGINT ignored; a user's terminal does not.
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, heard)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("scoring")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130


def test_a_model_with_code_of_its_own(small: Path) -> None:
    shutil.rmtree(small.parent / "model")
    custom_model(small.parent / "model")
    allowed = 'path = "model"\ntrust_remote_code = true'
    small.write_text(small.read_text().replace('path = "model"', allowed))
    # vLLM runs it by transformers' code, and changes its class, which the trainer has too
    done = drpo("train", small, "--set", 'rollout.engine="vllm"')
    assert done.returncode == 0, done.stderr
    done = drpo("eval", small.parent / "runs" / "small", "--samples", 1, "--spec", small)
    assert done.returncode == 0, done.stderr

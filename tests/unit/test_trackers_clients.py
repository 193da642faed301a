"""What each client has after a run, read back from what the client itself wrote."""

from __future__ import annotations

import json
import re
import sqlite3
import struct
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from drpo_cli import plugins
from support.command import drpo, records
from support.trackers import run_folder

METRICS = Path(__file__).parents[1] / "data" / "metrics-collapsed.jsonl"
PROJECT = Path(__file__).parents[2] / "pyproject.toml"


class Found(NamedTuple):
    """What a client has of a run: runs by their names there, a key's values by step, alerts."""

    runs: list[str]
    rewards: list[tuple[int, float]]
    alerts: str
    spec: str


def in_tensorboard(folder: Path) -> Found:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "trackers" / "tensorboard"))
    events.Reload()
    texts = {
        tag: b"".join(e.tensor_proto.string_val[0] for e in events.Tensors(tag)).decode()
        for tag in events.Tags()["tensors"]
    }
    rewards = [(event.step, event.value) for event in events.Scalars("reward")]
    return Found(["once"], rewards, texts["alerts/text_summary"], texts["spec/text_summary"])


def in_wandb(folder: Path) -> Found:
    runs, rewards, config = set(), [], ""
    files = sorted((folder / "trackers" / "wandb" / "wandb").glob("offline-run-*/*.wandb"))
    for record in (record for file in files for record in wandb_records(file)):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            runs.add(record.run.run_id)
            config = config or str([(u.key, u.value_json) for u in record.run.config.update])
        elif kind == "history":
            values = {item.nested_key[0]: item.value_json for item in record.history.item}
            if "reward" in values:
                rewards.append((int(values["_step"]), float(values["reward"])))
    said = b"".join(file.read_bytes() for file in files)
    return Found(sorted(runs), rewards, said.decode(errors="replace"), config)


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of an offline run's file: LevelDB's log format, in blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), 7, b""
    while at < len(data):
        left = 2**15 - at % 2**15
        if left < 7:
            at += left
            continue
        _, size, part = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if part in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(whole)
            whole = b""


def in_mlflow(folder: Path) -> Found:
    from mlflow import MlflowClient

    uri = f"sqlite:///{folder.parent / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.get_experiment_by_name("sums")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * len(runs)
    rewards = client.get_metric_history(runs[0].info.run_id, "reward")
    data = runs[0].data
    return Found(
        [run.info.run_name or "" for run in runs],
        [(metric.step, metric.value) for metric in rewards],
        str({k: v for k, v in data.tags.items() if k.startswith("alert")}),
        str(data.params),
    )


def in_trackio(folder: Path) -> Found:
    with sqlite3.connect(folder.parent / "trackio" / "sums.db") as database:

        def rows(query: str) -> list[Any]:
            return database.execute(query).fetchall()

        runs = [name for (name,) in rows("select distinct run_id from metrics")]
        logged = [(step, json.loads(m)) for step, m in rows("select step, metrics from metrics")]
        alerts, spec = rows("select title, text from alerts"), rows("select config from configs")
    rewards = [(step, values["reward"]) for step, values in logged if "reward" in values]
    return Found(runs, rewards, str(alerts), str(spec))


CLIENTS: dict[str, tuple[str, Callable[[Path], Found]]] = {
    "tensorboard": ("", in_tensorboard),
    "wandb": ('mode = "offline"\nproject = "sums"\ntags = ["a", "b"]', in_wandb),
    "mlflow": ('experiment = "sums"\ntags = { team = "blue" }', in_mlflow),
    "trackio": ('project = "sums"\nfolder = "FOLDER/trackio"', in_trackio),
}


@pytest.mark.parametrize("name", CLIENTS)
def test_a_run_and_its_continuation_are_one_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, found_in = CLIENTS[name]
    pytest.importorskip(str(plugins.load("trackers", name).client), reason="an extra of its own")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    options = options.replace("FOLDER", str(tmp_path))
    folder = run_folder(tmp_path / "a", f'[[tracker]]\ntype = "{name}"\n{options}\n')
    lines = METRICS.read_text().splitlines(keepends=True)
    for upto in (21, 33):
        (folder / "metrics.jsonl").write_text("".join(lines[:upto]))
        done = drpo("track", folder)
        log = (folder / "logs" / f"tracker-{name}.log").read_text()
        assert done.returncode == 0 and "Traceback" not in log, done.stderr + log

    found = found_in(folder)
    assert len(found.runs) == 1
    expected = [(r["step"], r["reward"]) for r in records(METRICS) if "reward" in r]
    assert [step for step, _ in found.rewards] == [step for step, _ in expected]
    assert [value for _, value in found.rewards] == pytest.approx([v for _, v in expected])
    assert "the reward fell from 0.195 at its best to 0" in found.alerts
    assert re.search(r"steps\W+32", found.spec)
    assert "truncation" in found.alerts


def test_every_built_in_has_a_test_here_and_an_extra() -> None:
    extras = tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"]
    assert set(CLIENTS) == set(plugins.available("trackers")) <= extras.keys()
    assert any(f"drpo[{','.join(CLIENTS)}]" == wanted for wanted in extras["dev"])

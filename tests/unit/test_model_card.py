"""The card of an exported model, and its upload to a hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from drpo_cli.errors import UserError
from drpo_cli.runs.checkpoints import MARKER
from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.records import Records
from drpo_cli.tools.model_card import push, write_card

SPEC = """\
[run]
name = "sums"
steps = 20
folder = "/home/me/secret place/runs"
[model]
path = "{model}"
[[data]]
type = "huggingface"
path = "openai/gsm8k"
[[data]]
type = "jsonl"
path = "/home/me/mine.jsonl"
[[reward]]
type = "/home/me/rewards.py:own"
[objective]
type = "dppo"
[checkpoint]
every = 10
"""


def run_of(folder: Path, model: str = "Qwen/Qwen3-0.6B", scores: tuple[float, ...] = ()) -> Path:
    """A checkpoint at step 10 of a run that was evaluated at steps 0, 10 and 20."""
    run = RunFolder(folder / "runs" / "sums")
    checkpoint = run.path / "checkpoints" / "step-000010"
    checkpoint.mkdir(parents=True)
    run.spec.write_text(SPEC.format(model=model))
    run.versions.write_text(json.dumps({"packages": {"drpo": "9.9"}}))
    (checkpoint / MARKER).write_text(json.dumps({"step": 10, "dtype": "float32"}))
    for step, score in zip((0, 10, 20), scores, strict=False):
        interval = {"held_out_low": score - 0.1, "held_out_high": score + 0.1}
        line = {"step": step, "held_out": score, "held_out_set": "a", **interval}
        Records(run.metrics).append(line)
    return checkpoint


def card(folder: Path, **options: Any) -> tuple[dict[str, Any], str]:
    checkpoint, out = run_of(folder, **options), folder / "out"
    out.mkdir()
    write_card(checkpoint, out)
    _, head, body = (out / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), body


def test_a_card_says_what_was_trained_how_and_with_what_result(tmp_path: Path) -> None:
    head, body = card(tmp_path, scores=(0.25, 0.75, 0.5))
    assert head == {
        "base_model": "Qwen/Qwen3-0.6B",
        "datasets": ["openai/gsm8k"],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["drpo", "reinforcement-learning"],
    }
    assert "objective `dppo`, step 10 of 20, with drpo 9.9." in body
    assert "| the base model | 25.0 [15.0, 35.0] |\n| step 10 | 75.0 [65.0, 85.0] |" in body
    assert "50.0" not in body
    assert "chosen as the best of 2 evaluations" in body
    for line in ("- data: `openai/gsm8k`", "- data: `mine.jsonl`", "- reward: `rewards.py:own`"):
        assert line in body
    assert 'type = "rewards.py:own"' in body and 'folder = "runs"' in body
    assert "/home/me" not in body and "secret" not in body


def test_a_base_and_scores_that_are_not_known_are_left_out(tmp_path: Path) -> None:
    head, body = card(tmp_path, model="/home/me/models/base")
    assert "base_model" not in head
    assert "base, trained by" in body and "It was not measured at this step." in body


def test_a_checkpoint_outside_a_run_has_no_card(tmp_path: Path) -> None:
    checkpoint = tmp_path / "step-000001"
    checkpoint.mkdir()
    (checkpoint / MARKER).write_text('{"step": 1}')
    write_card(checkpoint, tmp_path)
    assert not (tmp_path / "README.md").exists()


class Hub(BaseHTTPRequestHandler):
    """What the hub answers to an upload of small files; `requests` are those that came."""

    requests: list[tuple[str, bytes]]
    status = 200

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.requests.append((self.path, body))
        answer: dict[str, Any] = {"url": "https://huggingface.co/o/n", "name": "o/n", "id": "o/n"}
        if "preupload" in self.path:
            files = json.loads(body)["files"]
            plain = {"uploadMode": "regular", "shouldIgnore": False}
            answer = {"files": [{"path": one["path"], **plain} for one in files]}
        elif "commit" in self.path:
            answer = {"commitUrl": "https://huggingface.co/o/n/commit/1", "commitOid": "1" * 40}
        text = json.dumps(answer if self.status == 200 else {"error": "You are not o"}).encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    handler = type("Own", (Hub,), {"requests": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setenv("HF_TOKEN", "hf_" + "a" * 34)
    yield handler
    server.shutdown()
    server.server_close()


def test_a_push_uploads_every_file_of_the_folder(tmp_path: Path, hub: type[Hub]) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("a card")
    assert push(tmp_path, "o/n").endswith("/o/n")
    created = json.loads(hub.requests[0][1])
    assert created == {"name": "n", "organization": "o", "visibility": "private"}
    (commit,) = [body for path, body in hub.requests if "commit" in path]
    lines = [json.loads(line) for line in commit.splitlines()]
    assert {line["value"]["path"] for line in lines if line["key"] == "file"} == {
        "config.json",
        "README.md",
    }


def test_a_push_that_is_refused_says_what_to_do(tmp_path: Path, hub: type[Hub]) -> None:
    hub.status = 403
    with pytest.raises(UserError, match=r"--push o/n: .*403.*hf auth login"):
        push(tmp_path, "o/n")
    with pytest.raises(UserError, match="--push not a name"):
        push(tmp_path, "not a name")

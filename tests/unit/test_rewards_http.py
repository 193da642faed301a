"""The reward `http` against real local scorers: batches, retries, and every bad answer."""

import asyncio
import hashlib
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected
from drpo_cli.rewards import http
from drpo_cli.rewards.grading.grader import Grader
from drpo_cli.types import Group, Prompt, Rollout
from support.models import free_port
from support.servers import Asked, Reply, dead_url, in_turn, serving

DOCS = Path(__file__).parents[2] / "docs" / "remote.md"
SCORES = Reply({"scores": [0.5, 1]})
BROKEN = Reply({"error": "out of order"}, status=500)
PROMPT = Prompt("p1", "1+1=", (1,), "2", {"level": 3})


def config(url: str, **options: Any) -> http.Config:
    """Options with short waits."""
    return http.Config(**{"url": url, "backoff_s": 0.01, **options})


def score(url: str, **options: Any) -> tuple[Any, dict[str, int]]:
    """The scores of a group of two, and what was counted."""
    return score_with(config(url, **options))


def score_with(options: http.Config, metadata: Any = PROMPT.metadata) -> tuple[Any, dict[str, int]]:
    scorer = http.reward(options)
    call = scorer(PROMPT.text, ["2", "3"], PROMPT.answer, metadata, [False, True])
    return asyncio.run(call), dict(scorer.counts)


def said(url: str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        score(url, **options)
    return str(caught.value)


def test_a_group_is_one_batch() -> None:
    with serving(in_turn(SCORES)) as server:
        assert score(f"{server.url}/score") == ([0.5, 1], {"requests": 1})
    (asked,) = server.asked
    shared = {"prompt": "1+1=", "answer": "2", "metadata": {"level": 3}}
    assert asked.path == "/score"
    assert asked.headers["Content-Type"] == "application/json"
    assert asked.body == {
        "samples": [
            {**shared, "completion": "2", "truncated": False},
            {**shared, "completion": "3", "truncated": True},
        ]
    }


def test_retries_of_a_batch_have_one_key_and_other_batches_another() -> None:
    with serving(in_turn(BROKEN, Reply(status=429), SCORES)) as server:
        assert score(server.url) == ([0.5, 1], {"requests": 3, "retries": 2})
        scorer = http.reward(config(server.url))
        asyncio.run(scorer("1+1=", ["2", "4"], "2", {"level": 3}, [False, True]))
    *first, other = [asked.headers["Idempotency-Key"] for asked in server.asked]
    assert set(first) == {hashlib.sha256(server.asked[0].raw).hexdigest()}
    assert other == hashlib.sha256(server.asked[3].raw).hexdigest() != first[0]


def test_headers_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCORER_SECRET", "Bearer 123")
    with serving(in_turn(SCORES)) as server:
        score(server.url, headers_env={"Authorization": "SCORER_SECRET"})
    assert server.asked[0].headers["Authorization"] == "Bearer 123"
    message = "the environment variable UNSET_SECRET, for the header X-Key, is not set"
    assert message in said(server.url, headers_env={"X-Key": "UNSET_SECRET"})


def test_a_scorer_that_is_down() -> None:
    url = dead_url()
    message = said(url, retries=2)
    assert message.startswith(f"{url} cannot be reached (ConnectError: ")
    assert message.endswith(", 3 times; check that the server is up and the address is right")


def test_a_scorer_that_stays_broken() -> None:
    with serving(in_turn(BROKEN)) as server:
        message = said(server.url, retries=1)
    assert message == (
        f'{server.url} answered 500 ({{"error": "out of order"}}), 2 times; '
        "look into the server's log"
    )


def test_a_slow_scorer_is_left_and_asked_again() -> None:
    slow = Reply(SCORES.body, delay=30)
    with serving(in_turn(slow, SCORES)) as server:
        assert score(server.url, request_timeout_s=0.5)[0] == [0.5, 1]
        assert len(server.asked) == 2
    with serving(in_turn(slow)) as server:
        message = said(server.url, request_timeout_s=0.2, retries=1)
    assert f"{server.url} gave no answer within 0.2 s, 2 times; " in message


@pytest.mark.parametrize("status", [302, 400, 401, 404, 422])
def test_a_refusal_is_not_repeated(status: int) -> None:
    with serving(in_turn(Reply({"detail": "no\nsuch field " + "x" * 999}, status))) as server:
        message = said(server.url)
        assert len(server.asked) == 1
    assert message.startswith(f'{server.url} answered {status} ({{"detail": "no\\nsuch field xxx')
    assert "x…); check `url` and `headers_env`" in message and len(message) < 400


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"<html>\n busy </html>", "<html> busy </html>"),
        (b"", "an empty body"),
        (b"[" * 100_000, "[[["),
        (b'\xff{"scores": []}', "scores"),
        ([0.5, 1], "[0.5, 1]"),
        ({"score": [0.5, 1]}, '{"score": [0.5, 1]}'),
        ({"scores": 0.5}, '{"scores": 0.5}'),
        ({"scores": None}, '{"scores": null}'),
    ],
)
def test_an_answer_that_holds_no_scores(body: Any, shown: str) -> None:
    with serving(in_turn(Reply(body))) as server:
        message = said(server.url)
        assert len(server.asked) == 1
    assert message.startswith(f"{server.url} answered ") and shown in message
    assert message.endswith('; it must answer {"scores": [number, …]}, with one number per sample')


def test_an_answer_that_is_not_what_its_headers_say() -> None:
    with serving(in_turn(Reply(b"plain", headers={"Content-Encoding": "gzip"}))) as server:
        assert "cannot be read" in said(server.url)


@pytest.mark.parametrize("date", [False, True])
def test_retry_after_is_honoured(date: bool) -> None:
    when = datetime.now(UTC) + timedelta(seconds=3600)
    busy = Reply("busy", 429, {"Retry-After": format_datetime(when) if date else "3600"})
    with serving(in_turn(busy, SCORES)) as server:
        message = said(server.url)  # to wait for an hour would outlast the deadline
        assert len(server.asked) == 1
    wait = int(message.partition("asked for a wait of ")[2].partition(" s")[0])
    assert 3000 < wait <= 3600
    assert "lower `concurrency` or `workers`" in message


def test_a_short_retry_after_is_waited_for() -> None:
    times = []

    def answer(asked: Asked) -> Reply:
        times.append(time.monotonic())
        return SCORES if len(times) > 1 else Reply("busy", 503, {"Retry-After": "0.5"})

    with serving(answer) as server:
        assert score(server.url)[0] == [0.5, 1]
    assert times[1] - times[0] >= 0.5  # not a matter of speed: it may not be less


def test_metadata_that_is_no_json() -> None:
    with serving(in_turn(SCORES)) as server:
        score_with(config(server.url), {"day": datetime(2024, 2, 29)})
        with pytest.raises(UserError, match="metadata cannot be sent as JSON"):
            score_with(config(server.url), {"level": float("nan")})
    assert server.asked[0].body["samples"][0]["metadata"] == {"day": "2024-02-29 00:00:00"}
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "localhost:80"}, "URL"),
        ({"url": "ftp://a/b"}, "URL scheme should be 'http' or 'https'"),
        ({"timeout_s": 30.0}, "timeout_s = 30 leaves no time for one attempt of"),
        ({"request_timeout_s": 300.0}, "make it at least 301"),
    ],
)
def test_options_that_contradict(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        http.Config(**{"url": "http://localhost/score", **options})


def groups(count: int) -> list[Group]:
    texts = ("2", "3")
    rollouts = tuple(Rollout((1,), (0.0,), text, truncated=False) for text in texts)
    return [Group(Prompt(f"p{i}", "1+1=", (1,), "2", {}), rollouts) for i in range(count)]


def in_a_run(options: http.Config, groups_P: Sequence[Group]) -> Any:
    with Grader([Selected("rewards", "http", options)], forgiving=True) as grader:
        return grader.score(groups_P)


def test_in_worker_processes() -> None:
    failing = {"n": 3}

    def answer(asked: Asked) -> Reply:
        failing["n"] -= 1
        if failing["n"] >= 0:
            return BROKEN
        return Reply({"scores": [float(s["completion"] == "2") for s in asked.body["samples"]]})

    with serving(answer) as server:
        graded = in_a_run(config(server.url, workers=2, concurrency=2), groups(6))
    assert [scores.total_G for scores in graded.scores_P] == [(1.0, 0.0)] * 6
    assert graded.usage["http"].counts == {"requests": 9, "retries": 3}
    assert server.most_at_once <= 4


def test_retries_end_before_the_deadline_of_the_call() -> None:
    with serving(in_turn(BROKEN)) as server:
        options = config(server.url, retries=1000, timeout_s=3.0, request_timeout_s=1.5)
        graded = in_a_run(options, groups(1))
        assert 1 < len(server.asked) < 1000
    assert graded.usage["http"].failures == {"exception": 1}
    assert f", {len(server.asked)} times; " in graded.quarantine[0]["detail"]


@pytest.mark.parametrize(
    ("scores", "kind"),
    [
        ([1.0], "wrong_length"),
        ([1.0, "good"], "wrong_type"),
        ([1.0, None], "wrong_type"),
        ([1.0, float("nan")], "not_finite"),
        ([float("inf"), 1.0], "not_finite"),
    ],
)
def test_a_wrong_score_is_counted_as_what_it_is(scores: list[Any], kind: str) -> None:
    with serving(in_turn(Reply({"scores": scores}))) as server:
        graded = in_a_run(config(server.url), groups(1))
    assert set(graded.usage["http"].failures) == {kind}
    assert graded.scores_P[0].skipped


def test_a_dead_scorer_is_an_exception_with_its_address() -> None:
    url = dead_url()
    graded = in_a_run(config(url, retries=1), groups(1))
    assert set(graded.usage["http"].failures) == {"exception"}
    (line,) = graded.quarantine
    assert f"{url} cannot be reached" in line["detail"] and line["completion"] == ["2", "3"]


def test_the_scorer_of_the_docs(tmp_path: Path) -> None:
    text = DOCS.read_text()
    code = text.partition("```python\n")[2].partition("```")[0]
    port = free_port()
    assert code.count("8100") == 1 and text.count("localhost:8100/score") == 1
    (tmp_path / "scorer.py").write_text(code.replace("8100", str(port)))
    command = [sys.executable, "scorer.py"]
    scorer = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:  # the retries wait until it is up
        value, _ = score(f"http://127.0.0.1:{port}/score", retries=50, backoff_s=0.05)
    finally:
        scorer.kill()
        scorer.wait()
    assert value == [1.0, 0.0]

"""The reward `judge` against real local endpoints: what it asks, reads, repeats, counts."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected
from drpo_cli.rewards import judge
from drpo_cli.rewards.grading.grader import Grader
from drpo_cli.types import Group, Prompt, Rollout
from support.servers import Asked, Reply, dead_url, in_turn, says, serving

GOOD = says('{"reasoning": "It is right.", "score": 7}')
OPTIONS: dict[str, Any] = {"model": "m", "rubric": "Is it right?", "backoff_s": 0.01}


def config(url: str, **options: Any) -> judge.Config:
    """Options with which a test need not wait."""
    return judge.Config(**{"base_url": f"{url}/v1", **OPTIONS, **options})


def score(
    url: str, completion: str = "2", metadata: Mapping[str, Any] | None = None, **options: Any
) -> tuple[float, dict[str, float]]:
    """What the judge makes of a completion, and what it counted."""
    judged = judge.reward(config(url, **options))
    value = asyncio.run(judged("1+1=", completion, "two", metadata or {}))
    return value, dict(judged.counts)


def said(url: str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        score(url, **options)
    return str(caught.value)


def text_of(asked: Asked) -> str:
    return str(asked.body["messages"][0]["content"])


def test_a_verdict_is_mapped_and_counted() -> None:
    with serving(in_turn(GOOD)) as server:
        value, counts = score(server.url)
    assert value == 6 / 9
    assert counts == {"requests": 1, "prompt_tokens": 100, "completion_tokens": 10}
    (asked,) = server.asked
    assert asked.path == "/v1/chat/completions"
    assert (asked.body["model"], asked.body["temperature"]) == ("m", 0.0)
    assert asked.body["max_tokens"] == 1024 and "max_completion_tokens" not in asked.body
    form = asked.body["response_format"]["json_schema"]
    assert form["strict"] and list(form["schema"]["properties"]) == ["reasoning", "score"]
    assert form["schema"]["properties"]["score"]["enum"] == list(range(1, 11))


def test_what_can_be_asked_for_otherwise() -> None:
    options: dict[str, Any] = {
        "scale": (0, 2),
        "normalize": False,
        "reasoning": False,
        "temperature": "default",
        "max_tokens": 7,
        "extra": {"seed": 3},
        "structured": "json_object",
    }
    with serving(in_turn(says('{"score": 2}'))) as server:
        assert score(server.url, **options)[0] == 2.0
    body = server.asked[0].body
    assert "temperature" not in body and "reasoning" not in text_of(server.asked[0])
    assert (body["max_tokens"], body["seed"]) == (7, 3)
    assert body["response_format"] == {"type": "json_object"}


def test_nothing_is_enforced_in_text() -> None:
    with serving(in_turn(says('I think: {"score": 10}'))) as server:
        assert score(server.url, structured="text")[0] == 1.0
    assert "response_format" not in server.asked[0].body


def test_cost_needs_prices() -> None:
    with serving(in_turn(GOOD)) as server:
        _, counts = score(server.url, input_price=2.0, output_price=10.0)
    assert counts["cost_usd"] == pytest.approx(100 * 2e-6 + 10 * 10e-6)


def test_a_server_that_counts_no_tokens() -> None:
    body = {**GOOD.body, "usage": None}
    with serving(in_turn(Reply(body))) as server:
        assert score(server.url, input_price=1.0, output_price=1.0)[1] == {"requests": 1}


def test_the_rubric_is_filled_in_from_the_row() -> None:
    rubric = "Does it say {{ answer }} in {{ metadata.language }}?"
    with serving(in_turn(GOOD)) as server:
        score(server.url, metadata={"language": "Greek"}, rubric=rubric)
        missing = said(server.url, metadata={"tongue": "Greek"}, rubric=rubric)
        hostile = said(server.url, rubric="{{ metadata.__class__.__mro__ }}")
        assert len(server.asked) == 1
    assert "Does it say two in Greek?" in text_of(server.asked[0])
    assert "no attribute 'language'" in missing and "here with the columns tongue" in missing
    assert "cannot be filled in: access to attribute '__class__'" in hostile


def test_an_unreadable_verdict_is_asked_for_again() -> None:
    with serving(in_turn(says("Eight of ten!"), says(None), GOOD)) as server:
        value, counts = score(server.url, verdict_tries=3)
    assert value == 6 / 9
    assert (counts["requests"], counts["unreadable"], counts["prompt_tokens"]) == (3, 2, 300)
    roles = [message["role"] for message in server.asked[2].body["messages"]]
    assert roles == ["user", "assistant", "user", "assistant", "user"]
    assert server.asked[1].body["messages"][1]["content"] == "Eight of ten!"
    assert "no JSON object with a `score`" in server.asked[1].body["messages"][2]["content"]


def test_a_verdict_that_never_comes_is_no_zero() -> None:
    with serving(in_turn(says('{"score": 99}'))) as server:
        message = said(server.url)
        assert len(server.asked) == 2
    assert message == (
        f"{server.url}/v1: 'm' was asked 2 times and gave no verdict that can be read: its score "
        '99 is not a whole number from 1 to 10: {"score": 99}; raise max_tokens if it was cut off, '
        "or choose another `structured` or a better judge"
    )


def test_no_verdict_is_asked_for_that_would_come_too_late() -> None:
    slow = Reply(says("Eight!").body, delay=0.7)
    with serving(in_turn(slow, GOOD)) as server:
        message = said(server.url, request_timeout_s=1.0, timeout_s=2.0)
        assert len(server.asked) == 1
    assert message == f"{server.url}/v1 cannot be asked again within timeout_s = 2; raise it"


def test_an_overloaded_endpoint_is_asked_again() -> None:
    late = Reply(GOOD.body, delay=30)
    busy = Reply({"error": {"message": "slow down"}}, 429, {"Retry-After": "0.1"})
    broken = Reply({"error": {"message": "oops"}}, 503)
    with serving(in_turn(busy, late, broken, GOOD)) as server:
        value, counts = score(server.url, request_timeout_s=1.0)
    assert (value, counts["requests"], counts["retries"]) == (6 / 9, 4, 3)
    with serving(in_turn(broken)) as server:
        message = said(server.url, retries=2)
    assert message.startswith(f"{server.url}/v1 answered 503 (") and "oops" in message
    assert message.endswith("), 3 times; look into the server's log")


def test_an_endpoint_that_is_down() -> None:
    url = dead_url()
    message = said(url, retries=1)
    assert message.startswith(f"{url}/v1 cannot be reached (")
    assert message.endswith(", 2 times; check that the server is up and the address is right")


@pytest.mark.parametrize(
    ("status", "cure"),
    [
        (400, 'for a server without JSON schemas, structured = "json_object" or "text"'),
        (401, "check the key in OPENAI_API_KEY (option api_key_env)"),
        (404, "check base_url, and that it serves the model 'm'"),
    ],
)
def test_a_refusal_is_not_repeated(status: int, cure: str) -> None:
    with serving(in_turn(Reply({"error": {"message": "no such thing"}}, status))) as server:
        message = said(server.url)
        assert len(server.asked) == 1
    assert message.startswith(f"{server.url}/v1 answered {status} (")
    assert "no such thing" in message and message.endswith(cure)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b"<html>hello</html>", headers={"Content-Type": "text/html"}),
        Reply(b"<html>hello</html>"),
        Reply({"hello": 1}),
        Reply({"choices": [], "hello": 1}),
        Reply({"choices": [{"hello": 1}]}),
        Reply({"choices": "hello"}),
        Reply(["hello"]),
        Reply("hello"),
    ],
)
def test_an_answer_that_is_no_chat_completion(reply: Reply) -> None:
    with serving(in_turn(reply)) as server:
        message = said(server.url)
        assert len(server.asked) == 1
    assert message.startswith(f"{server.url}/v1 did not answer with a chat completion (")
    assert message.endswith("most end in /v1")


def test_the_key_goes_where_it_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "openai-secret")
    monkeypatch.setenv("MY_KEY", "my-secret")
    with serving(in_turn(GOOD)) as server:
        score(server.url)
        score(server.url, api_key_env="MY_KEY")
        assert "environment variable UNSET_KEY is not set" in said(
            server.url, api_key_env="UNSET_KEY"
        )
    sent = [json.dumps(dict(asked.headers)) for asked in server.asked]
    assert "secret" not in sent[0]
    assert "Bearer my-secret" in sent[1] and "openai-secret" not in sent[1]
    monkeypatch.delenv("OPENAI_API_KEY")
    for own in ({}, {"base_url": "https://api.openai.com/v1/"}):
        with pytest.raises(UserError, match="variable OPENAI_API_KEY is not set"):
            judge.reward(judge.Config(**{**OPTIONS, **own}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": (5, 5)}, "must rise"),
        ({"scale": (0, 1000)}, "by at most 100"),
        ({"input_price": 1.0}, "go together"),
        ({"rubric": "{{ answer"}, "not a Jinja template"),
        ({"base_url": "localhost"}, "URL"),
        ({"request_timeout_s": 300.0}, "make it at least 301"),
    ],
)
def test_options_that_contradict(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        judge.Config(**{**OPTIONS, **options})


def groups(texts: tuple[str, ...]) -> list[Group]:
    rollouts = tuple(Rollout((1,), (0.0,), text, truncated=False) for text in texts)
    return [Group(Prompt("p1", "1+1=", (1,), "2", {}), rollouts)]


def test_in_worker_processes() -> None:
    def answer(asked: Asked) -> Reply:
        text = text_of(asked)
        number = next(i for i in range(12) if f"number {i}\n" in text)
        good = says(json.dumps({"score": 1 + number % 10}))
        return Reply(good.body, delay=0.05)

    texts = tuple(f"number {i}" for i in range(12))
    with serving(answer) as server:
        options = config(server.url, workers=2, concurrency=3, input_price=1.0, output_price=1.0)
        with Grader([Selected("rewards", "judge", options)]) as grader:
            graded = grader.score(groups(texts))
    assert graded.scores_P[0].total_G == tuple(i % 10 / 9 for i in range(12))
    counts = graded.usage["judge"].counts
    assert counts == {
        "requests": 12,
        "prompt_tokens": 1200,
        "completion_tokens": 120,
        "cost_usd": pytest.approx(12 * 110e-6),
    }
    assert 1 < server.most_at_once <= 6


def test_a_dead_endpoint_stops_the_run_with_one_message() -> None:
    url = dead_url()
    selected = [Selected("rewards", "judge", config(url, retries=0))]
    with Grader(selected) as grader:
        fatal = grader.score(groups(("2", "3"))).fatal
    assert fatal is not None and fatal.startswith("reward 'judge', prompt p1, sample ")
    assert f": {url}/v1 cannot be reached" in fatal

"""A teacher behind an endpoint: what it is asked, what is believed of its answers, and failures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from drpo_cli.errors import UserError
from drpo_cli.experience import Experience
from drpo_cli.settings import TeacherSettings
from drpo_cli.spec import Spec, load
from drpo_cli.step import teachers
from drpo_cli.step.distillation import with_teacher
from drpo_cli.trainer.remote_teacher import RemoteTeacher
from drpo_cli.types import Group, Prompt, Rollout
from support.models import SPECIAL, experience, samples, tiny_model, world
from support.servers import Answer, Asked, Reply, Server, dead_url, in_turn, serving
from support.teachers import answering, completion
from support.training import log_probs_by_hand, open_trainer

LENGTHS = [(3, 9), (6, 2), (1, 5), (4, 4)]
QUICK: dict[str, Any] = {"backoff_s": 0.01, "retries": 2, "request_timeout_s": 20.0}
KEY = "sk-the-key-of-the-teacher"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("other"), seed=1)


def settings(url: str, **own: Any) -> TeacherSettings:
    return TeacherSettings(**{"url": f"{url}/v1", "model": "tiny", **QUICK, **own})


@contextmanager
def asking(answer: Answer, **own: Any) -> Iterator[tuple[RemoteTeacher, Server]]:
    with serving(answer) as server, closing(RemoteTeacher(settings(server.url, **own))) as teacher:
        yield teacher, server


def replay(teacher: RemoteTeacher, exp: Experience) -> torch.Tensor:
    with world() as here:
        return teacher.replay(exp, 100, here)


def test_it_gives_what_the_same_model_beside_the_policy_gives(folder: Path, other: Path) -> None:
    batch = samples(LENGTHS)
    with world() as here, serving(answering(other)) as server:
        found = []
        for own in (TeacherSettings(path=str(other)), settings(server.url, concurrency=2)):
            trainer = open_trainer(folder, here, teacher=own, tokens_per_microbatch=20)
            exp = with_teacher(experience(batch), trainer)
            found.append((exp, trainer.step(exp)))
            trainer.close()
    (local, with_local), (remote, with_remote) = found
    assert local.teacher_logp_T is not None and remote.teacher_logp_T is not None
    assert torch.allclose(local.teacher_logp_T, remote.teacher_logp_T, atol=1e-5)
    assert torch.allclose(local.advantage_T, remote.advantage_T, atol=1e-5)
    assert with_remote["teacher_kl"] == pytest.approx(with_local["teacher_kl"], abs=1e-5)
    assert with_remote["teacher_retries"] == 0 and with_remote["teacher_wait_s"] > 0
    assert len(server.asked) == len(batch) and server.most_at_once <= 2
    for asked, row in zip(sorted(server.asked, key=_prompt), sorted(batch, key=_ids), strict=True):
        assert tuple(asked.body["prompt"]) == _ids(row) and asked.body["max_tokens"] == 1


def _prompt(asked: Asked) -> tuple[int, ...]:
    return tuple(asked.body["prompt"])


def _ids(row: Any) -> tuple[int, ...]:
    return (*row.prompt_ids, *row.response_ids)


def test_what_was_asked_early_is_not_asked_again(other: Path) -> None:
    (row,) = samples([(3, 4)])
    prompt = Prompt("0", "", row.prompt_ids, None, {})
    rollouts = [Rollout(row.response_ids, row.old_logps, "", False)] * 2
    unused = Rollout((5, 6), (-1.0, -1.0), "", False)
    with asking(answering(other)) as (teacher, server):
        for rollout in (*rollouts, unused):
            teacher.ask_early(prompt, rollout)
        found_T = replay(teacher, Experience.of([Group(prompt, tuple(rollouts))]))
        assert len(server.asked) <= 2  # equal rows are one request, and an unused one may be late
        (expected_T,) = log_probs_by_hand(other, [row])
        assert torch.allclose(found_T, torch.cat([expected_T] * 2), atol=1e-5)
        before = len(server.asked)
        replay(teacher, Experience.of([Group(prompt, (rollouts[0],))]))
        assert len(server.asked) == before + 1  # the next step asks for its own rows


def test_tokens_that_were_not_sampled_are_read_and_get_nothing(other: Path) -> None:
    exp = experience(samples(LENGTHS))
    sampled_T = exp.sampled_T.clone()
    sampled_T[2], sampled_T[9:11] = False, False  # the second row has none that was sampled
    with asking(answering(other)) as (teacher, server):
        found_T = replay(teacher, replace(exp, sampled_T=sampled_T))
        assert len(server.asked) == len(LENGTHS) - 1
    expected_T = torch.cat(log_probs_by_hand(other, samples(LENGTHS)))
    assert torch.allclose(found_T, torch.where(sampled_T, expected_T, 0.0), atol=1e-5)


def test_a_server_that_fails_for_a_moment_is_asked_again(other: Path) -> None:
    good, left = answering(other), [Reply("oops", 500), Reply("busy", 429)]

    def answer(asked: Asked) -> Reply:
        return left.pop(0) if left else good(asked)

    batch = samples([(3, 4)])
    with asking(answer) as (teacher, server), world() as here:
        found_T = teacher.replay(experience(batch), 100, here)
        assert len(server.asked) == 3
        assert teacher.metrics(here)["teacher_retries"] == 2
        assert teacher.metrics(here)["teacher_retries"] == 0
    assert torch.allclose(found_T, torch.cat(log_probs_by_hand(other, batch)), atol=1e-5)


def said(answer: Answer, **own: Any) -> tuple[str, int]:
    """The message of the failure, and the number of requests."""
    with asking(answer, **own) as (teacher, server), pytest.raises(UserError) as caught:
        replay(teacher, experience(samples([(3, 4)])))
    assert str(caught.value).startswith(f"teacher.url: {server.url}/v1 ")
    return str(caught.value), len(server.asked)


def changed(other: Path, change: Callable[[Any], Any]) -> Answer:
    """Answers with changed `prompt_logprobs`."""
    good = answering(other)
    return lambda asked: completion(change(good(asked).body["choices"][0]["prompt_logprobs"]))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda given: given[:-1], "gave the log-probs of 6 tokens, and was asked for 7"),
        (lambda given: [*given[:-1], None], "gave no log-prob of token 7 of 7, whose id is "),
        (lambda given: [*given[:-1], {"1": {"logprob": -1.0}}], "gave no log-prob of token 7 of 7"),
        (lambda given: [given[0], *given[:0:-1]], "gave no log-prob of token "),
        (lambda given: None, "answered without prompt_logprobs"),
        (lambda given: "none", "did not answer with completions ("),
        (lambda given: [*given[:-1], {k: {"logprob": None} for k in given[-1]}], "did not answer"),
        (lambda given: [*given[:-1], {k: {"logprob": math.nan} for k in given[-1]}], "did not ans"),
        (
            lambda given: [*given[:-1], {k: {"logprob": 3.5} for k in given[-1]}],
            "gave 3.5 as the log-prob of a token, which is above 0; start it without --logprobs-mo",
        ),
    ],
)
def test_an_answer_that_does_not_fit_ends_the_run(other: Path, change: Any, expected: str) -> None:
    message, requests = said(changed(other, change))
    assert expected in message and requests == 1


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'{"choices": []}', b"\xff", b"[" * 10**6])
def test_a_body_that_is_no_completion(body: bytes) -> None:
    message, requests = said(in_turn(Reply(body)))
    assert "did not answer with completions (" in message and requests == 1
    assert message.endswith("set teacher.url to that of a vLLM server; it ends in /v1")


def test_a_dead_endpoint_ends_the_run_after_all_attempts() -> None:
    own = settings(dead_url())
    with closing(RemoteTeacher(own)) as teacher, pytest.raises(UserError) as caught:
        replay(teacher, experience(samples(LENGTHS)))
    assert "cannot be reached (" in str(caught.value) and ", 3 times; " in str(caught.value)
    message, requests = said(in_turn(Reply("oops", 503)))
    assert "answered 503 (" in message and ", 3 times; look into the server's log" in message
    assert requests == 3


def test_what_the_server_refuses_is_said(other: Path) -> None:
    message, requests = said(answering(other), model="another")
    assert "answered 404 (" in message and requests == 1
    assert message.endswith("check teacher.url, and that it serves the model 'another'")
    message, _ = said(answering(other, longest=7))
    assert "maximum context length is 7" in message
    assert "(--max-model-len) above rollout.context_length" in message
    message, _ = said(in_turn(Reply("no", 401)))
    assert message.endswith("name the variable with its key in teacher.api_key_env")


def test_the_key_is_sent_and_masked(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UserError, match=r"teacher.api_key_env: the environment variable THE_KEY is"
    ):
        RemoteTeacher(settings("http://127.0.0.1:9", api_key_env="THE_KEY"))
    monkeypatch.setenv("THE_KEY", KEY)
    with asking(answering(other), api_key_env="THE_KEY") as (teacher, server):
        replay(teacher, experience(samples([(3, 4)])))
        assert server.asked[0].headers["Authorization"] == f"Bearer {KEY}"
    message, _ = said(lambda asked: Reply(dict(asked.headers), 403), api_key_env="THE_KEY")
    assert KEY not in message and "***" in message


# --- before the run starts ---


def spec_of(tmp_path: Path, folder: Path, url: str, **own: Any) -> Spec:
    path = tmp_path / "run.toml"
    more = "".join(f"{key} = {value}\n" for key, value in own.items())
    path.write_text(
        f'[run]\nname = "r"\nsteps = 1\n[model]\npath = "{folder}"\n[[data]]\ntype = "arithmetic"\n'
        f'[[reward]]\ntype = "exact_match"\n[teacher]\nurl = "{url}/v1"\nmodel = "tiny"\n'
        f"retries = 0\n{more}"
    )
    return load(path)


def test_the_first_request_is_as_long_as_any_row(tmp_path: Path, folder: Path, other: Path) -> None:
    tokens = AutoTokenizer.from_pretrained(folder)
    with serving(answering(other, longest=33)) as server:
        spec = spec_of(tmp_path, folder, server.url)
        teachers.check(spec, tokens, 32, rank=0)
        teachers.check(spec, tokens, 32, rank=1)
        first, second = (asked.body["prompt"] for asked in server.asked)
        assert len(first) == 32 and len(second) == 2
        assert set(range(len(SPECIAL))) <= set(first) and max(first) > len(tokens) // 2
        with pytest.raises(UserError, match=r"answered 400 .* above rollout.context_length"):
            teachers.check(spec, tokens, 33, rank=0)


def test_other_tokens_are_refused_before_the_run_starts(tmp_path: Path, folder: Path) -> None:
    teacher = tiny_model(tmp_path / "teacher")
    theirs = AutoTokenizer.from_pretrained(teacher)
    theirs.add_tokens(["brand new"])
    theirs.save_pretrained(teacher)
    file = teacher / "tokenizer.json"
    file.write_text(file.read_text().replace('"a"', '"ä"'))
    tokens = AutoTokenizer.from_pretrained(folder)
    with serving(answering(teacher)) as server:
        spec = spec_of(tmp_path, folder, server.url)
        with pytest.raises(UserError, match=r"teacher.url: tiny has another tokenizer .* 'ä' ther"):
            teachers.check(spec, tokens, 200, rank=0)


def test_a_server_without_texts_of_tokens_is_believed(
    tmp_path: Path, folder: Path, other: Path
) -> None:
    good = answering(other)

    def answer(asked: Asked) -> Reply:
        given = good(asked).body["choices"][0]["prompt_logprobs"]
        bare = [t and {id: {"logprob": of["logprob"]} for id, of in t.items()} for t in given]
        return completion(bare)

    with serving(answer) as server:
        spec = spec_of(tmp_path, folder, server.url)
        teachers.check(spec, AutoTokenizer.from_pretrained(folder), 32, rank=0)

"""Servers that a reward asks, and that send what they should not: one message, in little memory."""

from __future__ import annotations

import asyncio
import base64
import gzip
import itertools
import json
import ssl
import subprocess
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import brotli  # type: ignore[import-untyped]
import pytest

from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected
from drpo_cli.rewards import http, judge
from drpo_cli.rewards.grading.grader import Grader
from drpo_cli.types import Group, Prompt, Rollout
from support.servers import Asked, Reply, in_turn, says, sending, serving

MIB = 2**20
KINDS = ("http", "judge")
GOOD = {
    "http": Reply({"scores": [0.5]}),
    "judge": says('{"reasoning": "Right.", "score": 10}'),
}
KEY = "sk-a-very-secret-key"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ask(kind: str, url: str, **options: Any) -> Any:
    """The score of one completion, by a reward that has the key."""
    given: dict[str, Any] = {"backoff_s": 0.01, "retries": 1, "request_timeout_s": 20.0, **options}
    if kind == "http":
        scorer = http.reward(http.Config(url=url, headers_env={"X-Key": "THE_KEY"}, **given))
        return asyncio.run(scorer("1+1=", ["2"], "2", {}, [False]))
    own = judge.Config(model="m", rubric="Is it?", base_url=url, api_key_env="THE_KEY", **given)
    return asyncio.run(judge.reward(own)("1+1=", "2", "2", {}))


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", KEY)


def said(kind: str, url: str, **options: Any) -> str:
    """The message of the failure."""
    with pytest.raises(UserError) as caught:
        ask(kind, url, **options)
    message = str(caught.value)
    assert len(message) < 700 and KEY not in message
    return message


def head(*headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode()


def flood(first: bytes) -> Iterator[bytes]:
    yield first
    part = b" " * MIB
    for _ in range(6000):
        yield part


def chunked() -> Iterator[bytes]:
    yield head("Transfer-Encoding: chunked")
    for _ in range(6000):
        yield b"100000\r\n" + b" " * MIB + b"\r\n"


@pytest.mark.parametrize(
    "body",
    [
        lambda: flood(head(f"Content-Length: {6000 * MIB}")),
        lambda: flood(head()),
        chunked,
    ],
    ids=["length", "no length", "chunks"],
)
def test_no_more_of_a_body_is_read_than_the_limit(kind: str, body: Any) -> None:
    with sending(body) as server:
        message = said(kind, server.url)
        assert len(server.asked) == 1 and server.sent < 64 * MIB
    assert "answered with more than 16 MiB; " in message


@pytest.mark.parametrize("status", ["500 Oops", "401 No", "302 Elsewhere"])
def test_an_endless_body_of_an_error_is_cut(kind: str, status: str) -> None:
    with sending(lambda: flood(head(status=status))) as server:
        message = said(kind, server.url, retries=0)
        assert server.sent < 64 * MIB
    assert f"answered {status[:3]} (" in message


def packed(coding: str) -> bytes:
    """A body of 100 MiB, packed."""
    if coding == "gzip":
        return gzip.compress(bytes(100 * MIB), 1)
    if coding == "deflate":
        return zlib.compress(bytes(100 * MIB), 1)
    packer = brotli.Compressor(quality=1)
    parts = [packer.process(bytes(25 * MIB)) for _ in range(4)]
    return b"".join([*parts, packer.finish()])


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
def test_a_packed_body_is_not_unpacked(kind: str, coding: str) -> None:
    data = packed(coding)
    first = head(f"Content-Length: {len(data)}", f"Content-Encoding: {coding}")
    with sending(lambda: [first, data]) as server:
        said(kind, server.url)  # imports what it needs
        tracemalloc.start()
        try:
            message = said(kind, server.url)
            assert tracemalloc.get_traced_memory()[1] < 32 * MIB
        finally:
            tracemalloc.stop()
    assert f"a body in '{coding}', which cannot be read" in message


def drip(first: bytes) -> Iterator[bytes]:
    yield first
    for _ in range(100):
        time.sleep(0.05)
        yield b" "


@pytest.mark.parametrize("first", [head("Content-Length: 100"), b"HTTP/1.1 200 OK\r\nX: "])
def test_a_drip_ends_at_the_time_out(kind: str, first: bytes) -> None:
    with sending(lambda: drip(first)) as server:
        message = said(kind, server.url, request_timeout_s=0.3)
        assert len(server.asked) == 2
    assert "gave no answer within 0.3 s, 2 times" in message


def endless(line: bytes, first: bytes = b"HTTP/1.1 200 OK\r\n") -> Iterator[bytes]:
    yield first
    yield from itertools.repeat(line * 1000, 100_000)


@pytest.mark.parametrize(
    "data",
    [
        lambda: endless(b"X-More: and more\r\n"),
        lambda: endless(b"x", b"HTTP/1.1 200 OK\r\nX: "),
        lambda: [b"HTTP/1.1 abc\r\n\r\n"],
        lambda: [b"\x16\x03\x01 not http at all\r\n\r\n"],
        lambda: [],
        lambda: [head("Content-Length: 100"), b"{}"],
        lambda: [head("Content-Length: 3", "Content-Length: 4"), b"{}"],
        lambda: [head("Transfer-Encoding: chunked"), b"zz\r\n{}"],
    ],
    ids=["headers", "header", "status", "tls", "nothing", "cut", "two lengths", "chunk"],
)
def test_what_is_no_http_is_tried_again_and_said(kind: str, data: Any) -> None:
    with sending(data) as server:
        message = said(kind, server.url)
        assert len(server.asked) == 2 and server.sent < 64 * MIB
    assert " cannot be reached (" in message and ", 2 times; " in message


def test_a_reset_is_tried_again_and_said(kind: str) -> None:
    with sending(lambda: [head("Content-Length: 100"), b"{"], reset=True) as server:
        message = said(kind, server.url)
        assert len(server.asked) == 2
    assert " cannot be reached (ReadError" in message


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(kind: str, status: int) -> None:
    with serving(in_turn(GOOD[kind])) as other:
        to = {"Location": f"{other.url}/v1?api_key={KEY}"}
        with serving(in_turn(Reply("moved", status, to))) as server:
            message = said(kind, server.url)
            assert len(server.asked) == 1
        assert not other.asked
    assert f"answered {status} (" in message and "a redirect is not followed" in message
    assert other.url in message  # where it leads


@pytest.mark.parametrize(
    "wish",
    ["31536000", "inf", "1e400", "9" * 5000, "Fri, 31 Dec 9999 23:59:59 GMT"],
)
def test_a_wish_to_wait_for_ever_is_not_granted(kind: str, wish: str) -> None:
    with serving(in_turn(Reply("busy", 429, {"Retry-After": wish}))) as server:
        message = said(kind, server.url)
        assert len(server.asked) == 1
    assert "asked for a wait of " in message


@pytest.mark.parametrize(
    "wish", ["nan", "-inf", "-5", "soon", "", "Fri, 31 Dec 99999 23:59:59 GMT", "٣x"]
)
def test_a_wish_without_sense_is_not_heeded(kind: str, wish: str) -> None:
    busy = Reply("busy", 503, {"Retry-After": wish.encode().decode("latin-1")})
    with serving(in_turn(busy, GOOD[kind])) as server:
        ask(kind, server.url)
        assert len(server.asked) == 2


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[" * 10**6,
        b'{"a":' * 10**6,
        b'\xff\xfe{"scores": [1]}',
        b'{"scores": [1], "choices": [{"message": {"content": "\xff{}"}}]}',
        '{"scores": [1]}'.encode("utf-16"),
        b'{"scores": [' + b"9" * 5000 + b"]}",
        b'{"scores": {"0": 1}, "choices": {"0": 1}}',
        b'{"scores": "1", "choices": [{"message": {"content": ["{}"]}}]}',
        b'{"scores": 1e999, "choices": [{"message": "none"}]}',
    ],
)
def test_a_body_that_is_no_reply(kind: str, body: bytes) -> None:
    with serving(in_turn(Reply(body))) as server:
        message = said(kind, server.url)
        assert len(server.asked) == 1
    assert ("did not answer with a chat completion (" in message) or (" answered " in message)


@pytest.mark.parametrize(
    "usage",
    [
        [],
        {"prompt_tokens": "100", "completion_tokens": None},
        {"prompt_tokens": -1, "completion_tokens": 10**400},
        {"prompt_tokens": float("inf"), "completion_tokens": float("nan")},
        {"prompt_tokens": True, "completion_tokens": {}},
    ],
)
def test_tokens_that_are_no_number_are_not_counted(usage: Any) -> None:
    reply = Reply({**GOOD["judge"].body, "usage": usage})
    with serving(in_turn(reply)) as server:
        own = judge.Config(
            model="m", rubric="Is it?", base_url=server.url, input_price=1.0, output_price=1.0
        )
        judged = judge.reward(own)
        assert asyncio.run(judged("1+1=", "2", "2", {})) == 1.0
    assert +judged.counts == {"requests": 1}


def test_a_local_server_needs_no_proxy(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(in_turn(GOOD[kind])) as server:
        ask(kind, server.url)
        assert server.asked


def test_a_proxy_of_the_environment_is_used(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(in_turn(GOOD[kind])) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        ask(kind, "http://scorer.invalid/v1")
        assert proxy.asked[0].path.startswith("http://scorer.invalid/v1")


def test_a_certificate_of_nobody_is_refused(kind: str, tmp_path: Path) -> None:
    command = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -keyout k -out c"
    subprocess.run(command.split(), check=True, capture_output=True, cwd=tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "c", tmp_path / "k")
    with serving(in_turn(GOOD[kind]), context) as server:
        message = said(kind, server.url.replace("http:", "https:"), retries=3)
        assert not server.asked
    assert "CERTIFICATE_VERIFY_FAILED" in message and "SSL_CERT_FILE" in message
    assert " times" not in message


@pytest.mark.parametrize("value", [f"{KEY}\n", f"{KEY}\r\nX-Evil: 1", f" {KEY}", f"{KEY}é", ""])
def test_a_key_that_no_header_can_hold(
    kind: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_KEY", value)
    message = said(kind, "http://127.0.0.1:9/v1")
    assert "environment variable THE_KEY" in message and "cannot be reached" not in message


@pytest.mark.parametrize(
    "url",
    [
        "http://user:password@127.0.0.1/v1",
        "https://token@127.0.0.1/v1",
        "https://127.0.0.1/v1?api_key=0123456789",
        "https://127.0.0.1/v1?x=1&access_token=0123456789",
    ],
)
def test_a_secret_in_an_address_is_refused(kind: str, url: str) -> None:
    with pytest.raises(
        ValueError, match=r"holds a password or a key.*environment variable with it instead"
    ):
        ask(kind, url)


def test_the_request_asks_for_a_plain_body_and_holds_the_key(kind: str) -> None:
    with serving(in_turn(GOOD[kind])) as server:
        ask(kind, server.url)
    (asked,) = server.asked
    assert asked.headers["Accept-Encoding"] == "identity"
    assert KEY in json.dumps(dict(asked.headers))


@pytest.mark.parametrize("before", ["", "x" * 170])
@pytest.mark.parametrize("status", [200, 401, 500])
def test_a_key_that_the_server_repeats_is_masked(kind: str, status: int, before: str) -> None:
    def answer(asked: Asked) -> Reply:
        key = asked.headers.get("X-Key") or asked.headers["Authorization"]
        return Reply({"error": f"{before}{key}, {base64.b64encode(key.encode()).decode()}"}, status)

    with serving(answer) as server:
        message = said(kind, server.url, retries=0)
    assert KEY[:8] not in message and "c2stYS12ZXJ5" not in message and "***" in message


def test_a_key_is_masked_in_a_run(kind: str) -> None:
    def answer(asked: Asked) -> Reply:
        return Reply({"wrong": dict(asked.headers)}, 401)

    options: dict[str, Any] = {"workers": 1}
    group = Group(Prompt("p/1", "1+1=", (), "2", {}), (Rollout((1,), (-0.1,), "2", False),))
    with serving(answer) as server:
        if kind == "http":
            config: Any = http.Config(url=server.url, headers_env={"X-Key": "THE_KEY"}, **options)
        else:
            own: dict[str, Any] = {"model": "m", "rubric": "Is it?", "base_url": server.url}
            config = judge.Config(**own, **options, api_key_env="THE_KEY")
        with Grader([Selected("rewards", kind, config)]) as grader:
            graded = grader.score([group])
    shown = f"{graded.fatal} {graded.quarantine}"
    assert "answered 401" in shown and "***" in shown and KEY not in shown

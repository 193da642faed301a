"""Real local HTTP servers that answer as a test wants, and keep the requests."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Asked:
    """A request."""

    path: str
    headers: Mapping[str, str]
    body: Any
    raw: bytes


@dataclass(frozen=True)
class Reply:
    """An answer, sent after `delay` seconds; a body that is not bytes is sent as JSON."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0


Answer = Callable[[Asked], Reply]


class Server:
    """Its address, the requests so far, and the most requests at one time."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[Asked] = []
        self.most_at_once = 0
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._now = 0

    def come(self, asked: Asked) -> None:
        """Counts a request that begins."""
        with self._lock:
            self.asked.append(asked)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)

    def go(self) -> None:
        """Counts a request that has ended."""
        with self._lock:
            self._now -= 1


@contextmanager
def serving(answer: Answer) -> Iterator[Server]:
    """A server that answers every POST request by `answer`."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    http.daemon_threads = True
    http.answer = answer  # type: ignore[attr-defined]
    http.state = server = Server(f"http://127.0.0.1:{http.server_port}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=http.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        http.shutdown()
        thread.join()
        http.server_close()


def in_turn(*replies: Reply) -> Answer:
    """Gives these replies in order, and the last one from then on."""
    left, lock = list(replies), threading.Lock()

    def answer(asked: Asked) -> Reply:
        with lock:
            return left.pop(0) if len(left) > 1 else left[0]

    return answer


def says(text: str | None, read: int = 100, written: int = 10) -> Reply:
    """A chat completion with this content and these token counts."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    body = {"id": "chat", "object": "chat.completion", "created": 0, "model": "m"}
    return Reply(body | {"choices": [choice], "usage": usage})


def dead_url() -> str:
    """The address of a server that has stopped."""
    with serving(in_turn(Reply())) as server:
        return server.url


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept open, as by real servers

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        asked = Asked(self.path, dict(self.headers), json.loads(raw), raw)
        state: Server = self.server.state  # type: ignore[attr-defined]
        state.come(asked)
        try:
            self._reply(self.server.answer(asked), state)  # type: ignore[attr-defined]
        except ConnectionError:
            self.close_connection = True  # the client went away, as one that timed out does
        finally:
            state.go()

    def _reply(self, reply: Reply, state: Server) -> None:
        state.stopping.wait(reply.delay)
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for name, value in {"Content-Type": "application/json", **reply.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Prints nothing."""

"""Real local HTTP servers that answer as a test wants, and keep the requests."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
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
        self.sent = 0
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
def serving(answer: Answer, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """A server that answers every POST request by `answer`."""
    http = _Server(("127.0.0.1", 0), _Handler)
    if tls is not None:
        http.socket = tls.wrap_socket(http.socket, server_side=True)
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


@contextmanager
def sending(bytes_of: Callable[[], Iterable[bytes]], reset: bool = False) -> Iterator[Server]:
    """A server that answers every request with these very bytes, then closes the connection.

    `Server.sent` counts the bytes that went out; `reset` closes with a reset.
    """
    listening = socket.create_server(("127.0.0.1", 0))
    state = Server(f"http://127.0.0.1:{listening.getsockname()[1]}")

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            _read_request(connection)
            state.come(Asked("", {}, None, b""))
            for part in bytes_of():
                if state.stopping.is_set():
                    return
                connection.sendall(part)
                state.sent += len(part)
            if reset:
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def accept() -> None:
        with suppress(OSError):  # it was closed
            while True:
                connection, _ = listening.accept()
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.stopping.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def _read_request(connection: socket.socket) -> None:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # connections that come at once, of which the default resets some


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

"""A server that does what a llama-server does not do on demand: break off, stall, answer nonsense."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeServer

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.body: Any = json.loads(body) if body else None
        self.server.requests.append((self.path, dict(self.headers), self.body))
        answer = self.server.answers.get(self.path)
        if answer is None:
            self.json({"error": {"message": "File Not Found", "type": "not_found_error", "code": 404}}, 404)
        elif callable(answer):
            answer(self)
        else:
            self.json(answer)

    do_GET = do_POST = handle_any  # noqa: N815

    def json(self, value: Any, status: int = 200) -> None:
        self.raw(json.dumps(value).encode(), status)

    def raw(self, body: bytes, status: int = 200, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, chunks: list[bytes], end: bool = True) -> None:
        """A stream in these chunks of HTTP, each sent by itself. Without its end it is broken off."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for chunk in chunks:
            self.chunk(chunk)
        if end:
            self.chunk(b"")
        else:
            self.close_connection = True
            self.connection.close()

    def chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def log_message(self, *args: Any) -> None:
        pass


class FakeServer(ThreadingHTTPServer):
    """It answers each path with what ``answers`` has for it: a value as JSON, or what a function does."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Any] = {}
        self.requests: list[tuple[str, dict[str, str], Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that hang up are what is tested

    def streams(self, path: str, *objects: Any, end: bool = True) -> None:
        """It answers a path with these events."""
        chunks = [b"data: " + json.dumps(value).encode() + b"\n\n" for value in objects]
        self.answers[path] = lambda handler: handler.stream(chunks, end)


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with FakeServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def until(condition: Callable[[], bool], seconds: float = 10) -> bool:
    """Waits for something that happens by itself."""
    waiting = threading.Event()
    for _ in range(int(seconds * 50)):
        if condition():
            return True
        waiting.wait(0.02)
    return False

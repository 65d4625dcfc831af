"""Talking to a server: streams however they are cut, cancellation, refusals, and whatever breaks."""

from __future__ import annotations

import gc
import json
import math
import signal
import socket
import threading
import time
import warnings
from typing import Any

import pytest
from fakeserver import FakeServer, Handler, fake, until

from llcuda import errors
from llcuda._internal.http import Api

__all__ = ["fake"]

EVENTS = b"".join(
    b"data: " + json.dumps({"content": text}, ensure_ascii=False).encode() + b"\n\n" for text in ("a", "😀", "é")
)
PINGED = (
    b':\n\n: ping\n\ndata: {"content":\n'
    + b'data: "x"}\r\n\r\nevent: m\nid: 1\ndata:{"content":"y"}\r\r'
    + b"data: [DONE]\n\n"
)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64, 10_000])
@pytest.mark.parametrize(("sent", "want"), [(EVENTS, ["a", "😀", "é"]), (PINGED, ["x", "y"])])
def test_stream_however_it_is_cut(fake: FakeServer, size: int, sent: bytes, want: list[str]) -> None:
    chunks = [sent[i : i + size] for i in range(0, len(sent), size)]
    fake.answers["/s"] = lambda handler: handler.stream(chunks)
    assert [event["content"] for event in Api(fake.url).stream("/s", {})] == want


def test_stream_comes_at_once(fake: FakeServer) -> None:
    """And not when it ends."""
    seen = threading.Event()

    def slowly(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.chunk(b'data: {"n":1}\n\n')
        assert seen.wait(10)
        handler.chunk(b'data: {"n":2}\n\n')
        handler.chunk(b"")

    fake.answers["/s"] = slowly
    stream = Api(fake.url).stream("/s", {})
    assert next(stream) == {"n": 1}
    seen.set()
    assert list(stream) == [{"n": 2}]


def hung_up(handler: Handler) -> bool:
    """Whether the client closes its connection within 10 seconds."""
    handler.connection.settimeout(10)
    try:
        return bool(handler.connection.recv(1) == b"")
    except TimeoutError:
        return False
    except OSError:
        return True


@pytest.fixture
def endless(fake: FakeServer) -> list[bool]:
    """A stream at /s that never ends, and an answer at /j that never comes. The list says what became of them."""
    left: list[bool] = []

    def stream(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.chunk(b'data: {"n":1}\n\n')
        left.append(hung_up(handler))

    fake.answers["/s"] = stream
    fake.answers["/j"] = lambda handler: left.append(hung_up(handler))
    return left


def test_close_ends_the_request(fake: FakeServer, endless: list[bool]) -> None:
    stream = Api(fake.url).stream("/s", {})
    next(stream)
    stream.close()
    assert until(lambda: endless == [True])
    assert list(stream) == []


@pytest.mark.parametrize("path", ["/s", "/j"])
def test_close_from_another_thread(fake: FakeServer, endless: list[bool], path: str) -> None:
    """Whoever waits gets the end, whether the answer has begun or not."""
    stream = Api(fake.url).stream(path, {})
    got: list[Any] = []
    reader = threading.Thread(target=lambda: got.append(list(stream)))
    reader.start()
    assert until(lambda: bool(fake.requests))
    time.sleep(0.1)  # most likely it reads by now; either way it must end
    stream.close()
    reader.join(10)
    assert not reader.is_alive()
    assert got[0] in ([], [{"n": 1}])
    assert until(lambda: endless == [True])


def test_closed_before_it_began(fake: FakeServer, endless: list[bool]) -> None:
    stream = Api(fake.url).stream("/s", {})
    stream.close()
    assert list(stream) == []
    assert fake.requests == []


@pytest.mark.parametrize("ask", ["stream", "json"])
def test_interrupt_ends_the_request(fake: FakeServer, endless: list[bool], ask: str) -> None:
    """Also where the traceback, which a notebook keeps, holds every frame."""
    main = threading.get_ident()

    def interrupt() -> None:
        assert until(lambda: bool(fake.requests))
        time.sleep(0.2)
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    api = Api(fake.url)
    kept: BaseException | None = None
    try:
        if ask == "stream":
            list(api.stream("/s", {}))
        else:
            api.json("POST", "/j", {}, timeout=math.inf)
    except KeyboardInterrupt as err:
        kept = err
    assert kept is not None and kept.__traceback__ is not None
    assert until(lambda: endless == [True])


def test_stall(fake: FakeServer, endless: list[bool]) -> None:
    stream = Api(fake.url, timeout=0.2).stream("/s", {})
    next(stream)
    with pytest.raises(errors.RequestError, match="nothing for too long"):
        next(stream)
    with pytest.raises(errors.RequestError, match="nothing for too long"):
        Api(fake.url).json("GET", "/j", timeout=0.2)


CONTEXT = {"error": {"code": 400, "message": "too many", "type": "exceed_context_size_error", "n_ctx": 8192}}


@pytest.mark.parametrize(
    ("status", "body", "kind", "says"),
    [
        (400, json.dumps(CONTEXT), errors.ContextLengthError, "ctx_size"),
        (401, '{"error":{"message":"Invalid API Key","code":401}}', errors.RequestError, "LLCUDA_API_KEY"),
        (501, '{"error":{"message":"no embeddings","code":501}}', errors.RequestError, "embeddings=True"),
        (503, '{"error":{"message":"Loading model","code":503}}', errors.RequestError, "still be loading"),
        (500, "<html>broken</html>", errors.RequestError, "<html>"),
        (500, '{"error":"as a string"}', errors.RequestError, "as a string"),
        (502, "", errors.RequestError, "no reason"),
        (302, "", errors.RequestError, "HTTP 302"),
    ],
)
def test_refusals(fake: FakeServer, status: int, body: str, kind: type[errors.RequestError], says: str) -> None:
    fake.answers["/x"] = lambda handler: handler.raw(body.encode(), status)
    for ask in (lambda: Api(fake.url).json("POST", "/x", {}), lambda: list(Api(fake.url).stream("/x", {}))):
        with pytest.raises(kind, match=says) as caught:
            ask()
        assert type(caught.value) is kind
        assert (caught.value.status, caught.value.body) == (status, body)


def test_an_error_in_a_stream(fake: FakeServer) -> None:
    fake.streams("/s", {"content": "a"}, CONTEXT)
    stream = Api(fake.url).stream("/s", {})
    assert next(stream) == {"content": "a"}
    with pytest.raises(errors.ContextLengthError) as caught:
        next(stream)
    assert caught.value.status == 400
    assert list(stream) == []


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda h: h.stream([b'data: {"n":1}\n\n'], end=False), "before the answer was complete"),
        (lambda h: h.connection.close(), "before the answer was complete"),
        (lambda h: h.wfile.write(b"SSH-2.0-OpenSSH\r\n"), "does not speak HTTP"),
        (lambda h: h.stream([b"data: {nonsense\n\n"]), "not JSON"),
        (lambda h: h.stream([b"data: 3\n\n"]), "not an object"),
    ],
)
def test_broken_answers(fake: FakeServer, answer: Any, says: str) -> None:
    def broken(handler: Handler) -> None:
        handler.close_connection = True
        answer(handler)

    fake.answers["/s"] = broken
    with pytest.raises(errors.RequestError, match=says):
        list(Api(fake.url).stream("/s", {}))


def test_json_that_is_none(fake: FakeServer) -> None:
    fake.answers["/x"] = lambda handler: handler.raw(b"<p>hello")
    with pytest.raises(errors.RequestError, match="not JSON"):
        Api(fake.url).json("GET", "/x")


def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(errors.ServerNotRunningError, match="load_model"):
            Api(url).json("GET", "/health")
        with pytest.raises(errors.ServerNotRunningError):
            list(Api(url).stream("/completion", {}))


def test_no_proxy(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    fake.answers["/x"] = {"ok": True}
    assert Api(fake.url).json("GET", "/x") == {"ok": True}


def test_key_and_path(fake: FakeServer) -> None:
    fake.answers["/behind/x"] = {}
    Api(fake.url + "/behind/", "schlüssel").json("POST", "/x", {"text": "é\ud800"})
    path, headers, body = fake.requests[0]
    assert path == "/behind/x"
    assert headers["Authorization"].encode("latin-1").decode() == "Bearer schlüssel"
    assert body == {"text": "é\ud800"}


@pytest.mark.parametrize("url", ["localhost:8090", "ftp://x", "http://", "http://x:port", "", "/models", "http://[::1"])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(errors.UsageError, match="http://HOST:PORT"):
        Api(url)


def test_a_key_with_a_line_break() -> None:
    with pytest.raises(errors.UsageError) as caught:
        Api("http://127.0.0.1:1", "secret\n")
    assert "secret" not in str(caught.value)


def test_nothing_is_left_open(fake: FakeServer) -> None:
    fake.streams("/s", {"n": 1})
    fake.answers["/x"] = {}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        list(Api(fake.url).stream("/s", {}))
        Api(fake.url).json("GET", "/x")
        with pytest.raises(errors.RequestError):
            Api(fake.url).json("GET", "/missing")
        gc.collect()
    assert not [w for w in said if f"raddr=('127.0.0.1', {fake.server_port})" in str(w.message)]

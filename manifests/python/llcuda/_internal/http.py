"""The one place that speaks HTTP, to a llama-server: JSON, streamed events, cancellation.

In go an address, a key and bodies; out come decoded answers and errors of :mod:`llcuda.errors`. Each request has a
connection of its own, so threads share an :class:`Api` freely, and closing the connection is what cancels: the server
stops generating and frees the slot. No proxy is ever used, whatever the environment says.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import socket
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any

from ..errors import ContextLengthError, RequestError, ServerNotRunningError, UsageError

STALL_SECONDS = 600.0
"""How long a server may send nothing. A stream has a ping from llama-server every 30 seconds, also while it reads a
prompt, so that a slow answer never takes that long."""

CONNECT_SECONDS = 10.0

READ_BYTES = 65536


class Api:
    """A llama-server's address.

    Args:
        url: ``http://HOST:PORT``, or ``https``; a path before the server's own is kept.
        key: The server's key; None or empty if it has none.
        timeout: How many seconds the server may send nothing; None is 600.

    Raises:
        UsageError: The address or the key cannot be used.
    """

    def __init__(self, url: str, key: str | None = None, timeout: float | None = None) -> None:
        try:
            parts = urllib.parse.urlsplit(url)
            port = parts.port
        except ValueError as err:
            raise UsageError(f"reading the address {url!r}: {err}", hints=["write http://HOST:PORT"]) from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"reading the address {url!r}: it is not HTTP", hints=["write http://HOST:PORT"])
        if key and any(c < " " or c == "\x7f" for c in key):
            raise UsageError("the API key has a line break or another control character")
        self.url = url.rstrip("/")
        self._https = parts.scheme == "https"
        self._host, self._port = parts.hostname, port
        self._prefix = parts.path.rstrip("/")
        self._headers: dict[str, str | bytes] = {"Accept": "*/*", "Connection": "close"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}".encode()
        self._timeout = STALL_SECONDS if timeout is None else timeout

    def json(self, method: str, path: str, body: Any = None, timeout: float | None = None) -> Any:
        """Send a request and decode the answer.

        Args:
            method: ``GET`` or ``POST``.
            path: The path on the server, from its slash.
            body: What is sent as JSON; None sends no body.
            timeout: How many seconds the server may send nothing; None is the Api's own, ``math.inf`` is no limit.

        Raises:
            ServerNotRunningError: Nothing listens there.
            RequestError: The server refused, broke off, or answered with something else than JSON.
        """
        connection = self._connect(timeout)
        response = None
        try:
            response = self._ask(connection, method, path, body)
            return _decode(response.read(), self.url + path)
        except (OSError, http.client.HTTPException) as err:
            raise self._broken(path, err) from None
        finally:  # at once, also where a traceback keeps this frame
            if response is not None:
                response.close()
            connection.close()

    def stream(self, path: str, body: Any) -> Stream:
        """Post a request whose answer is a stream of events. It is sent when the first event is asked for."""
        return Stream(self, path, body)

    def _connect(self, timeout: float | None) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._https else http.client.HTTPConnection
        wait = self._timeout if timeout is None else timeout
        connection = kind(self._host, self._port, timeout=min(wait, CONNECT_SECONDS))
        try:
            connection.connect()
        except OSError as err:
            connection.close()
            raise ServerNotRunningError(
                f"no llama-server answers at {self.url}: {err.strerror or err}",
                hints=["load_model() starts one; server_url=... names one that runs"],
            ) from None
        except BaseException:
            connection.close()
            raise
        connection.sock.settimeout(None if math.isinf(wait) else wait)
        return connection

    def _ask(self, connection: http.client.HTTPConnection, method: str, path: str, body: Any) -> http.client.HTTPResponse:
        headers = dict(self._headers)
        sent = None
        if body is not None:
            sent = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        connection.request(method, self._prefix + path, body=sent, headers=headers)
        response = connection.getresponse()
        if response.status < 300:
            return response
        try:
            text = response.read().decode("utf-8", "replace")
        finally:
            response.close()
        raise _refusal(self.url + path, response.status, text)

    def _broken(self, path: str, err: Exception) -> Exception:
        if isinstance(err, RequestError | ServerNotRunningError):
            return err
        if isinstance(err, TimeoutError):
            what = "the server has sent nothing for too long"
        elif isinstance(err, http.client.BadStatusLine) and not isinstance(err, ConnectionError):
            what = "what answers there does not speak HTTP"
        elif isinstance(err, http.client.IncompleteRead | ConnectionError):
            what = "the server closed the connection before the answer was complete"
        else:
            what = str(err)
        return RequestError(f"{self.url}{path}: {what}")


class Stream(Iterator[dict[str, Any]]):
    """The events of one request: the decoded object of each ``data:``.

    ``close()`` cancels, from any thread: whoever waits for the next event gets the end of the iteration. An interrupt
    and any other exception while waiting close it too.
    """

    def __init__(self, api: Api, path: str, body: Any) -> None:
        self._api, self._path, self._body = api, path, body
        self._lock = threading.Lock()
        self._closed = False
        self._socket: socket.socket | None = None
        self._response: http.client.HTTPResponse | None = None
        self._objects: Iterator[dict[str, Any]] | None = None

    def __iter__(self) -> Stream:
        return self

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __next__(self) -> dict[str, Any]:
        if self._closed:
            raise StopIteration
        try:
            if self._objects is None:
                self._objects = self._open()
            return next(self._objects)
        except BaseException as err:
            cancelled = self._closed
            self.close()
            if isinstance(err, StopIteration) or (cancelled and isinstance(err, Exception)):
                raise StopIteration from None
            if isinstance(err, OSError | http.client.HTTPException):
                raise self._api._broken(self._path, err) from None
            raise

    def _open(self) -> Iterator[dict[str, Any]]:
        connection = self._api._connect(None)
        with self._lock:
            self._socket = connection.sock
            if self._closed:
                connection.close()
                raise StopIteration
        try:
            self._response = self._api._ask(connection, "POST", self._path, self._body)
        except BaseException:
            connection.close()
            raise
        return _objects(self._response, self._api.url + self._path)

    def close(self) -> None:
        """Close the connection, which ends the generation on the server."""
        with self._lock:
            self._closed = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads
                self._socket.close()
        if self._response is not None:
            self._response.close()


def _objects(response: http.client.HTTPResponse, where: str) -> Iterator[dict[str, Any]]:
    """The objects of an event stream, by the standard: comments are pings, an event may have several data lines."""
    data: list[bytes] = []
    for line in _lines(response):
        if line.startswith(b"data:"):
            data.append(line[6:] if line[5:6] == b" " else line[5:])
        elif line.startswith(b"error:"):  # llama.cpp's own field, before it sent errors as data
            raise _refusal(where, None, line[6:].decode("utf-8", "replace"))
        elif not line and data:
            event, data = b"\n".join(data), []
            if event == b"[DONE]":
                continue
            decoded = _decode(event, where)
            if not isinstance(decoded, dict):
                raise RequestError(f"{where}: the server sent an event that is not an object: {event[:200]!r}")
            if decoded.get("error"):
                raise _refusal(where, None, event.decode("utf-8", "replace"))
            yield decoded


def _lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The lines of an event stream, without their ends, as soon as they are there."""
    rest = b""
    while chunk := response.read1(READ_BYTES):
        rest += chunk
        held = rest.endswith(b"\r")  # the other half of its line's end may follow
        lines = rest.splitlines(keepends=True)
        rest = lines.pop() if held or not lines[-1].endswith((b"\n", b"\r")) else b""
        for line in lines:
            yield line.rstrip(b"\r\n")


def _decode(text: bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        shown = text[:200].decode("utf-8", "replace")
        raise RequestError(f"{where}: the answer is not JSON: {shown!r}", body=shown) from None


def _refusal(where: str, status: int | None, body: str) -> RequestError:
    """The error of an answer with an error's status, or of an error in a stream."""
    try:
        error = json.loads(body)
    except ValueError:
        error = None
    if isinstance(error, dict) and "error" in error:
        error = error["error"]
    kind, message = "", ""
    if isinstance(error, dict):
        kind, message = str(error.get("type", "")), str(error.get("message", ""))
        if status is None and isinstance(error.get("code"), int):
            status = error["code"]
    elif isinstance(error, str):
        message = error
    said = message or body.strip()[:500] or "the server gave no reason"
    text = f"{where}: {said}" if status is None else f"{where}: {said} (HTTP {status})"
    if kind == "exceed_context_size_error":
        return ContextLengthError(
            text,
            hints=["shorten the prompt, or load the model with a larger ctx_size"],
            status=status,
            body=body,
        )
    hints = []
    if status in (401, 403):
        hints = ["the server wants its key: InferenceEngine(server_url, api_key=...) or LLCUDA_API_KEY"]
    elif status == 503:
        hints = ["the server may still be loading its model: try again in a moment"]
    elif status == 501 and "embedding" in said:
        hints = ["load_model(..., embeddings=True) loads a model for embeddings"]
    return RequestError(text, hints=hints, status=status, body=body)

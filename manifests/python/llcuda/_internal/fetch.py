"""The one place that starts ``llcuda-fetch``, the client that does everything but talk to a server.

In go arguments and variables; out come the client's events, its decoded result, and its error as one of
:mod:`llcuda.errors`. Nothing here prints.

The client runs in a session of its own. Ctrl-C in a terminal and the interrupt button of a notebook signal the whole
process group, and the client is to be told once: its first SIGINT ends it in order, a second one at once. A client whose
parent was killed ends with its next event, which nobody reads.
"""

from __future__ import annotations

import errno
import json
import os
import selectors
import signal
import subprocess
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from ..errors import (
    DiskError,
    LlcudaError,
    ModelNotFoundError,
    NetworkError,
    NoBundleError,
    NoGPUError,
    OfflineError,
    SetupError,
    UnsupportedPlatformError,
    UntrustedError,
    UsageError,
)
from . import home

EVENT_VERSION = 1
"""The version of the events that this module reads."""

RAW_LINES = 200
"""How many lines that are not events are kept: a Go panic with its goroutines."""

INTERRUPT_SECONDS = 5.0
"""How long an interrupted client may take to end in order."""

NAME = "llcuda-fetch"


class Event(NamedTuple):
    """One event of the client.

    Attributes:
        kind: ``step``, ``download``, ``warning``, ``gpu``, ``platform``, ``verified``, ``waiting``, ``error``, ``done``,
            ``starting``, ``loading``, ``ready``, ``exit``, or what a newer client says.
        data: The event's fields. Sizes are in bytes.
    """

    kind: str
    data: dict[str, Any]


# Where the client is


def program() -> str:
    """The path of the client: ``LLCUDA_FETCH``, else the one in this package, else ``llcuda-fetch`` of ``PATH``.

    Raises:
        UnsupportedPlatformError: There is none.
    """
    if named := os.environ.get("LLCUDA_FETCH", ""):
        found = os.path.expanduser(named) if "/" in named else _on_path(named)
        if found and os.path.isfile(found):
            return found
        raise UnsupportedPlatformError(
            f"LLCUDA_FETCH names {named}, which is not there",
            hints=["unset LLCUDA_FETCH to use the client of this package, or name an llcuda-fetch"],
        )
    packaged = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "_bin", NAME)
    if os.path.isfile(packaged):
        return packaged
    if found := _on_path(NAME):
        return found
    raise _no_client()


def _on_path(name: str) -> str | None:
    for folder in os.get_exec_path():
        path = os.path.join(folder, name)
        if os.path.isfile(path) and os.access(path, os.X_OK) and not _is_own_script(path):
            return path
    return None


def _is_own_script(path: str) -> bool:
    """Whether a file is this package's console script, which would start itself for ever."""
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError:
        return False
    return head.startswith(b"#!") and b"llcuda._internal" in head


def _no_client() -> UnsupportedPlatformError:
    machine = os.uname().machine if hasattr(os, "uname") else "x86-64"
    remote = "InferenceEngine(server_url=...) uses a llama-server on another machine"
    if not sys.platform.startswith("linux"):
        return UnsupportedPlatformError(
            f"llcuda's bundles run on Linux on x86-64; this is {sys.platform}", hints=["on Windows, use WSL 2", remote]
        )
    if machine not in ("x86_64", "AMD64"):
        return UnsupportedPlatformError(
            f"llcuda has no bundle for {machine}: its bundles run on Linux on x86-64", hints=[remote]
        )
    if not _has_glibc():
        return UnsupportedPlatformError(
            "llcuda's bundles need glibc, which this system does not have",
            hints=["use an image with glibc, such as Debian's or Ubuntu's", remote],
        )
    return UnsupportedPlatformError(
        "this installation of the package llcuda has no llcuda-fetch, and there is none on PATH",
        hints=[
            "pip install --force-reinstall llcuda brings it",
            "working on the source: LLCUDA_FETCH=PATH names a client",
            remote,
        ],
    )


def _has_glibc() -> bool:
    try:
        return bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (AttributeError, ValueError, OSError):
        return False


# What the client reports

_CLASSES: dict[str, type[LlcudaError]] = {
    "failed": SetupError,
    "usage": UsageError,
    "untrusted": UntrustedError,
    "no-gpu": NoGPUError,
    "no-bundle": NoBundleError,
    "network": NetworkError,
    "offline": OfflineError,
    "disk": DiskError,
    "interrupted": SetupError,
}

_NO_MODEL = ("there is no model ", "there is no file ", " not downloaded", "no such file or directory")

_CPU_HINT = (
    "without a GPU: llcuda.setup(allow_cpu=True), load_model(..., gpu_layers=0) or LLCUDA_ALLOW_CPU=1 use the processor"
)

NO_GPU = 4
"""The exit code of a client that found no GPU."""

_GPU_HINTS = {
    "colab": ("on Colab: Runtime → Change runtime type → T4 GPU, and run the cells again",),
    "kaggle": ("on Kaggle: Settings → Accelerator → GPU T4 x2, and run the cells again",),
}
"""Where the notebook services have their GPUs."""


def error_of(event: Event) -> LlcudaError:
    """The error that an ``error`` event stands for. One of an unknown class is a SetupError with the whole event."""
    name, message = event.data.get("class"), event.data.get("message")
    code, hints = event.data.get("code"), event.data.get("hints") or []
    if not isinstance(name, str) or name not in _CLASSES or not isinstance(message, str):
        return SetupError(f"{NAME} reported an error that this version of llcuda does not know: {json.dumps(event.data)}")
    kind = _CLASSES[name]
    if kind is UsageError and any(sign in message for sign in _NO_MODEL):
        kind = ModelNotFoundError
    listed = [str(hint) for hint in hints] if isinstance(hints, list) else [str(hints)]
    if kind is NoGPUError:
        return no_gpu(message, listed)
    return kind(message, hints=listed, code=code if isinstance(code, int) else None)


def no_gpu(message: str, hints: Sequence[str]) -> NoGPUError:
    """That there is no GPU, with where a notebook service has one, and how to do without."""
    service = home.notebook(os.environ)
    return NoGPUError(message, hints=[*_GPU_HINTS.get(service, ()), *hints, _CPU_HINT], code=NO_GPU)


def _unexplained(code: int, raw: str) -> SetupError:
    """The error of a client that ended without an ``error`` event: a crash, or a client of another version."""
    if code < 0:
        try:
            ended = f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            ended = f"was ended by signal {-code}"
    else:
        ended = f"ended with exit code {code}"
    hints = []
    if "--events" in raw:
        hints.append(f"LLCUDA_FETCH or PATH leads to an older {NAME}: unset LLCUDA_FETCH, or name a newer one")
    elif code == -signal.SIGKILL:
        hints.append("the system ends programs like that where memory is short")
    said = f":\n{raw}" if raw else ""
    return SetupError(f"{NAME} {ended} and did not say why{said}", hints=hints, code=code if code > 0 else None)


class _Reader:
    """Takes the client's standard error apart: events, and lines that are none."""

    def __init__(self) -> None:
        self.raw: deque[str] = deque(maxlen=RAW_LINES)
        self.error: Event | None = None

    def event(self, line: bytes) -> Event | None:
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        try:
            data = json.loads(text)
        except ValueError:
            data = None
        if not isinstance(data, dict) or not isinstance(data.get("event"), str) or data.get("v") != EVENT_VERSION:
            if text.strip():
                self.raw.append(text)
            return None
        del data["v"]
        event = Event(data.pop("event"), data)
        if event.kind == "error":
            self.error = event
        return event

    def text(self) -> str:
        return "\n".join(self.raw)


def cannot_start(path: str, err: OSError) -> LlcudaError:
    hints = []
    if err.errno in (errno.EACCES, errno.EPERM):
        hints = [f"chmod +x {path}", "a file system mounted noexec starts no programs: install the package elsewhere"]
    elif err.errno == errno.ENOEXEC:
        hints = [f"{path} is not a program of this machine"]
    return SetupError(f"starting {path}: {err.strerror or err}", hints=hints)


# Running it


def _popen(args: Sequence[str], env: Mapping[str, str] | None, *, stdin: int, stdout: int) -> subprocess.Popen[bytes]:
    path = program()
    try:
        return subprocess.Popen(
            [path, "--events", *args],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    except OSError as err:
        raise cannot_start(path, err) from None


def call(
    args: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Any:
    """Run the client to its end.

    Args:
        args: The command and its arguments.
        env: Variables for the client, added to this process's.
        on_event: Called with every event but the last, ``error`` or ``done``, by the thread that called.

    Returns:
        The decoded result, None if the client printed none.

    Raises:
        LlcudaError: What the client reported, by its class.
        KeyboardInterrupt: The client was interrupted first, and has ended.
    """
    process = _popen(args, env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    reader = _Reader()
    try:
        out = _communicate(process, reader, on_event)
        code = process.wait()
    except BaseException as err:
        _end(process, signal.SIGINT if isinstance(err, KeyboardInterrupt) else signal.SIGTERM)
        raise
    if code != 0 or reader.error is not None:
        raise error_of(reader.error) if reader.error is not None else _unexplained(code, reader.text())
    if not out.strip():
        return None
    try:
        return json.loads(out)
    except ValueError:
        shown = out[:1000].decode("utf-8", "replace")
        raise SetupError(f"{NAME} {' '.join(args[:1])} printed a result that is not JSON:\n{shown}") from None


def version() -> str:
    """The client's version, as it says it.

    Raises:
        UnsupportedPlatformError: There is no client.
        SetupError: It cannot be started, or does not answer.
    """
    path = program()
    try:
        said = subprocess.run([path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        raise SetupError(f"{path} --version does not answer") from None
    except OSError as err:
        raise cannot_start(path, err) from None
    return said.stdout.decode("utf-8", "replace").strip().removeprefix(f"{NAME} version ")


def _communicate(process: subprocess.Popen[bytes], reader: _Reader, on_event: Callable[[Event], None] | None) -> bytes:
    """Read both pipes to their ends, and give events on as they come."""
    assert process.stdout is not None and process.stderr is not None
    out, rest = bytearray(), bytearray()

    def give(line: bytes) -> None:
        event = reader.event(line)
        if event is not None and on_event is not None and event.kind not in ("error", "done"):
            on_event(event)

    with selectors.DefaultSelector() as selector, process.stdout, process.stderr:
        selector.register(process.stdout, selectors.EVENT_READ)
        selector.register(process.stderr, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    selector.unregister(key.fileobj)
                elif key.fileobj is process.stdout:
                    out += chunk
                else:
                    rest += chunk
                    *lines, tail = rest.split(b"\n")
                    rest = bytearray(tail)
                    for line in lines:
                        give(bytes(line))
        if rest:
            give(bytes(rest))
    return bytes(out)


def _end(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    """End the client, and do not come back before it has ended."""
    try:
        process.send_signal(how)
        process.wait(INTERRUPT_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:  # a second interrupt does not wait
        if process.poll() is None:
            process.kill()
            process.wait()


class Child:
    """A running command of the client that lives as long as its standard input is open: ``serve``.

    It belongs to the process that started it. In a forked child every method that would end it does nothing, and the copy
    of its standard input is closed, so that only the owner's end keeps it alive.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.pid: int = process.pid
        self._process = process
        self._reader = _Reader()
        self._owner = os.getpid()

    def events(self) -> Iterator[Event]:
        """Its events as they come, ``error`` and ``done`` too, until it ends. One thread reads them, and reads them all."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            event = self._reader.event(line)
            if event is not None:
                yield event

    def close_lifeline(self) -> None:
        """Close its standard input, upon which it ends what it runs and itself."""
        if self._process.stdin is not None and os.getpid() == self._owner:
            with suppress(OSError):
                self._process.stdin.close()

    def terminate(self) -> None:
        """Send it SIGTERM, if it still runs."""
        if os.getpid() == self._owner:
            self._process.terminate()

    def wait(self, timeout: float | None = None) -> int | None:
        """Its exit code, or None if it has not ended after ``timeout`` seconds. Negative is a signal's number."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def raw(self) -> str:
        """The last lines of its standard error that were no events."""
        return self._reader.text()

    def error(self) -> LlcudaError:
        """Why it ended, once it has: what its ``error`` event says, else its exit code and what it printed."""
        if self._reader.error is not None:
            return error_of(self._reader.error)
        code = self._process.returncode
        return _unexplained(0 if code is None else code, self.raw())


_children: weakref.WeakSet[Child] = weakref.WeakSet()


def _close_copies() -> None:
    """In a forked child: let go of every lifeline, which would keep servers alive when their owner is gone."""
    for child in list(_children):
        if child._process.stdin is not None:
            with suppress(OSError):
                child._process.stdin.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_copies)


def start(args: Sequence[str], *, env: Mapping[str, str] | None = None) -> Child:
    """Start a command of the client that runs until it is ended.

    Args:
        args: The command and its arguments, such as ``["serve", MODEL, "--lifeline"]``.
        env: Variables for the client, added to this process's.

    Raises:
        UnsupportedPlatformError: There is no client.
        SetupError: It cannot be started.
    """
    child = Child(_popen(args, env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL))
    _children.add(child)
    return child

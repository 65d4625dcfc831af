"""The servers of this process: started, watched and ended."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import LlcudaError, OutOfMemoryError, ServerNotRunningError, ServerStartError, ServerTimeoutError
from . import fetch
from .fetch import Child, Event

Report = Callable[[Event], None]

END_SECONDS = 10.0
"""How long a server may take to end: llcuda-fetch kills it 5 seconds after it asked."""


class Running:
    """A server of this process and the program that supervises it.

    It is apart from the manager, so that what watches it does not keep the manager alive.
    """

    def __init__(self, child: Child) -> None:
        self.child = child
        self.owner = os.getpid()
        self.settings: Any = None
        self.url = ""
        self.pid: int | None = None
        self.program: str | None = None
        self.log: str | None = None
        self.model: dict[str, Any] = {}
        self.devices: list[Any] | None = None
        self.exit: dict[str, Any] | None = None
        self.going = False
        self.ended = threading.Event()

    @classmethod
    def start(cls, args: Sequence[str], env: Mapping[str, str], report: Report) -> Running:
        """Start it and wait until it is ready. The calling thread reads the events meanwhile, another one afterwards."""
        running = cls(fetch.start(args, env=env))
        events = running.child.events()
        try:
            ready = running._until_ready(events, report)
        except BaseException:
            running.stop(END_SECONDS, events)
            raise
        if not ready:
            running.child.wait(END_SECONDS)
            running.ended.set()
            raise running.start_error()
        _servers.add(running)
        threading.Thread(target=running._watch, args=(events,), name="llcuda-server", daemon=True).start()
        return running

    def _until_ready(self, events: Iterator[Event], report: Report) -> bool:
        for event in events:
            self._take(event)
            if event.kind != "error":
                report(event)
            if event.kind == "ready":
                return True
        return False

    def _take(self, event: Event) -> None:
        data = event.data
        if event.kind == "starting":
            self.program, self.log = data.get("program"), data.get("log")
        if event.kind in ("starting", "ready"):
            self.url = str(data.get("url") or self.url).rstrip("/")
            self.pid = data.get("pid") or self.pid
        if event.kind == "ready":
            self.model, self.devices = data.get("model") or {}, data.get("devices")
        if event.kind == "exit":
            self.exit = data

    def _watch(self, events: Iterator[Event]) -> None:
        with contextlib.suppress(Exception):  # a pipe closed under it: wait below is what counts
            for event in events:
                self._take(event)
        self.child.wait(None)
        self.ended.set()

    def let_go(self) -> None:
        """Have it end, without waiting. Only the process that started it can."""
        self.going = True
        self.child.close_lifeline()

    def stop(self, timeout: float, events: Iterator[Event] | None = None) -> bool:
        """End it and wait.

        Args:
            timeout: How many seconds it may take when its lifeline is closed, and again when it is told to end.
            events: Its events, where no thread reads them.
        """
        if os.getpid() != self.owner:
            return True
        self.let_go()
        if events is not None:
            threading.Thread(target=self._watch, args=(events,), name="llcuda-server", daemon=True).start()
        if self.ended.wait(timeout):
            return True
        self.child.terminate()
        return self.ended.wait(timeout)

    def log_tail(self, lines: int) -> str:
        """The last lines of its log."""
        if not self.log or lines < 1:
            return ""
        try:
            with open(self.log, encoding="utf-8", errors="replace") as file:
                return "".join(deque(file, maxlen=lines))
        except OSError:
            return ""

    def start_error(self) -> LlcudaError:
        """Why it did not become ready."""
        error = self.child.error()
        if self.exit is None:
            return error
        reason = str(self.exit.get("reason") or "")
        kind: type[ServerStartError] = ServerStartError
        hints = list(error.hints)
        if reason == "memory":
            kind = OutOfMemoryError
            hints = [*_others_of_this_process(), *hints]
        elif reason == "timeout":
            kind = ServerTimeoutError
            hints.append("a larger start_timeout (load_model) or timeout (start_server) gives it more time")
        return kind(
            error.message,
            hints=hints,
            code=error.code,
            log="\n".join(str(line) for line in self.exit.get("tail") or ()),
            returncode=_returncode(self.exit),
            reason=reason,
        )

    def gone_error(self) -> ServerNotRunningError | None:
        """That it has ended, and why; None while it runs."""
        if not self.ended.is_set():
            return None
        end = self.exit or {}
        code = _returncode(end)
        why = str(end.get("reason") or "")
        if why == "stopped":
            return ServerNotRunningError("the server was stopped", hints=["load_model() starts it again"])
        how = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
        tail = "\n".join(str(line) for line in end.get("tail") or ()) or self.log_tail(40)
        return ServerNotRunningError(
            f"llama-server has ended {how}{f' ({why})' if why else ''}; the end of its log:\n{tail}",
            hints=["load_model() starts it again", *([f"the whole log is in {self.log}"] if self.log else [])],
        )


_servers: weakref.WeakSet[Running] = weakref.WeakSet()


def _end_all() -> None:
    """At the end of the process: end its servers and wait, so that the next program finds their memory free."""
    own = [s for s in list(_servers) if s.owner == os.getpid() and not s.ended.is_set()]
    for running in own:
        running.let_go()
    for running in own:
        running.ended.wait(END_SECONDS)


atexit.register(_end_all)


def wait_for_ended() -> None:
    """Wait for the servers of this process that are on their way out: their memory is needed."""
    deadline = time.monotonic() + END_SECONDS
    for running in list(_servers):
        if running.going and running.owner == os.getpid():
            running.ended.wait(max(0.0, deadline - time.monotonic()))


def _others_of_this_process() -> list[str]:
    names = sorted(
        str(s.model.get("name") or s.model.get("path") or s.url)
        for s in list(_servers)
        if s.owner == os.getpid() and not s.going and not s.ended.is_set()
    )
    return [f"this process also holds {', '.join(names)}: unload_model() on that engine frees its memory"] if names else []


def _returncode(end: Mapping[str, Any]) -> int | None:
    signal_, code = end.get("signal"), end.get("code")
    if isinstance(signal_, str) and signal_:
        import signal

        named = getattr(signal.Signals, signal_, None)
        signal_ = int(named) if named is not None else None
    if isinstance(signal_, int) and signal_:
        return -signal_
    return code if isinstance(code, int) else None

"""What a person sees while something takes long: in a notebook, in a terminal, in a log.

``reporter`` gives a function that takes the client's events. The thread that made it draws, so that a notebook's output goes
to the cell that asked. Standard output belongs to the program: everything goes to standard error, or to the notebook.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any, Protocol

from .fetch import Event
from .setup import gpu_text, in_ipython, is_terminal

NOTEBOOK_SECONDS = 0.2
"""The shortest time between two drawings of a bar in a notebook, each of which is a message to the browser."""

TERMINAL_SECONDS = 0.1

LOG_SECONDS = 10.0
"""How often something that goes on says so in a log, which people read."""

_PLAIN = str.maketrans({"✓": "OK:", "…": "...", "×": "x", "·": "-"})


class _View(Protocol):
    """A place to show lines, and one thing that changes."""

    def line(self, text: str) -> None:
        """Show a line that stays."""

    def live(self, text: str, fraction: float | None) -> None:
        """Show how far something is, in place of what was shown before. None: that is not known."""

    def close(self) -> None:
        """Take away what changes."""


def _write(text: str) -> None:
    """Write to standard error what its encoding can say."""
    stream = sys.stderr
    if stream is None:
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        text = text.translate(_PLAIN).encode("ascii", "replace").decode("ascii")
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError):  # closed, or nobody reads it: what is done goes on
        pass


class _Log:
    def __init__(self) -> None:
        self._said = time.monotonic()

    def line(self, text: str) -> None:
        self._said = time.monotonic()
        _write(f"llcuda: {text}\n")

    def live(self, text: str, fraction: float | None) -> None:
        if time.monotonic() - self._said >= LOG_SECONDS:
            self.line(text)

    def close(self) -> None:
        pass


class _Terminal:
    def __init__(self) -> None:
        self._drawn = False
        self._when = 0.0

    def line(self, text: str) -> None:
        self.close()
        _write(f"{text}\n")

    def live(self, text: str, fraction: float | None) -> None:
        now = time.monotonic()
        if self._drawn and now - self._when < TERMINAL_SECONDS:
            return
        try:
            columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80
        except (OSError, ValueError, AttributeError):
            columns = 80
        _write(f"\r\x1b[K{text[: columns - 1]}")
        self._drawn, self._when = True, now

    def close(self) -> None:
        if self._drawn:
            _write("\r\x1b[K")
            self._drawn = False


class _Notebook:
    """One output of the cell, updated in place, without widgets. A saved notebook has its last state."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._live: tuple[str, float | None] | None = None
        self._when = 0.0
        self._handle: Any = None

    def line(self, text: str) -> None:
        self._lines.append(text)
        self._live = None
        self._draw()

    def live(self, text: str, fraction: float | None) -> None:
        self._live = text, fraction
        if time.monotonic() - self._when >= NOTEBOOK_SECONDS:
            self._draw()

    def close(self) -> None:
        if self._live is not None:
            self._live = None
            self._draw()

    def _draw(self) -> None:
        from IPython.display import display

        self._when = time.monotonic()
        lines = list(self._lines)
        html = [f'<div style="white-space:pre-wrap">{escape(line)}</div>' for line in lines]
        if self._live is not None:
            text, fraction = self._live
            lines.append(text)
            value = "" if fraction is None else f' value="{fraction:.4f}" max="1"'
            html.append(f'<div><progress style="width:20em;vertical-align:middle"{value}></progress> {escape(text)}</div>')
        data = {"text/plain": "\n".join(lines), "text/html": "".join(html)}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(data, raw=True)


class _Silent:
    def line(self, text: str) -> None:
        pass

    def live(self, text: str, fraction: float | None) -> None:
        pass

    def close(self) -> None:
        pass


def in_notebook() -> bool:
    """Whether a notebook's kernel runs this code."""
    if not in_ipython():
        return False
    shell = sys.modules["IPython"].get_ipython()
    return getattr(shell, "kernel", None) is not None


def _view() -> _View:
    how = os.environ.get("LLCUDA_PROGRESS", "auto").lower()
    if how == "off":
        return _Silent()
    if how == "log":
        return _Log()
    if in_notebook():
        return _Notebook()
    if is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb":
        return _Terminal()
    return _Log()


@contextmanager
def reporter(progress: bool | Callable[[Event], None] = True) -> Iterator[Callable[[Event], None]]:
    """A function that shows events where people see them.

    Args:
        progress: True shows them, in the form that ``LLCUDA_PROGRESS`` chooses (``auto``, ``log``, ``off``). False shows
            nothing. A function is given every event instead.
    """
    if callable(progress):
        yield progress
        return
    view = _view() if progress else _Silent()
    try:
        yield _Shown(view)
    finally:
        view.close()


def say(text: str) -> None:
    """Show a line by itself."""
    view = _view()
    view.line(text)
    view.close()


def bytes_text(count: int) -> str:
    """A number of bytes for people: ``27.8 MB``."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 1000:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:.1f} TB"


def seconds_text(seconds: float) -> str:
    """A time for people: ``4.2 s``, ``48 s``, ``3 min 07 s``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    whole = int(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole // 60 % 60:02} min"


_SAID = "looking at this machine"
"""The client's word for what setting up has announced as Detecting GPU."""


class _Shown:
    """Says in words what events tell."""

    def __init__(self, view: _View) -> None:
        self._view = view
        self._downloads: dict[str, float] = {}  # when each began
        self._whole: set[str] = set()
        self._found: set[str] = set()
        self._model = ""

    def __call__(self, event: Event) -> None:
        show = getattr(self, f"_{event.kind.replace('-', '_')}", None)
        if show is None or event.kind.startswith("_"):
            self._other(event)
            return
        show(event.data)

    def _other(self, event: Event) -> None:
        """What a newer client says is shown as it is."""
        message = event.data.get("message")
        self._view.line(message if isinstance(message, str) else f"{event.kind}: {json.dumps(event.data)}")

    def _step(self, data: dict[str, Any]) -> None:
        message = data.get("message")
        if message and message != _SAID:
            self._view.line(str(message))

    def _warning(self, data: dict[str, Any]) -> None:
        self._view.line(f"Warning: {data.get('message', '')}")

    def _gpu(self, data: dict[str, Any]) -> None:
        texts = [gpu_text(gpu) for gpu in data.get("gpus") or ()]
        for text in dict.fromkeys(texts):
            if text in self._found:  # the event comes again when it is known which of them are left out
                continue
            self._found.add(text)
            count = texts.count(text)
            self._view.line(f"Found: {f'{count} × ' if count > 1 else ''}{text}")
        for gpu in data.get("left_out") or ():
            self._view.line(f"Left out: {gpu.get('name') or 'a GPU'}: {gpu.get('reason', '')}")

    def _platform(self, data: dict[str, Any]) -> None:
        if name := data.get("name"):
            self._view.line(f"Platform: {name}")

    def _verified(self, data: dict[str, Any]) -> None:
        by, release = data.get("signed_by"), data.get("release")
        of = f", release {release}" if release else ""
        self._view.line(f"Verified: signed by {by}{of}" if by else f"Not verified: no signature was asked for{of}")

    def _waiting(self, data: dict[str, Any]) -> None:
        who = data.get("command") or "another process"
        pid, since = data.get("pid"), data.get("since")
        process, time_of = f" (process {pid})" if pid else "", f" since {since}" if since else ""
        self._view.line(f"Waiting for {who}{process}, which uses the same folder{time_of}")

    def _download(self, data: dict[str, Any]) -> None:
        name, done, total, begun = str(data.get("name", "")), data.get("done", 0), data.get("total", -1), data.get("from", 0)
        now = time.monotonic()
        if name not in self._downloads:
            self._downloads[name] = now
            size = f" ({bytes_text(total)}{f', {bytes_text(begun)} of it are here' if begun else ''})" if total > 0 else ""
            self._view.line(f"Downloading {name}{size}")
        elapsed = now - self._downloads[name]
        if 0 <= total <= done:
            if name not in self._whole:
                self._whole.add(name)
                self._view.line(f"Downloaded {name} in {seconds_text(elapsed)}")
            return
        if total < 0:
            self._view.live(f"{name}  {bytes_text(done)}", None)
            return
        text = f"{name}  {bytes_text(done)} of {bytes_text(total)}  {100 * done // total}%"
        if elapsed >= 1 and done > begun:
            rate = (done - begun) / elapsed
            text += f"  {bytes_text(int(rate))}/s  {seconds_text((total - done) / rate)} left"
        self._view.live(text, done / total)

    def _starting(self, data: dict[str, Any]) -> None:
        model = data.get("model")
        name = model.get("name") or model.get("path") if isinstance(model, dict) else model
        self._model = os.path.basename(str(name or "")) or "the model"
        self._view.line(f"Starting llama-server with {self._model}")

    def _loading(self, data: dict[str, Any]) -> None:
        self._view.live(f"Loading {self._model or 'the model'}  {seconds_text(float(data.get('seconds') or 0))}", None)

    def _ready(self, data: dict[str, Any]) -> None:
        devices = data.get("devices") or []
        where = ", ".join(str(device) for device in devices) or "on the processor"
        self._view.line(f"✓ Ready in {seconds_text(float(data.get('seconds') or 0))}: {data.get('url', '')}, {where}")

    def _exit(self, data: dict[str, Any]) -> None:
        """Why a server ended is in the error that follows."""

    _error = _done = _exit

"""What is shown while something takes long."""

from __future__ import annotations

import io
from typing import Any

import pytest

from llcuda._internal import progress
from llcuda._internal.fetch import Event


class View:
    """A place that remembers what was shown."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.bars: list[tuple[str, float | None]] = []

    def line(self, text: str) -> None:
        self.lines.append(text)

    def live(self, text: str, fraction: float | None) -> None:
        self.bars.append((text, fraction))

    def close(self) -> None:
        pass


class Clock:
    """A time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def show(view: View, *events: tuple[str, dict[str, Any]]) -> None:
    shown = progress._Shown(view)
    for kind, data in events:
        shown(Event(kind, data))


GPU = {"index": 0, "name": "Tesla T4", "sm": 75}
OLD = {"index": 1, "name": "Tesla K80", "sm": 37}


@pytest.mark.parametrize(
    ("events", "lines"),
    [
        ([("step", {"message": "one"}), ("step", {}), ("step", {"message": "looking at this machine"})], ["one"]),
        ([("warning", {"message": "careful"})], ["Warning: careful"]),
        ([("gpu", {"gpus": [GPU, GPU]})], ["Found: 2 × Tesla T4 (SM 7.5)"]),
        ([("gpu", {"gpus": [{"sm": 120}, {"name": "x"}]})], ["Found: a GPU without a name (SM 12.0)", "Found: x"]),
        (
            [
                ("gpu", {"gpus": [GPU, OLD], "left_out": []}),
                ("gpu", {"gpus": [GPU, OLD], "left_out": [{"name": "Tesla K80", "reason": "too old"}]}),
            ],
            ["Found: Tesla T4 (SM 7.5)", "Found: Tesla K80 (SM 3.7)", "Left out: Tesla K80: too old"],
        ),
        ([("platform", {"name": "Colab"}), ("platform", {})], ["Platform: Colab"]),
        ([("verified", {"signed_by": "x", "release": "v1"})], ["Verified: signed by x, release v1"]),
        ([("verified", {"signed_by": ""})], ["Not verified: no signature was asked for"]),
        ([("waiting", {"pid": 0, "command": ""})], ["Waiting for another process, which uses the same folder"]),
        ([("starting", {"model": "/m/x.gguf"})], ["Starting llama-server with x.gguf"]),
        ([("starting", {"model": {"name": "gemma", "path": "/m/x.gguf"}})], ["Starting llama-server with gemma"]),
        ([("ready", {"url": "http://x", "devices": ["CUDA0"], "seconds": 3.14})], ["✓ Ready in 3.1 s: http://x, CUDA0"]),
        (
            [("ready", {"url": "http://x", "devices": [], "seconds": 75})],
            ["✓ Ready in 1 min 15 s: http://x, on the processor"],
        ),
        ([("exit", {"reason": "crash"}), ("error", {"message": "m"}), ("done", {})], []),
        ([("call", {"message": "m"}), ("_view", {"message": "n"}), ("a-b", {"x": [1]})], ["m", "n", 'a-b: {"x": [1]}']),
    ],
)
def test_words(events: list[tuple[str, dict[str, Any]]], lines: list[str]) -> None:
    view = View()
    show(view, *events)
    assert view.lines == lines


def test_download(clock: Clock) -> None:
    view = View()
    shown = progress._Shown(view)
    for seconds, done in ((0.0, 10_000_000), (0.5, 11_000_000), (1.5, 20_000_000), (0.0, 40_000_000), (0.0, 40_000_000)):
        clock.now += seconds
        shown(Event("download", {"name": "x", "done": done, "total": 40_000_000, "from": 10_000_000}))
    assert view.lines == ["Downloading x (40.0 MB, 10.0 MB of it are here)", "Downloaded x in 2.0 s"]
    assert view.bars == [
        ("x  10.0 MB of 40.0 MB  25%", 0.25),
        ("x  11.0 MB of 40.0 MB  27%", 0.275),
        ("x  20.0 MB of 40.0 MB  50%  5.0 MB/s  4.0 s left", 0.5),
    ]


def test_download_of_unknown_size(clock: Clock) -> None:
    view = View()
    show(view, *(("download", {"name": "x", "done": done, "total": -1, "from": 0}) for done in (0, 1500)))
    assert view.lines == ["Downloading x"]
    assert view.bars == [("x  0 B", None), ("x  1.5 kB", None)]


def test_empty_download(clock: Clock) -> None:
    view = View()
    show(view, ("download", {"name": "x", "done": 0, "total": 0, "from": 0}))
    assert view.lines == ["Downloading x", "Downloaded x in 0.0 s"]


def test_loading(clock: Clock) -> None:
    view = View()
    show(view, ("starting", {"model": "m"}), ("loading", {"seconds": 1}), ("loading", {"seconds": 62}))
    assert view.bars == [("Loading m  1.0 s", None), ("Loading m  1 min 02 s", None)]


class Stream(io.StringIO):
    """A stream that says whether it is a terminal."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize(
    ("environ", "terminal", "kind"),
    [
        ({}, True, "_Terminal"),
        ({}, False, "_Log"),
        ({"TERM": "dumb"}, True, "_Log"),
        ({"LLCUDA_PROGRESS": "auto"}, True, "_Terminal"),
        ({"LLCUDA_PROGRESS": "log"}, True, "_Log"),
        ({"LLCUDA_PROGRESS": "off"}, True, "_Silent"),
        ({"LLCUDA_PROGRESS": "OFF"}, False, "_Silent"),
        ({"LLCUDA_PROGRESS": "what"}, True, "_Terminal"),
    ],
)
def test_where(environ: dict[str, str], terminal: bool, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLCUDA_PROGRESS", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stderr", Stream(terminal))
    assert type(progress._view()).__name__ == kind


def test_terminal(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that is drawn again, at most ten times a second, and is gone before another line is printed."""
    stream = Stream(True)
    monkeypatch.setattr("sys.stderr", stream)
    with progress.reporter() as report:
        for seconds, done in ((0.0, 0), (0.05, 1000), (0.2, 2000)):
            clock.now += seconds
            report(Event("download", {"name": "x" * 100, "done": done, "total": 4000, "from": 0}))
        report(Event("step", {"message": "next"}))
        clock.now += 1
        report(Event("loading", {"seconds": 2}))
    name = "x" * 100
    again, bar = "\r\x1b[K", name[:79]
    assert stream.getvalue() == (
        f"Downloading {name} (4.0 kB)\n{again}{bar}{again}{bar}{again}next\n{again}Loading the model  2.0 s{again}"
    )


def test_log(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line each ten seconds, which people read."""
    stream = Stream(False)
    monkeypatch.setattr("sys.stderr", stream)
    with progress.reporter() as report:
        for done in range(26):
            report(Event("download", {"name": "x", "done": done * 1000, "total": 1_000_000, "from": 0}))
            clock.now += 1
    assert stream.getvalue().splitlines() == [
        "llcuda: Downloading x (1.0 MB)",
        "llcuda: x  10.0 kB of 1.0 MB  1%  1.0 kB/s  16 min 30 s left",
        "llcuda: x  20.0 kB of 1.0 MB  2%  1.0 kB/s  16 min 20 s left",
    ]


def test_silent_and_own(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(True)
    monkeypatch.setattr("sys.stderr", stream)
    seen: list[Event] = []
    for choice in (False, seen.append):
        with progress.reporter(choice) as report:
            report(Event("step", {"message": "m"}))
            report(Event("loading", {"seconds": 1}))
    assert stream.getvalue() == ""
    assert [event.kind for event in seen] == ["step", "loading"]


def test_closed_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody to talk to is no reason to stop."""
    for terminal in (True, False):
        stream = Stream(terminal)
        monkeypatch.setattr("sys.stderr", stream)
        with progress.reporter() as report:
            stream.close()
            report(Event("step", {"message": "m"}))
    monkeypatch.setattr("sys.stderr", None)
    with progress.reporter() as report:
        report(Event("step", {"message": "m"}))


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (27_800_000, "27.8 MB"), (8e11, "800.0 GB"), (5e15, "5000.0 TB")],
)
def test_bytes(count: float, text: str) -> None:
    assert progress.bytes_text(int(count)) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0.0 s"), (9.9, "9.9 s"), (48.4, "48 s"), (187, "3 min 07 s"), (3725, "1 h 02 min")]
)
def test_seconds(seconds: float, text: str) -> None:
    assert progress.seconds_text(seconds) == text

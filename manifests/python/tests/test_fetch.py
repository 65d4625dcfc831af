"""Starting the client: what it reports becomes events, results and errors, whatever it does."""

from __future__ import annotations

import gc
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from standin import PACKAGE, StandIn, events, inside, run, standin

from llcuda import errors
from llcuda._internal import fetch
from llcuda._internal.fetch import Event

__all__ = ["inside", "standin"]


def test_result_and_events(inside: StandIn) -> None:
    inside.answers("list", [{"release": "é"}], events(("step", {"message": "one"}), ("new-kind", {"x": 1}), ("done", {})))
    seen: list[Event] = []
    assert fetch.call(["list", "--x", "a b"], on_event=seen.append) == [{"release": "é"}]
    assert seen == [Event("step", {"message": "one"}), Event("new-kind", {"x": 1})]
    assert inside.calls == ["--events list --x a b"]


def test_no_result(inside: StandIn) -> None:
    inside.answers("pull", None, events(("done", {})))
    assert fetch.call(["pull"]) is None


def test_events_come_at_once(inside: StandIn) -> None:
    """And not when the client ends."""
    inside.answers("x", None, events(("step", {})), 0, f"while [ ! -f {inside.folder}/seen ]; do sleep 0.02; done")
    fetch.call(["x"], on_event=lambda event: (inside.folder / "seen").touch())


def test_much_output(inside: StandIn) -> None:
    """Both pipes are read: neither fills up while the other is waited for."""
    lines = events(*(("step", {"message": "m" * 1000, "number": i}) for i in range(2000)))
    inside.answers("x", ["r" * 1000] * 2000, lines)
    seen: list[Event] = []
    assert len(fetch.call(["x"], on_event=seen.append)) == 2000
    assert [event.data["number"] for event in seen] == list(range(2000))


def test_environment(inside: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is added is the client's alone, and what is there stays."""
    monkeypatch.setenv("KEPT", "1")
    inside.answers("x", do='echo "\\"$KEPT $ADDED\\""')
    assert fetch.call(["x"], env={"ADDED": "2"}) == "1 2"
    assert "ADDED" not in os.environ


CLASSES = [
    ("failed", 1, errors.SetupError, RuntimeError),
    ("usage", 2, errors.UsageError, ValueError),
    ("untrusted", 3, errors.UntrustedError, RuntimeError),
    ("no-gpu", 4, errors.NoGPUError, RuntimeError),
    ("no-bundle", 5, errors.NoBundleError, RuntimeError),
    ("network", 6, errors.NetworkError, ConnectionError),
    ("offline", 7, errors.OfflineError, ConnectionError),
    ("disk", 8, errors.DiskError, OSError),
    ("interrupted", 130, errors.SetupError, RuntimeError),
]


@pytest.mark.parametrize(("kind", "code", "error", "base"), CLASSES)
def test_classes(inside: StandIn, kind: str, code: int, error: type[errors.LlcudaError], base: type[Exception]) -> None:
    inside.fails("x", kind, code, "doing: why", ("one", "two"))
    with pytest.raises(base) as caught:
        fetch.call(["x"])
    raised = caught.value
    assert type(raised) is error
    assert (raised.message, raised.code) == ("doing: why", code)
    assert [hint for hint in raised.hints if hint in ("one", "two")] == ["one", "two"]
    assert str(raised).startswith("doing: why\nhint: one\nhint: two")


@pytest.mark.parametrize(
    "message",
    [
        'there is no model "x"; there is gemma-2-2b-Q4_K_M, phi-4-Q4_K_M',
        "x: not downloaded; llcuda-fetch pull x",
        "open /x.gguf: no such file or directory",
    ],
)
def test_model_not_found(inside: StandIn, message: str) -> None:
    """llcuda 1.x raised ValueError for a name and FileNotFoundError for a path."""
    inside.fails("x", "usage", 2, message)
    with pytest.raises(errors.ModelNotFoundError) as caught:
        fetch.call(["x"])
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, FileNotFoundError)


RAW = [
    (
        "panic: nil map\n\ngoroutine 1 [running]:\nmain.main()\n",
        2,
        "ended with exit code 2 and did not say why",
        "goroutine 1",
    ),
    ("llcuda-fetch: unknown flag: --events\n", 2, "ended with exit code 2", "unknown flag"),
    ("", 99, "ended with exit code 99", ""),
    ("", 1, "ended with exit code 1", ""),
    ('{"v":2,"event":"error","class":"disk","message":"m"}\n', 8, "ended with exit code 8", '"v":2'),
    (
        '{"v":1}\n[1]\nnull\n"x"\n{"v":1,"event":3}\n{"v":1,"event":"step"\n',
        7,
        "ended with exit code 7",
        '{"v":1,"event":3}',
    ),
    (events(("error", {"class": "new", "code": 11, "message": "m"})), 11, "does not know", '"class": "new"'),
    (events(("error", {"class": ["x"]})), 1, "does not know", '["x"]'),
    (events(("error", {})), 1, "does not know", "{}"),
]


@pytest.mark.parametrize(("stderr", "code", "message", "text"), RAW)
def test_what_it_should_not_print(inside: StandIn, stderr: str, code: int, message: str, text: str) -> None:
    """A crash, a client of another version: never swallowed, the text is in the message."""
    inside.answers("x", None, stderr, code)
    with pytest.raises(errors.SetupError) as caught:
        fetch.call(["x"])
    assert type(caught.value) is errors.SetupError
    assert message in str(caught.value)
    assert text in str(caught.value)


def test_odd_hints(inside: StandIn) -> None:
    for hints, want in ((None, ()), ("one", ("one",)), ([1], ("1",))):
        inside.answers("x", None, events(("error", {"class": "disk", "code": None, "message": "m", "hints": hints})), 8)
        with pytest.raises(errors.DiskError) as caught:
            fetch.call(["x"])
        assert (caught.value.hints, caught.value.code) == (want, 8)


def test_bytes_that_are_no_text(inside: StandIn) -> None:
    inside.answers("x", None, "", 2, f"printf 'panic: \\377\\376 %s' {'x' * 10} >&2")
    with pytest.raises(errors.SetupError, match="panic: \ufffd\ufffd xxx"):
        fetch.call(["x"])


def test_panic_between_events(inside: StandIn) -> None:
    """What came before it is not an explanation."""
    inside.answers("x", None, events(("step", {"message": "going on"})) + "fatal error: all goroutines are asleep\n", 2)
    with pytest.raises(errors.SetupError, match="all goroutines are asleep") as caught:
        fetch.call(["x"])
    assert "going on" not in str(caught.value)


def test_killed(inside: StandIn) -> None:
    inside.answers("x", None, "", 0, "kill -KILL $$")
    with pytest.raises(errors.SetupError, match=r"was ended by SIGKILL(.|\n)*hint: .*memory is short"):
        fetch.call(["x"])


def test_result_that_is_not_json(inside: StandIn) -> None:
    inside.answers("x", "Usage: llcuda-fetch", "", 0)
    with pytest.raises(errors.SetupError, match="not JSON:\nUsage: llcuda-fetch"):
        fetch.call(["x"])


def test_error_although_the_exit_code_is_0(inside: StandIn) -> None:
    inside.answers("x", {}, events(("error", {"class": "disk", "code": 8, "message": "full"})), 0)
    with pytest.raises(errors.DiskError):
        fetch.call(["x"])


def test_last_error_counts(inside: StandIn) -> None:
    two = [("error", {"class": kind, "code": 1, "message": kind}) for kind in ("network", "disk")]
    inside.answers("x", None, events(*two), 8)
    with pytest.raises(errors.DiskError):
        fetch.call(["x"])


def test_callback_that_raises(inside: StandIn) -> None:
    """Its error comes out, and the client has ended by then."""
    inside.answers("x", None, events(("step", {})), 0, f"echo $$ >{inside.folder}/pid\nexec sleep 600")

    def fail(event: Event) -> None:
        while not (inside.folder / "pid").exists():
            time.sleep(0.02)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fetch.call(["x"], on_event=fail)
    with pytest.raises(ProcessLookupError):
        os.kill(int((inside.folder / "pid").read_text() or "0"), 0)


def test_interrupt_is_raised_again(inside: StandIn) -> None:
    inside.answers(
        "x",
        None,
        events(("step", {})),
        130,
        f"trap 'echo INT >>{inside.folder}/signals; exit 130' INT\nwhile :; do sleep 0.02; done",
    )

    def interrupt(event: Event) -> None:
        time.sleep(0.3)  # for the trap
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fetch.call(["x"], on_event=interrupt)
    assert (inside.folder / "signals").read_text() == "INT\n"


# Where the client is


def test_named(inside: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fetch.program() == str(inside.path)
    monkeypatch.setenv("LLCUDA_FETCH", "~/client")
    assert fetch.program() == str(inside.path)
    monkeypatch.setenv("PATH", str(inside.folder))
    monkeypatch.setenv("LLCUDA_FETCH", "client")
    assert fetch.program() == str(inside.path)
    for nowhere in ("/nowhere/x", "not-there"):
        monkeypatch.setenv("LLCUDA_FETCH", nowhere)
        with pytest.raises(errors.UnsupportedPlatformError, match=f"LLCUDA_FETCH names {nowhere}, which is not there"):
            fetch.program()


def test_on_path(inside: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where the package has none; this package's own script is none, and nothing that cannot be started."""
    monkeypatch.delenv("LLCUDA_FETCH")
    monkeypatch.setattr(fetch, "__file__", str(tmp_path / "llcuda" / "_internal" / "fetch.py"))
    folders = [tmp_path / name for name in ("script", "text", "program")]
    for folder in folders:
        folder.mkdir()
    monkeypatch.setenv("PATH", os.pathsep.join(str(folder) for folder in folders))
    (folders[0] / "llcuda-fetch").write_text(f"#!{sys.executable}\nfrom llcuda._internal.cli import fetch\nfetch()\n")
    (folders[0] / "llcuda-fetch").chmod(0o755)
    (folders[1] / "llcuda-fetch").write_text("no program")
    with pytest.raises(errors.UnsupportedPlatformError, match="has no llcuda-fetch, and there is none on PATH"):
        fetch.program()
    (folders[2] / "llcuda-fetch").symlink_to(inside.path)
    assert fetch.program() == str(folders[2] / "llcuda-fetch")
    packaged = tmp_path / "llcuda" / "_bin" / "llcuda-fetch"
    packaged.parent.mkdir(parents=True)
    packaged.write_text("#!/bin/sh\n")
    assert fetch.program() == str(packaged)


@pytest.mark.parametrize(
    ("platform", "machine", "glibc", "message"),
    [
        ("darwin", "arm64", None, "this is darwin"),
        ("win32", "x86_64", None, "this is win32"),
        ("linux", "aarch64", "glibc 2.35", "no bundle for aarch64"),
        ("linux", "x86_64", None, "need glibc"),
        ("linux", "x86_64", "glibc 2.35", "has no llcuda-fetch"),
    ],
)
def test_no_client(
    inside: StandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    platform: str,
    machine: str,
    glibc: str | None,
    message: str,
) -> None:
    def confstr(name: str) -> str:
        if glibc is None:
            raise ValueError("unrecognized configuration name")
        return glibc

    monkeypatch.delenv("LLCUDA_FETCH")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(fetch, "__file__", str(tmp_path / "llcuda" / "_internal" / "fetch.py"))
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("s", "n", "r", "v", machine)))
    monkeypatch.setattr(os, "confstr", confstr)
    with pytest.raises(errors.UnsupportedPlatformError, match=message):
        fetch.program()


def test_client_that_cannot_be_started(inside: StandIn) -> None:
    inside.path.chmod(0o644)
    with pytest.raises(errors.SetupError, match=r"starting .*client: Permission denied(.|\n)*chmod \+x"):
        fetch.call(["x"])
    inside.path.chmod(0o755)
    inside.path.write_bytes(b"\x7fELF not for this machine")
    with pytest.raises(errors.SetupError, match=r"starting .*client: Exec format error"):
        fetch.start(["x"])


# A command that runs on


SERVE = """
echo $$ >$folder/pid
trap 'echo TERM >>$folder/ended; exit 0' TERM
cat >/dev/null
echo EOF >>$folder/ended
"""
"""Like the client's serve, it ends when its standard input does."""


@pytest.fixture
def server(inside: StandIn) -> StandIn:
    inside.answers("serve", None, events(("starting", {"port": 8090})) + "not an event\n", 0, SERVE)
    return inside


def wait_for(path: Path, text: str) -> None:
    deadline = time.monotonic() + 20
    while not path.exists() or path.read_text() != text:
        assert time.monotonic() < deadline, f"{path} is not {text!r}"
        time.sleep(0.02)


def test_child(server: StandIn) -> None:
    child = fetch.start(["serve", "m", "--lifeline"], env={"LLAMA_API_KEY": "k"})
    given = child.events()
    assert next(given) == Event("starting", {"port": 8090})
    assert child.wait(0.1) is None
    assert os.getsid(child.pid) == child.pid != os.getsid(0)
    child.close_lifeline()
    assert list(given) == []
    assert child.wait(20) == 0
    assert child.raw() == "not an event"
    assert (server.folder / "ended").read_text() == "EOF\n"
    child.close_lifeline()
    child.terminate()


def test_child_terminated(server: StandIn) -> None:
    child = fetch.start(["serve"])
    next(child.events())
    wait_for(server.folder / "pid", f"{child.pid}\n")
    child.terminate()
    child.close_lifeline()  # cat has it
    assert child.wait(20) == 0
    assert (server.folder / "ended").read_text() == "TERM\n"


def test_child_fails(inside: StandIn) -> None:
    inside.fails("serve", "usage", 2, "reading: --x")
    child = fetch.start(["serve"])
    assert [event.kind for event in child.events()] == ["error"]
    assert child.wait(20) == 2
    assert str(child.error()) == "reading: --x\nhint: a way out"
    inside.answers("serve", None, "panic: x\n", 2)
    child = fetch.start(["serve"])
    assert (list(child.events()), child.wait(20)) == ([], 2)
    assert "panic: x" in str(child.error())


@pytest.mark.parametrize("how", ["os._exit(0)", "os.kill(os.getpid(), 9)", "raise ZeroDivisionError", "sys.exit(3)"])
def test_child_ends_with_its_parent(server: StandIn, how: str) -> None:
    """Although a forked child of the parent lives on, which inherited the pipe."""
    code = f"""
import os, sys, time
from llcuda._internal import fetch
child = fetch.start(["serve", "--lifeline"])
next(child.events())
if (pid := os.fork()) == 0:
    child.terminate()  # does nothing: it is not this process's
    child.close_lifeline()
    time.sleep(600)
print(pid, flush=True)
{how}
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", code], env=server.environ(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert parent.stdout is not None
    fork = int(parent.stdout.readline())
    try:
        parent.wait(20)
        wait_for(server.folder / "ended", "EOF\n")
        os.kill(fork, 0)  # is still there
    finally:
        os.kill(fork, signal.SIGKILL)
        parent.stdout.close()


def test_fork_does_not_end_the_child(server: StandIn) -> None:
    child = fetch.start(["serve", "--lifeline"])
    given = child.events()
    next(given)
    if (pid := os.fork()) == 0:
        child.terminate()
        child.close_lifeline()
        os._exit(0)
    os.waitpid(pid, 0)
    gc.collect()
    assert child.wait(0.3) is None
    child.close_lifeline()
    assert list(given) == []
    assert child.wait(20) == 0


# Errors


@pytest.mark.parametrize("name", errors.__all__)
def test_errors_can_be_copied(name: str) -> None:
    """Between processes, too."""
    more: dict[str, Any] = {}
    error = getattr(errors, name)
    if issubclass(error, errors.ServerStartError):
        more = {"log": "l", "returncode": -9, "reason": "memory"}
    if issubclass(error, errors.RequestError):
        more = {"status": 400, "body": "b"}
    copied = pickle.loads(pickle.dumps(error("message", hints=["one"], code=7, **more)))
    assert type(copied) is error
    assert isinstance(copied, errors.LlcudaError)
    assert (copied.message, copied.hints, copied.code, copied.args) == ("message", ("one",), 7, ("message",))
    assert {name: getattr(copied, name) for name in more} == more
    assert str(copied) == "message\nhint: one"
    assert str(error()) == ""


BASES = {
    "SetupError": RuntimeError,
    "UsageError": ValueError,
    "ModelNotFoundError": FileNotFoundError,
    "UntrustedError": RuntimeError,
    "NoGPUError": RuntimeError,
    "NoBundleError": RuntimeError,
    "NetworkError": ConnectionError,
    "OfflineError": ConnectionError,
    "DiskError": OSError,
    "UnsupportedPlatformError": RuntimeError,
    "ServerError": RuntimeError,
    "OutOfMemoryError": MemoryError,
    "ServerTimeoutError": TimeoutError,
    "ServerNotRunningError": ConnectionError,
    "ContextLengthError": ValueError,
}


def test_bases() -> None:
    assert {name: base for name, base in BASES.items() if not issubclass(getattr(errors, name), base)} == {}
    for name in ("OutOfMemoryError", "ServerTimeoutError"):
        assert issubclass(getattr(errors, name), errors.ServerStartError)
    for name in ("ServerNotRunningError", "ServerMismatchError", "RequestError"):
        assert issubclass(getattr(errors, name), errors.ServerError)


def test_real_client(client: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The events of the real client are those that are read here."""
    monkeypatch.setenv("LLCUDA_FETCH", str(client))
    monkeypatch.setenv("LLCUDA_HOME", str(tmp_path / "store"))
    assert fetch.call(["list"]) == []
    assert fetch.call(["detect"])["os"] == "linux"
    with pytest.raises(errors.UsageError, match="unknown command"):
        fetch.call(["no-such-command"])
    monkeypatch.setenv("LLCUDA_OFFLINE", "1")
    with pytest.raises(errors.OfflineError):
        fetch.call(["install", "--allow-cpu"])


def test_real_model_names(here: None) -> None:
    with pytest.raises(errors.ModelNotFoundError, match="there is no model"):
        fetch.call(["pull", "no-such-model"])


def test_only_place_that_starts_programs() -> None:
    starts = re.compile(r"^\s*(import|from) (subprocess|pty)\b|\bos\.(spawn|posix_spawn|exec|system|popen)", re.MULTILINE)
    modules = (Path(PACKAGE) / "llcuda").rglob("*.py")
    assert {path.name for path in modules if starts.search(path.read_text())} == {"cli.py", "fetch.py"}


def test_module_runs_where_nothing_is_set(standin: StandIn) -> None:
    """As in a service: no HOME, no PATH."""
    code = "from llcuda._internal import fetch; print(fetch.call(['x']))"
    standin.answers("x", json.loads('{"a": 1}'))
    environ = {name: standin.environ()[name] for name in ("LLCUDA_FETCH", "PYTHONPATH")}
    ran = run(textwrap.dedent(code), environ)
    assert (ran.out, ran.err) == ("{'a': 1}\n", "")

"""A client that does as a test tells it, and Python programs in real processes.

The stand-in is a shell script. It writes down how it was called, does what COMMAND.sh says, and prints what the test had it
print. It is for what a test cannot have the real client do: fail in every way, and find GPUs that are not there.
"""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

PACKAGE = str(Path(__file__).parents[1])

SCRIPT = """#!/bin/sh
folder={folder}
echo "$*" >>"$folder/calls"
[ "$1" = --events ] && shift
[ -f "$folder/$1.stderr" ] && cat "$folder/$1.stderr" >&2
[ -f "$folder/$1.sh" ] && . "$folder/$1.sh"
[ -f "$folder/$1.stdout" ] && cat "$folder/$1.stdout"
exit "$(cat "$folder/$1.code" 2>/dev/null || echo 0)"
"""

INSTALLED: dict[str, Any] = {
    "install": {
        "release": "v1.1.0-runtime",
        "bundle": "llcuda-bins-sm75",
        "sm": 75,
        "through": "cubin",
        "signed_by": "release.yml",
    },
    "already": False,
    "folder": "/store/bundles/x",
    "programs": "/store/bundles/x/binaries/cuda12",
    "llama_cpp": "0.5.0",
    "devices": ["CUDA0: Tesla T4"],
    "models": [],
}
"""What install prints."""


def events(*given: tuple[str, dict[str, Any]]) -> str:
    return "".join(json.dumps({"v": 1, "event": kind, **data}) + "\n" for kind, data in given)


INSTALLING = events(
    ("step", {"message": "looking at this machine"}),
    ("platform", {"name": "Kaggle"}),
    ("gpu", {"gpus": [{"index": 0, "name": "Tesla T4", "sm": 75, "uuid": "GPU-1", "memory_mib": 15360}], "left_out": []}),
    ("verified", {"signed_by": "release.yml", "release": "v1.1.0-runtime"}),
    ("download", {"name": "llcuda-bins-sm75.tar.zst", "done": 0, "total": 27800000, "from": 0, "source": "https://x/"}),
    (
        "download",
        {"name": "llcuda-bins-sm75.tar.zst", "done": 9900000, "total": 27800000, "from": 0, "source": "https://x/"},
    ),
    (
        "download",
        {"name": "llcuda-bins-sm75.tar.zst", "done": 27800000, "total": 27800000, "from": 0, "source": "https://x/"},
    ),
    ("step", {"message": "trying the programs"}),
    ("done", {}),
)


class StandIn:
    """A stand-in in a folder of its own, with a store beside it in which nothing is installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "client"
        self.home = folder / "store"
        self.path.write_text(SCRIPT.format(folder=folder))
        self.path.chmod(0o755)
        self.answers("install", INSTALLED, INSTALLING)

    def answers(self, command: str, result: Any = None, stderr: str = "", code: int = 0, do: str = "") -> None:
        """What a command prints and does."""
        out = "" if result is None else result if isinstance(result, str) else json.dumps(result)
        for end, text in (("stdout", out), ("stderr", stderr), ("code", str(code)), ("sh", do)):
            (self.folder / f"{command}.{end}").write_text(text)

    def fails(
        self, command: str, kind: str, code: int, message: str = "why", hints: tuple[str, ...] = ("a way out",)
    ) -> None:
        """A command fails as the client does."""
        data = {"class": kind, "code": code, "message": message, "hints": list(hints)}
        self.answers(command, None, events(("error", data)), code)

    @property
    def calls(self) -> list[str]:
        """How it was called."""
        try:
            return (self.folder / "calls").read_text().splitlines()
        except FileNotFoundError:
            return []

    def installed(self) -> None:
        """The store has an installation for any machine."""
        install = self.home / "installs" / "1"
        install.mkdir(parents=True)
        (self.home / "bundles" / "x").mkdir(parents=True)
        (install / "bundle").symlink_to("../../bundles/x")
        (self.home / "current").mkdir()
        (self.home / "current" / "any").symlink_to("../installs/1")

    def environ(self, **more: str) -> dict[str, str]:
        """The environment of a user who has it for a client."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "TERM": "xterm",
            "NO_COLOR": "1",
            "LLCUDA_FETCH": str(self.path),
            "LLCUDA_HOME": str(self.home),
            "PYTHONPATH": PACKAGE,
            "PYTHONDONTWRITEBYTECODE": "1",
            **more,
        }


@pytest.fixture
def standin(tmp_path: Path) -> StandIn:
    folder = tmp_path / "standin"
    folder.mkdir()
    return StandIn(folder)


@pytest.fixture
def inside(standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """The stand-in for this process."""
    for name in list(os.environ):
        if name.startswith(("LLCUDA_", "LLAMA_", "HF_", "XDG_")):
            monkeypatch.delenv(name)
    for name in ("HOME", "LLCUDA_FETCH", "LLCUDA_HOME"):
        monkeypatch.setenv(name, standin.environ()[name])
    return standin


class Ran(NamedTuple):
    code: int
    out: str
    err: str


def run(code: str | list[str], environ: Mapping[str, str], given: str = "") -> Ran:
    """A Python program, or Python's arguments, in a process with pipes."""
    args = code if isinstance(code, list) else ["-c", code]
    done = subprocess.run([sys.executable, *args], env=environ, input=given, capture_output=True, text=True, timeout=60)
    return Ran(done.returncode, done.stdout, done.stderr)


def run_in_terminal(
    code: str | list[str],
    environ: Mapping[str, str],
    given: str = "",
    meanwhile: Callable[[int, str], bool] | None = None,
) -> Ran:
    """The same in a terminal of its own.

    meanwhile is called with the process's number and what it has printed so far until it returns True.
    """
    args = code if isinstance(code, list) else ["-c", code]
    pid, fd = pty.fork()
    if pid == 0:
        try:
            os.execve(sys.executable, [sys.executable, *args], dict(environ))
        finally:
            os._exit(127)
    out = bytearray()
    deadline = time.monotonic() + 60
    try:
        if given:
            os.write(fd, given.encode())
        while time.monotonic() < deadline:
            if select.select([fd], [], [], 0.05)[0]:
                try:
                    chunk = os.read(fd, 65536)
                except OSError:  # the terminal's other end is closed
                    break
                if not chunk:
                    break
                out += chunk
            if meanwhile is not None and meanwhile(pid, out.decode("utf-8", "replace")):
                meanwhile = None
        else:
            os.killpg(pid, signal.SIGKILL)
            raise AssertionError(f"it did not end:\n{out.decode('utf-8', 'replace')}")
    finally:
        os.close(fd)
    _, status = os.waitpid(pid, 0)
    return Ran(os.waitstatus_to_exitcode(status), out.decode("utf-8", "replace"), "")

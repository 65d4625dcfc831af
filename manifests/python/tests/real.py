"""Programs that use the real llama.cpp in processes of their own, and what is left of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

MODEL = "tinyllama-1.1b-Q5_K_M"
"""A name of the registry. Behind it is SmolLM2: see conftest.py."""

LOAD = f"""\
import gc, os, signal, sys, threading, time
import llcuda

engine = llcuda.InferenceEngine()
engine.load_model("{MODEL}", ctx_size=2048)
"""


def python(environ: Mapping[str, str], code: str, **more: str) -> str:
    """Runs a program and returns what it printed. One that fails fails the test."""
    done = subprocess.run([sys.executable, "-c", code], env={**environ, **more}, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        pytest.fail(f"exit code {done.returncode} of\n{code}\n{done.stdout}\n{done.stderr}")
    return done.stdout


class Program:
    """A program that is under way: it prints a line for each step, and goes on when it is sent one."""

    def __init__(self, environ: Mapping[str, str], code: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            env=dict(environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            pytest.fail(f"it ended with exit code {self.process.wait(timeout=60)} instead of printing a line")
        return line.strip()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        """Ends it and what it started, whatever the test came to."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate(timeout=60)


def running(home: Path, name: str = "llama-server", own: bool = False) -> list[int]:
    """The processes that run a program of this store; servers of this process's own engines on demand only."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            path = (folder / "exe").readlink()
            if path.name == name and home in path.parents and (own or parent(parent(int(folder.name))) != os.getpid()):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def parent(pid: int) -> int:
    """The process that started a process; 0 for the first."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) if pid else 0


def eventually(what: Callable[[], object], within: float = 30) -> bool:
    """Whether something becomes true before a busy machine would have had the time for it."""
    end = time.monotonic() + within
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def gpu_memory() -> int:
    """MiB that are in use on all GPUs; 0 without any."""
    try:
        said = subprocess.run(
            ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"], capture_output=True, text=True
        )
    except OSError:
        return 0
    return sum(int(line) for line in said.stdout.split() if line.isdigit())

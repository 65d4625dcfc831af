"""A notebook's kernel is interrupted, restarted and killed in the middle of an answer, again and again.

LLCUDA_TEST_KERNELS says how often; the default is enough to see that it works at all.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from real import LOAD, eventually, gpu_memory, running

pytestmark = pytest.mark.real

KERNELS = int(os.environ.get("LLCUDA_TEST_KERNELS", "2"))

ANSWER = """
import sys
for piece in engine.stream("Once upon a time", max_tokens=1500, ignore_eos=True):
    sys.stdout.write(piece)
    sys.stdout.flush()
"""

SLOTS = """
import json, urllib.request
request = urllib.request.Request(engine.server_url + "/slots", headers={"Authorization": f"Bearer {engine.api_key}"})
result = engine.infer("The capital of France is", max_tokens=4, temperature=0)
with urllib.request.urlopen(request) as slots:
    print(any(slot["is_processing"] for slot in json.load(slots)), result.text.split(".")[0])
"""


class Kernel:
    """A kernel as a notebook has it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(env=dict(environ))
        self.client: BlockingKernelClient = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)

    def run(self, code: str) -> str:
        """Executes a cell and returns what it printed, or the name of the error that ended it."""
        self.client.execute(code)
        return self.rest()

    def begin(self, code: str) -> None:
        """Executes a cell and returns when it has printed something."""
        self.client.execute(code)
        while self.client.get_iopub_msg(timeout=300)["msg_type"] != "stream":
            pass

    def rest(self) -> str:
        printed = ""
        while True:
            message = self.client.get_iopub_msg(timeout=300)
            kind, content = message["msg_type"], message["content"]
            if kind == "stream" and content["name"] == "stdout":
                printed += content["text"]
            elif kind == "error":
                printed = content["ename"]
            elif kind == "status" and content["execution_state"] == "idle":
                return printed.strip()

    def close(self) -> None:
        self.client.stop_channels()
        if self.manager.is_alive():
            self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()


@pytest.fixture
def kernel(installed: Mapping[str, str], registered: Path) -> Iterator[Kernel]:
    assert running(registered) == []
    kernel = Kernel(installed)
    yield kernel
    kernel.close()
    assert eventually(lambda: not running(registered)), "a server is left"


def test_interrupt(kernel: Kernel, registered: Path) -> None:
    """The interrupt goes to the kernel's whole process group. The answer ends, and the server stays and is free."""
    kernel.run(LOAD)
    (server,) = running(registered)
    for _ in range(KERNELS):
        kernel.begin(ANSWER)
        kernel.manager.interrupt_kernel()
        assert kernel.rest() == "KeyboardInterrupt"
        assert kernel.run(SLOTS) == "False  Paris"
        assert running(registered) == [server]


def test_interrupt_while_loading(kernel: Kernel, registered: Path) -> None:
    for _ in range(KERNELS):
        kernel.client.execute(LOAD)
        assert eventually(lambda: running(registered), within=120)
        kernel.manager.interrupt_kernel()
        assert kernel.rest() == "KeyboardInterrupt"
        assert eventually(lambda: not running(registered)), "what was not loaded has a server"
    kernel.run(LOAD)
    assert kernel.run(SLOTS) == "False  Paris"


def test_restart(kernel: Kernel, registered: Path) -> None:
    before = gpu_memory()
    for _ in range(KERNELS):
        kernel.run(LOAD)
        kernel.begin(ANSWER)
        kernel.manager.restart_kernel(now=True)
        assert eventually(lambda: not running(registered))
        kernel.client.wait_for_ready(timeout=120)
    assert eventually(lambda: gpu_memory() <= before)


def test_kill(installed: Mapping[str, str], registered: Path) -> None:
    before, slowest = gpu_memory(), 0.0
    for _ in range(KERNELS):
        kernel = Kernel(installed)
        try:
            kernel.run(LOAD)
            assert len(running(registered)) == 1
            kernel.begin(ANSWER)
            kernel.manager.signal_kernel(signal.SIGKILL)
            began = time.monotonic()
            assert eventually(lambda: not running(registered)), "a server is left"
            slowest = max(slowest, time.monotonic() - began)
        finally:
            kernel.close()
    print(f"{KERNELS} kernels were killed; the slowest server was gone {slowest:.1f} s afterwards")
    assert eventually(lambda: gpu_memory() <= before), "memory of a GPU is left in use"

"""The server's life: it is ready when load_model returns, and gone when its owner is, whatever ended that."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from engines import ALONE
from fakeserver import until

import llcuda
from llcuda import InferenceEngine, ServerManager, errors

pytestmark = pytest.mark.real

START = """
import json, os, signal, sys, threading, time
import llcuda
from llcuda.server import ServerManager
model = MODEL
def load(**more):
    engine = llcuda.InferenceEngine()
    engine.load_model(model, gpu_layers=0, ctx_size=256, progress=False, **more)
    return engine
def tell(engine):
    server = engine.server
    pids = {"pid": server.get_server_info()["process_id"], "supervisor": server.server_process.pid}
    print(json.dumps({"url": engine.server_url, **pids}), flush=True)
"""


class Owner:
    """A Python process that starts servers and tells of each."""

    def __init__(self, code: str, environ: Mapping[str, str], model: Path) -> None:
        program = START.replace("MODEL", repr(str(model))) + textwrap.dedent(code)
        self.process = subprocess.Popen(
            [sys.executable, "-c", program],
            env={**environ, "LLAMA_ARG_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.told: list[dict[str, Any]] = []

    def tells(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "it ended before it told of a server"
        self.told.append(json.loads(line))
        return self.told[-1]

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def gone(self, seconds: float = 10) -> bool:
        """Whether its servers and their supervisors are gone within some seconds."""
        return until(lambda: not any(runs(t[who]) for t in self.told for who in ("pid", "supervisor")), seconds)


def runs(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def owner(installed: Mapping[str, str], smollm2: Path) -> Iterator[Callable[[str], Owner]]:
    made: list[Owner] = []

    def make(code: str) -> Owner:
        made.append(Owner(code, installed, smollm2))
        return made[-1]

    yield make
    for each in made:
        if each.process.poll() is None:
            each.process.kill()
        each.process.wait()
        assert each.process.stdin is not None
        assert each.process.stdout is not None
        each.process.stdin.close()
        each.process.stdout.close()
        assert each.gone()


ENDINGS = {
    "end of the program": "",
    "sys.exit": "sys.exit(3)",
    "an exception": "raise ZeroDivisionError",
    "os._exit": "os._exit(0)",
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM)",
    "SIGSEGV": "os.kill(os.getpid(), signal.SIGSEGV)",
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_gone_with_the_process(owner: Callable[[str], Owner], ending: str) -> None:
    o = owner(f"engine = load()\ntell(engine)\nsys.stdin.read()\n{ending}")
    server = o.tells()
    assert runs(server["pid"])
    o.go_on()
    o.process.wait(30)
    # A server that was to end by itself is gone before the process is: the next program finds its memory free.
    orderly = ending in ("", "sys.exit(3)", "raise ZeroDivisionError")
    assert o.gone(0.1 if orderly else 10)


ENDS = {
    "garbage": "del engine",
    "rebinding": "engine = None",
    "close": "engine.close()",
    "with": "with engine: pass",
    "stop_server": "assert engine.server.stop_server()",
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_gone_before_the_process(owner: Callable[[str], Owner], end: str) -> None:
    o = owner(f"engine = load()\ntell(engine)\n{end}\nsys.stdin.read()")
    o.tells()
    assert o.gone()
    assert o.process.poll() is None


def test_a_thread_that_ends_takes_no_server_with_it(owner: Callable[[str], Owner]) -> None:
    o = owner(
        """
        made = []
        thread = threading.Thread(target=lambda: made.append(load()))
        thread.start()
        thread.join()
        time.sleep(1)
        assert made[0].infer("x", max_tokens=1).success
        tell(made[0])
        sys.stdin.read()
        """
    )
    assert runs(o.tells()["pid"])


def test_interrupt_of_the_group_keeps_the_server(owner: Callable[[str], Owner]) -> None:
    """That is what a notebook's interrupt and Ctrl-C send."""
    o = owner(
        """
        engine = load()
        tell(engine)
        try:
            engine.infer("x", max_tokens=-1, ignore_eos=True, n_predict=100000)
            raise SystemExit("it was not interrupted")
        except KeyboardInterrupt:
            pass
        def busy():
            return any(slot["is_processing"] for slot in engine._api().json("GET", "/slots"))
        for _ in range(200):
            if not busy(): break
            time.sleep(0.05)
        assert not busy()
        assert engine.infer("x", max_tokens=1).success
        tell(engine)
        """
    )
    first = o.tells()
    assert until(lambda: works(first["pid"]))
    os.killpg(o.process.pid, signal.SIGINT)
    assert o.tells() == first
    assert o.process.wait(30) == 0


def works(pid: int) -> bool:
    """Whether a process uses the processor: the server generates."""
    stat = Path(f"/proc/{pid}/stat")
    before = int(stat.read_text().rpartition(")")[2].split()[11])
    time.sleep(0.5)
    return int(stat.read_text().rpartition(")")[2].split()[11]) - before > 5


def test_interrupted_while_it_loads(owner: Callable[[str], Owner]) -> None:
    o = owner(
        """
        def interrupt(event):
            if event.kind == "starting":
                print(json.dumps({"pid": event.data["pid"], "supervisor": event.data["pid"]}), flush=True)
                os.kill(os.getpid(), signal.SIGINT)
        engine = llcuda.InferenceEngine()
        try:
            engine.load_model(model, gpu_layers=0, ctx_size=256, progress=interrupt)
            raise SystemExit("it was not interrupted")
        except KeyboardInterrupt:
            pass
        assert engine.model is None
        engine.load_model(model, gpu_layers=0, ctx_size=256, progress=False)
        tell(engine)
        """
    )
    first = o.tells()
    second = o.tells()
    assert first["pid"] != second["pid"]
    assert not runs(first["pid"])
    assert o.process.wait(30) == 0


@pytest.mark.parametrize("how", ["os.fork", "multiprocessing"])
def test_forked_children_use_the_server_and_leave_it(owner: Callable[[str], Owner], how: str) -> None:
    """Their end is not the server's, and when the owner is killed, no child keeps it."""
    forks = {
        "os.fork": """
            for ending in (os._exit, sys.exit):
                pid = os.fork()
                if pid == 0:
                    assert engine.infer("x", max_tokens=1).success
                    engine.close()
                    engine.server and engine.server.stop_server()
                    ending(0)
                assert os.waitpid(pid, 0)[1] == 0
            if os.fork() == 0:
                time.sleep(60)
            """,
        "multiprocessing": """
            import multiprocessing
            def work():
                global engine
                assert engine.infer("x", max_tokens=1).success
                engine = None
            context = multiprocessing.get_context("fork")
            child = context.Process(target=work)
            child.start()
            child.join()
            assert child.exitcode == 0
            context.Process(target=time.sleep, args=(60,), daemon=True).start()
            """,
    }
    code = textwrap.dedent(forks[how])
    o = owner(f"engine = load()\n{code}\nassert engine.infer('x', max_tokens=1).success\ntell(engine)\nsys.stdin.read()")
    o.tells()
    o.process.kill()
    o.process.wait()
    try:
        assert o.gone()
    finally:
        os.killpg(o.process.pid, signal.SIGKILL)  # the child that sleeps


def test_two_engines_have_two_servers(owner: Callable[[str], Owner]) -> None:
    o = owner(
        "a = load()\nb = load()\ntell(a)\ntell(b)\na.close()\nassert b.infer('x', max_tokens=1).success\nsys.stdin.read()"
    )
    a, b = o.tells(), o.tells()
    assert a["url"] != b["url"]
    assert until(lambda: not runs(a["pid"]))
    assert runs(b["pid"])


def test_an_engine_made_again_at_one_address(owner: Callable[[str], Owner]) -> None:
    """As in a cell that runs again, where the notebook's history still has the first."""
    port = free_port()
    code = f"""
    first = llcuda.InferenceEngine("http://127.0.0.1:{port}")
    first.load_model(model, gpu_layers=0, ctx_size=256, progress=False)
    tell(first)
    second = llcuda.InferenceEngine("http://127.0.0.1:{port}")
    second.load_model(model, gpu_layers=0, ctx_size=128, progress=False)
    tell(second)
    assert second.infer("x", max_tokens=1).success
    """
    o = owner(code)
    a, b = o.tells(), o.tells()
    assert a["url"] == b["url"] == f"http://127.0.0.1:{port}"
    assert a["pid"] != b["pid"]
    assert not runs(a["pid"])
    assert o.process.wait(30) == 0


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


# What a user sees of it, in one process


def test_manager(here: None, smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls of 1.0.x, in order, with a proxy in the environment that answers nothing."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    manager = ServerManager()
    found = manager.find_llama_server()
    assert found is not None
    assert found.name == "llama-server"
    assert manager.get_server_info()["process_id"] is None
    with manager:
        assert manager.start_server(str(smollm2), gpu_layers=0, ctx_size=256, timeout=600, verbose=False)
        info = manager.get_server_info()
        assert (info["running"], info["url"], info["executable"]) == (True, manager.server_url, str(found))
        assert runs(info["process_id"])
        assert manager.check_server_health()
        assert manager.server_process.poll() is None
        assert manager.start_server(str(smollm2), gpu_layers=0, ctx_size=256, timeout=600, verbose=False)
        assert manager.get_server_info()["process_id"] == info["process_id"]
        assert "model loaded" in manager.logs(200)
        assert len(manager.logs(3).splitlines()) == 3
        assert manager.restart_server(str(smollm2), gpu_layers=0, ctx_size=512, timeout=600, verbose=False)
        again = manager.get_server_info()["process_id"]
        assert again != info["process_id"]
    assert not runs(again)
    assert not manager.check_server_health()
    assert manager.stop_server()


def test_a_port_that_is_taken(here: None, smollm2: Path) -> None:
    """Another program on 8090 or on a port that was asked for."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with InferenceEngine() as engine, pytest.raises(errors.ServerStartError) as caught:
            engine.load_model(str(smollm2), **ALONE, port=port, progress=False)
        assert caught.value.reason == "port"


def test_an_unknown_argument(here: None, smollm2: Path) -> None:
    with InferenceEngine() as engine, pytest.raises(errors.ServerStartError, match="no-such-flag") as caught:
        engine.load_model(str(smollm2), **ALONE, no_such_flag=3, progress=False)
    assert caught.value.reason == "argument"


def test_a_truncated_model(here: None, smollm2: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(smollm2.read_bytes()[:5_000_000])
    with InferenceEngine() as engine, pytest.raises(errors.LlcudaError) as caught:
        engine.load_model(str(broken), gpu_layers=0, progress=False)
    assert isinstance(caught.value, errors.ServerStartError | errors.SetupError)
    assert "broken.gguf" in str(caught.value)


def test_too_little_time(here: None, smollm2: Path) -> None:
    with InferenceEngine() as engine, pytest.raises(errors.ServerTimeoutError):
        engine.load_model(str(smollm2), **ALONE, progress=False, start_timeout=0.01)


def test_the_environment_is_left_alone(here: None, smollm2: Path) -> None:
    before = dict(os.environ)
    with InferenceEngine() as engine:
        engine.load_model(str(smollm2), **ALONE, ctx_size=128, progress=False)
    assert dict(os.environ) == before


def test_quick_infer(here: None, smollm2: Path) -> None:
    assert llcuda.quick_infer("The capital of France is", str(smollm2), max_tokens=4).strip()
    assert llcuda.quick_infer("x", "/no/such.gguf").startswith("Error: ")
    assert llcuda.quick_infer("x", server_url="http://127.0.0.1:9").startswith("Error: ")

"""No server outlives the program that loaded the model, whatever ends that; and no less does."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from real import LOAD, Program, eventually, python, running

pytestmark = pytest.mark.real


@pytest.fixture(autouse=True)
def nothing_left(registered: Path) -> Iterator[None]:
    assert running(registered) == []
    yield
    assert eventually(lambda: not running(registered)), "a server is left"


@pytest.mark.parametrize(
    "end",
    [
        "pass",
        "raise RuntimeError('as programs do')",
        "sys.exit(3)",
        "os._exit(0)",
        "os.kill(os.getpid(), signal.SIGKILL)",
        "os.kill(os.getpid(), signal.SIGTERM)",
        "os.kill(os.getpid(), signal.SIGSEGV)",
        "os.abort()",
        "os.execv('/bin/true', ['true'])",
    ],
)
def test_program_ends(installed: Mapping[str, str], registered: Path, end: str) -> None:
    program = Program(installed, f"{LOAD}\nprint('loaded', flush=True)\ninput()\n{end}")
    try:
        assert program.line() == "loaded"
        assert len(running(registered)) == 1
        program.go_on()
        program.process.wait(timeout=60)
        assert eventually(lambda: not running(registered))
    finally:
        program.end()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_program_is_ended(installed: Mapping[str, str], registered: Path, number: int) -> None:
    program = Program(installed, f"{LOAD}\nprint('loaded', flush=True)\ntime.sleep(600)")
    try:
        assert program.line() == "loaded"
        program.kill(number)
        program.process.wait(timeout=60)
        assert eventually(lambda: not running(registered))
    finally:
        program.end()


def test_ended_while_loading(installed: Mapping[str, str], registered: Path) -> None:
    program = Program(installed, LOAD)
    try:
        assert eventually(lambda: running(registered), within=120)
        program.kill()
        program.process.wait(timeout=60)
        assert eventually(lambda: not running(registered))
    finally:
        program.end()


@pytest.mark.parametrize("away", ["del engine; gc.collect()", "engine.close()", "engine.unload_model()", "engine = None"])
def test_engine_ends(installed: Mapping[str, str], registered: Path, away: str) -> None:
    program = Program(installed, f"{LOAD}\nprint('loaded', flush=True)\ninput()\n{away}\nprint('away', flush=True)\ninput()")
    try:
        assert program.line() == "loaded"
        program.go_on()
        assert program.line() == "away"
        assert eventually(lambda: not running(registered)), "the program runs on, and so does the server"
        program.go_on()
        assert program.process.wait(timeout=60) == 0
    finally:
        program.end()


def test_thread_that_ends(installed: Mapping[str, str]) -> None:
    """The kernel signals children when the thread that started them ends. The server must not be one of those."""
    load = "\n".join("    " + line for line in LOAD.splitlines() if line.startswith("engine"))
    code = f"""
import llcuda, threading, time
engine = None
def load():
    global engine
{load}
thread = threading.Thread(target=load)
thread.start()
thread.join()
time.sleep(2)
result = engine.infer("The capital of France is", max_tokens=4, temperature=0)
print(result.success, result.text)
"""
    assert python(installed, code).startswith("True  Paris")


def test_fork(installed: Mapping[str, str], registered: Path) -> None:
    """A forked worker uses the server and leaves it alone. One that is still there does not keep the server alive."""
    code = f"""
{LOAD}
child = os.fork()
if child == 0:
    result = engine.infer("The capital of France is", max_tokens=4, temperature=0)
    print("child", result.success, flush=True)
    sys.exit(0)
os.waitpid(child, 0)
result = engine.infer("The capital of France is", max_tokens=4, temperature=0)
print("parent", result.success, flush=True)
if os.fork() == 0:
    print("worker", flush=True)
    time.sleep(600)
time.sleep(600)
"""
    program = Program(installed, code)
    try:
        assert [program.line(), program.line(), program.line()] == ["child True", "parent True", "worker"]
        program.kill()
        program.process.wait(timeout=60)
        assert eventually(lambda: not running(registered))
    finally:
        program.end()


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_multiprocessing(installed: Mapping[str, str], registered: Path, tmp_path: Path, method: str) -> None:
    """Workers that load no model start no server, and those that do end theirs."""
    (tmp_path / "work.py").write_text(
        f"""
import multiprocessing

def work(prompt):
    import llcuda
    with llcuda.InferenceEngine() as engine:
        engine.load_model("tinyllama-1.1b-Q5_K_M", ctx_size=512)
        return engine.infer(prompt, max_tokens=3, temperature=0).text

if __name__ == "__main__":
    with multiprocessing.get_context("{method}").Pool(2) as pool:
        print(pool.map(work, ["The capital of France is"] * 2))
"""
    )
    out = python(
        installed,
        f"import runpy, sys; sys.path.insert(0, {str(tmp_path)!r}); runpy.run_path({str(tmp_path / 'work.py')!r}, run_name='__main__')",
    )
    assert out.count("Paris") == 2

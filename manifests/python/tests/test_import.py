"""What the first import does in each situation, in real processes: it sets up where somebody watches, and nowhere else."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, cast

import nbformat
import pytest
from nbclient import NotebookClient
from standin import INSTALLING, Ran, StandIn, events, run, run_in_terminal, standin

from llcuda._internal.setup import Snapshot, sets_up_at_import

__all__ = ["standin"]

IMPORT = "import llcuda; print('imported')"
USE = "import llcuda; from llcuda._internal.setup import ensure; print('imported'); print(ensure().release)"

AT_IMPORT = ["--events install --patience=10s"]
AT_USE = ["--events install"]


# The table, as a function


def test_decision() -> None:
    watched = {"terminal": True}
    for name, environ, modules, facts, want in (
        ("installed", {}, (), {**watched, "installed": True}, False),
        ("installed, told to", {"LLCUDA_AUTO_SETUP": "import"}, (), {"installed": True}, False),
        ("switched off", {"LLCUDA_NO_AUTO_SETUP": "1"}, (), watched, False),
        ("switched off, in words", {"LLCUDA_NO_AUTO_SETUP": "Yes"}, (), watched, False),
        ("not switched off", {"LLCUDA_NO_AUTO_SETUP": "0"}, (), watched, True),
        ("off", {"LLCUDA_AUTO_SETUP": "off"}, (), watched, False),
        ("off wins", {"LLCUDA_NO_AUTO_SETUP": "1", "LLCUDA_AUTO_SETUP": "import"}, (), watched, False),
        ("at the first use", {"LLCUDA_AUTO_SETUP": "use"}, (), watched, False),
        ("at import, unwatched", {"LLCUDA_AUTO_SETUP": "import"}, ("pytest",), {"main_thread": False}, True),
        ("at import, in CI", {"LLCUDA_AUTO_SETUP": "Import", "CI": "true"}, (), {}, True),
        ("a word nobody knows", {"LLCUDA_AUTO_SETUP": "auto"}, (), watched, True),
        ("CI", {"CI": "true"}, (), watched, False),
        ("no CI", {"CI": "false"}, (), watched, True),
        ("GitHub", {"GITHUB_ACTIONS": "true"}, (), watched, False),
        ("Read the Docs", {"READTHEDOCS": "True"}, (), watched, False),
        ("Azure", {"TF_BUILD": "True"}, (), watched, False),
        ("pip builds", {"PIP_BUILD_TRACKER": "/tmp/x"}, (), watched, False),
        ("PEP 517", {"_PYPROJECT_HOOKS_BUILD_BACKEND": "x"}, (), watched, False),
        *((module, {}, (module,), watched, False) for module in ("sphinx", "pytest", "pdoc", "mypy", "griffe")),
        ("a worker", {}, (), {**watched, "worker": True}, False),
        ("a fork", {}, (), {**watched, "forked": True}, False),
        ("a thread", {}, (), {"kernel": True, "main_thread": False}, False),
        ("the command llcuda", {}, (), {**watched, "own_command": True}, False),
        ("no client", {}, (), {**watched, "supported": False}, False),
        ("no client, told to", {"LLCUDA_AUTO_SETUP": "import"}, (), {"supported": False}, False),
        ("nobody watches", {}, (), {}, False),
        ("a terminal", {}, (), watched, True),
        ("a prompt", {}, (), {"prompt": True}, True),
        ("a notebook", {}, (), {"kernel": True}, True),
    ):
        assert sets_up_at_import(Snapshot(environ, modules, **facts)) is want, name


# Somebody watches


def test_terminal(standin: StandIn) -> None:
    ran = run_in_terminal(IMPORT, standin.environ())
    assert standin.calls == AT_IMPORT
    lines = [line.rstrip("\r").split("\r")[-1].removeprefix("\x1b[K") for line in ran.out.rstrip().split("\n")]
    assert lines == [
        "Detecting GPU…",
        "Platform: Kaggle",
        "Found: Tesla T4 (SM 7.5)",
        "Verified: signed by release.yml, release v1.1.0-runtime",
        "Downloading llcuda-bins-sm75.tar.zst (27.8 MB)",
        "Downloaded llcuda-bins-sm75.tar.zst in 0.0 s",
        "trying the programs",
        "✓ Setup complete in 0 s: llama.cpp 0.5.0, CUDA0: Tesla T4",
        "imported",
    ]


def test_prompt(standin: StandIn) -> None:
    """Somebody types, although the terminal is a pipe."""
    ran = run(["-i", "-c", IMPORT], standin.environ())
    assert standin.calls == AT_IMPORT
    assert ran.out == "imported\n"
    assert "llcuda: Found: Tesla T4 (SM 7.5)\n" in ran.err


def test_repl(standin: StandIn) -> None:
    ran = run_in_terminal([], standin.environ(), given=f"{IMPORT}\nexit()\n")
    assert standin.calls == AT_IMPORT
    assert "Setup complete" in ran.out


def run_notebook(cells: list[str], environ: dict[str, str], folder: Path) -> list[list[nbformat.NotebookNode]]:
    """The outputs of a notebook's cells. The kernel is this Python."""
    kernel = folder / "share" / "jupyter" / "kernels" / "test"
    kernel.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "test", "language": "python"}))
    script = folder / "notebook.py"
    code: dict[str, Any] = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    text = {"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": [{**code, "source": cell} for cell in cells]}
    book = cast(Any, nbformat).reads(json.dumps(text), as_version=4)
    before = dict(os.environ)
    try:
        os.environ["JUPYTER_PATH"] = str(folder / "share" / "jupyter")
        client = NotebookClient(book, timeout=60, kernel_name="test", resources={"metadata": {"path": str(script.parent)}})
        client.execute(env={**environ, "JUPYTER_PATH": os.environ["JUPYTER_PATH"]})
    finally:
        os.environ.clear()
        os.environ.update(before)
    return [cell.outputs for cell in book.cells]


def test_notebook(standin: StandIn, tmp_path: Path) -> None:
    (outputs, used) = run_notebook([IMPORT, "import llcuda; llcuda.setup(progress=False)"], standin.environ(), tmp_path)
    assert standin.calls == [*AT_IMPORT, *AT_USE]
    assert [output.output_type for output in outputs] == ["display_data", "stream"]
    assert outputs[1].text == "imported\n"
    shown = outputs[0].data  # its last state, once
    assert shown["text/plain"].splitlines()[0] == "Detecting GPU…"
    assert shown["text/plain"].splitlines()[-1] == "✓ Setup complete in 0 s: llama.cpp 0.5.0, CUDA0: Tesla T4"
    assert "<progress" not in shown["text/html"]
    assert "Found: Tesla T4 (SM 7.5)</div>" in shown["text/html"]
    assert "<table>" in used[0].data["text/html"]


# Nobody watches


def test_pipe(standin: StandIn) -> None:
    ran = run(IMPORT, standin.environ())
    assert (ran, standin.calls) == (Ran(0, "imported\n", ""), [])


def test_first_use_in_a_pipe(standin: StandIn) -> None:
    """Standard output has the program's words alone, and a log says what goes on."""
    ran = run(USE, standin.environ())
    assert standin.calls == AT_USE
    assert ran.out == "imported\nv1.1.0-runtime\n"
    assert ran.err.splitlines()[0] == "llcuda: Detecting GPU…"
    assert all(line.startswith("llcuda: ") for line in ran.err.splitlines())
    assert "\x1b" not in ran.err


@pytest.mark.parametrize("language", ["C", "C.UTF-8"])
def test_any_encoding(standin: StandIn, language: str) -> None:
    ran = run(USE, standin.environ(LC_ALL=language, PYTHONCOERCECLOCALE="0", PYTHONUTF8="0", PYTHONIOENCODING="ascii"))
    assert "llcuda: Detecting GPU...\n" in ran.err
    assert "llcuda: OK: Setup complete" in ran.err


@pytest.mark.parametrize("stderr", ["None", "open('/dev/null', 'w')", "io.StringIO()"])
def test_no_standard_error(standin: StandIn, stderr: str) -> None:
    ran = run_in_terminal(f"import io, sys; sys.stderr = {stderr}; {USE}", standin.environ())
    assert standin.calls == AT_USE
    assert "v1.1.0-runtime" in ran.out


@pytest.mark.parametrize(
    "environ",
    [
        {"CI": "true"},
        {"GITHUB_ACTIONS": "true"},
        {"READTHEDOCS": "True"},
        {"TF_BUILD": "True"},
        {"PIP_BUILD_TRACKER": "/tmp/tracker"},
        {"_PYPROJECT_HOOKS_BUILD_BACKEND": "setuptools.build_meta"},
        {"LLCUDA_AUTO_SETUP": "use"},
    ],
    ids=lambda environ: next(iter(environ)),
)
def test_unattended(standin: StandIn, environ: dict[str, str]) -> None:
    """Nothing at import, although there is a terminal. The first use sets up."""
    run_in_terminal(IMPORT, standin.environ(**environ))
    assert standin.calls == []
    ran = run_in_terminal(USE, standin.environ(**environ))
    assert standin.calls == AT_USE
    assert "v1.1.0-runtime" in ran.out


@pytest.mark.parametrize(
    "environ", [{"LLCUDA_NO_AUTO_SETUP": "1"}, {"LLCUDA_AUTO_SETUP": "off"}], ids=lambda e: next(iter(e))
)
def test_switched_off(standin: StandIn, environ: dict[str, str]) -> None:
    ran = run_in_terminal(USE, standin.environ(**environ))
    assert standin.calls == []
    assert "imported" in ran.out
    assert "llcuda.errors.SetupError: llama.cpp is not set up here" in ran.out
    assert "hint: llcuda.setup() does it" in ran.out


def test_told_to(standin: StandIn) -> None:
    """Although nobody watches."""
    ran = run(IMPORT, standin.environ(LLCUDA_AUTO_SETUP="import", CI="1"))
    assert standin.calls == AT_IMPORT
    assert ran.out == "imported\n"


def test_with_a_model(standin: StandIn) -> None:
    run_in_terminal(IMPORT, standin.environ(LLCUDA_SETUP_MODEL="gemma-3-1b-Q4_K_M"))
    assert standin.calls == ["--events install --patience=10s --model=gemma-3-1b-Q4_K_M"]


@pytest.mark.parametrize("module", ["pytest", "mypy", "sphinx"])
def test_tools(standin: StandIn, module: str) -> None:
    ran = run_in_terminal(f"import {module}; {IMPORT}", standin.environ())
    assert (standin.calls, "imported" in ran.out) == ([], True)


def test_pytest_itself(standin: StandIn, tmp_path: Path) -> None:
    (tmp_path / "test_x.py").write_text("def test_x():\n    import llcuda\n")
    ran = run_in_terminal(["-m", "pytest", "-q", "-s", str(tmp_path / "test_x.py")], standin.environ())
    assert (standin.calls, "1 passed" in ran.out) == ([], True)


def test_sphinx_autodoc(standin: StandIn, tmp_path: Path) -> None:
    (tmp_path / "conf.py").write_text("extensions = ['sphinx.ext.autodoc']\n")
    (tmp_path / "index.rst").write_text("Errors\n======\n\n.. automodule:: llcuda.errors\n   :members:\n")
    args = ["-m", "sphinx", "-q", "-b", "text", str(tmp_path), str(tmp_path / "out")]
    ran = run_in_terminal(args, standin.environ())
    assert (standin.calls, ran.code) == ([], 0), ran.out
    assert "NoGPUError" in (tmp_path / "out" / "index.txt").read_text()


def test_build_of_a_package(standin: StandIn, tmp_path: Path) -> None:
    """A package that imports llcuda while pip builds it."""
    (tmp_path / "pyproject.toml").write_text(
        "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
    )
    (tmp_path / "backend.py").write_text(
        textwrap.dedent("""
            import pathlib, sys, llcuda, zipfile
            def build_wheel(folder, settings=None, metadata=None):
                pathlib.Path(__file__).with_name("built").touch()
                with zipfile.ZipFile(pathlib.Path(folder) / "x-1-py3-none-any.whl", "w") as z:
                    z.writestr("x-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: x\\nVersion: 1\\n")
                    z.writestr("x-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
                    z.writestr("x-1.dist-info/RECORD", "")
                return "x-1-py3-none-any.whl"
        """)
    )
    args = ["-m", "pip", "wheel", "-v", "--no-index", "--no-build-isolation", "-w", str(tmp_path / "out"), str(tmp_path)]
    ran = run_in_terminal(args, standin.environ())
    assert (tmp_path / "built").exists(), ran.out
    assert standin.calls == []


def program(folder: Path, text: str) -> list[str]:
    path = folder / "program.py"
    path.write_text(textwrap.dedent(text))
    return [str(path)]


@pytest.mark.parametrize("how", ["spawn", "fork", "forkserver"])
def test_multiprocessing(standin: StandIn, tmp_path: Path, how: str) -> None:
    """Workers have the terminal of their parent."""
    args = program(
        tmp_path,
        f"""
        import multiprocessing, sys

        def work():
            import llcuda
            print("imported", sys.stderr.isatty(), flush=True)

        if __name__ == "__main__":
            worker = multiprocessing.get_context({how!r}).Process(target=work)
            worker.start()
            worker.join()
        """,
    )
    ran = run_in_terminal(args, standin.environ())
    assert "imported True" in ran.out
    assert standin.calls == []


def test_joblib(standin: StandIn, tmp_path: Path) -> None:
    args = program(
        tmp_path,
        """
        import joblib

        def work(_):
            import llcuda, sys
            return "imported", sys.stderr.isatty()

        if __name__ == "__main__":
            print(joblib.Parallel(n_jobs=2)(joblib.delayed(work)(i) for i in range(2)))
        """,
    )
    ran = run_in_terminal(args, standin.environ())
    assert "('imported', True)" in ran.out
    assert standin.calls == []


def test_thread(standin: StandIn) -> None:
    code = f"import threading; t = threading.Thread(target=lambda: exec({IMPORT!r})); t.start(); t.join()"
    ran = run_in_terminal(code, standin.environ())
    assert (standin.calls, "imported" in ran.out) == ([], True)


def test_import_again_in_a_fork(standin: StandIn) -> None:
    """A child that loads the package again is not the process that somebody looks at."""
    code = """
import importlib, os
os.environ["LLCUDA_AUTO_SETUP"] = "use"
import llcuda
del os.environ["LLCUDA_AUTO_SETUP"]
if (pid := os.fork()) == 0:
    importlib.reload(llcuda)
    os._exit(0)
os.waitpid(pid, 0)
"""
    run_in_terminal(code, standin.environ())
    assert standin.calls == []
    run_in_terminal(
        code.replace("(pid := os.fork()) == 0", "pid := 0")
        .replace("os.waitpid(pid, 0)", "")
        .replace("if pid := 0:\n", "if True:\n"),
        standin.environ(),
    )
    assert standin.calls == AT_IMPORT  # where the same is not a fork


@pytest.mark.parametrize("args", [["-m", "llcuda"], ["-m", "llcuda", "status"]])
def test_own_command(standin: StandIn, args: list[str]) -> None:
    """Asking what is there installs nothing."""
    ran = run_in_terminal(args, standin.environ())
    assert not any("install" in call for call in standin.calls)
    assert "not set up: llcuda.setup() does it" in ran.out


# What goes wrong


FAILURES = [
    ("no-gpu", 4, "NoGPUError"),
    ("no-bundle", 5, "NoBundleError"),
    ("network", 6, "NetworkError"),
    ("offline", 7, "OfflineError"),
    ("disk", 8, "DiskError"),
    ("untrusted", 3, "UntrustedError"),
    ("failed", 1, "SetupError"),
]


@pytest.mark.parametrize(("kind", "code", "error"), FAILURES)
def test_failure(standin: StandIn, kind: str, code: int, error: str) -> None:
    """Said once, import succeeds, status() keeps it, and the next use tries again."""
    standin.fails("install", kind, code, "picking: it is so", ("do this",))
    program = "import llcuda; print('imported'); print(llcuda.status().problems); llcuda._internal.setup.ensure()"
    ran = run_in_terminal(program, standin.environ())
    before, _, after = ran.out.partition("imported")
    assert before.count("llcuda is not set up: picking: it is so\r\nhint: do this\r\n") == 1
    assert "Traceback" not in before
    assert "picking: it is so" in after.splitlines()[1]
    assert f"llcuda.errors.{error}: picking: it is so" in after
    assert [call for call in standin.calls if "install" in call] == [*AT_IMPORT, *AT_USE]


def test_way_out_without_a_gpu(standin: StandIn) -> None:
    standin.fails("install", "no-gpu", 4)
    ran = run_in_terminal(IMPORT, standin.environ(COLAB_RELEASE_TAG="x"))
    assert "Runtime → Change runtime type" in ran.out
    assert "LLCUDA_ALLOW_CPU=1" in ran.out


def test_crash_of_the_client(standin: StandIn) -> None:
    standin.answers("install", None, "panic: runtime error\n\ngoroutine 1 [running]:\n", 2)
    ran = run_in_terminal(IMPORT, standin.environ())
    assert "llcuda-fetch ended with exit code 2 and did not say why:\r\npanic: runtime error\r\n" in ran.out
    assert "imported" in ran.out


@pytest.mark.parametrize("folder", ['"/quoted"', "~nobody/x", "$"])
def test_folder_that_is_none(standin: StandIn, folder: str) -> None:
    ran = run_in_terminal(IMPORT, standin.environ(LLCUDA_HOME=folder))
    assert "imported" in ran.out
    assert "Traceback" not in ran.out


def test_current_folder_that_is_gone(standin: StandIn, tmp_path: Path) -> None:
    code = f"import os; os.makedirs('{tmp_path}/gone'); os.chdir('{tmp_path}/gone'); os.rmdir('{tmp_path}/gone'); {IMPORT}"
    ran = run_in_terminal(code, standin.environ(LLCUDA_HOME="relative"))
    assert "imported" in ran.out
    assert "Traceback" not in ran.out


def test_no_client(standin: StandIn) -> None:
    """Silent at import; the use says why."""
    environ = standin.environ(PATH="/nowhere")
    del environ["LLCUDA_FETCH"]
    ran = run_in_terminal(USE, environ)
    before, _, after = ran.out.partition("imported")
    assert before == ""
    assert "UnsupportedPlatformError" in after


def test_another_platform(standin: StandIn) -> None:
    environ = standin.environ(PATH="/nowhere")
    del environ["LLCUDA_FETCH"]
    pretend = "import os; os.uname = lambda: os.uname_result(('Linux', 'n', '6', 'v', 'aarch64')); "
    ran = run_in_terminal(pretend + USE, environ)
    assert ran.out.startswith("imported")
    assert "llcuda has no bundle for aarch64" in ran.out


def ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_interrupt(standin: StandIn) -> None:
    """Ctrl-C, which goes to the whole group: the client is told once, import completes, the next use goes on."""
    standin.answers(
        "install",
        None,
        events(("step", {"message": "downloading"})),
        130,
        "trap 'echo INT >>$folder/signals; exit 130' INT\necho $$ >$folder/pid\nwhile :; do sleep 0.05; done",
    )

    def interrupt(pid: int, out: str) -> bool:
        if "downloading" not in out or not (standin.folder / "pid").exists():
            return False
        os.killpg(pid, signal.SIGINT)
        return True

    ran = run_in_terminal(
        f"{IMPORT}; import llcuda; print(llcuda.status().problems)", standin.environ(), meanwhile=interrupt
    )
    before, _, after = ran.out.partition("imported")
    assert before.endswith("llcuda: interrupted; goes on at the next use\r\n")
    assert "Traceback" not in ran.out
    assert "setting up was interrupted" in after
    assert (standin.folder / "signals").read_text() == "INT\n"
    assert ended(int((standin.folder / "pid").read_text()))

    standin.answers("install", json.loads(json.dumps({"install": {"release": "v2"}, "already": False})), INSTALLING)
    assert "v2" in run(USE, standin.environ()).out


def test_interrupt_of_a_client_that_does_not_end(standin: StandIn) -> None:
    standin.answers(
        "install",
        None,
        events(("step", {"message": "hanging"})),
        0,
        f"trap '' INT TERM\necho $$ >{standin.folder}/pid\nexec sleep 600",
    )

    def interrupt(pid: int, out: str) -> bool:
        if "hanging" not in out or not (standin.folder / "pid").exists():
            return False
        os.killpg(pid, signal.SIGINT)
        return True

    ran = run_in_terminal(IMPORT, standin.environ(), meanwhile=interrupt)
    assert "goes on at the next use\r\nimported" in ran.out
    assert ended(int((standin.folder / "pid").read_text()))


def test_waiting_is_shown(standin: StandIn) -> None:
    waiting = events(("waiting", {"pid": 4711, "command": "llcuda-fetch install", "since": "2026-01-02T03:04:05Z"}))
    standin.answers("install", None, waiting, 1)
    ran = run_in_terminal(IMPORT, standin.environ())
    assert (
        "Waiting for llcuda-fetch install (process 4711), which uses the same folder since 2026-01-02T03:04:05Z" in ran.out
    )


# Installed


def test_installed(standin: StandIn) -> None:
    standin.installed()
    ran = run_in_terminal(IMPORT, standin.environ())
    assert (ran.out, standin.calls) == ("imported\r\n", [])


def test_half_installed(standin: StandIn) -> None:
    """A link that leads nowhere is not an installation."""
    standin.installed()
    (standin.home / "bundles" / "x").rmdir()
    run_in_terminal(IMPORT, standin.environ())
    assert standin.calls == AT_IMPORT


def test_what_import_loads(standin: StandIn) -> None:
    standin.installed()
    code = "import sys; before = set(sys.modules); import llcuda; print(*sorted(set(sys.modules) - before))"
    ran = run(["-I", "-c", f"import sys; sys.path.append({standin.environ()['PYTHONPATH']!r}); {code}"], standin.environ())
    assert ran.out.split() == ["__future__", "llcuda", "llcuda._internal", "llcuda._internal.home", "llcuda._internal.setup"]


def test_import_leaves_the_environment(standin: StandIn) -> None:
    ran = run("import os; before = dict(os.environ); import llcuda; print(before == dict(os.environ))", standin.environ())
    assert ran.out == "True\n"


# With the real client


def test_black_hole(standin: StandIn, client: Path, tmp_path: Path) -> None:
    """A network that takes everything and gives nothing does not hold an import for long."""
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen(64)
        address = f"http://127.0.0.1:{hole.getsockname()[1]}"
        environ = standin.environ(LLCUDA_FETCH=str(client), LLCUDA_MIRROR=address, LLCUDA_ALLOW_CPU="1")
        began = time.monotonic()
        ran = run_in_terminal(IMPORT, environ)
        took = time.monotonic() - began
    assert "llcuda is not set up: " in ran.out
    assert "imported" in ran.out
    assert 9 < took < 20  # ten seconds, and what starting takes on a busy machine; without a bound it is minutes


def test_no_gpu_with_the_real_client(standin: StandIn, client: Path) -> None:
    """No network is needed to say that."""
    if os.path.exists("/dev/nvidiactl"):
        pytest.fail("this test is for machines without a GPU: CUDA_VISIBLE_DEVICES= does not hide it from the kernel")
    with socket.socket() as refused:
        refused.bind(("127.0.0.1", 0))  # nobody listens
        environ = standin.environ(LLCUDA_FETCH=str(client), LLCUDA_MIRROR=f"http://127.0.0.1:{refused.getsockname()[1]}")
        ran = run_in_terminal(IMPORT, environ)
    assert "llcuda is not set up: " in ran.out
    assert ran.out.endswith("imported\r\n")


def test_offline_with_the_real_client(standin: StandIn, client: Path) -> None:
    ran = run_in_terminal(USE, standin.environ(LLCUDA_FETCH=str(client), LLCUDA_OFFLINE="1", LLCUDA_ALLOW_CPU="1"))
    before, _, after = ran.out.partition("imported")
    assert "llcuda is not set up: " in before
    assert "llcuda.errors.OfflineError" in after


def test_two_at_once(standin: StandIn) -> None:
    """Two processes that import for the first time: both are the client's to put in order, and both succeed."""
    both = [
        subprocess.Popen(
            [sys.executable, "-i", "-c", IMPORT], env=standin.environ(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    assert [process.communicate(timeout=60)[0] for process in both] == [b"imported\n"] * 2
    assert standin.calls == AT_IMPORT * 2

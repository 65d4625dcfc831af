"""Setting up on request, what is there, and the commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from standin import INSTALLED, PACKAGE, StandIn, events, inside, run, standin

import llcuda
from llcuda import errors
from llcuda._internal import home, setup
from llcuda._internal.fetch import Event

__all__ = ["inside", "standin"]

GO = Path(__file__).parents[2] / "fetch"

ROW = {
    **INSTALLED["install"],
    "current": True,
    "path": "/store/bundles/x",
    "llama_cpp": "0.5.0",
    "devices": ["CUDA0: Tesla T4"],
}


# The store, by the tables that the client's own tests read


@pytest.mark.parametrize(("name", "row"), json.loads((GO / "home" / "testdata" / "store.json").read_text()).items())
def test_store(name: str, row: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environ = {**row.get("environment", {}), **({"LLCUDA_HOME": row["given"]} if "given" in row else {})}
    if not row["want"]:
        with pytest.raises(ValueError, match=r"\w"):
            home.store(environ)
        return
    assert home.store(environ) == row["want"].replace("{here}", os.getcwd()), name


@pytest.mark.parametrize(("name", "row"), json.loads((GO / "machine" / "testdata" / "kinds.json").read_text()).items())
def test_kind(name: str, row: dict[str, Any], tmp_path: Path) -> None:
    for path, text in row["files"].items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert home.machine_kind(str(tmp_path)) == row["kind"], name


@pytest.mark.parametrize(
    ("environ", "there", "want"),
    [
        ({}, (), ""),
        ({"COLAB_GPU": "1"}, (), "colab"),
        ({"COLAB_GPU": ""}, (), ""),
        ({"COLAB_RELEASE_TAG": "x"}, ("/kaggle/working",), "kaggle"),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Batch"}, (), "kaggle"),
        ({"KAGGLE_URL_BASE": "x", "COLAB_GPU": "0"}, (), "kaggle"),
    ],
)
def test_notebook_service(environ: dict[str, str], there: tuple[str, ...], want: str) -> None:
    assert home.notebook(environ, lambda path: path in there) == want


def test_installed_is_of_this_kind_of_machine(inside: StandIn, tmp_path: Path) -> None:
    """What was installed for a session without a GPU is nothing for one with a GPU."""
    inside.installed()
    links = inside.home / "current"
    (links / "any").rename(links / "none")
    root = tmp_path / "root"
    device = root / "sys/bus/pci/drivers/nvidia/0000:00:04.0/device"
    environ = {"LLCUDA_HOME": str(inside.home)}
    assert home.installed(environ, str(root))
    device.parent.mkdir(parents=True)
    device.write_text("0x1eb8\n")
    assert not home.installed(environ, str(root))
    (links / "none").rename(links / "1x1eb8")
    assert home.installed(environ, str(root))
    (links / "1x1eb8").rename(links / "as-host-1234")
    assert home.installed(environ, str(root))


def test_installed_for_the_real_client(here: None) -> None:
    """What Python sees in the store is what the client installed."""
    assert home.installed(os.environ)
    found = setup.current()
    assert found is not None
    assert Path(found.path, "lib").is_dir()
    assert Path(found.programs, "llama-server").is_file()
    assert (found.through, found.devices) == ("cpu", ())
    assert setup.ensure() == found
    with pytest.raises(errors.NoGPUError, match="allow_cpu=False"):
        setup.ensure(allow_cpu=False)


# Setting up


@pytest.mark.parametrize(
    ("given", "args"),
    [
        ({}, ""),
        ({"model": "gemma-3-1b-Q4_K_M"}, " --model=gemma-3-1b-Q4_K_M"),
        ({"sm": 75}, " --sm=75"),
        ({"sm": "ptx90"}, " --sm=ptx90"),
        ({"sm": "sm75", "release": "v1", "update": True}, " --sm=sm75 --release=v1 --update"),
        ({"source": "/a folder"}, " --from=/a folder"),
        ({"allow_cpu": True, "offline": True}, " --allow-cpu --offline"),
        ({"allow_cpu": False, "offline": False}, ""),
    ],
)
def test_arguments(inside: StandIn, given: dict[str, Any], args: str) -> None:
    llcuda.setup(**given, progress=False)
    assert inside.calls == [f"--events install{args}"]


@pytest.mark.parametrize("name", ["allow_cpu", "offline"])
def test_no_means_no(inside: StandIn, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Although the variable says yes."""
    variable = f"LLCUDA_{name.upper()}"
    monkeypatch.setenv(variable, "1")
    inside.answers("install", INSTALLED, "", 0, f'echo "[${variable}]" >>{inside.folder}/said')
    llcuda.setup(progress=False)
    llcuda.setup(progress=False, **{name: False})  # type: ignore[arg-type]
    assert (inside.folder / "said").read_text() == "[1]\n[]\n"
    assert os.environ[variable] == "1"


def test_what_it_returns(inside: StandIn) -> None:
    seen: list[Event] = []
    got = llcuda.setup(progress=seen.append)
    assert (got.release, got.bundle, got.sm, got.through) == ("v1.1.0-runtime", "llcuda-bins-sm75", 75, "cubin")
    assert (got.path, got.programs) == ("/store/bundles/x", "/store/bundles/x/binaries/cuda12")
    assert (got.llama_cpp, got.devices, got.signed_by) == ("0.5.0", ("CUDA0: Tesla T4",), "release.yml")
    assert got == llcuda.bootstrap(progress=False)
    assert {got: 1}[got] == 1
    assert "bundle='llcuda-bins-sm75'" in repr(got)
    assert [event.kind for event in seen if event.kind != "download"] == [
        "step",
        "step",
        "platform",
        "gpu",
        "verified",
        "step",
        "step",
    ]
    assert seen[-1].data["message"].startswith("✓ Setup complete in ")


def test_already_installed(inside: StandIn, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing is said of what is not done."""
    inside.installed()
    inside.answers("install", {**INSTALLED, "already": True})
    llcuda.setup()
    assert capfd.readouterr() == ("", "")


def test_installed_by_another_process_meanwhile(inside: StandIn, capfd: pytest.CaptureFixture[str]) -> None:
    """What began with a word ends with one."""
    waiting = events(("waiting", {"pid": 7, "command": "llcuda-fetch install"}))
    inside.answers("install", {**INSTALLED, "already": True}, waiting)
    llcuda.setup()
    lines = capfd.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["Detecting", "Waiting", "✓"]


@pytest.mark.parametrize("result", [None, [], {}, {"install": None}, {"install": [1]}])
def test_unknown_result(inside: StandIn, result: Any) -> None:
    inside.answers("install", result)
    with pytest.raises(errors.SetupError, match="printed an unknown result"):
        llcuda.setup(progress=False)


def test_first_use(inside: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    assert setup.ensure(progress=False).release == "v1.1.0-runtime"
    assert setup.ensure(allow_cpu=True, progress=False).release == "v1.1.0-runtime"
    inside.installed()
    inside.answers("list", [{**ROW, "release": "old", "current": False}, ROW])
    assert setup.ensure().devices == ("CUDA0: Tesla T4",)
    assert inside.calls == ["--events install", "--events install --allow-cpu", "--events list --quiet"]


def test_installed_and_then_gone(inside: StandIn) -> None:
    """The links say that there is something, the client says that there is nothing: it is set up."""
    inside.installed()
    inside.answers("list", [])
    assert setup.ensure(progress=False).release == "v1.1.0-runtime"


def test_switched_off_and_installed(inside: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Switching off is about setting up, not about using what is there."""
    monkeypatch.setenv("LLCUDA_NO_AUTO_SETUP", "1")
    with pytest.raises(errors.SetupError, match="not set up here"):
        setup.ensure()
    assert llcuda.setup(progress=False).release == "v1.1.0-runtime"  # on request
    inside.installed()
    inside.answers("list", [ROW])
    assert setup.ensure().release == "v1.1.0-runtime"


# What is there


@pytest.mark.parametrize(
    ("row", "want"),
    [({}, (75, "cubin")), ({"sm": "ptx90", "through": "ptx"}, (90, "ptx")), ({"sm": 0}, (0, "cubin"))],
)
def test_row_of_the_bundle(inside: StandIn, row: dict[str, Any], want: tuple[int, str]) -> None:
    """PTX is a bundle of its own, and the client names its row by a text."""
    inside.answers("install", {**INSTALLED, "install": {**INSTALLED["install"], **row}})
    inside.answers("list", [{**ROW, **row}])
    for installation in (llcuda.setup(progress=False), setup.current()):
        assert installation is not None
        assert (installation.sm, installation.through) == want


HOST: dict[str, Any] = {
    "os": "linux",
    "platform": "kaggle",
    "driver": {"version": "550.54.14", "cuda": "12.4"},
    "cuda": {"problem": "", "way": ""},
    "gpus": [{"index": 0, "uuid": "GPU-1", "name": "Tesla T4", "sm": 75, "memory_mib": 15360, "mig": False}],
}


def test_status(inside: StandIn) -> None:
    inside.answers("detect", HOST)
    inside.answers("list", [ROW])
    inside.answers("--version", "llcuda-fetch version v1.1.0-runtime")
    got = llcuda.status()
    assert got.installation == setup.current()
    assert got.gpus == tuple(HOST["gpus"])
    assert (got.driver, got.platform, got.home) == ("550.54.14", "kaggle", str(inside.home))
    assert got.models_cache == str(inside.folder / ".cache" / "huggingface" / "hub")
    assert (got.client_version, got.problems) == ("v1.1.0-runtime", ())
    assert str(got).splitlines() == [
        "llama.cpp  0.5.0, llcuda-bins-sm75 of release v1.1.0-runtime",
        "runs on    CUDA0: Tesla T4",
        "signed by  release.yml",
        "folder     /store/bundles/x",
        "GPU        Tesla T4 (SM 7.5)",
        "driver     550.54.14",
        "platform   kaggle",
        f"store      {inside.home}",
        f"models     {inside.folder}/.cache/huggingface/hub",
        "client     v1.1.0-runtime",
    ]
    assert got._repr_html_().startswith("<table><tr><th")
    assert not any("install" in call for call in inside.calls)


def test_status_escapes(inside: StandIn) -> None:
    inside.answers("detect", {**HOST, "platform": "<script>"})
    assert "<script>" not in llcuda.status()._repr_html_()


def test_status_of_problems(inside: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever is wrong is said, and nothing is raised."""
    inside.answers("detect", {"cuda": {"problem": "the driver is too old", "way": "update it"}, "gpus": []})
    inside.fails("list", "failed", 1, "reading the store: damaged")
    monkeypatch.setattr(setup, "_problems", ["at import"])
    got = llcuda.status()
    assert got.installation is None
    assert got.problems == (
        "at import",
        "the driver is too old\nhint: update it",
        "reading the store: damaged\nhint: a way out",
    )
    assert "problem    the driver is too old\n           hint: update it\n" in str(got)

    monkeypatch.setenv("LLCUDA_FETCH", "/nowhere")
    monkeypatch.setenv("LLCUDA_HOME", "'/quoted'")
    got = llcuda.status()
    assert (got.installation, got.gpus, got.client_version, got.home) == (None, (), "", "")
    assert [problem.split(",")[0] for problem in got.problems] == [
        "at import",
        "the quotes are part of LLCUDA_HOME",
        "LLCUDA_FETCH names /nowhere",
    ]


def test_status_names_what_1x_left(standin: StandIn, tmp_path: Path) -> None:
    """Its models were in a folder beside the module of the same name."""
    copy = tmp_path / "site"
    shutil.copytree(Path(PACKAGE) / "llcuda", copy / "llcuda")
    (copy / "llcuda" / "models").mkdir()
    (copy / "llcuda" / "models" / "x.gguf").write_text("GGUF")
    script = copy / "script.py"  # a program's folder comes first among those that Python looks into
    lines = (
        "import llcuda",
        "print(llcuda.models.__file__, llcuda.status().problems)",
        "print(llcuda.models.load_model_smart('x'))",
    )
    script.write_text("\n".join(lines))
    standin.answers("detect", {})
    ran = run([str(script)], standin.environ(PYTHONPATH=str(copy)))
    assert ran.out.startswith(f"{copy}/llcuda/models.py ")  # the module, and not the folder
    assert f"{copy}/llcuda/models was left by llcuda 1.x" in ran.out
    assert ran.out.endswith(f"{copy}/llcuda/models/x.gguf\n")


@pytest.mark.parametrize(
    ("environ", "want"),
    [
        ({"HOME": "/u"}, "/u/.cache/huggingface/hub"),
        ({"HOME": "/u", "XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
        ({"HOME": "/u", "HF_HOME": "~/hf"}, "/u/hf/hub"),
        ({"HOME": "/u", "HF_HOME": "/hf", "HUGGINGFACE_HUB_CACHE": "/old"}, "/old"),
        ({"HOME": "/u", "HF_HUB_CACHE": "$HOME/x", "HUGGINGFACE_HUB_CACHE": "/old"}, "/u/x"),
    ],
)
def test_models_cache(environ: dict[str, str], want: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "HF_HOME", "HUGGINGFACE_HUB_CACHE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert setup.models_cache(os.environ) == want


# The commands


def test_command_without_arguments(standin: StandIn) -> None:
    standin.answers("detect", HOST)
    standin.answers("list", [ROW])
    ran = run(["-m", "llcuda"], standin.environ())
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("llama.cpp  0.5.0, llcuda-bins-sm75")


@pytest.mark.parametrize(
    ("given", "called"),
    [
        (["setup", "--allow-cpu"], "install --allow-cpu"),
        (["chat", "m", "--", "-c", "1"], "chat m -- -c 1"),
        (["serve", "m"], "serve m"),
        (["--help"], "--help"),
        (["pull", "--json", "x"], "pull --json x"),
        (["setups"], "setups"),
    ],
)
def test_command_is_the_client(standin: StandIn, given: list[str], called: str) -> None:
    """With its exit codes, and what is typed into it."""
    standin.answers(called.split()[0], "result", "words\n", 5)
    ran = run(["-m", "llcuda", *given], standin.environ())
    assert (standin.calls, ran) == ([called], (5, "result", "words\n"))


def test_command_without_a_client(standin: StandIn) -> None:
    environ = standin.environ(LLCUDA_FETCH="/nowhere")
    ran = run(["-m", "llcuda", "pull", "x"], environ)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("llcuda: LLCUDA_FETCH names /nowhere, which is not there\nhint: ")
    ran = run(["-m", "llcuda"], environ)
    assert (ran.code, ran.err) == (0, "")
    assert "problem    LLCUDA_FETCH names /nowhere" in ran.out


def test_script_llcuda_fetch(standin: StandIn) -> None:
    code = "import sys; sys.argv = ['llcuda-fetch', 'setup', '-x']; from llcuda._internal.cli import fetch; fetch()"
    assert run(code, standin.environ()).code == 0
    assert standin.calls == ["setup -x"]  # as it is


# Names


def test_all_names() -> None:
    """Each is there, and a module for a name is loaded when it is used."""
    code = """
import sys, llcuda
assert "llcuda.engine" not in sys.modules
from llcuda import *
print(all(name in globals() for name in llcuda.__all__), "numpy" in sys.modules)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": PACKAGE}, check=True
    )
    assert ran.stdout == "True False\n"


def test_no_such_name() -> None:
    for name in ("api", "nccl", "no_such_name", "_bin"):
        with pytest.raises(AttributeError, match=f"module 'llcuda' has no attribute '{name}'"):
            getattr(llcuda, name)


def test_dir() -> None:
    assert set(llcuda.__all__) <= set(dir(llcuda))
    assert all(hasattr(llcuda, name) for name in dir(llcuda))


def test_version() -> None:
    assert llcuda.__version__
    assert isinstance(llcuda.__version__, str)


def test_unused_events_are_shown_by_their_words(inside: StandIn, capfd: pytest.CaptureFixture[str]) -> None:
    inside.answers("install", INSTALLED, events(("new", {"message": "something new"}), ("newer", {"x": 1})))
    llcuda.setup()
    said = capfd.readouterr()
    assert said.out == ""
    assert "llcuda: something new\n" in said.err
    assert 'llcuda: newer: {"x": 1}\n' in said.err

"""Models by name and by file, and the helpers of llcuda 1.x."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

import pytest
from standin import StandIn, events, inside, standin

from llcuda import errors, models, utils
from llcuda._internal import registry

__all__ = ["inside", "standin"]

ROWS: list[dict[str, Any]] = [
    {
        "name": "gemma-3-1b-it-Q4_K_M",
        "aliases": ["gemma-3-1b-Q4_K_M"],
        "repo": "unsloth/gemma-3-1b-it-GGUF",
        "file": "gemma-3-1b-it-Q4_K_M.gguf",
        "size": 806058272,
        "source": "google/gemma-3-1b-it",
        "licence": "gemma",
        "vram_mib": 2176,
        "cached": True,
        "path": "/hub/gemma.gguf",
    },
    {
        "name": "phi-4-Q4_K_M",
        "repo": "bartowski/phi-4-GGUF",
        "file": "phi-4-Q4_K_M.gguf",
        "size": 9053114816,
        "licence": "mit",
        "vram_mib": 10496,
        "cached": False,
        "path": None,
    },
    {
        "name": "gemma-3-1b-it-Q5_K_M",
        "repo": "unsloth/gemma-3-1b-it-GGUF",
        "file": "gemma-3-1b-it-Q5_K_M.gguf",
        "licence": "gemma",
    },
]

FOUND: dict[str, Any] = {
    "name": "x",
    "path": "/x.gguf",
    "architecture": "llama",
    "parameters": 134515008,
    "context": 8192,
    "embedding": 576,
    "layers": 30,
    "quantization": "Q4_1",
    "size": 98362432,
    "metadata": {"general.architecture": "llama"},
    "needs": {"context": 4096, "weights": 96576768, "total": 3 * 1024**3},
    "ngl": 20,
    "context_fit": 0,
}

OLD_NAMES = [
    "gemma-3-1b-Q4_K_M",
    "gemma-3-1b-Q5_K_M",
    "gemma-2-2b-Q4_K_M",
    "llama-3.1-8b-Q4_K_M",
    "llama-3.1-8b-Q5_K_M",
    "phi-3-mini-Q4_K_M",
    "phi-3-mini-Q5_K_M",
    "mistral-7b-Q4_K_M",
    "mistral-7b-Q5_K_M",
    "tinyllama-1.1b-Q5_K_M",
]


@pytest.fixture
def known(inside: StandIn) -> StandIn:
    inside.answers("models", ROWS)
    return inside


# The registry


def test_registry(known: StandIn) -> None:
    got = models.list_registry_models()
    assert list(got) == [row["name"] for row in ROWS]
    gemma = got["gemma-3-1b-it-Q4_K_M"]
    assert gemma is got["gemma-3-1b-Q4_K_M"] is got["GEMMA-3-1B-q4_k_m"] is got.get("gemma-3-1b-Q4_K_M")
    assert (gemma["repo"], gemma["file"]) == ("unsloth/gemma-3-1b-it-GGUF", "gemma-3-1b-it-Q4_K_M.gguf")
    assert (gemma["size_mb"], gemma["min_vram_gb"]) == (806, 2.1)
    assert gemma["description"] == "google/gemma-3-1b-it, licence gemma"
    assert (gemma["cached"], gemma["path"]) == (True, "/hub/gemma.gguf")
    unknown = got["gemma-3-1b-it-Q5_K_M"]
    assert (unknown["size_mb"], unknown["min_vram_gb"], unknown["cached"], unknown["path"]) == (0, 0, False, None)
    assert "gemma-3-1b-q4_k_m" in got
    assert "nothing" not in got
    assert cast(Any, 3) not in got
    assert got.get("nothing") is None
    with pytest.raises(KeyError):
        got["nothing"]


def test_registry_is_read_when_it_is_used(known: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = registry._Lazy()
    assert repr(lazy) == "MODEL_REGISTRY"
    assert known.calls == []
    assert lazy["gemma-3-1b-Q4_K_M"]["size_mb"] == 806
    assert (len(lazy), list(lazy)[1], "phi-4-q4_k_m" in lazy, "x" in lazy) == (3, "phi-4-Q4_K_M", True, False)
    assert len(known.calls) == 1


def test_model_info_by_name(known: StandIn) -> None:
    assert registry.get_model_info("gemma-3-1b-Q4_K_M")["size"] == 806058272
    with pytest.raises(KeyError, match="there is no model 'x'; there is gemma-3-1b-it-Q4_K_M, phi-4"):
        registry.get_model_info("x")


@pytest.mark.parametrize(
    ("gigabytes", "names"),
    [(0, []), (2.1, ["gemma-3-1b-it-Q4_K_M"]), (2, []), (80, ["gemma-3-1b-it-Q4_K_M", "phi-4-Q4_K_M"])],
)
def test_by_memory(known: StandIn, gigabytes: float, names: list[str]) -> None:
    assert list(registry.find_models_by_vram(gigabytes)) == names


@pytest.mark.parametrize(
    ("gigabytes", "names"),
    [(1, ["gemma-3-1b-it-Q4_K_M"]), (4, ["gemma-3-1b-it-Q4_K_M"]), (24, ["phi-4-Q4_K_M", "gemma-3-1b-it-Q4_K_M"])],
)
def test_recommendations(known: StandIn, gigabytes: float, names: list[str]) -> None:
    got = models.get_model_recommendations(gigabytes)
    assert [model["name"] for model in got] == names
    assert set(got[0]) == {"name", "repo", "file", "size_gb", "description"}


def test_printing(known: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    models.print_registry_models()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:3]] == [
        ["gemma-3-1b-it-Q4_K_M", "806", "MB", "2.1", "GB", "yes", "unsloth/gemma-3-1b-it-GGUF"],
        ["phi-4-Q4_K_M", "9053", "MB", "10.2", "GB", "no", "bartowski/phi-4-GGUF"],
    ]
    assert lines[3].split()[1:3] == ["?", "?"]
    models.print_registry_models(4)
    assert len(capsys.readouterr().out.splitlines()) == 2
    known.answers("detect", {"gpus": [{"memory_mib": 1024}, {"memory_mib": 12288}]})
    models.print_model_catalog()
    assert capsys.readouterr().out.startswith("Models for 12.0 GB of GPU memory\nphi-4-Q4_K_M")
    known.answers("detect", {"gpus": []})
    models.print_model_catalog()
    assert capsys.readouterr().out.startswith("Models for 8.0 GB of GPU memory\ngemma")


# What a name is


def test_locate(known: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.gguf").touch()
    (tmp_path / "odd name").touch()
    for name in ("x.gguf", "./x.gguf", "~/x.gguf", str(tmp_path / "x.gguf"), Path("x.gguf")):
        assert registry.locate(name) == str(tmp_path / "x.gguf")
    assert registry.locate("odd name") == str(tmp_path / "odd name")
    for name in (
        "gemma-3-1b-Q4_K_M",
        "org/repo",
        "org/repo:x.gguf",
        "org/repo:Q4_K_M@main",
        "https://huggingface.co/o/r/blob/main/y.gguf",
    ):
        assert registry.locate(name) == name
    for name in ("y.gguf", "./y", "/y.gguf", "~/y.gguf", "../y.gguf", "./", "Y.GGUF"):
        with pytest.raises(errors.ModelNotFoundError, match="there is no file /"):
            registry.locate(name)
    for name in ("", "  "):
        with pytest.raises(errors.UsageError, match="empty"):
            registry.locate(name)
    assert known.calls == []


def test_locate_finds_what_1x_left(known: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "LEFT_BY_1X", str(tmp_path))
    assert registry.locate("gemma-3-1b-Q4_K_M") == "gemma-3-1b-Q4_K_M"
    left = tmp_path / "gemma-3-1b-it-Q4_K_M.gguf"
    left.touch()
    for name in ("gemma-3-1b-Q4_K_M", "gemma-3-1b-it-Q4_K_M", "gemma-3-1b-it-Q4_K_M.gguf"):
        assert registry.locate(name) == str(left)
    assert registry.locate("phi-4-Q4_K_M") == "phi-4-Q4_K_M"
    assert registry.locate("org/repo:gemma-3-1b-it-Q4_K_M.gguf") == "org/repo:gemma-3-1b-it-Q4_K_M.gguf"


def test_names_that_look_like_flags(inside: StandIn) -> None:
    inside.answers("inspect", FOUND)
    inside.answers("pull", {"path": "/x"})
    registry.resolve("--help", ctx_size=2048, memory_mib=[1024, 2048])
    registry.pull("-x")
    assert inside.calls == [
        "--events inspect --patience=10s --ctx=2048 --memory=1024,2048 -- --help",
        "--events pull -- -x",
    ]


# Files


def test_model_info(inside: StandIn, tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(b"x" * 1024 * 1024)
    inside.answers("inspect", FOUND)
    got = models.ModelInfo.from_file(str(file))
    assert (got.architecture, got.parameter_count, got.context_length) == ("llama", 134515008, 8192)
    assert (got.embedding_length, got.quantization, got.file_size_mb) == (576, "Q4_1", 1.0)
    assert got.metadata == {"general.architecture": "llama"}
    assert got.to_dict()["filename"] == "x.gguf"
    assert "llama, Q4_1, 1.0 MiB" in repr(got)
    assert inside.calls == [f"--events inspect --patience=10s -- {file}"]


def test_model_info_of_what_is_none(inside: StandIn, tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    file.write_text("x")
    inside.fails("inspect", "failed", 1, "reading the header: it does not begin with GGUF")
    got = models.ModelInfo(str(file))
    assert (got.architecture, got.metadata) == (None, {})
    assert got.file_size_mb > 0
    assert models.ModelInfo(str(tmp_path / "y.gguf")).file_size_mb == 0
    with pytest.raises(errors.SetupError, match="does not begin with GGUF"):
        got.get_recommended_settings()
    with pytest.raises(FileNotFoundError):
        models.ModelInfo("/nowhere.gguf").get_recommended_settings()


@pytest.mark.parametrize(
    ("found", "layers", "context", "batch", "micro"),
    [
        ({}, 20, 4096, 512, 128),
        ({"ngl": 99, "context_fit": 8192}, 99, 8192, 2048, 512),
        ({"ngl": 25, "context_fit": 3072}, 99, 3072, 2048, 512),  # all of them, with a smaller context
        ({"ngl": 25, "context_fit": 512}, 25, 4096, 512, 128),
        ({"ngl": 0, "context": 1024}, 0, 1024, 256, 64),
        ({"ngl": None, "context_fit": None, "context": None}, 0, 4096, 256, 64),
        ({"ngl": 30, "needs": None}, 30, 4096, 2048, 512),
    ],
)
def test_settings(
    inside: StandIn, tmp_path: Path, found: dict[str, Any], layers: int, context: int, batch: int, micro: int
) -> None:
    file = tmp_path / "x.gguf"
    file.touch()
    inside.answers("inspect", {**FOUND, **found})
    got = models.ModelInfo(str(file)).get_recommended_settings(vram_gb=1.5)
    assert (got["gpu_layers"], got["ctx_size"], got["batch_size"], got["ubatch_size"]) == (layers, context, batch, micro)
    assert got["recommended_vram_gb"] == pytest.approx(3 if {**FOUND, **found}["needs"] else 98362432 / 1024**3)
    assert inside.calls[-1].startswith("--events inspect --patience=10s --memory=1536 -- ")


def test_auto_configure(inside: StandIn, tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    file.touch()
    inside.answers("inspect", {**FOUND, "ngl": None})
    inside.answers("detect", {"gpus": []})
    assert utils.auto_configure_for_model(file)["n_parallel"] == 1
    assert "n_parallel" not in utils.auto_configure_for_model(file, 0.5)
    assert "--memory=512" in inside.calls[-1]


def test_list_models(inside: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside.answers("inspect", FOUND)
    here, user = tmp_path / "here", tmp_path / "user"
    for folder, name, size in (
        (here, "a.gguf", 1),
        (here, "b.gguf", 3),
        (here / "sub", "c.gguf", 9),
        (user / "models", "d.gguf", 2),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * size)
    (here / "e.txt").touch()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(user))
    assert [path.name for path in utils.find_gguf_models()] == ["a.gguf", "b.gguf", "d.gguf"]
    assert utils.find_gguf_models("/nowhere") == []
    assert [model["filename"] for model in models.list_models()] == ["b.gguf", "d.gguf", "a.gguf"]
    assert [model["filename"] for model in models.list_models([str(here / "sub"), "/nowhere"])] == ["c.gguf"]
    manager = models.ModelManager([str(here)])
    assert [model.filepath.name for model in manager] == ["a.gguf", "b.gguf", "c.gguf"]
    assert len(manager) == len(manager.find_by_architecture("LLA")) == 3
    assert manager.find_by_architecture("gemma") == []
    assert [model.filepath.name for model in manager.find_by_size(2 / 1024**2, 4 / 1024**2)] == ["b.gguf"]
    best = manager.get_best_for_vram(8 / 1024**3)
    assert best is not None
    assert best.filepath.name == "b.gguf"
    assert manager.get_best_for_vram(0) is None


# Downloads


def test_download(inside: StandIn, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    blob, snapshot = tmp_path / "blob", tmp_path / "snapshot.gguf"
    blob.write_text("weights")
    snapshot.symlink_to(blob)
    inside.answers(
        "pull", {"path": str(snapshot)}, events(("download", {"name": "x", "done": 7, "total": 7, "from": 0}), ("done", {}))
    )
    assert models.download_model("org/repo", "sub/x.gguf") == str(snapshot)
    assert inside.calls == ["--events pull -- org/repo:sub/x.gguf"]
    said = capfd.readouterr()
    assert (said.out, "Downloaded x" in said.err) == ("", True)

    out = tmp_path / "out"
    for _ in range(2):
        assert models.download_model("org/repo", "sub/x.gguf", str(out), show_progress=False) == str(out / "sub" / "x.gguf")
    assert (out / "sub" / "x.gguf").read_text() == "weights"
    assert os.path.samefile(out / "sub" / "x.gguf", blob)  # the disk has it once
    assert [path.name for path in (out / "sub").iterdir()] == ["x.gguf"]
    (out / "sub" / "x.gguf").unlink()
    (out / "sub" / "x.gguf").write_text("another")
    models.download_model("org/repo", "sub/x.gguf", str(out), show_progress=False)
    assert (out / "sub" / "x.gguf").read_text() == "weights"
    assert capfd.readouterr() == ("", "")


def test_download_to_another_disk(inside: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(source: str, to: str) -> None:
        raise OSError(18, "Invalid cross-device link")

    (tmp_path / "x.gguf").write_text("weights")
    inside.answers("pull", {"path": str(tmp_path / "x.gguf")})
    monkeypatch.setattr(os, "link", link)
    got = models.download_model("org/repo", "x.gguf", str(tmp_path / "out"), show_progress=False)
    assert Path(got).read_text() == "weights"


def test_load_model_smart(known: StandIn, tmp_path: Path) -> None:
    known.answers("pull", {"path": "/hub/x.gguf"}, "", 0, f'echo "[$HF_HUB_CACHE]" >>{known.folder}/said')
    file = tmp_path / "x.gguf"
    file.touch()
    assert models.load_model_smart(str(file)) == file
    assert models.load_model_smart("gemma-3-1b-Q4_K_M") == Path("/hub/x.gguf")
    assert models.load_model_smart("gemma-3-1b-Q4_K_M", cache_dir=tmp_path, interactive=False) == Path("/hub/x.gguf")
    assert (known.folder / "said").read_text() == f"[]\n[{tmp_path}]\n"
    with pytest.raises(FileNotFoundError):
        models.load_model_smart("./y.gguf")
    known.fails("pull", "usage", 2, 'there is no model "x"; there is y')
    with pytest.raises(ValueError, match="there is no model"):
        models.load_model_smart("x")
    known.answers("pull", {})
    with pytest.raises(errors.ModelNotFoundError):
        models.load_model_smart("x")


# The helpers

T4 = {"index": 0, "uuid": "GPU-1", "name": "Tesla T4", "sm": 75, "memory_mib": 15360, "mig": False}
K80 = {**T4, "name": "Tesla K80", "sm": 37, "memory_mib": 11441}
DRIVER = {"version": "550.54.14", "cuda": "12.4"}


def test_detect(inside: StandIn) -> None:
    inside.answers("detect", {"driver": DRIVER, "gpus": [T4, {**T4, "sm": 0}]})
    gpu = {"name": "Tesla T4", "memory": "15360 MiB", "driver_version": "550.54.14", "compute_capability": "7.5"}
    gpus = [gpu, {**gpu, "compute_capability": ""}]
    assert utils.detect_cuda() == {"available": True, "version": "12.4", "gpus": gpus}
    assert utils.check_cuda_available() is True
    assert utils.get_cuda_device_info() == {"cuda_version": "12.4", "gpus": gpus}


def test_detect_nothing(inside: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it never raises."""
    nothing: dict[str, Any] = {"available": False, "version": None, "gpus": []}
    inside.answers("detect", {"driver": {"version": "", "cuda": ""}, "gpus": []})
    assert utils.detect_cuda() == nothing
    inside.fails("detect", "failed", 1)
    assert utils.detect_cuda() == nothing
    monkeypatch.setenv("LLCUDA_FETCH", "/nowhere")
    assert utils.detect_cuda() == nothing
    assert utils.check_cuda_available() is False
    assert utils.get_cuda_device_info() is None
    assert utils.get_llama_cpp_cuda_path() is None
    assert utils.check_gpu_compatibility()["compatible"] is False


@pytest.mark.parametrize(
    ("gpus", "least", "compatible", "capability", "name", "reason"),
    [
        ([T4], 5.0, True, 7.5, "Tesla T4", "compute capability 7.5"),
        ([T4], 7.5, True, 7.5, "Tesla T4", "7.5"),
        ([T4], 8.0, False, 7.5, "Tesla T4", "8.0 is the least"),
        ([K80, T4], 5.0, True, 7.5, "Tesla T4", "7.5"),
        ([K80], 5.0, False, 3.7, "Tesla K80", "compute capability 3.7, and 5.0 is the least"),
        ([{**T4, "sm": 0}], 5.0, False, None, "Tesla T4", "not known"),
        ([], 5.0, False, None, None, "the driver is too old"),
    ],
)
def test_compatibility(
    inside: StandIn,
    gpus: list[dict[str, Any]],
    least: float,
    compatible: bool,
    capability: float | None,
    name: str | None,
    reason: str,
) -> None:
    inside.answers("detect", {"driver": DRIVER, "gpus": gpus, "cuda": {"problem": "" if gpus else "the driver is too old"}})
    got = utils.check_gpu_compatibility(least)
    assert (got["compatible"], got["compute_capability"], got["gpu_name"]) == (compatible, capability, name)
    assert reason in got["reason"]
    assert got["platform"] == "local"


@pytest.mark.parametrize(("variable", "platform"), [("COLAB_GPU", "colab"), ("KAGGLE_KERNEL_RUN_TYPE", "kaggle")])
def test_platform(inside: StandIn, monkeypatch: pytest.MonkeyPatch, variable: str, platform: str) -> None:
    inside.answers("detect", {})
    monkeypatch.setenv(variable, "1")
    assert utils.check_gpu_compatibility()["platform"] == platform


def test_llama_cpp_path(inside: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tmp_path / "bundle"
    inside.answers("list", [{"current": True, "path": str(bundle)}])
    assert utils.get_llama_cpp_cuda_path() == bundle
    monkeypatch.setenv("LLAMA_CPP_DIR", str(tmp_path))
    assert utils.get_llama_cpp_cuda_path() == tmp_path
    monkeypatch.setenv("LLAMA_CPP_DIR", "/nowhere")
    assert utils.get_llama_cpp_cuda_path() == bundle
    old = inside.home / "bundles" / "old"
    old.mkdir(parents=True)
    monkeypatch.setenv("LLAMA_CPP_DIR", str(old))  # taken from an installation, once
    assert utils.get_llama_cpp_cuda_path() == bundle
    monkeypatch.delenv("LLAMA_CPP_DIR")
    inside.answers("list", [])
    assert utils.get_llama_cpp_cuda_path() is None


def test_setup_environment(inside: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tmp_path / "bundle"
    (bundle / "lib").mkdir(parents=True)
    inside.answers("list", [{"current": True, "path": str(bundle)}])
    inside.answers("detect", {"gpus": [T4, T4]})
    for name in ("LLAMA_CPP_DIR", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/lib")
    want = {"LLAMA_CPP_DIR": str(bundle), "LD_LIBRARY_PATH": f"{bundle}/lib:/opt/lib", "CUDA_VISIBLE_DEVICES": "0,1"}
    assert utils.setup_environment() == want
    assert {name: os.environ[name] for name in want} == want
    assert utils.setup_environment() == {}


def test_config(inside: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside.answers("list", [])
    monkeypatch.setenv("HOME", str(tmp_path))
    config = utils.load_config()
    assert utils.create_config_file() == tmp_path / ".llcuda" / "config.json"
    assert {name: list(section) for name, section in config.items()} == {
        "server": ["url", "port", "host", "auto_start"],
        "model": ["gpu_layers", "ctx_size", "n_parallel"],
        "inference": ["max_tokens", "temperature", "top_p", "top_k"],
        "paths": ["llama_cpp_dir", "models_dir"],
    }
    other = tmp_path / "a" / "b.json"
    utils.create_config_file(other)
    other.write_text(json.dumps({"mine": 1}))
    assert utils.load_config(other) == {"mine": 1}
    other.write_text("{")
    with pytest.raises(ValueError, match="Expecting"):
        utils.load_config(other)


@pytest.mark.parametrize(
    ("size", "memory", "layers"),
    [(1, 1.2, 99), (1, 1, 40), (10, 8, 30), (10, 5, 20), (10, 3, 10), (10, 1, 0), (0, 0, 99), (5, 0, 0)],
)
def test_layers(size: float, memory: float, layers: int) -> None:
    assert utils.get_recommended_gpu_layers(size, memory) == layers


def test_validate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("x.gguf", "x.GGUF", "x.bin"):
        (tmp_path / name).touch()
    assert utils.validate_model_path(str(tmp_path / "x.gguf"))
    assert utils.validate_model_path("~/x.GGUF")
    assert not utils.validate_model_path(str(tmp_path / "x.bin"))
    assert not utils.validate_model_path(str(tmp_path / "y.gguf"))


def test_print_system_info(
    inside: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inside.answers("detect", {"gpus": [T4], "driver": DRIVER})
    inside.answers("list", [])
    monkeypatch.chdir(tmp_path)
    for index in range(7):
        (tmp_path / f"{index}.gguf").touch()
    utils.print_system_info()
    out = capsys.readouterr().out
    for text in (
        "Python     3.",
        "GPU        Tesla T4 (SM 7.5)\n",
        "not set up: llcuda.setup() does it\n",
        "/4.gguf (0.0 MiB)\n",
        "and 2 more\n",
    ):
        assert text in out


# With the real client and a real model


def test_old_names(here: None) -> None:
    """Programs written for llcuda 1.x name these."""
    known = models.list_registry_models()
    assert [name for name in OLD_NAMES if name not in known] == []
    assert {"repo", "file", "size_mb", "min_vram_gb", "description"} <= set(known[OLD_NAMES[0]])


def test_real_model(here: None, smollm2: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.symlink_to(smollm2)
    got = models.ModelInfo(str(file))
    assert (got.architecture, got.parameter_count, got.context_length) == ("llama", 134515008, 8192)
    assert (got.embedding_length, got.quantization) == (576, "Q4_1")
    assert got.get_recommended_settings(8)["gpu_layers"] == 99
    assert got.get_recommended_settings(0.01)["gpu_layers"] == 0
    assert utils.auto_configure_for_model(file)["gpu_layers"] == 0  # no GPU
    (tmp_path / "bad.gguf").write_text("no model")
    assert models.ModelInfo(str(tmp_path / "bad.gguf")).architecture is None


def test_real_names(here: None) -> None:
    path = models.load_model_smart("gemma-3-1b-Q4_K_M")
    assert path.name == "gemma-3-1b-it-Q4_K_M.gguf"
    assert registry.resolve("GEMMA-3-1B-q4_k_m")["path"] == str(path)
    with pytest.raises(errors.ModelNotFoundError, match="no model"):
        models.load_model_smart("no-such-model")
    with pytest.raises(errors.ModelNotFoundError):
        registry.resolve("org/repo:x.gguf")
    with pytest.raises(errors.OfflineError):
        models.download_model("org/repo", "x.gguf", show_progress=False)

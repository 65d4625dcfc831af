"""Programs that use the package are checked by mypy, and what is optional is not needed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import llcuda

PACKAGE = Path(__file__).parents[1]

# Uses each public name. What a name gives is said, so that a checker which takes it for Any fails.
PROGRAM = """
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typing_extensions import assert_type

import llcuda
from llcuda import chat, embeddings, errors, jupyter, models, server, utils

assert_type(llcuda.__version__, str)


def events(event: llcuda.Event) -> None:
    print(event.kind, event.data)


def setting_up() -> None:
    installation: llcuda.Installation = llcuda.setup(model="gemma-3-1b-Q4_K_M", sm=75, update=True, allow_cpu=None, progress=events)
    print(installation.release, installation.bundle, installation.through, installation.devices)
    status: llcuda.Status = llcuda.status()
    print(status.installation, status.gpus, status.problems)
    print(llcuda.bootstrap())


def engine() -> None:
    with llcuda.InferenceEngine(api_key="x", timeout=10.0) as engine:
        assert_type(engine.load_model("name", gpu_layers=26, ctx_size=2048, n_parallel=2, silent=True, flash_attn=True), bool)
        loaded: llcuda.LoadedModel | None = engine.model
        print(loaded)
        result = engine.infer("Hello", max_tokens=8, stop_sequences=["x"])
        assert_type(result, llcuda.InferResult)
        assert_type(result.text, str)
        assert_type(result.tokens_per_sec, float)
        result.raise_for_error()
        assert_type(engine.infer_stream("Hello", print), llcuda.InferResult)
        assert_type(engine.batch_infer(["a"]), list[llcuda.InferResult])
        assert_type(engine.chat("Hello"), llcuda.InferResult)
        pieces: Iterator[str] = engine.chat("Hello", stream=True)
        more: Iterator[str] = engine.stream("Hello")
        print(list(pieces), list(more))
        answer: dict[str, Any] = engine.create_chat_completion([{"role": "user", "content": "Hello"}])
        print(answer, engine.create_completion("x"), engine.create_embedding("x"))
        assert_type(engine.tokenize("x"), list[int])
        assert_type(engine.detokenize([1]), str)
        assert_type(engine.base_url, str)
        assert_type(engine.logs(3), str)
        assert_type(engine.is_loaded, bool)
        print(engine.get_metrics()["latency"]["mean_ms"])
        engine.reset_metrics()
        engine.unload_model()
    assert_type(llcuda.quick_infer("Hello"), str)


async def later(engine: llcuda.InferenceEngine) -> None:
    print((await engine.ainfer("Hello")).text, (await engine.achat("Hello")).text)
    async for piece in engine.astream("Hello"):
        assert_type(piece, str)


def manager() -> None:
    manager: server.ServerManager = llcuda.ServerManager()
    assert_type(manager.start_server("x.gguf", port=1, gpu_layers=1, timeout=3), bool)
    assert_type(manager.stop_server(), bool)
    assert_type(manager.find_llama_server(), Path | None)


def talking(engine: llcuda.InferenceEngine) -> None:
    talk = chat.ChatEngine(engine).add_user_message("x")
    assert_type(talk.complete(), str)
    pieces: Iterator[str] = talk.complete_stream()
    print(list(pieces), chat.Message("user", "x").to_dict(), chat.ConversationManager(engine).list_conversations())
    embedder = embeddings.EmbeddingEngine(engine)
    vector = embedder.embed("x")
    assert_type(embeddings.cosine_similarity(vector, vector), float)
    print(embedder.embed_batch(["x"]), embeddings.SemanticSearch(embedder).search("x"), embeddings.TextClustering(embedder))
    print(jupyter.is_jupyter_available(), jupyter.stream_generate(engine, "x"), jupyter.ChatWidget(engine))


def about() -> None:
    info = models.ModelInfo.from_file("x.gguf")
    print(info.parameter_count, info.to_dict(), models.list_registry_models(), models.load_model_smart("x"))
    print(llcuda.detect_cuda(), llcuda.check_cuda_available(), llcuda.get_cuda_device_info(), llcuda.check_gpu_compatibility())
    print(llcuda.find_gguf_models(), llcuda.get_llama_cpp_cuda_path(), llcuda.setup_environment(), llcuda.load_config())
    print(llcuda.create_config_file(), llcuda.get_recommended_gpu_layers(1.0, 2.0), llcuda.validate_model_path("x"))
    llcuda.print_system_info()
    print(utils.auto_configure_for_model(Path("x")))


def failing() -> None:
    try:
        setting_up()
    except errors.OutOfMemoryError as err:
        print(err.log, err.hints, err.code, err.reason)
    except errors.LlcudaError as err:
        assert_type(err.message, str)
"""


def mypy(tmp_path: Path, program: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "program.py").write_text(program)
    # Silent is what mypy is about a package that is installed.
    options = ["--strict", "--follow-imports=silent", "--config-file=", f"--cache-dir={tmp_path.parent / 'cache'}"]
    command = [sys.executable, "-m", "mypy", *options, "program.py"]
    return subprocess.run(command, cwd=tmp_path, env={"MYPYPATH": str(PACKAGE)}, capture_output=True, text=True)


def test_program(tmp_path: Path) -> None:
    unused = [name for name in llcuda.__all__ if f"llcuda.{name}" not in PROGRAM and f" {name}" not in PROGRAM]
    assert unused == []
    checked = mypy(tmp_path, PROGRAM)
    assert (checked.stdout.strip().splitlines()[-1], checked.stderr) == ("Success: no issues found in 1 source file", ""), (
        checked.stdout
    )


def test_wrong_program(tmp_path: Path) -> None:
    checked = mypy(tmp_path, "import llcuda\nllcuda.InferenceEngine().infer(3)\nllcuda.no_such_name\n")
    assert checked.stdout.count(": error: ") == 2


def test_star_without_numpy(installed: Mapping[str, str]) -> None:
    """Every extra is missing."""
    code = """
import sys
for name in ("numpy", "sklearn", "pandas", "IPython", "ipywidgets", "tqdm", "requests", "huggingface_hub", "openai", "matplotlib"):
    sys.modules[name] = None
from llcuda import *
print(InferenceEngine, embeddings.EmbeddingEngine, jupyter.stream_generate)
try:
    embeddings.EmbeddingEngine(InferenceEngine()).embed("x")
except ImportError as err:
    print(err)
"""
    done = subprocess.run([sys.executable, "-c", code], env=dict(installed), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "llcuda[embeddings]" in done.stdout.splitlines()[-1]

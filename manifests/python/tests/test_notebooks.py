"""The notebooks that users get, and those that they wrote for llcuda 1.x, from top to bottom in a real kernel."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbconvert import HTMLExporter, MarkdownExporter
from real import eventually, running

pytestmark = pytest.mark.real

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))

Run = Callable[..., Any]


@pytest.fixture
def execute(installed: Mapping[str, str], registered: Path, tmp_path: Path) -> Iterator[Run]:
    """Executes cells in a kernel of their own. Cells with the tag install are left out: the package is there."""

    def execute(notebook: Any, **environ: str) -> Any:
        notebook.cells = [cell for cell in notebook.cells if "install" not in cell.metadata.get("tags", [])]
        manager = KernelManager(kernel_name="python3")
        client = NotebookClient(notebook, km=manager, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
        client.execute(env={**installed, **environ}, cleanup_kc=True)
        return notebook

    yield execute
    assert eventually(lambda: not running(registered)), "the kernel has ended, and its server has not"


def cells(*sources: str) -> Any:
    """A notebook of these cells."""
    notebook = nbformat.from_dict({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    for number, source in enumerate(sources):
        cell: dict[str, Any] = {
            "cell_type": "code",
            "id": f"cell-{number}",
            "metadata": {},
            "execution_count": None,
            "outputs": [],
        }
        notebook.cells.append(nbformat.from_dict(cell | {"source": textwrap.dedent(source).strip()}))
    return notebook


def text(cell: Any) -> str:
    """What a cell printed and showed, as text."""
    shown = []
    for output in cell.outputs:
        assert output.output_type != "error", output
        shown.append(output.text if output.output_type == "stream" else output.data.get("text/plain", ""))
    return "".join(shown)


def test_notebooks_are_there() -> None:
    assert [path.stem for path in NOTEBOOKS] == [
        "air-gap",
        "chat-and-embeddings",
        "colab",
        "geforce-940m",
        "kaggle-t4",
        "local-rtx",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cleared(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.stem != "air-gap"], ids=lambda path: path.stem)
def test_notebook(path: Path, execute: Run) -> None:
    notebook = execute(nbformat.read(path, as_version=4))
    for cell in notebook.cells:
        if cell.cell_type == "code" and not cell.source.splitlines()[-1].endswith((".close()", "unload")):
            assert text(cell).strip() or cell.source.startswith("%load_ext"), f"nothing came out of\n{cell.source}"
    keep(notebook, path.stem)


def test_air_gap(execute: Run, exported: Path, trusting: Path, smollm2: Path, tmp_path: Path) -> None:
    (path,) = (path for path in NOTEBOOKS if path.stem == "air-gap")
    store = tmp_path / "store"
    notebook = nbformat.read(path, as_version=4)
    # The model is not in the folder: the registry of a signed release cannot be told that SmolLM2 is another.
    for cell in notebook.cells:
        cell.source = cell.source.replace("gemma-3-1b-Q4_K_M", str(smollm2))
    execute(notebook, LLCUDA_HOME=str(store), LLCUDA_FOLDER=str(exported), LLCUDA_FETCH=str(trusting), LLCUDA_OFFLINE="")
    assert "Rome" in text(notebook.cells[-3])
    assert eventually(lambda: not running(store))
    keep(notebook, path.stem)


def test_quick_start_of_1_0_2(execute: Run) -> None:
    """What llcuda 1.0.2's own quick start calls, in its order."""
    notebook = execute(
        cells(
            """
            import llcuda
            print(llcuda.__version__)
            from llcuda import print_system_info
            print_system_info()
            """,
            """
            from llcuda import check_cuda_available, get_cuda_device_info
            print(check_cuda_available(), get_cuda_device_info())
            """,
            """
            from llcuda.models import list_registry_models
            for name, info in list_registry_models().items():
                print(name, info["size_mb"], info["min_vram_gb"], info["description"])
            """,
            """
            engine = llcuda.InferenceEngine()
            engine.load_model("gemma-3-1b-Q4_K_M", gpu_layers=20, auto_start=True, interactive_download=False)
            print(engine.is_loaded)
            """,
            """
            result = engine.infer("What is artificial intelligence?", max_tokens=32, temperature=0.7)
            print(result.text)
            print(result.tokens_generated, f"{result.latency_ms:.0f} ms", f"{result.tokens_per_sec:.1f}", result.success)
            """,
            """
            results = engine.batch_infer(["What is machine learning?", "Explain neural networks"], max_tokens=16)
            for number, result in enumerate(results, 1):
                print(number, result.text)
            """,
            """
            metrics = engine.get_metrics()
            print(metrics["latency"]["mean_ms"], metrics["latency"]["p95_ms"], metrics["throughput"]["tokens_per_sec"])
            import matplotlib
            matplotlib.use("Agg")
            import matplotlib.pyplot as plt
            plt.hist(engine._metrics["latencies"])
            print(len(engine._metrics["latencies"]))
            """,
            """
            from llcuda.jupyter import stream_generate, display_metrics
            stream_generate(engine, "Write a haiku about code", max_tokens=24)
            display_metrics(engine)
            """,
            """
            from llcuda.chat import ChatEngine
            chat = ChatEngine(engine, system_prompt="You are a helpful assistant.")
            chat.add_user_message("Hello!")
            print(chat.complete(max_tokens=24))
            print(len(chat.get_history()))
            """,
            """
            with llcuda.InferenceEngine() as second:
                second.load_model("gemma-3-1b-Q4_K_M", auto_configure=True, verbose=False)
                print(second.infer("Hello", max_tokens=4).success)
            """,
            """
            engine.reset_metrics()
            engine.unload_model()
            print(engine.is_loaded)
            """,
        )
    )
    said = [text(cell).strip() for cell in notebook.cells]
    assert all(said)
    assert "True" in said[3] and said[5].startswith("1 ") and said[8].endswith("3") and said[-1] == "False"


@pytest.mark.parametrize("widgets", [True, False])
def test_without_widgets(execute: Run, widgets: bool) -> None:
    """Progress and streamed text are on the page once, as they were last: saved notebooks are read without a kernel."""
    notebook = execute(
        cells(
            "" if widgets else "import sys\nsys.modules['ipywidgets'] = None",
            """
            import llcuda
            engine = llcuda.InferenceEngine()
            engine.load_model("gemma-3-1b-Q4_K_M", ctx_size=512)
            """,
            """
            from llcuda.jupyter import stream_generate
            answer = stream_generate(engine, "Count: one, two,", max_tokens=24, temperature=0)
            """,
            "print('ANSWER', answer)",
        )
    )
    page, _ = HTMLExporter().from_notebook_node(notebook)
    plain, _ = MarkdownExporter().from_notebook_node(notebook)
    answer = text(notebook.cells[3]).removeprefix("ANSWER").strip()
    first = next(line for line in answer.splitlines() if line.strip())
    assert answer and text(notebook.cells[2]).count(first) == 1
    for rendered in (page, plain):
        assert (rendered.count("Starting llama-server"), rendered.count("Ready in")) == (1, 1)
    if not widgets:
        assert "application/vnd.jupyter.widget" not in str(notebook)


def keep(notebook: Any, name: str) -> None:
    """Leaves the executed notebook where somebody wants to look at it."""
    if folder := os.environ.get("LLCUDA_TEST_KEEP"):
        nbformat.write(notebook, Path(folder) / f"{name}.ipynb")
        page, _ = HTMLExporter().from_notebook_node(notebook)
        (Path(folder) / f"{name}.html").write_text(page)

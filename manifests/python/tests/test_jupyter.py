"""Notebooks: answers as they grow, HTML that stays text, magics, and a chat; in real shells of IPython and real kernels."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
import pytest
from fakeserver import FakeServer, fake
from IPython.core.interactiveshell import InteractiveShell
from nbclient import NotebookClient

import llcuda
from llcuda import InferenceEngine, errors, jupyter

__all__ = ["fake"]

EVIL = "<script>alert(1)</script>"


class Page:
    """What a shell's cells display."""

    def __init__(self) -> None:
        self.outputs: list[dict[str, Any]] = []
        self.updates = 0

    def publish(self, data: dict[str, Any], metadata: Any = None, **kwargs: Any) -> None:
        if kwargs.get("update"):
            self.updates += 1
            self.outputs[-1] = data
        else:
            self.outputs.append(data)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[InteractiveShell]:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    shell = InteractiveShell.instance()
    shell.user_ns.pop("engine", None)
    yield shell
    InteractiveShell.clear_instance()


@pytest.fixture
def page(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> Page:
    page = Page()
    monkeypatch.setattr(shell.display_pub, "publish", page.publish)
    return page


def streams(fake: FakeServer, *pieces: str) -> InferenceEngine:
    end = {"content": "", "stop": True, "stop_type": "eos", "tokens_predicted": len(pieces)}
    fake.streams("/completion", *({"content": piece, "stop": False} for piece in pieces), end)
    chunks = [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces]
    fake.streams("/v1/chat/completions", *chunks, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    return InferenceEngine(fake.url)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("**bold** and a < b, 1<2, x <- y", "**bold** and a < b, 1<2, x <- y"),
        (EVIL, "&lt;script>alert(1)&lt;/script>"),
        ("<!-- x --> <?php", "&lt;!-- x --> &lt;?php"),
        ("`vector<int>` is", "<code>vector&#60;int&#62;</code> is"),
        ("``a `<b` c``", "<code>a &#96;&#60;b&#96; c</code>"),
        ("`plain` `x < y`", "`plain` `x < y`"),
        ("```c\nint x;\n```\n", "```c\nint x;\n```\n"),
        ("```html\n<b>\n```\nafter <i>", "<pre><code>&lt;b&gt;\n</code></pre>\n\nafter &lt;i>"),
        ("~~~\n<b>\n```\n<i>\n~~~\n", "<pre><code>&lt;b&gt;\n```\n&lt;i&gt;\n</code></pre>\n\n"),
        ("```\n<b>\n\n<i>", "<pre><code>&lt;b&gt;\n&#8203;\n&lt;i&gt;</code></pre>\n"),
    ],
)
def test_safe_markdown(text: str, want: str) -> None:
    assert jupyter.safe_markdown(text) == want


@pytest.mark.parametrize(
    "around", ["{}", "`{}", "`{}`", "```\n{}\n```", "```\n{}", "- ```\n{}\n", "> ```\n{}", "~~~\n```\n{}\n~~~\n{}"]
)
def test_no_markdown_lets_html_through(around: str) -> None:
    """However the code is marked, and wherever that ends."""
    made = jupyter.safe_markdown(around.replace("{}", EVIL))
    assert "<script" not in made
    assert "</script" not in made
    assert "script" in made


def test_stream_generate(fake: FakeServer, page: Page) -> None:
    text = jupyter.stream_generate(streams(fake, "a", EVIL, "c"), "x", max_tokens=7, temperature=0, top_k=3)
    assert text == f"a{EVIL}c"
    assert len(page.outputs) == 1
    last = page.outputs[0]
    assert last["text/plain"].startswith(text)
    assert "3 tokens" in last["text/plain"]
    assert "<script" not in last["text/markdown"]
    sent = fake.requests[0][2]
    assert (sent["n_predict"], sent["temperature"], sent["top_k"]) == (7, 0, 3)
    jupyter.stream_generate(streams(fake, EVIL), "x", show_timing=False, markdown=False)
    assert page.outputs[1] == {
        "text/plain": EVIL,
        "text/html": '<div style="white-space:pre-wrap">&lt;script&gt;alert(1)&lt;/script&gt;</div>',
    }


def test_what_came_stays_on_the_page(fake: FakeServer, page: Page) -> None:
    engine = streams(fake, "x")
    fake.streams("/completion", {"content": "partial", "stop": False}, end=False)
    with pytest.raises(errors.RequestError):
        jupyter.stream_generate(engine, "x")
    assert page.outputs[0]["text/plain"] == "partial\n\nbroken off after 1 pieces"


def test_outside_a_notebook(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    engine = streams(fake, "Par", "is")
    assert not jupyter.is_jupyter_available()
    assert jupyter.stream_generate(engine, "x", show_timing=False) == "Paris"
    assert capsys.readouterr().out == "Paris\n"
    assert jupyter.progress_generate(engine, ["a", "b"]) == ["Paris", "Paris"]
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "1 of 2\n2 of 2\n")
    jupyter.display_metrics(engine)
    assert "Total Requests" in capsys.readouterr().out
    assert jupyter.compare_temperatures(engine, "x", [0, 1.5]) == {0: "Paris", 1.5: "Paris"}
    jupyter.visualize_tokens("two words")
    assert "two |   | words" in capsys.readouterr().out
    assert jupyter.check_dependencies(require_widgets=True)


def test_dependencies_that_are_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import importlib.util

    monkeypatch.delitem(sys.modules, "ipywidgets", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ipywidgets" else name)
    assert jupyter.check_dependencies()
    assert not jupyter.check_dependencies(require_widgets=True)
    assert "ipywidgets" in capsys.readouterr().out


def test_displays(fake: FakeServer, page: Page) -> None:
    engine = streams(fake, EVIL)
    assert jupyter.progress_generate(engine, ["a", "b"], max_tokens=3) == [EVIL, EVIL]
    assert page.outputs[0]["text/plain"] == "2 of 2"
    assert 'value="2" max="2"' in page.outputs[0]["text/html"]
    jupyter.compare_temperatures(engine, EVIL, [0.5])
    fake.answers["/tokenize"] = {"tokens": [1, 2]}
    fake.answers["/detokenize"] = lambda handler: handler.json({"content": f"<b>{handler.body['tokens'][0]}"})
    jupyter.visualize_tokens("x", engine)
    assert "&lt;b&gt;2" in page.outputs[-1]["text/html"]
    assert page.outputs[-1]["text/plain"] == "<b>1 | <b>2\n2 tokens"
    jupyter.display_metrics(engine, as_dataframe=False)
    jupyter.display_metrics(engine)
    assert "Total Requests" in page.outputs[-1]["text/html"]
    for output in page.outputs:
        assert "<script" not in output.get("text/html", "")


# The chat


def test_chat_widget(fake: FakeServer, page: Page) -> None:
    chat = jupyter.ChatWidget(streams(fake, "an ", EVIL), "Be brief.", max_tokens=77, temperature=0.2)
    assert (chat.max_tokens_slider.value, chat.temperature_slider.value) == (77, 0.2)
    chat.send_button.click()
    assert fake.requests == []
    chat.input_text.value = f"  hello {EVIL} "
    chat.send_button.click()
    assert fake.requests[0][2]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": f"hello {EVIL}"},
    ]
    assert fake.requests[0][2]["max_tokens"] == 77
    assert chat.conversation_history[1] == {"role": "assistant", "content": f"an {EVIL}"}
    shown = chat.widget.children[0].value
    assert "<script" not in shown
    assert shown.count("&lt;script&gt;") == 2
    assert chat.input_text.value == ""
    chat.display()
    fake.answers["/v1/chat/completions"] = lambda handler: handler.json({"error": f"no {EVIL}"}, 500)
    chat.input_text.value = "again"
    chat.send_button.click()
    assert len(chat.conversation_history) == 2
    assert chat.input_text.value == "again"
    assert not chat.send_button.disabled
    assert "Error:" in chat.widget.children[0].value
    assert "<script" not in chat.widget.children[0].value
    chat.clear_button.click()
    assert (chat.conversation_history, chat.widget.children[0].value) == ([], "")


def test_chat_without_widgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(ImportError, match=r'pip install "llcuda\[jupyter\]"'):
        jupyter.ChatWidget(InferenceEngine())


# Magics


@pytest.fixture
def magics(shell: Any, page: Page) -> Any:
    shell.run_line_magic("load_ext", "llcuda")
    return shell


def test_llm(magics: Any, page: Page, fake: FakeServer) -> None:
    magics.user_ns["engine"] = streams(fake, "An", "swer")
    magics.run_cell_magic("llm", "-n 9 -t 0 -o said", "What is it?\n")
    assert page.outputs[0]["text/markdown"] == "Answer"
    assert magics.user_ns["said"] == "Answer"
    path, _, sent = fake.requests[0]
    assert path == "/v1/chat/completions"
    assert (sent["max_tokens"], sent["temperature"]) == (9, 0)
    assert sent["messages"] == [{"role": "user", "content": "What is it?"}]
    magics.run_cell_magic("llm", "--raw", "One two\n")
    assert fake.requests[1][0] == "/completion"
    assert fake.requests[1][2]["prompt"] == "One two"


@pytest.mark.parametrize("line", ["-n", "-n x", "-t warm", "what", "-o a-b"])
def test_llm_that_is_wrong(magics: Any, fake: FakeServer, line: str) -> None:
    magics.user_ns["engine"] = streams(fake, "x")
    with pytest.raises(errors.UsageError, match="%%llm"):
        magics.run_cell_magic("llm", line, "x")
    assert fake.requests == []


@pytest.mark.parametrize("line", ["load", "load a b", "nonsense", "setup now", "logs x", "load a -ngl many"])
def test_llcuda_that_is_wrong(magics: Any, line: str) -> None:
    with pytest.raises(errors.UsageError, match="%llcuda"):
        magics.run_line_magic("llcuda", line)


def test_llcuda_without_an_engine(magics: Any) -> None:
    for line in ("unload", "logs"):
        with pytest.raises(errors.ServerNotRunningError, match="%llcuda load"):
            magics.run_line_magic("llcuda", line)
    with pytest.raises(errors.ServerNotRunningError, match="%llcuda load"):
        magics.run_cell_magic("llm", "", "x")


def test_which_engine(magics: Any, fake: FakeServer) -> None:
    """The only one of the notebook will do, whatever its name; of two, none."""
    magics.user_ns["mine"] = streams(fake, "x")
    magics.run_cell_magic("llm", "", "x")
    magics.user_ns["other"] = InferenceEngine()
    with pytest.raises(errors.ServerNotRunningError):
        magics.run_cell_magic("llm", "", "x")
    del magics.user_ns["mine"], magics.user_ns["other"]


# Real kernels


def notebook(cells: list[str], installed: Mapping[str, str], **kwargs: Any) -> list[list[dict[str, Any]]]:
    """The outputs of cells in a real kernel."""
    v4: Any = nbformat.v4
    book = v4.new_notebook(cells=[v4.new_code_cell(cell) for cell in cells])
    client = NotebookClient(book, timeout=300, kernel_name="python3", **kwargs)
    client.execute(env={**installed, "LLAMA_ARG_THREADS": "1"})
    return [cell["outputs"] for cell in book.cells]


def texts(outputs: list[dict[str, Any]]) -> str:
    return "".join(o.get("text", "") or str(o.get("data", {}).get("text/plain", "")) for o in outputs)


@pytest.mark.real
def test_real_notebook(installed: Mapping[str, str], smollm2: Path) -> None:
    """Without widgets. Progress and answer are one output each, in their last state."""
    outputs = notebook(
        [
            "import sys; sys.modules['ipywidgets'] = None\n%load_ext llcuda",
            f"%llcuda load {smollm2} -c 512 --cpu",
            "%%llm -n 12 -t 0 -o said\nWhat is the capital of France?",
            "print(said)",
            "from llcuda.jupyter import stream_generate\nt = stream_generate(engine, 'One two three', max_tokens=8)",
            "%llcuda status",
            "%llcuda logs 2",
            "%llcuda unload",
            "print(engine.is_loaded)",
        ],
        installed,
    )
    assert len(outputs[1]) == 1
    assert "Ready in" in texts(outputs[1])
    assert len(outputs[2]) == 1
    assert len(outputs[2][0]["data"]["text/markdown"]) > 10
    assert outputs[2][0]["data"]["text/plain"] == texts(outputs[3]).removesuffix("\n")
    assert len(outputs[4]) == 1
    assert "8 tokens" in texts(outputs[4])
    assert "text/html" in outputs[5][0]["data"]
    assert texts(outputs[8]) == "False\n"
    assert not [o for cell in outputs for o in cell if o["output_type"] == "error"]


@pytest.mark.real
def test_real_cell_that_runs_again(installed: Mapping[str, str], smollm2: Path) -> None:
    """The engine before is only in the history of outputs: its server must not hold memory."""
    load = "{0} = llcuda.InferenceEngine()\n{0}.load_model(model, gpu_layers=0, ctx_size=256, progress=False)"
    pid = "engine.server.get_server_info()['process_id']"
    outputs = notebook(
        [
            f"import llcuda, json, os\nmodel = {str(smollm2)!r}",
            f"{load.format('engine')}\nfirst = {pid}\nengine",
            f"{load.format('engine')}\nsecond = {pid}\nengine",
            load.format("kept"),
            "alive = [os.path.exists(f'/proc/{p}') for p in (first, second)]",
            "print(json.dumps([alive, first != second, engine.is_loaded, kept.is_loaded]))",
        ],
        installed,
    )
    assert json.loads(texts(outputs[5])) == [[False, True], True, True, True]


def test_extension_is_lazy() -> None:
    assert llcuda.load_ipython_extension is jupyter.load_ipython_extension

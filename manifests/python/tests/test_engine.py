"""The engine: what it asks for, what it makes of answers, and whose model it takes."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import COMMIT
from engines import engine
from fakeserver import FakeServer, Handler, fake, until
from standin import StandIn, inside, standin

import llcuda
from llcuda import InferenceEngine, InferResult, errors
from llcuda._internal.serving import _forget_history, _layers
from llcuda.server import flags

__all__ = ["engine", "fake", "inside", "standin"]

TIMINGS = {"prompt_n": 2, "cache_n": 3, "predicted_n": 2, "predicted_per_second": 50.0}
COMPLETION = [
    {"content": "Par", "stop": False},
    {"content": "is", "stop": False},
    {"content": "", "stop": True, "stop_type": "eos", "tokens_predicted": 2, "tokens_evaluated": 5, "timings": TIMINGS},
]


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


CHAT = [
    chunk({"role": "assistant", "content": None}),
    chunk({"content": "Hel"}),
    chunk({"content": "lo"}),
    chunk({}, "stop", timings=TIMINGS),
]


def test_infer(fake: FakeServer) -> None:
    fake.streams("/completion", *COMPLETION)
    result = InferenceEngine(fake.url).infer("The capital of France is", 16, 0, 0.5, 7, 3, ["\n"], min_p=0.1)
    assert (result.success, result.text, result.tokens_generated, result.prompt_tokens) == (True, "Paris", 2, 5)
    assert (result.finish_reason, result.timings, result.error, result.error_message) == ("stop", TIMINGS, None, "")
    assert result.latency_ms > 0
    assert result.tokens_per_sec == pytest.approx(2 / (result.latency_ms / 1000))
    assert fake.requests[0][2] == {
        "prompt": "The capital of France is",
        "n_predict": 16,
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 7,
        "seed": 3,
        "stop": ["\n"],
        "min_p": 0.1,
        "stream": True,
    }


def test_infer_defaults(fake: FakeServer) -> None:
    """Those of 1.0.x; its seed 0 means a random one."""
    fake.streams("/completion", *COMPLETION)
    InferenceEngine(fake.url).infer("x")
    sent = fake.requests[0][2]
    assert [sent[k] for k in ("n_predict", "temperature", "top_p", "top_k", "seed", "stop")] == [128, 0.7, 0.9, 40, -1, []]


def fails_before(fake: FakeServer) -> None:
    fake.answers["/completion"] = lambda handler: handler.json({"error": {"message": "no", "code": 500}}, 500)


def fails_inside(fake: FakeServer) -> None:
    fake.streams("/completion", COMPLETION[0], {"error": {"message": "no", "code": 500}})


def fails_broken_off(fake: FakeServer) -> None:
    fake.streams("/completion", COMPLETION[0], end=False)


def fails_unfinished(fake: FakeServer) -> None:
    fake.streams("/completion", COMPLETION[0])


def fails_nonsense(fake: FakeServer) -> None:
    fake.streams("/completion", {"content": {"a": 1}, "timings": 3})


@pytest.mark.parametrize("failing", [fails_before, fails_inside, fails_broken_off, fails_unfinished, fails_nonsense])
def test_infer_never_raises(fake: FakeServer, failing: Callable[[FakeServer], None]) -> None:
    failing(fake)
    engine = InferenceEngine(fake.url)
    for result in (engine.infer("x"), engine.infer_stream("x", lambda _: None), asyncio.run(engine.ainfer("x"))):
        assert (result.success, result.finish_reason) == (False, "error")
        assert result.error_message
        assert result.error_message == str(result.error)
        assert "error=" in repr(result)
        with pytest.raises(type(result.error) if result.error else Exception):
            result.raise_for_error()
    assert engine.get_metrics()["throughput"]["total_requests"] == 0


def test_infer_with_arguments_that_are_none(fake: FakeServer) -> None:
    result = InferenceEngine(fake.url).infer("x", temperature=Path("x"))  # type: ignore[arg-type]
    assert not result.success
    assert isinstance(result.error, TypeError)


def test_result_alone() -> None:
    result = InferResult()
    assert (result.success, result.text, str(result), result.tokens_generated, result.timings) == (False, "", "", 0, {})
    result.text, result.success = "x", True
    result.raise_for_error()
    assert str(result) == "x"
    with pytest.raises(errors.RequestError):
        InferResult().raise_for_error()
    assert InferResult().timings is not InferResult().timings


def test_stream_is_lazy_and_closes(fake: FakeServer) -> None:
    fake.streams("/completion", *COMPLETION)
    engine = InferenceEngine(fake.url)
    pieces = engine.stream("x")
    assert fake.requests == []
    assert list(pieces) == ["Par", "is"]


def test_leaving_the_loop_cancels(fake: FakeServer) -> None:
    left: list[bytes] = []

    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.chunk(b'data: {"content":"a","stop":false}\n\n')
        handler.connection.settimeout(10)
        left.append(handler.connection.recv(1))

    fake.answers["/completion"] = fake.answers["/v1/chat/completions"] = endless
    engine = InferenceEngine(fake.url)
    for _ in engine.stream("x"):
        break
    assert until(lambda: left == [b""])

    def callback(piece: str) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        engine.infer_stream("x", callback)
    assert until(lambda: left == [b"", b""])

    async def cancelled() -> None:
        task = asyncio.create_task(engine.ainfer("x"))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        pieces = engine.astream("x")
        async for _ in pieces:
            break
        await pieces.aclose()

    asyncio.run(cancelled())
    assert until(lambda: left == [b""] * 4)


def test_infer_stream(fake: FakeServer) -> None:
    fake.streams("/completion", *COMPLETION)
    pieces: list[str] = []
    result = InferenceEngine(fake.url).infer_stream("x", pieces.append, max_tokens=3, seed=9)
    assert (pieces, result.text, result.success) == (["Par", "is"], "Paris", True)
    assert fake.requests[0][2]["seed"] == 9


def test_chat(fake: FakeServer) -> None:
    fake.streams("/v1/chat/completions", *CHAT)
    engine = InferenceEngine(fake.url)
    result = engine.chat("Hi", temperature=0, top_p=0.3)
    assert (result.success, result.text, result.finish_reason, result.tokens_generated, result.prompt_tokens) == (
        True,
        "Hello",
        "stop",
        2,
        5,
    )
    sent = fake.requests[0][2]
    assert sent == {
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 256,
        "temperature": 0,
        "top_p": 0.3,
        "stream": True,
    }
    assert list(engine.chat([{"role": "user", "content": "Hi"}], stream=True)) == ["Hel", "lo"]


def test_chat_raises(fake: FakeServer) -> None:
    error = {"error": {"code": 400, "message": "too long", "type": "exceed_context_size_error"}}
    fake.answers["/v1/chat/completions"] = lambda handler: handler.json(error, 400)
    with pytest.raises(errors.ContextLengthError, match="too long"):
        InferenceEngine(fake.url).chat("Hi")
    with pytest.raises(errors.UsageError, match="role and content"):
        InferenceEngine(fake.url).chat(["Hi"])  # type: ignore[list-item]


def test_tool_calls_and_reasoning(fake: FakeServer) -> None:
    """They come in parts."""
    fake.streams(
        "/v1/chat/completions",
        chunk({"reasoning_content": "hm"}),
        chunk({"reasoning_content": "!"}),
        chunk({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "weather", "arguments": ""}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]}),
        chunk({"tool_calls": [{"index": 1, "id": "b", "function": {"name": "time", "arguments": "{}"}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '"Rome"}'}}]}),
        chunk({}, "tool_calls"),
        {"choices": [], "usage": {"completion_tokens": 7, "prompt_tokens": 11}},
    )
    tool = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    form = {"type": "json_object"}
    result = InferenceEngine(fake.url).chat("Hi", tools=[tool], response_format=form)
    assert result.reasoning == "hm!"
    assert [(c["id"], c["function"]["name"], json.loads(c["function"]["arguments"])) for c in result.tool_calls] == [
        ("a", "weather", {"city": "Rome"}),
        ("b", "time", {}),
    ]
    assert (result.finish_reason, result.tokens_generated, result.prompt_tokens) == ("tool_calls", 7, 11)
    assert fake.requests[0][2]["tools"] == [tool]
    assert fake.requests[0][2]["response_format"] == form


def test_batch(fake: FakeServer) -> None:
    """As many at once as the server has slots, and results in order; one that fails is one result."""
    at_once, most = 0, 0
    lock = threading.Lock()
    full = threading.Event()

    def answer(handler: Handler) -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
            if at_once == 3:
                full.set()
        assert full.wait(10)
        with lock:
            at_once -= 1  # before the answer, after which the client sends the next prompt
        if handler.body["prompt"] == "p4":
            handler.json({"error": "no"}, 500)
        else:
            done = {"content": handler.body["prompt"] + "!", "stop": True, "stop_type": "limit"}
            handler.stream([b"data: " + json.dumps(done).encode() + b"\n\n"])

    fake.answers["/props"] = {"model_path": "/m.gguf", "total_slots": 3}
    fake.answers["/completion"] = answer
    prompts = [f"p{i}" for i in range(9)]
    results = InferenceEngine(fake.url).batch_infer(prompts, max_tokens=5, temperature=0)
    assert [r.text for r in results] == ["" if p == "p4" else f"{p}!" for p in prompts]
    assert [r.success for r in results] == [p != "p4" for p in prompts]
    assert results[0].finish_reason == "length"
    assert most == 3
    assert {r[2]["temperature"] for r in fake.requests if r[0] == "/completion"} == {0}
    assert InferenceEngine(fake.url).batch_infer([]) == []


def test_metrics(fake: FakeServer) -> None:
    fake.streams("/completion", *COMPLETION)
    engine = InferenceEngine(fake.url)
    zero = engine.get_metrics()
    assert zero["latency"] == dict.fromkeys(("mean_ms", "p50_ms", "p95_ms", "p99_ms", "min_ms", "max_ms", "sample_count"), 0)
    assert zero["throughput"] == dict.fromkeys(("total_tokens", "total_requests", "tokens_per_sec", "requests_per_sec"), 0)
    results = [engine.infer("x") for _ in range(5)]
    metrics = engine.get_metrics()
    ordered = sorted(r.latency_ms for r in results)
    assert metrics["latency"] == {
        "mean_ms": pytest.approx(sum(ordered) / 5),
        "p50_ms": ordered[2],
        "p95_ms": ordered[4],
        "p99_ms": ordered[4],
        "min_ms": ordered[0],
        "max_ms": ordered[4],
        "sample_count": 5,
    }
    assert metrics["throughput"]["total_tokens"] == 10
    assert sorted(engine._metrics["latencies"]) == ordered  # which the published notebook of 1.0.x plots
    engine.reset_metrics()
    assert engine.get_metrics() == zero


def test_openai_shapes(fake: FakeServer) -> None:
    """Asked for as a stream, so that an interrupt reaches the server, and put together."""
    about = {"id": "i", "created": 7, "model": "m"}
    usage = {"completion_tokens": 2, "prompt_tokens": 5}
    chunks = [{**c, **about, "object": "chat.completion.chunk"} for c in CHAT]
    fake.streams("/v1/chat/completions", *chunks, {"choices": [], "usage": usage, **about})
    engine = InferenceEngine(fake.url)
    assert engine.create_chat_completion("Hi", max_tokens=3) == {
        **about,
        "object": "chat.completion",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello"}}],
        "usage": usage,
        "timings": TIMINGS,
    }
    assert fake.requests[0][2] == {
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 3,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert list(engine.create_chat_completion("Hi", stream=True))[1]["choices"][0]["delta"] == {"content": "Hel"}
    probable = {"content": [{"token": "a", "logprob": -0.5}]}
    texts = [
        {"choices": [{"index": 1, "text": "y"}], "object": "text_completion"},
        {"choices": [{"index": 0, "text": "a", "logprobs": probable}]},
        {"choices": [{"index": 0, "text": "b", "logprobs": probable, "finish_reason": "length"}]},
        {"choices": [{"index": 1, "text": "", "finish_reason": "stop"}]},
    ]
    fake.streams("/v1/completions", *texts)
    assert engine.create_completion("x") == {
        "object": "text_completion",
        "choices": [
            {"index": 0, "text": "ab", "finish_reason": "length", "logprobs": {"content": probable["content"] * 2}},
            {"index": 1, "text": "y", "finish_reason": "stop"},
        ],
    }
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}
    fake.streams("/v1/chat/completions", chunk({"tool_calls": [call]}), chunk({}, "tool_calls"))
    message = engine.create_chat_completion("Hi")["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"] == [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    fake.streams("/v1/completions", texts[1])
    with pytest.raises(errors.RequestError, match="before it was complete"):
        engine.create_completion("x")


def test_key(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.streams("/completion", *COMPLETION)
    for name in ("LLCUDA_API_KEY", "LLAMA_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    InferenceEngine(fake.url).infer("x")
    InferenceEngine(fake.url, api_key="k").infer("x")
    monkeypatch.setenv("LLAMA_API_KEY", "llama")
    InferenceEngine(fake.url).infer("x")
    monkeypatch.setenv("LLCUDA_API_KEY", "ours")
    InferenceEngine(fake.url).infer("x")
    InferenceEngine(fake.url, api_key="").infer("x")
    monkeypatch.setenv("LLCUDA_API_KEY", "")
    InferenceEngine(fake.url).infer("x")
    assert [r[1].get("Authorization") for r in fake.requests] == [
        None,
        "Bearer k",
        "Bearer llama",
        "Bearer ours",
        None,
        None,
    ]


# Whose model


def serving(fake: FakeServer, path: str, **more: Any) -> InferenceEngine:
    fake.answers["/health"] = {"status": "ok"}
    fake.answers["/props"] = {"model_path": path, "total_slots": 2, "default_generation_settings": {"n_ctx": 512}, **more}
    return InferenceEngine(fake.url)


@pytest.mark.parametrize(
    ("served", "asked"),
    [
        ("/models/Some-Q4_K_M.gguf", "some-q4_k_m.gguf"),
        ("/models/Some-Q4_K_M.gguf", "some-q4_k_m"),
        ("models/x.gguf", "/elsewhere/x.gguf"),
        ("/hub/models--o--r/snapshots/1/f.gguf", "o/r:f.gguf"),
        ("/hub/models--o--r/snapshots/1/f.gguf", "o/r:f.gguf@main"),
        ("/hub/models--o--r/snapshots/1/sub/f.gguf", "o/r:sub/f.gguf"),
        ("/models/google_gemma-3-1b-it-Q4_K_M.gguf", "gemma-3-1b-Q4_K_M"),
        ("/models/x.gguf", "its-alias"),
    ],
)
def test_attaches(fake: FakeServer, inside: StandIn, served: str, asked: str) -> None:
    inside.answers("inspect", {"name": asked, "path": None, "file": "google_gemma-3-1b-it-Q4_K_M.gguf"})
    engine = serving(fake, served, model_alias="its-alias,another")
    assert engine.load_model(asked)
    assert engine.model is not None
    assert engine.model == (asked, served, 0, 512, None, 2, "")
    assert engine.is_loaded
    engine.unload_model()
    assert not engine.is_loaded
    assert engine.server_url == fake.url
    assert not [call for call in inside.calls if " serve " in call]


@pytest.mark.parametrize("asked", ["other.gguf", "o/r:other.gguf", "phi-3-mini-Q4_K_M", "llama"])
def test_another_model(fake: FakeServer, inside: StandIn, asked: str) -> None:
    inside.answers("inspect", {"name": asked, "path": "/hub/its.gguf"})
    engine = serving(fake, "/models/gemma.gguf")
    with pytest.raises(errors.ServerMismatchError, match=r"gemma\.gguf, not " + asked.replace(".", r"\.")):
        engine.load_model(asked)
    assert engine.model is None


def test_two_files_of_one_name(fake: FakeServer, inside: StandIn, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "m.gguf").write_text(folder)
    (tmp_path / "c.gguf").symlink_to("a/m.gguf")
    engine = serving(fake, str(tmp_path / "a" / "m.gguf"))
    assert engine.load_model(str(tmp_path / "c.gguf"))
    with pytest.raises(errors.ServerMismatchError):
        engine.load_model(str(tmp_path / "b" / "m.gguf"))


@pytest.mark.parametrize("health", [{"status": "ok"}, "a word", None])
def test_what_is_no_llama_server(fake: FakeServer, inside: StandIn, health: Any) -> None:
    if health is not None:
        fake.answers["/health"] = health
        fake.answers["/props"] = {"app": "another"}
    with pytest.raises(errors.ServerMismatchError, match="not a llama-server"):
        InferenceEngine(fake.url).load_model("x.gguf")
    assert inside.calls == []


def test_waits_for_a_server_that_loads(fake: FakeServer, inside: StandIn) -> None:
    engine = serving(fake, "/m/x.gguf")
    asked = 0

    def health(handler: Handler) -> None:
        nonlocal asked
        asked += 1
        handler.json(
            {"status": "ok"} if asked > 2 else {"error": {"message": "Loading", "code": 503}}, 200 if asked > 2 else 503
        )

    fake.answers["/health"] = health
    assert engine.load_model("x.gguf")
    fake.answers["/health"] = lambda handler: handler.json({"error": "Loading"}, 503)
    with pytest.raises(errors.ServerTimeoutError):
        InferenceEngine(fake.url).load_model("x.gguf", start_timeout=0.2)


def test_no_server_and_none_may_be_started(inside: StandIn) -> None:
    with pytest.raises(ConnectionError):
        InferenceEngine("http://127.0.0.1:9").load_model("x", auto_start=False)
    with pytest.raises(errors.ServerNotRunningError, match=r"192\.0\.2\.1|no llama-server"):
        InferenceEngine("http://localhost.invalid:9").load_model("x")
    assert inside.calls == []


# What is asked of the client


def test_flags() -> None:
    given = {
        "flash_attn": True,
        "fit": False,
        "cache_ram": 0,
        "no_mmap": True,
        "mlock": False,
        "alias": None,
        "tensor_split": [3, 1],
        "-sm": "row",
        "--jinja": "",
        "rope_freq_base": 1e6,
    }
    assert flags(given) == [
        *("-fa", "on", "-fit", "off", "--cache-ram", "0", "--no-mmap", "--tensor-split", "3,1", "-sm", "row", "--jinja"),
        *("--rope-freq-base", "1000000.0"),
    ]
    assert flags({"flash_attn": "auto"}) == ["-fa", "auto"]


def failing(inside: StandIn, reason: str, message: str = "why", **more: Any) -> None:
    from standin import events

    inside.installed()
    inside.answers("list", [{"current": True, "folder": "bundles/x", "through": "cubin"}])
    inside.answers("detect", {"gpus": [{"name": "Tesla T4", "sm": 75}]})
    end = {"code": 1, "signal": None, "reason": reason, "tail": ["one", "two"], "log": "/l", **more}
    error = {"class": "usage" if reason == "argument" else "failed", "code": 1, "message": message, "hints": ["way"]}
    starting = {"url": "http://127.0.0.1:8090", "pid": 5, "program": "/p", "model": {"name": "m"}, "log": "/l", "port": 8090}
    inside.answers(
        "serve", None, events(("starting", starting), ("loading", {"seconds": 1}), ("exit", end), ("error", error)), 1
    )


@pytest.mark.parametrize(
    ("reason", "kinds"),
    [
        ("memory", (errors.OutOfMemoryError, errors.ServerStartError, MemoryError)),
        ("timeout", (errors.ServerTimeoutError, TimeoutError)),
        ("port", (errors.ServerStartError,)),
        ("model", (errors.ServerStartError,)),
        ("argument", (errors.ServerStartError,)),
        ("crash", (errors.ServerStartError, RuntimeError)),
        ("a new one", (errors.ServerStartError,)),
    ],
)
def test_start_errors(inside: StandIn, tmp_path: Path, reason: str, kinds: tuple[type, ...]) -> None:
    failing(inside, reason)
    (tmp_path / "m.gguf").touch()
    seen: list[str] = []
    engine = InferenceEngine()
    with pytest.raises(errors.ServerStartError) as caught:
        engine.load_model(str(tmp_path / "m.gguf"), progress=lambda event: seen.append(event.kind))
    err = caught.value
    assert all(isinstance(err, kind) for kind in kinds)
    assert (err.reason, err.log, err.returncode, err.message) == (reason, "one\ntwo", 1, "why")
    assert "way" in err.hints
    assert seen == ["starting", "loading", "exit"]
    assert (engine.model, engine.is_loaded) == (None, False)


def test_crash_has_the_signal(inside: StandIn, tmp_path: Path) -> None:
    failing(inside, "crash", code=None, signal="SIGSEGV")
    (tmp_path / "m.gguf").touch()
    with pytest.raises(errors.ServerStartError) as caught:
        InferenceEngine().load_model(str(tmp_path / "m.gguf"), progress=False)
    assert caught.value.returncode == -11


def test_no_gpu_is_never_silently_the_processor(inside: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where something is installed that would run there."""
    failing(inside, "port")
    inside.answers("detect", {"gpus": []})
    inside.answers("list", [{"current": True, "folder": "bundles/x", "through": "cpu"}])
    model = str(tmp_path / "m.gguf")
    Path(model).touch()
    with pytest.raises(errors.NoGPUError, match="gpu_layers=0"):
        InferenceEngine().load_model(model, progress=False)
    with pytest.raises(errors.NoGPUError):
        InferenceEngine().load_model(model, gpu_layers=5, progress=False)
    with pytest.raises(errors.NoGPUError):
        llcuda.ServerManager().start_server(model, silent=True)
    inside.answers("detect", {"gpus": [{"name": "Tesla T4", "sm": 75}]})
    with pytest.raises(errors.NoGPUError):  # what is installed would run on the processor all the same
        InferenceEngine().load_model(model, progress=False)
    inside.answers("detect", {"gpus": []})
    assert not [call for call in inside.calls if " serve " in call]

    def goes_on(load: Callable[[], Any]) -> None:
        with pytest.raises(errors.ServerStartError):
            load()

    goes_on(lambda: InferenceEngine().load_model(model, gpu_layers=0, progress=False))
    goes_on(lambda: InferenceEngine().load_model(model, allow_cpu=True, progress=False))
    goes_on(lambda: InferenceEngine().load_model(model, skip_gpu_check=True, progress=False))
    goes_on(lambda: llcuda.ServerManager().start_server(model, silent=True, gpu_layers=0))
    monkeypatch.setenv("LLCUDA_ALLOW_CPU", "1")
    goes_on(lambda: InferenceEngine().load_model(model, progress=False))
    monkeypatch.setenv("LLCUDA_ALLOW_CPU", "0")
    with pytest.raises(errors.NoGPUError):
        InferenceEngine().load_model(model, progress=False)


def test_what_serve_is_asked(inside: StandIn, tmp_path: Path) -> None:
    failing(inside, "port")
    inside.answers("serve", None, (inside.folder / "serve.stderr").read_text(), 1, do=f'env >"{inside.folder}/env"')
    model = tmp_path / "m.gguf"
    model.touch()

    def asked(**kwargs: Any) -> str:
        with pytest.raises(errors.ServerStartError):
            InferenceEngine(kwargs.pop("server_url", None), api_key=kwargs.pop("api_key", None)).load_model(
                str(model), progress=False, **kwargs
            )
        return [call for call in inside.calls if " serve " in call][-1]

    head = f"--events serve {model} --lifeline --host 127.0.0.1"
    assert asked() == f"{head} --port auto --timeout 600.000s -- -np 1"
    environ = dict(line.split("=", 1) for line in (inside.folder / "env").read_text().splitlines() if "=" in line)
    assert len(environ["LLAMA_API_KEY"]) == 48
    assert environ["LLAMA_ARG_CORS_ORIGINS"] == "localhost"
    assert "LLCUDA_ALLOW_CPU" not in environ
    assert asked(
        gpu_layers=0, ctx_size=64, n_parallel=3, batch_size=7, ubatch_size=5, timeout=60, port=8123, jinja=True
    ) == (f"{head} --port 8123 --timeout 60.000s -- -ngl 0 -c 64 -np 3 -b 7 -ub 5 --jinja")
    assert asked(auto_configure=False).endswith("-- -ngl 99 -c 2048 -np 1")
    assert asked(embeddings=True, pooling="cls").endswith("-- --embeddings --pooling cls -np 1 -b 2048 -ub 2048")
    assert asked(server_url="http://127.0.0.1:9", api_key="").startswith(f"{head} --port 9 ")
    assert "LLAMA_API_KEY=\n" in (inside.folder / "env").read_text()
    assert "-- -ngl 99 -c 2048 -np 1 -b 512 -ub 128" in started(model, inside)


def started(model: Path, inside: StandIn) -> str:
    with pytest.raises(errors.ServerStartError):
        llcuda.ServerManager().start_server(str(model), silent=True)
    return inside.calls[-1]


def test_own_program_needs_no_installation(inside: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no GPU of NVIDIA. One in the store is the store's, which a release may replace."""
    failing(inside, "port")
    inside.answers("detect", {"gpus": []})
    model = tmp_path / "m.gguf"
    model.touch()
    own = tmp_path / "own" / "build" / "bin" / "llama-server"
    own.parent.mkdir(parents=True)
    own.touch()
    for name, value in (("LLAMA_SERVER_PATH", str(own)), ("LLAMA_CPP_DIR", str(tmp_path / "own"))):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert llcuda.ServerManager().find_llama_server() == own
            with pytest.raises(errors.ServerStartError):
                InferenceEngine().load_model(str(model), progress=False)
    assert {call.split()[1] for call in inside.calls} == {"serve"}
    stale = inside.home / "bundles" / "x" / "llama-server"
    stale.touch()
    monkeypatch.setenv("LLAMA_SERVER_PATH", str(stale))
    with pytest.raises(errors.NoGPUError):
        InferenceEngine().load_model(str(model), progress=False)


def test_a_wrong_name_is_found_before_anything_starts(inside: StandIn) -> None:
    failing(inside, "port")
    for name in ("/no/such.gguf", "~/no.gguf", "no.gguf", "./no"):
        with pytest.raises(FileNotFoundError):
            InferenceEngine().load_model(name, progress=False)
        with pytest.raises(ValueError, match="no file"):
            InferenceEngine().load_model(name, progress=False)
    assert not [call for call in inside.calls if " serve " in call]


def test_layers() -> None:
    log = "x\nload_tensors: offloaded 20/29 layers to GPU\nload_tensors: offloaded 26/29 layers to GPU\n"
    assert _layers(["-ngl", "26"], log, ["CUDA0"]) == (26, "as asked for")
    assert _layers([], log, ["CUDA0"])[0] == 26
    assert _layers(["-ngl", "0"], log, ["CUDA0"])[0] == 0
    assert _layers([], "", [])[0] == 0
    assert _layers([], log, None)[0] == 26
    assert _layers([], "", None) == (None, "")


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
@pytest.mark.parametrize("made", [InferenceEngine, llcuda.ServerManager])
def test_no_copies(made: Callable[[], Any], copied: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="cannot be copied or pickled, because it owns a running server"):
        copied(made())


def test_asyncio_is_not_loaded_early() -> None:
    code = "import sys, llcuda.engine, llcuda.server, llcuda.chat, llcuda.embeddings, llcuda.jupyter; print(*sys.modules)"
    environ = {**os.environ, "LLCUDA_AUTO_SETUP": "off"}
    loaded = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "llcuda.engine" in loaded
    assert not {"asyncio", "numpy", "IPython", "openai", "dataclasses"} & set(loaded)


def test_history_without_a_notebook() -> None:
    _forget_history(InferenceEngine())


def test_html_of_an_engine(fake: FakeServer, inside: StandIn) -> None:
    engine = serving(fake, "/<b>.gguf")
    engine.load_model("<b>.gguf")
    html = engine._repr_html_()
    assert "&lt;b&gt;.gguf" in html
    assert "<b>" not in html


def test_openai_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    engine = InferenceEngine("http://127.0.0.1:9/")
    with pytest.raises(ImportError, match="pip install openai"):
        engine.openai()
    assert engine.base_url == "http://127.0.0.1:9/v1"


# With a real model


@pytest.mark.real
def test_real_streaming_is_the_same(engine: InferenceEngine) -> None:
    prompt = "Emoji and their names: 😀 grinning, 🚀 rocket,"
    whole = engine.infer(prompt, max_tokens=12, temperature=0)
    whole.raise_for_error()
    pieces = list(engine.stream(prompt, max_tokens=12, temperature=0))
    assert "".join(pieces) == whole.text
    assert len(pieces) > 3
    assert whole.tokens_generated == 12
    assert whole.finish_reason == "length"
    called: list[str] = []
    assert engine.infer_stream(prompt, called.append, max_tokens=12, temperature=0).text == whole.text
    assert "".join(called) == whole.text
    assert asyncio.run(engine.ainfer(prompt, max_tokens=12, temperature=0)).text == whole.text

    async def streamed() -> str:
        return "".join([piece async for piece in engine.astream(prompt, max_tokens=12, temperature=0)])

    assert asyncio.run(streamed()) == whole.text


@pytest.mark.real
def test_real_chat_uses_the_template(engine: InferenceEngine) -> None:
    asked = "Say hello."
    result = engine.chat(asked, max_tokens=12, temperature=0)
    assert result.text
    assert result.prompt_tokens > len(engine.tokenize(asked)) + 10
    assert "".join(engine.chat(asked, max_tokens=12, temperature=0, stream=True)) == result.text
    assert asyncio.run(engine.achat(asked, max_tokens=12, temperature=0)).text == result.text

    async def streamed() -> str:
        return "".join([piece async for piece in await engine.achat(asked, max_tokens=12, temperature=0, stream=True)])

    assert asyncio.run(streamed()) == result.text
    completion = engine.create_chat_completion(asked, max_tokens=12, temperature=0)
    assert completion["choices"][0]["message"]["content"] == result.text
    assert completion["usage"]["prompt_tokens"] == result.prompt_tokens == engine.count_chat_tokens(asked)


def busy(engine: InferenceEngine) -> int:
    return sum(slot["is_processing"] for slot in engine._api().json("GET", "/slots"))


@pytest.mark.real
@pytest.mark.parametrize("how", ["stream", "chat", "create"])
def test_real_cancellation_frees_the_slot(engine: InferenceEngine, how: str) -> None:
    if how == "create":
        import signal

        main = threading.get_ident()

        def interrupt() -> None:
            until(lambda: busy(engine) > 0)
            signal.pthread_kill(main, signal.SIGINT)

        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            engine.create_chat_completion("Count to a thousand.", max_tokens=3000, ignore_eos=True)
    else:
        asked: Any = {"max_tokens": 3000, "ignore_eos": True}
        pieces = engine.stream("Count", **asked) if how == "stream" else engine.chat("Count", stream=True, **asked)
        next(pieces)
        assert busy(engine) == 1
        pieces.close()
    assert until(lambda: busy(engine) == 0)
    assert engine.infer("x", max_tokens=2).success


@pytest.mark.real
def test_real_threads_share_an_engine(engine: InferenceEngine) -> None:
    prompts = ["One two three", "The sky is", "Once upon a", "A b c d"]
    alone = [engine.infer(prompt, max_tokens=6, temperature=0).text for prompt in prompts]
    together: dict[str, str] = {}
    threads = [
        threading.Thread(target=lambda p=p: together.update({p: engine.infer(p, max_tokens=6, temperature=0).text}))
        for p in prompts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [bool(together[prompt]) for prompt in prompts] == [bool(text) for text in alone]
    assert [bool(r.text) for r in engine.batch_infer(prompts, max_tokens=6, temperature=0)] == [True] * 4


@pytest.mark.real
def test_real_tokens(engine: InferenceEngine) -> None:
    text = "Grüße, 世界! 😀"
    assert engine.detokenize(engine.tokenize(text)) == text
    assert engine.tokenize("") == []


@pytest.mark.real
def test_real_refusals(engine: InferenceEngine) -> None:
    long = engine.infer("word " * 5000, max_tokens=1)
    assert isinstance(long.error, errors.ContextLengthError)
    stranger = InferenceEngine(engine.server_url, api_key="wrong")
    with pytest.raises(errors.RequestError) as caught:
        stranger.chat("Hi")
    assert caught.value.status == 401
    with pytest.raises(errors.RequestError) as caught:
        InferenceEngine(engine.server_url, api_key="").load_model("x")
    assert caught.value.status == 401
    assert engine.is_loaded


@pytest.mark.real
def test_real_attach(engine: InferenceEngine, smollm2: Path) -> None:
    """By another engine of this process, which the server outlives, and by another process."""
    other = InferenceEngine(engine.server_url)
    other.load_model(smollm2.name, progress=False)
    assert other.infer("x", max_tokens=1).success
    assert other.api_key == engine.api_key
    del other
    assert engine.is_loaded
    code = """
import sys
from llcuda import InferenceEngine, errors
_, url, key, model = sys.argv
engine = InferenceEngine(url, api_key=key)
try:
    engine.load_model("tinyllama-1.1b-Q5_K_M")
except errors.ServerMismatchError as err:
    print(err)
engine.load_model(model)
print(engine.infer("x", max_tokens=1).success)
engine.close()
"""
    args = [sys.executable, "-c", code, engine.server_url, str(engine.api_key), smollm2.name]
    said = subprocess.run(args, capture_output=True, text=True, check=True).stdout
    assert f"has the model {smollm2.name}, not tinyllama" in said
    assert said.endswith("True\n")
    assert engine.is_loaded


@pytest.mark.real
def test_real_origin_is_not_reflected(engine: InferenceEngine) -> None:
    """The page of another site must not read answers."""
    import http.client

    for origin, allowed in (("http://evil.example", False), ("http://localhost:8888", True)):
        connection = http.client.HTTPConnection("127.0.0.1", int(engine.server_url.rsplit(":", 1)[1]))
        headers = {"Origin": origin, "Authorization": f"Bearer {engine.api_key}"}
        connection.request("GET", "/v1/models", headers=headers)
        response = connection.getresponse()
        response.read()
        connection.close()
        assert response.status == 200
        assert (response.getheader("Access-Control-Allow-Origin") == origin) is allowed


@pytest.mark.real
def test_real_openai_client(engine: InferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with engine.openai() as client:
        asked: Any = [{"role": "user", "content": "Hi"}]
        assert client.chat.completions.create(model="any", messages=asked, max_tokens=4).choices[0].message.content
        chunks = client.chat.completions.create(model="any", messages=asked, max_tokens=4, stream=True)
        assert "".join(c.choices[0].delta.content or "" for c in chunks)
        assert len(client.embeddings.create(model="any", input=["a", "b"]).data) == 2


@pytest.mark.real
def test_real_from_pretrained_and_reload(installed: Any, here: None, smollm2: Path) -> None:
    """The same again is left as it is; another starts anew; a wrong name costs nothing that is loaded."""
    registry = llcuda.models.list_registry_models()
    info = registry["gemma-3-1b-Q4_K_M"]
    with InferenceEngine.from_pretrained(
        info["repo"], info["file"], revision=COMMIT, ctx_size=256, threads=1, silent=True
    ) as engine:
        pid = engine.server and engine.server.get_server_info()["process_id"]
        assert engine.load_model(f"{info['repo']}:{info['file']}@{COMMIT}", ctx_size=256, threads=1, progress=False)
        assert engine.server is not None
        assert engine.server.get_server_info()["process_id"] == pid
        with pytest.raises(errors.ModelNotFoundError):
            engine.load_model("no-such-model", progress=False)
        assert engine.infer("x", max_tokens=1).success
        engine.load_model("GEMMA-3-1b-q4_k_m", ctx_size=512, threads=1, progress=False)
        assert engine.server.get_server_info()["process_id"] != pid
        assert engine.model is not None
        assert engine.model.context == 512
        url = engine.server_url
        os.kill(engine.server.get_server_info()["process_id"], 9)
        result = engine.infer("x")
        assert isinstance(result.error, errors.ServerNotRunningError)
        assert "signal 9" in result.error_message
        assert not engine.is_loaded
        assert engine.load_model("gemma-3-1b-Q4_K_M", ctx_size=512, threads=1, progress=False)
        assert engine.infer("x", max_tokens=1).success
    assert not InferenceEngine(url).check_server()

"""What goes wrong with the real server has its class, and a message that says what to do. The rest goes on."""

from __future__ import annotations

import os
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from real import MODEL, eventually, python, running

import llcuda
from llcuda import errors

pytestmark = pytest.mark.real


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that another program has."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield int(other.getsockname()[1])


@pytest.fixture
def default_taken() -> Iterator[None]:
    """Port 8090 is another program's, whoever that is."""
    try:
        other = socket.create_server(("127.0.0.1", 8090))
    except OSError:
        yield
    else:
        with other:
            yield


@pytest.mark.usefixtures("default_taken")
def test_default_port_taken(installed: Mapping[str, str]) -> None:
    code = f"""
import llcuda
with llcuda.InferenceEngine() as engine:
    engine.load_model("{MODEL}", ctx_size=512)
    print(engine.server_url, engine.infer("The capital of France is", max_tokens=3, temperature=0))
"""
    url, text = python(installed, code).split(" ", 1)
    assert url.startswith("http://127.0.0.1:") and url != "http://127.0.0.1:8090"
    assert text.strip().startswith("Paris")


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_proxy(installed: Mapping[str, str], name: str) -> None:
    """A proxy is for the way out of this machine, and the server is on it."""
    code = f"""
import llcuda
with llcuda.InferenceEngine() as engine:
    engine.load_model("{MODEL}", ctx_size=512)
    print(engine.infer("The capital of France is", max_tokens=3, temperature=0))
"""
    assert "Paris" in python(installed, code, **{name: "http://127.0.0.1:9"})


def test_other_model(engine: llcuda.InferenceEngine, installed: Mapping[str, str]) -> None:
    """A server that has another model is not used for this one, and who did not start a server does not end it."""
    code = f"""
import llcuda
engine = llcuda.InferenceEngine("{engine.server_url}", api_key="{engine.api_key}")
try:
    engine.load_model("gemma-2-2b-Q4_K_M")
except llcuda.errors.ServerMismatchError as err:
    print(err.message)
print(engine.load_model("{MODEL}"), engine.infer("Hello", max_tokens=2).success)
engine.close()
"""
    refusal, use = python(installed, code).splitlines()
    assert "tinyllama" in refusal and use == "True True"
    assert engine.infer("Hello", max_tokens=2).success


@pytest.mark.parametrize("key", ["wrong", ""])
def test_wrong_key(engine: llcuda.InferenceEngine, key: str) -> None:
    stranger = llcuda.InferenceEngine(engine.server_url, api_key=key)
    result = stranger.infer("Hello", max_tokens=2)
    assert not result.success and isinstance(result.error, errors.RequestError) and result.error.status == 401
    with pytest.raises(errors.RequestError):
        result.raise_for_error()


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost.evil.example", "http://127.0.0.1.evil.example"]
)
def test_origin(engine: llcuda.InferenceEngine, origin: str) -> None:
    """No page of the web may read what the server says, not even with the key."""
    for method in ("GET", "OPTIONS"):
        request = urllib.request.Request(
            f"{engine.server_url}/v1/models",
            method=method,
            headers={"Origin": origin, "Authorization": f"Bearer {engine.api_key}", "Access-Control-Request-Method": "GET"},
        )
        try:
            allowed = urllib.request.urlopen(request).headers["Access-Control-Allow-Origin"]
        except urllib.error.HTTPError as err:
            allowed = err.headers["Access-Control-Allow-Origin"]
        assert allowed not in (origin, "*")


def test_long_log(engine: llcuda.InferenceEngine) -> None:
    """A server that writes ten megabytes of log is not held up by them."""
    with llcuda.InferenceEngine() as chatty:
        more: dict[str, Any] = {"--log-verbosity": 10}
        chatty.load_model(MODEL, ctx_size=512, progress=False, **more)
        text = "a" * 1_000_000
        for _ in range(11):
            chatty.tokenize(text)
        assert chatty.infer("The capital of France is", max_tokens=3, temperature=0).text.startswith(" Paris")
        assert len(chatty.logs(10_000)) > 0


def test_out_of_memory(installed: Mapping[str, str]) -> None:
    """The address space is bounded, so that memory ends for this server alone."""
    code = f"""
import resource
import llcuda
with llcuda.InferenceEngine() as small, llcuda.InferenceEngine() as large:
    small.load_model("{MODEL}", ctx_size=512)
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    try:
        large.load_model("gemma-2-2b-Q4_K_M", ctx_size=50_000_000, fit=False)
    except llcuda.errors.OutOfMemoryError as err:
        assert isinstance(err, MemoryError) and err.reason == "memory"
        print("alloc" in err.log, err.log.strip().splitlines()[-1] in str(err), "{MODEL}" in str(err))
    print(small.infer("Hello", max_tokens=2).success)
    print(large.load_model("gemma-2-2b-Q4_K_M", ctx_size=512))
"""
    assert python(installed, code).split() == ["True"] * 5


@pytest.mark.usefixtures("here")
def test_port_in_use(taken: int) -> None:
    with pytest.raises(errors.ServerStartError) as caught:
        llcuda.ServerManager().start_server(MODEL, port=taken, verbose=False)
    assert caught.value.reason == "port" and str(taken) in str(caught.value)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("flag", ["--no-such-flag", "--temperatur"])
def test_unknown_flag(flag: str) -> None:
    with pytest.raises((errors.ServerStartError, errors.UsageError)) as caught:
        other: dict[str, Any] = {flag: "1"}
        llcuda.InferenceEngine().load_model(MODEL, progress=False, **other)
    assert flag in str(caught.value)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("part", [0, 3, 4000, 50_000_000])
def test_truncated_model(smollm2: Path, tmp_path: Path, part: int) -> None:
    broken = tmp_path / "broken.gguf"
    with smollm2.open("rb") as whole:
        broken.write_bytes(whole.read(part))
    with pytest.raises(errors.LlcudaError) as caught:
        llcuda.InferenceEngine().load_model(str(broken), progress=False)
    assert "broken.gguf" in str(caught.value)
    assert not isinstance(caught.value, (errors.OutOfMemoryError, errors.ServerTimeoutError))


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_server_killed(registered: Path, number: signal.Signals) -> None:
    """A server that dies is told of, by whatever asks it next, and can be started again."""
    others = set(running(registered, own=True))
    with llcuda.InferenceEngine() as engine:
        engine.load_model(MODEL, ctx_size=512, progress=False)
        (pid,) = set(running(registered, own=True)) - others
        os.kill(pid, number)
        assert eventually(lambda: pid not in running(registered, own=True))
        result = engine.infer("Hello", max_tokens=2)
        assert isinstance(result.error, errors.ServerError) and f"signal {int(number)}" in str(result.error)
        assert not engine.is_loaded
        assert engine.load_model(MODEL, ctx_size=512, progress=False) and engine.infer("Hello", max_tokens=2).success


@pytest.mark.usefixtures("here")
def test_killed_while_it_writes(registered: Path) -> None:
    others = set(running(registered, own=True))
    with llcuda.InferenceEngine() as engine:
        engine.load_model(MODEL, ctx_size=2048, progress=False)
        pieces: list[str] = []
        with pytest.raises(errors.ServerError):
            for piece in engine.stream("Once upon a time", max_tokens=1500, ignore_eos=True):
                pieces.append(piece)
                if len(pieces) == 3:
                    (pid,) = set(running(registered, own=True)) - others
                    os.kill(pid, signal.SIGKILL)
        assert 3 <= len(pieces) < 1500


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", ["no-such-model", "nobody/nothing:none.gguf", "/no/such/file.gguf"])
def test_no_such_model(name: str) -> None:
    with pytest.raises((errors.ModelNotFoundError, errors.OfflineError)) as caught:
        llcuda.InferenceEngine().load_model(name, progress=False)
    assert name.rsplit(":", 1)[-1] in str(caught.value)


def test_too_long(engine: llcuda.InferenceEngine) -> None:
    result = engine.infer("word " * 10_000, max_tokens=2)
    assert isinstance(result.error, errors.ContextLengthError) and isinstance(result.error, ValueError)
    assert engine.infer("Hello", max_tokens=2).success


@pytest.mark.usefixtures("here")
def test_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody computes on the processor without having asked for it."""
    if gpus():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.delenv("LLCUDA_ALLOW_CPU")
    engine = llcuda.InferenceEngine()
    with pytest.raises(errors.NoGPUError) as caught:
        engine.load_model(MODEL, progress=False)
    assert "gpu_layers=0" in str(caught.value)
    ways: list[dict[str, Any]] = [{"gpu_layers": 0}, {"allow_cpu": True}]
    for way in ways:
        assert engine.load_model(MODEL, ctx_size=512, progress=False, **way)
        engine.unload_model()


def gpus() -> list[Any]:
    return list(llcuda.detect_cuda()["gpus"])

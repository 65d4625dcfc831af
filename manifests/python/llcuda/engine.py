"""A model on this machine: load it, complete prompts, chat.

:class:`InferenceEngine` starts a llama-server through :mod:`llcuda.server`, or uses one that runs already, and talks to it.
Every generation is a stream inside, so that an interrupt ends it on the server as well; the server and its model stay.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import sys
import threading
import time
import types
import urllib.parse
import weakref
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

from ._internal.fetch import Event
from ._internal.http import Api, Stream
from .errors import LlcudaError, RequestError, ServerError, ServerMismatchError, ServerNotRunningError, UsageError
from .server import (
    DEFAULT_URL,
    ServerManager,
    check_model,
    choose_key,
    cpu_allowed,
    flags,
    is_healthy,
    is_local,
    own_program,
    properties,
    reporting,
    servers_at,
)

if TYPE_CHECKING:
    from typing import TypeVar

    import openai

    T = TypeVar("T")

__all__ = ["InferResult", "InferenceEngine", "LoadedModel", "quick_infer"]

LATENCIES = 100_000
"""How many latencies are kept for get_metrics()."""

EMBEDDING_TOKENS = 2048
"""The context of a server for embeddings, and so the longest text: it reads a text in one batch, whose buffers grow with
its size. Most embedding models were trained with no more."""

LOG_LINES = 2000
"""How much of the log is looked through for what the server decided."""


class InferResult:
    """What the model answered.

    Attributes:
        success (bool): Whether there is an answer.
        text (str): The answer.
        tokens_generated (int): The answer's tokens.
        latency_ms (float): Milliseconds from the request to the last token.
        tokens_per_sec (float): The answer's tokens by the whole time, in tokens per second; ``timings`` has the server's
            own rates.
        error_message (str): Why there is no answer; empty if there is one.
        prompt_tokens (int): The prompt's tokens.
        finish_reason (str): ``stop``, ``length`` (max_tokens or the context is used up), ``tool_calls`` or ``error``.
        timings (dict): What llama-server measured: ``prompt_n``, ``prompt_ms``, ``predicted_n``, ``predicted_per_second``, …
        error (Exception | None): The error itself.
        reasoning (str): What a reasoning model thought before it answered.
        tool_calls (list of dict): The calls that the model asks for, in OpenAI's form.
    """

    success: bool = False
    text: str = ""
    tokens_generated: int = 0
    latency_ms: float = 0.0
    tokens_per_sec: float = 0.0
    error_message: str = ""
    prompt_tokens: int = 0
    finish_reason: str = ""
    error: Exception | None = None
    reasoning: str = ""

    def __init__(self) -> None:
        self.timings: dict[str, Any] = {}
        self.tool_calls: list[dict[str, Any]] = []

    def raise_for_error(self) -> None:
        """Raise what went wrong, if something did.

        Raises:
            Exception: ``error``; a RequestError if there is only a message.
        """
        if self.success:
            return
        raise self.error if self.error is not None else RequestError(self.error_message or "there is no answer")

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        if not self.success:
            return f"InferResult(error={self.error_message!r})"
        return (
            f"InferResult(tokens={self.tokens_generated}, latency={self.latency_ms:.1f}ms, "
            f"throughput={self.tokens_per_sec:.1f} tok/s)"
        )

    def _repr_markdown_(self) -> str:
        from .jupyter import safe_markdown

        return safe_markdown(self.text if self.success else f"**Error:** {self.error_message}")


class LoadedModel(NamedTuple):
    """The model of an engine.

    Attributes:
        name: The name it was asked for by.
        path: The file, as the server sees it.
        size: Its size in bytes; 0 if the server is on another machine.
        context: How many tokens a request can have, prompt and answer.
        gpu_layers: How many of its layers are on GPUs; None if that is not known.
        parallel: How many requests are answered at once.
        why: Where gpu_layers is from.
    """

    name: str
    path: str
    size: int
    context: int
    gpu_layers: int | None
    parallel: int
    why: str


class InferenceEngine:
    """One model on a llama-server.

    Threads may share an engine: each request has a connection of its own. A forked child may use it, too, but only the
    process that loaded the model ends the server. The server ends with ``close()``, with the ``with`` block, when the
    engine is garbage, and when the process is gone.

    Args:
        server_url: The address of a server that runs, or where one is to be started. None starts one on port 8090, or on
            a free port if that is taken.
        api_key: The server's key. None makes a random one for a server that is started here, unless ``LLCUDA_API_KEY`` or
            ``LLAMA_API_KEY`` has one; ``""`` is none.
        timeout: How many seconds a server may send nothing during a request; None is 600. There is no bound on a whole
            answer.

    Attributes:
        server_url (str): Where the server is.
        api_key (str | None): Its key.
        model (LoadedModel | None): What is loaded.
        server (ServerManager | None): The server that this engine started.

    Raises:
        UsageError: ``server_url`` is not an address.

    Example:
        >>> with llcuda.InferenceEngine() as engine:
        ...     engine.load_model("gemma-3-1b-Q4_K_M")
        ...     print(engine.infer("The capital of France is").text)
    """

    def __init__(self, server_url: str | None = None, *, api_key: str | None = None, timeout: float | None = None) -> None:
        if server_url is not None:
            Api(server_url)
        self._given = server_url is not None
        self._given_key = api_key
        self._timeout = timeout
        self.server_url: str = server_url or DEFAULT_URL
        self.api_key: str | None = choose_key(api_key)
        self.model: LoadedModel | None = None
        self.server: ServerManager | None = None
        self._settings: Any = None
        self._borrowed = False  # the server is another engine's, which close() leaves alone
        self._loading = threading.RLock()
        self._embedders: dict[str, ServerManager] = {}
        self._counting = threading.Lock()
        self._metrics: dict[str, Any] = {}
        self.reset_metrics()
        _engines.add(self)

    @classmethod
    def from_pretrained(cls, repo_id: str, filename: str, *, revision: str | None = None, **kwargs: Any) -> InferenceEngine:
        """An engine with a model of the Hugging Face Hub.

        Args:
            repo_id: ``org/repo``.
            filename: The file in it.
            revision: A branch, tag or commit; None is the default branch.
            **kwargs: Parameters of :class:`InferenceEngine` and of :meth:`load_model`.
        """
        own = {name: kwargs.pop(name) for name in ("server_url", "api_key", "timeout") if name in kwargs}
        engine = cls(**own)
        engine.load_model(f"{repo_id}:{filename}{f'@{revision}' if revision else ''}", **kwargs)
        return engine

    def __enter__(self) -> InferenceEngine:
        return self

    def __exit__(self, exc_type: object, exc_val: object, exc_tb: object) -> None:
        self.close()

    def __reduce_ex__(self, _: object) -> Any:
        raise TypeError(
            "an InferenceEngine cannot be copied or pickled, because it owns a running server: "
            "make one in each process, or InferenceEngine(engine.server_url, api_key=engine.api_key) to share the server"
        )

    def __repr__(self) -> str:
        what = self.model.name if self.model else "no model"
        return f"<llcuda.InferenceEngine {self.server_url}: {what}>"

    def _repr_html_(self) -> str:
        from html import escape

        rows = [("server", self.server_url), ("model", "none: load_model(NAME)")]
        if self.model:
            m = self.model
            layers = "unknown" if m.gpu_layers is None else str(m.gpu_layers)
            rows[1:] = [
                ("model", m.name),
                ("file", m.path),
                ("context", f"{m.context} tokens"),
                ("layers on GPUs", layers + (f" ({m.why})" if m.why else "")),
                ("requests at once", str(m.parallel)),
            ]
        cells = "".join(
            f'<tr><th style="text-align:left">{escape(k)}</th><td style="text-align:left">{escape(v)}</td></tr>'
            for k, v in rows
        )
        return f"<table>{cells}</table>"

    # The server and its model

    @property
    def base_url(self) -> str:
        """The address for OpenAI clients: ``server_url`` with ``/v1``."""
        return self.server_url.rstrip("/") + "/v1"

    @property
    def is_loaded(self) -> bool:
        """Whether a model is loaded and its server answers."""
        return self.model is not None and self.check_server()

    def check_server(self) -> bool:
        """Whether the server is ready; it may take 2 seconds to answer."""
        return is_healthy(self.server_url, 2.0)

    def load_model(
        self,
        model_name_or_path: str,
        gpu_layers: int | None = None,
        ctx_size: int | None = None,
        auto_start: bool = True,
        auto_configure: bool = True,
        n_parallel: int = 1,
        verbose: bool = True,
        interactive_download: bool = True,
        silent: bool = False,
        *,
        embeddings: bool = False,
        pooling: str = "mean",
        mmproj: str | None = None,
        allow_cpu: bool | None = None,
        start_timeout: float = 600,
        progress: bool | Callable[[Event], None] = True,
        **kwargs: Any,
    ) -> bool:
        """Load a model: install llama.cpp and download the model if need be, start the server, wait until it is ready.

        What this engine has loaded with the same settings is left as it is; another model's server ends first, since its
        memory is needed. With ``server_url`` given, a server that runs there is used, if it has the model asked for.

        Args:
            model_name_or_path: A name of ``llcuda.models.list_registry_models()``, a file, or
                ``"org/repo:file.gguf[@revision]"``.
            gpu_layers: How many layers go to GPUs. None leaves it to llama.cpp, which fits them to the free memory of all
                GPUs; 0 runs on the processor.
            ctx_size: The context in tokens, shared by the parallel requests. None leaves it to llama.cpp.
            auto_start: Whether a server may be started; False wants one that runs.
            auto_configure: False uses 99 layers and a context of 2048 tokens where none are given.
            n_parallel: How many requests are answered at once.
            verbose: Whether to show progress.
            interactive_download: Accepted; nothing is ever asked. Name, size and source are shown first.
            silent: Show nothing.
            embeddings: Make the server answer embeddings, too.
            pooling: How embeddings are made of tokens: ``mean``, ``cls``, ``last``, ``none`` or ``rank``.
            mmproj: The file of a projector, for models that see or hear. One that belongs to the model comes by itself.
            allow_cpu: Run on the processor where there is no GPU. None is what ``LLCUDA_ALLOW_CPU`` says.
            start_timeout: How many seconds loading into memory may take; downloads do not count.
            progress: True shows what happens, False shows nothing, a function is called with each event.
            **kwargs: ``port``, ``host``, ``batch_size``, ``ubatch_size``, and further flags of llama-server as in
                :meth:`ServerManager.start_server`.

        Returns:
            True.

        Raises:
            ModelNotFoundError: There is no such model.
            NoGPUError: There is no GPU, and the processor was not allowed.
            OutOfMemoryError: It does not fit; the message has the log's end.
            ServerTimeoutError: It was not ready in time.
            ServerStartError: The server ended while it loaded; the message has the log's end.
            ServerMismatchError: The server at ``server_url`` has another model, or is no llama-server.
            ServerNotRunningError: ``auto_start=False``, and no server runs.
            LlcudaError: Setting up or downloading failed, by its class.
        """
        host, port = kwargs.pop("host", None), kwargs.pop("port", None)
        start_timeout = kwargs.pop("timeout", start_timeout)
        if kwargs.pop("skip_gpu_check", False):
            allow_cpu = True
        if allow_cpu is None:
            allow_cpu = cpu_allowed()
        if not auto_configure:
            gpu_layers = 99 if gpu_layers is None else gpu_layers
            ctx_size = 2048 if ctx_size is None else ctx_size
        arguments = _arguments(gpu_layers, ctx_size, n_parallel, embeddings, pooling, mmproj, kwargs)
        show = progress if callable(progress) else bool(progress) and verbose and not silent
        with self._loading:
            settings = (os.fspath(model_name_or_path), tuple(arguments), host, port)
            if self.model is not None and settings == self._settings and self.check_server():
                return True
            if (self._given or not auto_start) and not self._own():
                shared = servers_at(self.server_url)
                if shared and not self._shares(shared[0], model_name_or_path, arguments):
                    for server in shared:  # of an engine before, which a notebook's history may keep alive
                        server.stop_server()
                if self._attach(model_name_or_path, start_timeout, must=not auto_start):
                    self._settings = settings
                    return True
            if self._given and port is None:
                parts = urllib.parse.urlsplit(self.server_url)
                named = parts.hostname if parts.hostname != "localhost" else None  # serve's default, on IPv4
                port, host = parts.port or 80, host or named
            self._start(model_name_or_path, arguments, host, port, start_timeout, allow_cpu or gpu_layers == 0, show)
            self._settings = settings
            return True

    def _own(self) -> bool:
        return self.server is not None and self.server._alive() is not None

    def _shares(self, server: ServerManager, name: str, arguments: list[str]) -> bool:
        """Whether a server of another engine of this process will do; it then ends with the last engine that holds it."""
        running = server._alive()
        if running is None or (self._given_key is not None and self._given_key != (server.api_key or "")):
            return True  # not for this engine to decide: attaching says what is wrong
        asked = arguments != _arguments(None, None, 1, False, "mean", None, {})
        if asked and list(running.settings[1]) != arguments:
            return False
        try:
            check_model(name, {"model_path": running.model.get("path")}, self.server_url)
        except ServerMismatchError:
            return False
        self.server, self.api_key, self._borrowed = server, server.api_key, True
        return True

    def _attach(self, name: str, timeout: float, *, must: bool) -> bool:
        """Use a server that runs; False if none does and one may be started."""
        api = self._api()
        props = properties(api, timeout)
        if props is None:
            if must or not is_local(self.server_url):
                raise ServerNotRunningError(
                    f"no llama-server runs at {self.server_url}",
                    hints=["auto_start=True starts one" if must else "a server on another machine is started there"],
                )
            return False
        check_model(name, props, self.server_url)
        self.model = _loaded(name, props, None, "")
        return True

    def _start(
        self,
        name: str,
        arguments: list[str],
        host: str | None,
        port: int | None,
        timeout: float,
        allow_cpu: bool,
        show: bool | Callable[[Event], None],
    ) -> None:
        with reporting(show) as report:
            if self._own():
                _make_available(name, report)  # a name that is wrong costs no model that is loaded
            self._unload()
            _forget_history(self)
            server = self.server or ServerManager(self.server_url, api_key=self._given_key)
            running = server.launch(
                os.fspath(name),
                arguments,
                port=port,
                host=host or "127.0.0.1",
                timeout=timeout,
                allow_cpu=allow_cpu,
                report=report,
            )
        self.server, self.server_url, self.api_key = server, server.server_url, server.api_key
        devices = running.devices if own_program() is None else None  # those of the installation
        layers, why = _layers(arguments, running.log_tail(LOG_LINES), devices)
        props = self._api().json("GET", "/props", timeout=60)
        self.model = _loaded(os.fspath(name), props, layers, str(running.model.get("why") or why))

    def unload_model(self) -> None:
        """End the server that this engine started, which frees its memory. A server that ran before is left alone."""
        with self._loading:
            self._unload()

    def _unload(self) -> None:
        self.model = self._settings = None
        embedders, self._embedders = self._embedders, {}
        for embedder in embedders.values():
            embedder.stop_server()
        if self.server is not None:
            if self._borrowed:
                self.server = None
            else:
                self.server.stop_server()
            self._borrowed = False
            self.api_key = choose_key(self._given_key)
            if not self._given:
                self.server_url = DEFAULT_URL

    def close(self) -> None:
        """The same as :meth:`unload_model`. The engine can load again."""
        self.unload_model()

    def logs(self, lines: int = 50) -> str:
        """The end of the server's log; empty if this engine started none.

        Args:
            lines: How many lines.
        """
        return self.server.logs(lines) if self.server is not None else ""

    def _api(self) -> Api:
        return Api(self.server_url, self.api_key, self._timeout)

    def _explained(self, err: Exception) -> Exception:
        """An error of a request; that the server has ended, where this engine started it and knows why."""
        if self.server is None or self.server._running is None or not isinstance(err, ServerError):
            return err
        if isinstance(err, RequestError) and err.status is not None:
            return err
        running = self.server._running
        if isinstance(err, ServerNotRunningError | RequestError):
            running.ended.wait(2.0 if running.owner == os.getpid() else 0)  # it may be about to be known
        return running.gone_error() or err

    def _ask(self, path: str, body: Any, timeout: float | None = None) -> Any:
        try:
            return self._api().json("POST", path, body, timeout)
        except LlcudaError as err:
            raise self._explained(err) from None

    # Completions

    def infer(
        self,
        prompt: str,
        max_tokens: int = 128,
        temperature: float = 0.7,
        top_p: float = 0.9,
        top_k: int = 40,
        seed: int = 0,
        stop_sequences: list[str] | None = None,
        **sampling: Any,
    ) -> InferResult:
        """Complete a prompt as it is, without the model's chat template. :meth:`chat` uses the template.

        Args:
            prompt: The text to go on from.
            max_tokens: The most tokens to generate; -1 is as many as fit.
            temperature: Randomness; 0 takes the likeliest token each time.
            top_p: Keep the likeliest tokens whose probabilities add up to this.
            top_k: Keep this many of the likeliest tokens; 0 keeps all.
            seed: Of the random numbers; 0 is a random one.
            stop_sequences: Texts that end the answer; they are not part of it.
            **sampling: Further fields of llama-server's ``/completion``, such as ``min_p`` or ``json_schema``.

        Returns:
            The result. It never raises for what goes wrong: ``success`` is False, ``error`` has it.
        """
        result = InferResult()
        try:
            body = _completion(prompt, max_tokens, temperature, top_p, top_k, seed, stop_sequences, sampling)
            self._finish(self._api().stream("/completion", body), result)
        except Exception as err:
            _fail(result, err)
        return result

    def _finish(self, stream: Stream, result: InferResult) -> None:
        for _ in self._pieces(stream, result):
            pass

    def infer_stream(
        self,
        prompt: str,
        callback: Callable[[str], Any],
        max_tokens: int = 128,
        temperature: float = 0.7,
        **kwargs: Any,
    ) -> InferResult:
        """Complete a prompt and hand each piece to a function as it comes.

        Args:
            prompt: As of :meth:`infer`.
            callback: Called with each piece of text. What it raises ends the generation and is raised here.
            max_tokens: As of :meth:`infer`.
            temperature: As of :meth:`infer`.
            **kwargs: Further parameters of :meth:`infer`.

        Returns:
            The result, with the whole text.
        """
        result = InferResult()
        try:
            pieces = self._pieces(self._completion_stream(prompt, max_tokens, temperature, **kwargs), result)
        except Exception as err:
            _fail(result, err)
            return result
        with contextlib.closing(pieces):
            while True:
                try:
                    piece = next(pieces)
                except StopIteration:
                    return result
                except Exception as err:
                    _fail(result, err)
                    return result
                callback(piece)

    def stream(
        self, prompt: str, max_tokens: int = 128, temperature: float = 0.7, **sampling: Any
    ) -> Generator[str, None, None]:
        """Complete a prompt piece by piece. Closing the iterator, or leaving its loop, ends the generation.

        Args:
            prompt: As of :meth:`infer`.
            max_tokens: As of :meth:`infer`.
            temperature: As of :meth:`infer`.
            **sampling: Further parameters of :meth:`infer`.

        Yields:
            The pieces of the answer.

        Raises:
            RequestError: The server refused or broke off.
            ServerNotRunningError: There is no server.
        """
        return self._pieces(self._completion_stream(prompt, max_tokens, temperature, **sampling), InferResult())

    def _completion_stream(
        self,
        prompt: str,
        max_tokens: int,
        temperature: float,
        top_p: float = 0.9,
        top_k: int = 40,
        seed: int = 0,
        stop_sequences: list[str] | None = None,
        **sampling: Any,
    ) -> Stream:
        body = _completion(prompt, max_tokens, temperature, top_p, top_k, seed, stop_sequences, sampling)
        return self._api().stream("/completion", body)

    def batch_infer(self, prompts: list[str], max_tokens: int = 128, **kwargs: Any) -> list[InferResult]:
        """Complete several prompts, as many at once as the server answers at once (``n_parallel``).

        Args:
            prompts: The prompts.
            max_tokens: As of :meth:`infer`, for each.
            **kwargs: Further parameters of :meth:`infer`.

        Returns:
            The results in the order of the prompts.
        """
        prompts = list(prompts)
        results = [InferResult() for _ in prompts]
        if not prompts:
            return results
        todo = iter(range(len(prompts)))
        taking = threading.Lock()
        open_: dict[int, Stream] = {}
        stopped = False

        def work() -> None:
            while True:
                with taking:
                    i = next(todo, None)
                    if i is None or stopped:
                        return
                try:
                    temperature = kwargs.get("temperature", 0.7)
                    rest = {k: v for k, v in kwargs.items() if k != "temperature"}
                    stream = self._completion_stream(prompts[i], max_tokens, temperature, **rest)
                    with taking:
                        open_[i] = stream
                        if stopped:
                            return
                    self._finish(stream, results[i])
                except Exception as err:
                    _fail(results[i], err)
                finally:
                    with taking:
                        open_.pop(i, None)

        count = min(len(prompts), self._parallel())
        threads = [threading.Thread(target=work, name=f"llcuda-batch-{n}", daemon=True) for n in range(count)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException:
            with taking:
                stopped = True
                streams = list(open_.values())
            for stream in streams:
                stream.close()
            raise
        return results

    def _parallel(self) -> int:
        if self.model is None:
            try:
                return max(1, int(self._api().json("GET", "/props", timeout=10).get("total_slots") or 1))
            except (LlcudaError, AttributeError, ValueError):
                return 1
        return max(1, self.model.parallel)

    def _pieces(self, stream: Stream, result: InferResult) -> Generator[str, None, None]:
        """The pieces of a stream's answer. The result is filled in; it is whole when the generator is exhausted."""
        began = time.perf_counter()
        texts: list[str] = []
        final = False
        try:
            with stream:
                for data in stream:
                    piece = _take(data, result)
                    final = final or bool(result.finish_reason)
                    if piece:
                        texts.append(piece)
                        yield piece
            if not final:
                raise RequestError(f"{self.server_url}: the answer ended before it was complete")
        except LlcudaError as err:
            raise self._explained(err) from None
        finally:
            result.text = "".join(texts)
            result.latency_ms = (time.perf_counter() - began) * 1000
            if not final:
                result.tokens_generated = result.tokens_generated or len(texts)
            result.tokens_per_sec = result.tokens_generated / (result.latency_ms / 1000) if result.latency_ms else 0.0
        result.success = True
        self._count(result)

    # Chat

    @overload
    def chat(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        max_tokens: int = 256,
        temperature: float = 0.7,
        stream: Literal[False] = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        response_format: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> InferResult: ...

    @overload
    def chat(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        max_tokens: int = 256,
        temperature: float = 0.7,
        stream: Literal[True],
        tools: Sequence[Mapping[str, Any]] | None = None,
        response_format: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Generator[str, None, None]: ...

    def chat(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        max_tokens: int = 256,
        temperature: float = 0.7,
        stream: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        response_format: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> InferResult | Generator[str, None, None]:
        """Answer as the assistant, by the model's own chat template.

        Args:
            messages: What the user says, or the conversation: mappings with ``role`` and ``content``.
            max_tokens: The most tokens to generate; -1 is as many as fit.
            temperature: Randomness; 0 takes the likeliest token each time.
            stream: Give the pieces of the answer as they come.
            tools: Functions that the model may call, in OpenAI's form.
            response_format: The form of the answer: ``{"type": "json_object"}``, or ``json_schema`` with a schema.
            **kwargs: Further fields of llama-server's ``/v1/chat/completions``, such as ``top_p``, ``seed``, ``stop``.

        Returns:
            The result, or with ``stream=True`` the pieces of its text. Closing that iterator ends the generation.

        Raises:
            ContextLengthError: The conversation is longer than the context.
            RequestError: The server refused or broke off.
            ServerNotRunningError: There is no server.
        """
        result = InferResult()
        request = self._chat_stream(messages, max_tokens, temperature, tools, response_format, kwargs)
        pieces = self._pieces(request, result)
        if stream:
            return pieces
        for _ in pieces:
            pass
        return result

    def _chat_stream(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        max_tokens: int | None = 256,
        temperature: float | None = 0.7,
        tools: Sequence[Mapping[str, Any]] | None = None,
        response_format: Mapping[str, Any] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> Stream:
        body: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature}
        body.update(more or {})
        body.update({"messages": _messages(messages), "stream": True})
        if tools:
            body["tools"] = [dict(tool) for tool in tools]
        if response_format is not None:
            body["response_format"] = dict(response_format)
        return self._api().stream("/v1/chat/completions", body)

    # The forms of OpenAI's API

    @overload
    def create_chat_completion(
        self, messages: str | Sequence[Mapping[str, Any]], *, stream: Literal[False] = False, **kwargs: Any
    ) -> dict[str, Any]: ...

    @overload
    def create_chat_completion(
        self, messages: str | Sequence[Mapping[str, Any]], *, stream: Literal[True], **kwargs: Any
    ) -> Generator[dict[str, Any], None, None]: ...

    def create_chat_completion(
        self, messages: str | Sequence[Mapping[str, Any]], *, stream: bool = False, **kwargs: Any
    ) -> dict[str, Any] | Generator[dict[str, Any], None, None]:
        """A chat completion in the form of OpenAI's API.

        Args:
            messages: As of :meth:`chat`.
            stream: Give the chunks as they come.
            **kwargs: Fields of the request: ``max_tokens``, ``temperature``, ``tools``, ``response_format``, ``stop``, …

        Returns:
            The completion, or an iterator over its chunks.

        Raises:
            RequestError: The server refused or broke off.
        """
        return self._create("/v1/chat/completions", {**kwargs, "messages": _messages(messages)}, stream)

    @overload
    def create_completion(self, prompt: str, *, stream: Literal[False] = False, **kwargs: Any) -> dict[str, Any]: ...

    @overload
    def create_completion(
        self, prompt: str, *, stream: Literal[True], **kwargs: Any
    ) -> Generator[dict[str, Any], None, None]: ...

    def create_completion(
        self, prompt: str, *, stream: bool = False, **kwargs: Any
    ) -> dict[str, Any] | Generator[dict[str, Any], None, None]:
        """A completion of a prompt as it is, in the form of OpenAI's API.

        Args:
            prompt: The text to go on from.
            stream: Give the chunks as they come.
            **kwargs: Fields of the request: ``max_tokens``, ``temperature``, ``stop``, …

        Returns:
            The completion, or an iterator over its chunks.

        Raises:
            RequestError: The server refused or broke off.
        """
        return self._create("/v1/completions", {**kwargs, "prompt": prompt}, stream)

    def _create(
        self, path: str, body: dict[str, Any], stream: bool
    ) -> dict[str, Any] | Generator[dict[str, Any], None, None]:
        # A stream inside, too: only a stream's end is noticed by a server that is busy with other requests.
        chunks = self._chunks(self._api().stream(path, {"stream_options": {"include_usage": True}, **body, "stream": True}))
        return chunks if stream else _assembled(chunks)

    def _chunks(self, stream: Stream) -> Generator[dict[str, Any], None, None]:
        with stream:
            try:
                yield from stream
            except LlcudaError as err:
                raise self._explained(err) from None

    def create_embedding(self, input: str | Sequence[str], **kwargs: Any) -> dict[str, Any]:  # noqa: A002
        """Embeddings in the form of OpenAI's API.

        If the model was not loaded with ``embeddings=True``, a second server with the same model is started for it.

        Args:
            input: A text, or several.
            **kwargs: Further fields of the request.

        Returns:
            The answer: ``data`` has an ``embedding`` for each text.

        Raises:
            RequestError: The server refused, as with a text that is too long.
        """
        texts = input if isinstance(input, str) else list(input)
        return dict(self._embed(texts, "mean", kwargs))

    def _embed(self, texts: str | list[str], pooling: str, more: Mapping[str, Any]) -> Any:
        """Ask for embeddings, of a second server if this one does not make them."""
        body = {**more, "input": texts}
        with self._loading:
            second = self._embedders.get(pooling)
        if second is None:
            try:
                return self._ask("/v1/embeddings", body)
            except RequestError as err:
                if err.status != 501:
                    raise
                second = self._embedder(pooling, err)
        return Api(second.server_url, second.api_key, self._timeout).json("POST", "/v1/embeddings", body)

    def _embedder(self, pooling: str, refusal: RequestError) -> ServerManager:
        """The second server of the model, for embeddings."""
        with self._loading:
            if pooling in self._embedders:
                return self._embedders[pooling]
            path = self.model.path if self.model is not None else ""
            if not os.path.isfile(path) or not is_local(self.server_url):
                raise refusal
            layers = self.model.gpu_layers if self.model is not None else None
            on_cpu = layers == 0
            server = ServerManager(DEFAULT_URL, api_key=self._given_key)
            arguments = _arguments(0 if on_cpu else None, EMBEDDING_TOKENS, None, True, pooling, None, {})
            with reporting(True) as report:
                size = os.path.getsize(path) / 1e6
                message = (
                    f"Starting a second server of {os.path.basename(path)} for embeddings: about {size:.0f} MB more memory "
                    "for its weights; load_model(..., embeddings=True) makes one server do both"
                )
                report(Event("step", {"message": message}))
                server.launch(path, arguments, port=None, host="127.0.0.1", timeout=600, allow_cpu=on_cpu, report=report)
            self._embedders[pooling] = server
            return server

    def openai(self, **kwargs: Any) -> openai.OpenAI:
        """A client of the package ``openai`` for this engine's server.

        Args:
            **kwargs: Further parameters of ``openai.OpenAI``.

        Raises:
            ImportError: The package is not installed. ``base_url`` and ``api_key`` are what any other client needs.
        """
        try:
            import openai
        except ImportError:
            raise ImportError(
                "pip install openai brings the client; engine.base_url and engine.api_key are what any other one needs"
            ) from None
        if "http_client" not in kwargs:  # a proxy of the environment is not for this machine's own server
            kwargs["http_client"] = openai.DefaultHttpxClient(trust_env=False)
        return openai.OpenAI(**{"base_url": self.base_url, "api_key": self.api_key or "none", **kwargs})

    # Tokens

    def tokenize(self, text: str) -> list[int]:
        """The model's tokens of a text.

        Args:
            text: The text.

        Raises:
            RequestError: The server refused.
        """
        return [int(token) for token in self._ask("/tokenize", {"content": text})["tokens"]]

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of tokens.

        Args:
            tokens: What :meth:`tokenize` gives.

        Raises:
            RequestError: The server refused.
        """
        return str(self._ask("/detokenize", {"tokens": list(tokens)})["content"])

    def count_chat_tokens(self, messages: str | Sequence[Mapping[str, Any]]) -> int:
        """How many tokens of the context a conversation takes, by the model's chat template.

        Args:
            messages: As of :meth:`chat`.

        Raises:
            RequestError: The server refused.
        """
        prompt = self._ask("/apply-template", {"messages": _messages(messages)})["prompt"]
        body = {"content": prompt, "add_special": True, "parse_special": True}
        return len(self._ask("/tokenize", body)["tokens"])

    # Without blocking an event loop: a thread each

    async def ainfer(self, prompt: str, max_tokens: int = 128, temperature: float = 0.7, **kwargs: Any) -> InferResult:
        """:meth:`infer` for asyncio. Cancelling the task ends the generation."""
        result = InferResult()
        try:
            stream = self._completion_stream(prompt, max_tokens, temperature, **kwargs)
            await _in_thread(lambda: self._finish(stream, result), stream)
        except Exception as err:
            _fail(result, err)
        return result

    @overload
    async def achat(
        self, messages: str | Sequence[Mapping[str, Any]], *, stream: Literal[False] = False, **kwargs: Any
    ) -> InferResult: ...

    @overload
    async def achat(
        self, messages: str | Sequence[Mapping[str, Any]], *, stream: Literal[True], **kwargs: Any
    ) -> AsyncGenerator[str, None]: ...

    async def achat(
        self, messages: str | Sequence[Mapping[str, Any]], *, stream: bool = False, **kwargs: Any
    ) -> InferResult | AsyncGenerator[str, None]:
        """:meth:`chat` for asyncio. Cancelling the task ends the generation.

        With ``stream=True``: ``async for piece in await engine.achat(..., stream=True)``.
        """
        known = {k: kwargs.pop(k) for k in ("max_tokens", "temperature", "tools", "response_format") if k in kwargs}
        request = self._chat_stream(messages, more=kwargs, **known)
        result = InferResult()
        if stream:
            return self._apieces(request, result)
        await _in_thread(lambda: self._finish(request, result), request)
        return result

    def astream(
        self, prompt: str, max_tokens: int = 128, temperature: float = 0.7, **sampling: Any
    ) -> AsyncGenerator[str, None]:
        """:meth:`stream` for asyncio: ``async for piece in engine.astream(...)``. ``aclose()`` ends the generation."""
        return self._apieces(self._completion_stream(prompt, max_tokens, temperature, **sampling), InferResult())

    async def _apieces(self, stream: Stream, result: InferResult) -> AsyncGenerator[str, None]:
        import asyncio

        loop, queue = asyncio.get_running_loop(), asyncio.Queue[str | BaseException | None]()

        def put(item: str | BaseException | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(queue.put_nowait, item)

        def run() -> None:
            try:
                for piece in self._pieces(stream, result):
                    put(piece)
                put(None)
            except BaseException as err:
                put(err)

        threading.Thread(target=run, name="llcuda-async", daemon=True).start()
        try:
            while (item := await queue.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stream.close()

    # Metrics

    def _count(self, result: InferResult) -> None:
        with self._counting:
            self._metrics["requests"] += 1
            self._metrics["total_tokens"] += result.tokens_generated
            self._metrics["total_latency_ms"] += result.latency_ms
            latencies = self._metrics["latencies"]
            latencies.append(result.latency_ms)
            del latencies[:-LATENCIES]

    def get_metrics(self) -> dict[str, dict[str, float]]:
        """What the answers so far took.

        Returns:
            ``latency`` with mean_ms, p50_ms, p95_ms, p99_ms, min_ms, max_ms in milliseconds and sample_count, and
            ``throughput`` with total_tokens, total_requests, tokens_per_sec, requests_per_sec.
        """
        with self._counting:
            counted = dict(self._metrics)
            ordered = sorted(counted["latencies"])
        seconds = counted["total_latency_ms"] / 1000

        def at(part: float) -> float:
            return float(ordered[min(len(ordered) - 1, int(len(ordered) * part))]) if ordered else 0.0

        return {
            "latency": {
                "mean_ms": sum(ordered) / len(ordered) if ordered else 0.0,
                "p50_ms": at(0.5),
                "p95_ms": at(0.95),
                "p99_ms": at(0.99),
                "min_ms": float(ordered[0]) if ordered else 0.0,
                "max_ms": float(ordered[-1]) if ordered else 0.0,
                "sample_count": len(ordered),
            },
            "throughput": {
                "total_tokens": counted["total_tokens"],
                "total_requests": counted["requests"],
                "tokens_per_sec": counted["total_tokens"] / seconds if seconds else 0.0,
                "requests_per_sec": counted["requests"] / seconds if seconds else 0.0,
            },
        }

    def reset_metrics(self) -> None:
        """Count from zero."""
        with self._counting:
            self._metrics = {"requests": 0, "total_tokens": 0, "total_latency_ms": 0.0, "latencies": []}


_engines: weakref.WeakSet[InferenceEngine] = weakref.WeakSet()


def _forget_history(but: InferenceEngine) -> None:
    """Unload the engines that only a notebook's history of outputs holds, which a cell that ran again has left there."""
    from ._internal.setup import in_ipython

    others = [engine for engine in list(_engines) if engine is not but and engine._own()]
    if not others or not in_ipython():
        return
    shell = sys.modules["IPython"].get_ipython()
    names = shell.user_ns
    holding = [names.get("_oh"), getattr(shell, "last_execution_result", None), getattr(shell, "displayhook", None)]
    history = [
        names,
        getattr(shell, "user_ns_hidden", None),
        others,
        *holding,
        *(getattr(each, "__dict__", None) for each in holding),
    ]
    while others:
        if any(value is others[-1] and not name.startswith("_") for name, value in names.items()):
            others.pop()
            continue
        holders = [h for h in gc.get_referrers(others[-1]) if not isinstance(h, types.FrameType)]
        if all(any(h is known for known in history) for h in holders):
            others[-1].unload_model()
        del holders
        others.pop()


def quick_infer(
    prompt: str,
    model_path: str | None = None,
    max_tokens: int = 128,
    server_url: str = DEFAULT_URL,
    auto_start: bool = True,
) -> str:
    """Complete one prompt; what goes wrong is the text.

    Args:
        prompt: The text to go on from.
        model_path: A model, as of :meth:`InferenceEngine.load_model`; None uses the server that runs at ``server_url``.
        max_tokens: The most tokens to generate.
        server_url: As of :class:`InferenceEngine`; a model is loaded at the default or at a free port.
        auto_start: Whether a server may be started.

    Returns:
        The answer, or ``"Error: …"``.
    """
    try:
        with InferenceEngine(None if server_url == DEFAULT_URL else server_url) as engine:
            if model_path is not None:
                engine.load_model(model_path, auto_start=auto_start, verbose=False)
            result = engine.infer(prompt, max_tokens=max_tokens)
        return result.text if result.success else f"Error: {result.error_message}"
    except LlcudaError as err:
        return f"Error: {err}"


# Requests and answers


def _completion(
    prompt: str,
    max_tokens: int,
    temperature: float,
    top_p: float,
    top_k: int,
    seed: int,
    stop: list[str] | None,
    more: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "seed": seed if seed else -1,
        "stop": [stop] if isinstance(stop, str) else list(stop or ()),
        **more,
        "prompt": prompt,
        "n_predict": max_tokens,
        "stream": True,
    }


def _messages(messages: str | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    if isinstance(messages, Mapping):
        return [dict(messages)]
    made = []
    for message in messages:
        to_dict = getattr(message, "to_dict", None)
        if not isinstance(message, Mapping) and to_dict is None:
            raise UsageError(f"a message is a mapping with role and content, not {message!r}")
        made.append(dict(to_dict() if to_dict is not None else message))
    return made


def _fail(result: InferResult, err: Exception) -> None:
    result.success, result.error, result.error_message, result.finish_reason = False, err, str(err), "error"


def _take(data: dict[str, Any], result: InferResult) -> str:
    """Take one event of a stream into the result, and give its piece of text."""
    if timings := data.get("timings"):
        result.timings = timings
        result.tokens_generated = int(timings.get("predicted_n") or result.tokens_generated)
        result.prompt_tokens = int(timings.get("prompt_n") or 0) + int(timings.get("cache_n") or 0)
    if usage := data.get("usage"):
        result.tokens_generated = int(usage.get("completion_tokens") or result.tokens_generated)
        result.prompt_tokens = int(usage.get("prompt_tokens") or result.prompt_tokens)
    choices = data.get("choices")
    if choices is None:
        if data.get("stop"):
            result.finish_reason = "length" if data.get("stop_type") == "limit" else "stop"
            result.tokens_generated = int(data.get("tokens_predicted") or result.tokens_generated)
            result.prompt_tokens = int(data.get("tokens_evaluated") or result.prompt_tokens)
        return str(data.get("content") or "")
    if not choices or choices[0].get("index"):
        return ""
    choice = choices[0]
    result.finish_reason = choice.get("finish_reason") or result.finish_reason
    delta = choice.get("delta") or {}
    result.reasoning += delta.get("reasoning_content") or ""
    for call in delta.get("tool_calls") or ():
        _take_call(call, result.tool_calls)
    return delta.get("content") or ""


def _assembled(chunks: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The completion that a stream of chunks is, in OpenAI's form."""
    whole: dict[str, Any] = {"choices": []}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        whole.update({k: v for k, v in chunk.items() if k != "choices" and v is not None})
        for part in chunk.get("choices") or ():
            choice = choices.setdefault(int(part.get("index") or 0), {"index": int(part.get("index") or 0)})
            choice["finish_reason"] = part.get("finish_reason") or choice.get("finish_reason")
            if part.get("logprobs"):
                for name, values in part["logprobs"].items():
                    choice.setdefault("logprobs", {}).setdefault(name, []).extend(values or ())
            if "delta" not in part:
                choice["text"] = choice.get("text", "") + (part.get("text") or "")
                continue
            message, delta = choice.setdefault("message", {"role": "assistant", "content": None}), part["delta"] or {}
            for name in ("content", "reasoning_content"):
                if delta.get(name):
                    message[name] = (message.get(name) or "") + delta[name]
            for call in delta.get("tool_calls") or ():
                _take_call(call, message.setdefault("tool_calls", []))
    for choice in choices.values():
        if "message" in choice and "tool_calls" not in choice["message"]:
            choice["message"]["content"] = choice["message"]["content"] or ""
    if not choices or not all(choice["finish_reason"] for choice in choices.values()):
        raise RequestError("the answer ended before it was complete")
    whole["object"] = str(whole.get("object", "")).removesuffix(".chunk")
    whole["choices"] = [choices[index] for index in sorted(choices)]
    return whole


def _take_call(call: Mapping[str, Any], calls: list[dict[str, Any]]) -> None:
    """Take a part of a tool call: the first has its name, the others more of its arguments."""
    index = int(call.get("index") or 0)
    while len(calls) <= index:
        calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
    whole, part = calls[index], call.get("function") or {}
    whole["id"] = call.get("id") or whole["id"]
    whole["function"]["name"] += part.get("name") or ""
    whole["function"]["arguments"] += part.get("arguments") or ""


# Loading


def _arguments(
    gpu_layers: int | None,
    ctx_size: int | None,
    n_parallel: int | None,
    embeddings: bool,
    pooling: str,
    mmproj: str | None,
    more: Mapping[str, Any],
) -> list[str]:
    """llama-server's arguments."""
    more = dict(more)
    batch, ubatch = more.pop("batch_size", None), more.pop("ubatch_size", None)
    made: list[str] = []
    if embeddings:
        made += ["--embeddings", "--pooling", pooling]
        tokens = min(ctx_size or EMBEDDING_TOKENS, EMBEDDING_TOKENS)
        batch, ubatch = batch or tokens, ubatch or tokens  # a text has to fit into one batch
    for flag, value in (
        ("-ngl", gpu_layers),
        ("-c", ctx_size),
        ("-np", n_parallel),
        ("-b", batch),
        ("-ub", ubatch),
        ("--mmproj", os.path.expanduser(mmproj) if mmproj else None),
    ):
        if value is not None:
            made += [flag, str(value)]
    return made + flags(more)


def _make_available(name: str, report: Callable[[Event], None]) -> None:
    """Download a model that is not here.

    Raises:
        ModelNotFoundError: There is none of that name.
    """
    from ._internal.registry import locate, pull

    name = locate(name)
    if not os.path.isfile(name):
        pull(name, on_event=report)


_OFFLOADED = re.compile(r"offloaded (\d+)/\d+ layers to GPU")


def _layers(arguments: Sequence[str], log: str, devices: Sequence[Any] | None) -> tuple[int | None, str]:
    """How many layers are on GPUs, and where that is from."""
    if "-ngl" in arguments and arguments[arguments.index("-ngl") + 1] == "0":
        return 0, "gpu_layers=0"
    found = _OFFLOADED.findall(log)
    asked = "-ngl" in arguments
    if found and devices != []:
        return int(found[-1]), "as asked for" if asked else "llama.cpp fitted them to the free memory"
    if devices == []:
        return 0, "llama.cpp found no GPU"
    return None, ""


def _loaded(name: str, props: Mapping[str, Any], layers: int | None, why: str) -> LoadedModel:
    path = str(props.get("model_path") or "")
    settings = props.get("default_generation_settings") or {}
    return LoadedModel(
        name=os.fspath(name),
        path=path,
        size=os.path.getsize(path) if os.path.isfile(path) else 0,
        context=int(settings.get("n_ctx") or 0),
        gpu_layers=layers,
        parallel=int(props.get("total_slots") or 1),
        why=why,
    )


# Threads for asyncio


async def _in_thread(work: Callable[[], T], stream: Stream) -> T:
    """Run something in a thread of its own. Cancelling closes the stream, which ends it."""
    import asyncio

    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(value: Any, err: BaseException | None) -> None:
        if future.done():
            return
        if err is not None:
            future.set_exception(err)
        else:
            future.set_result(value)

    def run() -> None:
        value, failure = None, None
        try:
            value = work()
        except BaseException as err:
            failure = err
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(settle, value, failure)

    threading.Thread(target=run, name="llcuda-async", daemon=True).start()
    try:
        return await future
    except asyncio.CancelledError:
        stream.close()
        raise

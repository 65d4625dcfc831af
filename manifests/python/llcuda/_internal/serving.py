"""The server of an engine: start or find it, load a model, end it."""

from __future__ import annotations

import gc
import os
import re
import sys
import threading
import types
import urllib.parse
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import LlcudaError, RequestError, ServerError, ServerMismatchError, ServerNotRunningError
from ..server import (
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
from .fetch import Event
from .http import Api

EMBEDDING_TOKENS = 2048
"""The context of a server for embeddings, and so the longest text: it reads a text in one batch, whose buffers grow with
its size. Most embedding models were trained with no more."""

LOG_LINES = 2000
"""How much of the log is looked through for what the server decided."""


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


class Serving:
    """The part of :class:`llcuda.InferenceEngine` that has a server, and its model."""

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
        _engines.add(self)

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
            ServerMismatchError: The server at ``server_url`` has another model, or is not a llama-server.
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
        arguments = server_arguments(gpu_layers, ctx_size, n_parallel, embeddings, pooling, mmproj, kwargs)
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
        asked = arguments != server_arguments(None, None, 1, False, "mean", None, {})
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


_engines: weakref.WeakSet[Serving] = weakref.WeakSet()


def _forget_history(but: Serving) -> None:
    """Unload the engines that only a notebook's history of outputs holds, which a cell that ran again has left there."""
    from .setup import in_ipython

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


# Loading


def server_arguments(
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
    from .registry import locate, pull

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

"""llama-server, started and ended by this process.

:class:`ServerManager` starts ``llcuda-fetch serve``, which chooses the port, waits until the model is loaded, keeps the log,
and ends the server when this process is gone, whatever ended it. :class:`~llcuda.InferenceEngine` does all of it by
itself; use this class where a server without an engine is wanted.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import urllib.parse
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._internal import fetch
from ._internal.http import Api
from ._internal.running import Running, wait_for_ended
from .errors import (
    LlcudaError,
    RequestError,
    ServerError,
    ServerMismatchError,
    ServerNotRunningError,
    ServerTimeoutError,
)

if TYPE_CHECKING:
    from ._internal.fetch import Event
    from ._internal.running import Report

__all__ = ["ServerManager"]

DEFAULT_URL = "http://127.0.0.1:8090"
DEFAULT_PORT = 8090


class ServerManager:
    """A llama-server that this process starts and ends.

    It ends with ``stop_server()``, with the ``with`` block, when the object is garbage, and when the process is gone, even
    by SIGKILL. A forked child can use the server, but never ends it.

    Args:
        server_url: Where a server is to be started. The default is port 8090, or a free port if that is taken.
        api_key: The server's key. None makes a random one for each server, unless ``LLCUDA_API_KEY`` or
            ``LLAMA_API_KEY`` has one; ``""`` starts servers that ask for none.

    Attributes:
        server_url (str): Where the server is.
        api_key (str): The key that its requests need; empty if there is none.
    """

    def __init__(self, server_url: str = DEFAULT_URL, *, api_key: str | None = None) -> None:
        self._given = server_url != DEFAULT_URL
        self.server_url = server_url
        self.api_key = choose_key(api_key)
        self._random_key = self.api_key is None
        self._running: Running | None = None
        self._lock = threading.RLock()
        self._server_path: str | None = None
        _managers.add(self)

    def __enter__(self) -> ServerManager:
        return self

    def __exit__(self, exc_type: object, exc_val: object, exc_tb: object) -> None:
        self.stop_server()

    def __reduce_ex__(self, _: object) -> Any:
        raise TypeError(
            "a ServerManager cannot be copied or pickled, because it owns a running server: "
            "give server_url and api_key to the other process"
        )

    def __repr__(self) -> str:
        running = self._alive()
        state = f"running as process {running.pid}" if running else "not running"
        return f"<llcuda.ServerManager {self.server_url}: {state}>"

    @property
    def server_process(self) -> Any:
        """The ``subprocess.Popen`` of the program that supervises the server; None if this object started none."""
        return self._running.child._process if self._running is not None else None

    def find_llama_server(self) -> Path | None:
        """The llama-server that would be started; None if there is none. Nothing is installed.

        ``LLAMA_SERVER_PATH`` comes first, then ``LLAMA_CPP_DIR``, then what is installed.
        """
        found = own_program()
        if found is None:
            from ._internal.setup import current

            installation = current()
            if installation is not None:
                path = os.path.join(installation.programs, "llama-server")
                found = path if os.path.isfile(path) else None
        self._server_path = found
        return Path(found) if found else None

    def check_server_health(self, timeout: float = 2.0) -> bool:
        """Whether a server at ``server_url`` is ready.

        Args:
            timeout: How many seconds it may take to answer.
        """
        return is_healthy(self.server_url, timeout)

    def start_server(
        self,
        model_path: str,
        port: int = DEFAULT_PORT,
        host: str = "127.0.0.1",
        gpu_layers: int = 99,
        ctx_size: int = 2048,
        n_parallel: int = 1,
        batch_size: int = 512,
        ubatch_size: int = 128,
        timeout: int = 60,
        verbose: bool = True,
        skip_gpu_check: bool = False,
        silent: bool = False,
        **kwargs: Any,
    ) -> bool:
        """Start llama-server and wait until it is ready. The same model with the same settings is started once.

        Args:
            model_path: A file, a name of ``llcuda.models``, or ``"org/repo:file.gguf"``.
            port: The port. 8090 means that of ``server_url``, and a free one if that is 8090 and taken.
            host: The address to listen on.
            gpu_layers: How many layers go to the GPU; 0 runs on the processor.
            ctx_size: The size of the context in tokens, shared by the parallel requests.
            n_parallel: How many requests are answered at once.
            batch_size: Tokens of a logical batch.
            ubatch_size: Tokens of a physical batch.
            timeout: How many seconds loading may take.
            verbose: Whether to show progress.
            skip_gpu_check: Start without a GPU, too.
            silent: Show nothing.
            **kwargs: Further flags of llama-server: ``True`` is a flag by itself, ``None`` and ``False`` are left out,
                lists are joined by commas, a name that begins with ``-`` is taken as it is.

        Returns:
            True: the server is ready.

        Raises:
            ModelNotFoundError: There is no such model.
            NoGPUError: There is no GPU, and neither ``gpu_layers=0`` nor ``skip_gpu_check=True`` was given.
            ServerStartError: The server ended, with its log. OutOfMemoryError and ServerTimeoutError are kinds of it.
        """
        arguments = [
            *("-ngl", str(gpu_layers)),
            *("-c", str(ctx_size)),
            *("-np", str(n_parallel)),
            *("-b", str(batch_size)),
            *("-ub", str(ubatch_size)),
            *flags(kwargs),
        ]
        chosen = None if port == DEFAULT_PORT else port
        if chosen is None and self._given:
            chosen = urllib.parse.urlsplit(self.server_url).port or DEFAULT_PORT
        with reporting(verbose and not silent) as report:
            self.launch(
                model_path,
                arguments,
                port=chosen,
                host=host,
                timeout=timeout,
                allow_cpu=skip_gpu_check or gpu_layers == 0,
                report=report,
            )
        return True

    def stop_server(self, timeout: float = 10.0) -> bool:
        """End the server that this object started.

        Args:
            timeout: How many seconds it may take to end by itself.

        Returns:
            Whether no server of this object runs any more.
        """
        with self._lock:
            running, self._running = self._running, None
        return running is None or running.stop(timeout)

    def restart_server(self, model_path: str, **kwargs: Any) -> bool:
        """End the server and start another; the parameters are those of :meth:`start_server`."""
        self.stop_server()
        return self.start_server(model_path, **kwargs)

    def get_server_info(self) -> dict[str, Any]:
        """What is known of the server: ``running``, ``url``, ``process_id``, ``executable``."""
        running = self._alive()
        return {
            "running": self.check_server_health(),
            "url": self.server_url,
            "process_id": running.pid if running else None,
            "executable": (running.program if running else None) or self._server_path,
        }

    def logs(self, lines: int = 50) -> str:
        """The end of the server's log; empty if this object started none.

        Args:
            lines: How many lines.
        """
        return self._running.log_tail(lines) if self._running is not None else ""

    def _alive(self) -> Running | None:
        running = self._running
        return running if running is not None and not running.ended.is_set() else None

    def launch(
        self,
        model: str,
        arguments: Sequence[str],
        *,
        port: int | None,
        host: str,
        timeout: float,
        allow_cpu: bool,
        report: Report,
    ) -> Running:
        """Start a server, or find that the same one runs. For the engine; programs call :meth:`start_server`.

        Args:
            model: As of :meth:`start_server`.
            arguments: llama-server's.
            port: The port; None is 8090 or a free one.
            host: The address to listen on.
            timeout: How many seconds loading may take.
            allow_cpu: Whether it may run without a GPU.
            report: Called with the client's events by the thread that called.
        """
        with self._lock:
            key = (model, tuple(arguments), port, host)
            running = self._alive()
            if running is not None:
                if running.settings == key:
                    return running
                self.stop_server()
            self._running = None
            from ._internal.registry import locate

            model = locate(model)
            allow_cpu = allow_cpu or cpu_allowed()
            if own_program() is None:
                from ._internal.setup import ensure

                if not allow_cpu:
                    _need_gpu()
                ensure(allow_cpu=allow_cpu, progress=report)
            wait_for_ended()
            if self._random_key:
                self.api_key = os.urandom(24).hex()
            running = Running.start(
                [
                    *("serve", model, "--lifeline", "--host", host),
                    *("--port", "auto" if port is None else str(port)),
                    *("--timeout", f"{timeout:.3f}s"),
                    *("--", *arguments),
                ],
                environment(self.api_key or "", allow_cpu),
                report,
            )
            running.settings = key
            self._running = running
            self.server_url = running.url
            weakref.finalize(self, Running.let_go, running).atexit = False  # _end_all does that, and waits
            return running


_managers: weakref.WeakSet[ServerManager] = weakref.WeakSet()


def servers_at(url: str) -> list[ServerManager]:
    """What manages the servers of this process at an address."""
    return [m for m in list(_managers) if (running := m._alive()) is not None and running.url == url.rstrip("/")]


# What a server is started with


def choose_key(given: str | None) -> str | None:
    """The key for a server: the one given, else the environment's; None is that none was chosen, "" that none is wanted."""
    if given is not None:
        return given
    return os.environ.get("LLCUDA_API_KEY", os.environ.get("LLAMA_API_KEY"))


def cpu_allowed() -> bool:
    """Whether LLCUDA_ALLOW_CPU says that the processor may be used."""
    from ._internal.setup import is_true

    return is_true(os.environ.get("LLCUDA_ALLOW_CPU"))


def environment(key: str, allow_cpu: bool) -> dict[str, str]:
    """The variables for ``serve``. A browser's page of another site must not reach the model."""
    env = {
        "LLAMA_API_KEY": key,
        "LLAMA_ARG_CORS_ORIGINS": os.environ.get("LLAMA_ARG_CORS_ORIGINS", "localhost"),
        # How many layers went to which device is said at this level (common/log.h: 3 is information, 4 more of it).
        "LLAMA_ARG_LOG_VERBOSITY": os.environ.get("LLAMA_ARG_LOG_VERBOSITY", "4"),
    }
    if allow_cpu:
        env["LLCUDA_ALLOW_CPU"] = "1"
    return env


def own_program() -> str | None:
    """The user's own llama-server, by LLAMA_SERVER_PATH or LLAMA_CPP_DIR; one inside our store is not the user's own."""
    from ._internal import home

    named = os.environ.get("LLAMA_SERVER_PATH", "")
    folder = os.environ.get("LLAMA_CPP_DIR", "")
    places = [named] if named else []
    if folder:
        places += [os.path.join(folder, sub, "llama-server") for sub in ("bin", os.path.join("build", "bin"))]
    if not places:
        return None
    store = os.path.realpath(home.store(os.environ)) + os.sep
    for place in places:
        path = os.path.abspath(os.path.expanduser(place))
        if os.path.isfile(path) and not os.path.realpath(path).startswith(store):
            return path
    return None


def _need_gpu() -> None:
    if not (fetch.call(["detect"]) or {}).get("gpus"):
        raise fetch.no_gpu("no NVIDIA GPU with a driver was found", ["llcuda-fetch doctor says what is missing"])


_SWITCHES = ("flash_attn", "fit")
"""Flags of llama-server that take on, off or auto, and were booleans here."""

_SHORT = {"flash_attn": "-fa", "fit": "-fit"}


def flags(kwargs: Mapping[str, Any]) -> list[str]:
    """The flags of llama-server for keyword arguments."""
    made: list[str] = []
    for key, value in kwargs.items():
        flag = key if key.startswith("-") else _SHORT.get(key, "--" + key.replace("_", "-"))
        if key in _SWITCHES and isinstance(value, bool):
            value = "on" if value else "off"
        if value is None or value is False:
            continue
        made.append(flag)
        if value is True or value == "":
            continue
        made.append(",".join(str(v) for v in value) if isinstance(value, list | tuple) else str(value))
    return made


@contextlib.contextmanager
def reporting(show: bool | Callable[[Event], None]) -> Iterator[Report]:
    """Where events go: shown as the place allows, to a function, or nowhere."""
    from ._internal.progress import reporter

    with reporter(show) as report:
        yield report


# A server that runs already


def is_healthy(url: str, timeout: float) -> bool:
    """Whether a llama-server at an address is ready."""
    try:
        return isinstance(Api(url).json("GET", "/health", timeout=timeout), dict)
    except (LlcudaError, OSError):
        return False


def is_local(url: str) -> bool:
    """Whether an address is this machine's loopback, where a server can be started."""
    host = urllib.parse.urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def properties(api: Api, timeout: float) -> dict[str, Any] | None:
    """The ``/props`` of the server at an address, once it has loaded its model; None if nothing listens there.

    Raises:
        ServerMismatchError: What listens there is not a llama-server.
        ServerTimeoutError: It was still loading when the time was over.
        RequestError: It refused, as with a wrong key.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            api.json("GET", "/health", timeout=10)
            props = api.json("GET", "/props", timeout=10)
        except ServerNotRunningError:
            return None
        except RequestError as err:
            if err.status in (401, 403):
                raise
            if err.status != 503:
                raise _not_llama(api.url) from err
            if time.monotonic() > deadline:
                raise ServerTimeoutError(f"the server at {api.url} was still loading after {timeout:.0f} s") from err
            time.sleep(0.1)
            continue
        if not isinstance(props, dict) or "model_path" not in props:
            raise _not_llama(api.url)
        return props


def _not_llama(url: str) -> ServerError:
    return ServerMismatchError(
        f"the program that answers at {url} is not a llama-server",
        hints=["InferenceEngine() without server_url takes a free port", "another port: server_url=http://127.0.0.1:8091"],
    )


def check_model(name: str | os.PathLike[str], props: Mapping[str, Any], url: str) -> None:
    """Hold the model of a server that runs against the one asked for.

    Raises:
        ServerMismatchError: It is another one.
    """
    served = str(props.get("model_path") or "")
    aliases = [part.strip().casefold() for part in str(props.get("model_alias") or "").split(",")]
    text = os.fspath(name)
    if text.casefold() in aliases or _same_file(text, served):
        return
    raise ServerMismatchError(
        f"the server at {url} has the model {os.path.basename(served) or '(unknown)'}, not {text}",
        hints=[
            "InferenceEngine() without server_url starts a server of its own",
            f"load_model({os.path.basename(served)!r}) uses the one that is there",
        ],
    )


def _same_file(name: str, served: str) -> bool:
    path = os.path.expanduser(name)
    if os.path.isfile(path) and os.path.isabs(served) and os.path.exists(served):
        return os.path.samefile(path, served)
    base = os.path.basename(served).casefold()
    asked = os.path.basename(name.partition("@")[0].rpartition(":")[2]).casefold()
    if not asked or not base:
        return False
    if asked in (base, base.removesuffix(".gguf")):
        return True
    if asked.endswith(".gguf"):
        return False
    from ._internal.registry import resolve

    try:
        known = resolve(name)
    except LlcudaError:  # no client here, or no such name: the words of the name must do
        return all(word in base for word in asked.split("-"))
    return base in (os.path.basename(str(known.get(field) or "")).casefold() for field in ("path", "file"))

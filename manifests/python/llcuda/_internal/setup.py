"""Whether llama.cpp is set up, and setting it up.

``on_import`` runs at the end of every import of the package, so this module loads nothing but ``os`` and ``sys`` before
there is something to do.
"""

from __future__ import annotations

import os
import sys

from . import home

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence
    from typing import Any, Literal

    from .fetch import Event

IMPORT_PATIENCE = "10s"
"""How long an import may look for the release: a person waits for it."""

_PID = os.getpid()

_problems: list[str] = []
"""What setting up at import failed with, for status()."""


# Whether to set up


class Snapshot:
    """What the decision at import depends on.

    Attributes:
        environ: The environment's variables.
        modules: The names of loaded modules.
        installed: Something is installed for this machine.
        forked: This process is a fork of the one that first imported the package.
        worker: This process is a worker of multiprocessing, joblib or ray.
        main_thread: The import runs in the main thread.
        own_command: The process is the command ``llcuda``, which says itself what is to be done.
        kernel: IPython runs: a notebook's kernel, or its prompt.
        prompt: Python is interactive.
        terminal: Standard error is a terminal.
        supported: There is a client for this platform.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        modules: Container[str] = (),
        *,
        installed: bool = False,
        forked: bool = False,
        worker: bool = False,
        main_thread: bool = True,
        own_command: bool = False,
        kernel: bool = False,
        prompt: bool = False,
        terminal: bool = False,
        supported: bool = True,
    ) -> None:
        self.environ = environ
        self.modules = modules
        self.installed = installed
        self.forked = forked
        self.worker = worker
        self.main_thread = main_thread
        self.own_command = own_command
        self.kernel = kernel
        self.prompt = prompt
        self.terminal = terminal
        self.supported = supported


_UNATTENDED_VARIABLES = ("CI", "GITHUB_ACTIONS", "READTHEDOCS", "TF_BUILD")
_BUILD_VARIABLES = ("PIP_BUILD_TRACKER", "_PYPROJECT_HOOKS_BUILD_BACKEND")
_UNATTENDED_MODULES = ("sphinx", "pytest", "pdoc", "mypy", "griffe")


def is_true(value: str | None) -> bool:
    """Whether a variable says yes, as the client reads it."""
    return (value or "").strip().lower() in ("1", "on", "yes", "true")


def switched_off(environ: Mapping[str, str]) -> bool:
    """Whether nothing is set up by itself, neither at import nor at the first use."""
    return is_true(environ.get("LLCUDA_NO_AUTO_SETUP")) or environ.get("LLCUDA_AUTO_SETUP", "").lower() == "off"


def sets_up_at_import(s: Snapshot) -> bool:
    """The decision at import: a pure function, first match first."""
    auto = s.environ.get("LLCUDA_AUTO_SETUP", "").lower()
    if s.installed or not s.supported or s.own_command or switched_off(s.environ) or auto == "use":
        return False
    if auto == "import":
        return True
    if any(s.environ.get(name, "").lower() not in ("", "0", "false") for name in _UNATTENDED_VARIABLES):
        return False
    if any(name in s.environ for name in _BUILD_VARIABLES) or any(name in s.modules for name in _UNATTENDED_MODULES):
        return False
    if s.worker or s.forked or not s.main_thread:
        return False
    return s.kernel or s.prompt or s.terminal


def snapshot() -> Snapshot:
    """The process as it is now."""
    environ, modules = os.environ, sys.modules
    installed = home.installed(environ)
    return Snapshot(
        environ,
        modules,
        installed=installed,
        forked=os.getpid() != _PID,
        worker=_is_worker(),
        main_thread=_in_main_thread(),
        own_command=_is_own_command(),
        kernel=in_ipython(),
        prompt=hasattr(sys, "ps1") or bool(sys.flags.interactive),
        terminal=is_terminal(sys.stderr),
        supported=installed or _is_supported(),
    )


def _is_supported() -> bool:
    """Whether there may be a client. Looking for one is left to what starts it."""
    return bool(os.environ.get("LLCUDA_FETCH")) or (sys.platform.startswith("linux") and os.uname().machine == "x86_64")


def _is_worker() -> bool:
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        return True
    # The workers of joblib and ray are not children of multiprocessing; what they run as main tells.
    main = sys.modules.get("__main__")
    name = getattr(getattr(main, "__spec__", None), "name", None) or ""
    path = str(getattr(main, "__file__", None) or "").replace("\\", "/")
    return "loky.backend" in name or path.endswith("/ray/_private/workers/default_worker.py")


def _in_main_thread() -> bool:
    threading = sys.modules.get("threading")
    return threading is None or threading.current_thread() is threading.main_thread()


def _is_own_command() -> bool:
    name = os.path.basename(sys.argv[0]) if getattr(sys, "argv", None) else ""
    if name in ("llcuda", "llcuda-fetch"):
        return True
    given = sys.orig_argv
    return name == "-m" and "-m" in given and given[given.index("-m") + 1 :][:1] == ["llcuda"]


def in_ipython() -> bool:
    """Whether IPython runs this code: a notebook's kernel, or its prompt."""
    ipython = sys.modules.get("IPython")
    try:
        return ipython is not None and ipython.get_ipython() is not None
    except AttributeError:  # IPython is being imported
        return False


def is_terminal(stream: Any) -> bool:
    """Whether a stream is a terminal. It may be None, closed, or something that is not a file."""
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError, OSError):
        return False


# Setting up


class Installation:
    """What is installed for this machine.

    Attributes:
        release: The tag of the release that it is from.
        bundle: The bundle's name, such as ``llcuda-bins-sm75``.
        sm: The compute capability that the bundle was made for, times ten: 75. For ``llcuda-bins-ptx90`` it is 90.
        through: How its code reaches the GPU: ``cubin``, ``ptx`` (the driver compiles it at the first start), or ``cpu``.
        path: The bundle's folder.
        programs: The folder of llama.cpp's programs.
        llama_cpp: llama.cpp's version.
        devices: The GPUs as llama.cpp names them; empty on the processor.
        signed_by: Whose signature the release has; empty if it was not verified.
    """

    __slots__ = ("bundle", "devices", "llama_cpp", "path", "programs", "release", "signed_by", "sm", "through")

    def __init__(
        self,
        *,
        release: str,
        bundle: str,
        sm: int,
        through: Literal["cubin", "ptx", "cpu"] | str,
        path: str,
        programs: str,
        llama_cpp: str,
        devices: Sequence[str],
        signed_by: str,
    ) -> None:
        self.release = release
        self.bundle = bundle
        self.sm = sm
        self.through = through
        self.path = path
        self.programs = programs
        self.llama_cpp = llama_cpp
        self.devices = tuple(devices)
        self.signed_by = signed_by

    def __repr__(self) -> str:
        return f"Installation({', '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Installation) and all(
            getattr(self, name) == getattr(other, name) for name in self.__slots__
        )

    def __hash__(self) -> int:
        return hash((self.release, self.bundle, self.path))

    def _repr_html_(self) -> str:
        return _table(_installation_rows(self))


def _installation_rows(i: Installation) -> list[tuple[str, str]]:
    return [
        ("llama.cpp", f"{i.llama_cpp or 'of unknown version'}, {i.bundle} of release {i.release}"),
        ("runs on", ", ".join(i.devices) or ("the processor" if i.through == "cpu" else "a GPU that is not here")),
        ("signed by", i.signed_by or "its signature was not verified"),
        ("folder", i.path),
    ]


def _installation(tried: Mapping[str, Any], path: str, about: Mapping[str, Any]) -> Installation:
    """An installation from a row of ``list``, which has everything, or from the result of ``install`` and the row in it."""
    return Installation(
        release=about.get("release") or "",
        bundle=about.get("bundle") or "",
        sm=int(str(about.get("sm") or 0).removeprefix("ptx")),
        through=about.get("through") or "",
        path=path,
        programs=tried.get("programs") or "",
        llama_cpp=tried.get("llama_cpp") or "",
        devices=tried.get("devices") or (),
        signed_by=about.get("signed_by") or "",
    )


def current() -> Installation | None:
    """What is installed for this machine, None if nothing is. It uses no network and changes nothing.

    Raises:
        LlcudaError: The client cannot tell.
    """
    from . import fetch

    for row in fetch.call(["list", "--quiet"]) or []:
        if row.get("current"):
            return _installation(row, str(row.get("path") or ""), row)
    return None


def setup(
    *,
    model: str | None = None,
    sm: int | str | None = None,
    release: str | None = None,
    update: bool = False,
    allow_cpu: bool | None = None,
    source: str | None = None,
    offline: bool | None = None,
    progress: bool | Callable[[Event], None] = True,
) -> Installation:
    """Install llama.cpp for this machine's GPU. Where it is installed already, that is found out without a network.

    Args:
        model: A model to download as well: a name of ``llcuda.models.list_registry_models()``, or ``org/repo:file.gguf``.
        sm: The compute capability to install for, such as 75, ``"7.5"`` or ``"sm75"``, or ``"ptx90"`` for the PTX that
            newer GPUs' drivers compile. The default is this machine's.
        release: The tag of a release. The default is the one installed, else the newest.
        update: Look for a newer release although one is installed.
        allow_cpu: Run on the processor where there is no GPU. The default is what ``LLCUDA_ALLOW_CPU`` says.
        source: A folder that ``llcuda-fetch export`` made, or the address of one, instead of the project's releases.
        offline: Use no network. The default is what ``LLCUDA_OFFLINE`` says.
        progress: True shows what happens, False shows nothing, and a function is called with every event.

    Returns:
        What is installed now.

    Raises:
        NoGPUError: There is no GPU, and the processor was not allowed.
        NoBundleError: No bundle fits this machine.
        NetworkError: The release cannot be reached. What came is kept.
        OfflineError: Offline, and not on this machine.
        UntrustedError: A signature or a checksum does not hold.
        DiskError: The disk is full.
        UnsupportedPlatformError: There is no client for this platform.
        UsageError: An argument is wrong.
        SetupError: Anything else.
    """
    args = ["install"]
    for flag, value in (("--model", model), ("--sm", sm), ("--release", release), ("--from", source)):
        if value is not None:
            args.append(f"{flag}={value}")
    if update:
        args.append("--update")
    return _install(args, allow_cpu=allow_cpu, offline=offline, progress=progress)


def bootstrap(*, progress: bool | Callable[[Event], None] = True) -> Installation:
    """The same as :func:`setup`, by the name that llcuda 1.1 had for it."""
    return setup(progress=progress)


def ensure(
    *, allow_cpu: bool | None = None, use: str = "use", progress: bool | Callable[[Event], None] = True
) -> Installation:
    """What is installed; nothing installed: it is set up, as the first use of the package wants it.

    Args:
        allow_cpu: Run on the processor where there is no GPU. False refuses an installation for the processor, too.
        use: ``"use"``, or ``"import"``, where looking for the release is cut short.
        progress: As for :func:`setup`.

    Raises:
        SetupError: Nothing is installed, and the variables say that nothing is set up by itself.
        LlcudaError: As :func:`setup` does.
    """
    if home.installed(os.environ):
        found = current()
        if found is not None and found.through == "cpu" and allow_cpu is False:
            from ..errors import NoGPUError

            raise NoGPUError(
                "what is installed here runs on the processor, which allow_cpu=False forbids",
                hints=["on a machine with a GPU, llcuda.setup(allow_cpu=False) installs for the GPU"],
            )
        if found is not None:
            return found
    if switched_off(os.environ):
        from ..errors import SetupError

        raise SetupError(
            "llama.cpp is not set up here, and LLCUDA_NO_AUTO_SETUP or LLCUDA_AUTO_SETUP=off says not to do it unasked",
            hints=["llcuda.setup() does it"],
        )
    args = ["install"]
    if use == "import":
        args.append(f"--patience={IMPORT_PATIENCE}")
    if model := os.environ.get("LLCUDA_SETUP_MODEL"):
        args.append(f"--model={model}")
    return _install(args, allow_cpu=allow_cpu, offline=None, progress=progress)


def _install(
    args: list[str], *, allow_cpu: bool | None, offline: bool | None, progress: bool | Callable[[Event], None]
) -> Installation:
    import time

    from . import fetch
    from .progress import reporter

    env = {}
    for flag, variable, wanted in (
        ("--allow-cpu", "LLCUDA_ALLOW_CPU", allow_cpu),
        ("--offline", "LLCUDA_OFFLINE", offline),
    ):
        if wanted:
            args.append(flag)
        elif wanted is not None:
            env[variable] = ""
    fetch.program()  # where there is none, there is nothing to show
    began = time.monotonic()
    with reporter(progress) as report:
        announced = not home.installed(os.environ)
        if announced:
            report(fetch.Event("step", {"message": "Detecting GPU…"}))
        result = fetch.call(args, env=env, on_event=report)
        if not isinstance(result, dict) or not isinstance(result.get("install"), dict):
            from ..errors import SetupError

            raise SetupError(f"{fetch.NAME} install printed an unknown result: {str(result)[:1000]}")
        installation = _installation(result, str(result.get("folder") or ""), result["install"])
        if announced or not result.get("already"):  # already, where another process did it meanwhile
            seconds = time.monotonic() - began
            where = ", ".join(installation.devices) or "the processor"
            message = f"✓ Setup complete in {seconds:.0f} s: llama.cpp {installation.llama_cpp}, {where}"
            report(fetch.Event("step", {"message": message}))
    _problems.clear()
    return installation


def on_import() -> None:
    """Set up, if the situation is one for it. It never raises, whatever happens."""
    try:
        if not sets_up_at_import(snapshot()):
            return
    except Exception as err:
        _problems.append(f"looking at this process: {err!r}")
        return
    _set_up_watched()


def _set_up_watched() -> None:
    try:
        from ..errors import LlcudaError, UnsupportedPlatformError
        from .progress import say
    except KeyboardInterrupt:
        return
    try:
        ensure(use="import")
    except UnsupportedPlatformError as err:
        _problems[:] = [str(err)]
    except LlcudaError as err:
        _problems[:] = [str(err)]
        say(f"llcuda is not set up: {err}\nThe next use tries again.")
    except KeyboardInterrupt:
        _problems[:] = ["setting up was interrupted; it goes on at the next use"]
        say("llcuda: interrupted; goes on at the next use")
    except Exception as err:
        _problems[:] = [f"setting up: {err!r}"]
        say(f"llcuda is not set up: {err!r}\nThe next use tries again.")


# What is there


class Status:
    """What :func:`status` found.

    Attributes:
        installation: What is installed for this machine, or None.
        gpus: The GPUs: for each a dict with index, name, sm (compute capability times ten), uuid, memory_mib, mig.
        driver: The version of NVIDIA's driver; empty if there is none.
        platform: What the machine is: ``kaggle``, ``colab``, ``wsl2``, ``container``, ``linux``, …
        home: The folder of what is installed.
        models_cache: The folder of models, which Hugging Face's tools share.
        client_version: The version of llcuda-fetch; empty if there is none.
        problems: What is wrong, for a person.
    """

    __slots__ = ("client_version", "driver", "gpus", "home", "installation", "models_cache", "platform", "problems")

    def __init__(
        self,
        *,
        installation: Installation | None,
        gpus: Sequence[Mapping[str, Any]],
        driver: str,
        platform: str,
        home: str,
        models_cache: str,
        client_version: str,
        problems: Sequence[str],
    ) -> None:
        self.installation = installation
        self.gpus = tuple(gpus)
        self.driver = driver
        self.platform = platform
        self.home = home
        self.models_cache = models_cache
        self.client_version = client_version
        self.problems = tuple(problems)

    def _rows(self) -> list[tuple[str, str]]:
        rows = (
            _installation_rows(self.installation)
            if self.installation is not None
            else [("llama.cpp", "not set up: llcuda.setup() does it")]
        )
        for gpu in self.gpus:
            rows.append(("GPU", gpu_text(gpu)))
        if not self.gpus:
            rows.append(("GPU", "none"))
        rows += [
            ("driver", self.driver or "none"),
            ("platform", self.platform or "unknown"),
            ("store", self.home or "unknown"),
            ("models", self.models_cache),
            ("client", self.client_version or "none"),
        ]
        return rows + [("problem", problem) for problem in self.problems]

    def __str__(self) -> str:
        lines = []
        for name, value in self._rows():
            first, *more = value.split("\n")
            lines += [f"{name:<11}{first}", *(" " * 11 + line for line in more)]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return _table(self._rows())


def _table(rows: Sequence[tuple[str, str]]) -> str:
    from html import escape

    cells = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left;white-space:pre-wrap">{escape(value)}</td></tr>'
        for name, value in rows
    )
    return f"<table>{cells}</table>"


def gpu_text(gpu: Mapping[str, Any]) -> str:
    """A GPU for a person: ``Tesla T4 (SM 7.5)``."""
    name, sm = gpu.get("name") or "a GPU without a name", gpu.get("sm")
    if isinstance(sm, int) and sm > 0:
        return f"{name} (SM {sm // 10}.{sm % 10})"
    return f"{name} (SM {str(sm).removeprefix('sm')})" if sm else str(name)


def models_cache(environ: Mapping[str, str]) -> str:
    """The folder of the Hub's cache, by the rules of huggingface_hub."""
    cache = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE")
    if not cache:
        base = environ.get("HF_HOME")
        if not base:
            base = os.path.join(environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache"), "huggingface")
        cache = os.path.join(base, "hub")
    return os.path.abspath(os.path.expandvars(os.path.expanduser(cache)))


def status() -> Status:
    """What is installed, which GPUs there are, and what is wrong. It uses no network, changes nothing and never raises."""
    from ..errors import LlcudaError
    from . import fetch, registry

    problems = list(_problems)
    try:
        store = home.store(os.environ)
    except (ValueError, OSError) as err:
        store = ""
        problems.append(str(err))

    def ask(question: Callable[[], Any]) -> Any:
        try:
            return question()
        except LlcudaError as err:
            if str(err) not in problems:
                problems.append(str(err))
            return None

    machine = ask(registry.detect) or {}
    cuda, driver = machine.get("cuda") or {}, machine.get("driver") or {}
    if cuda.get("problem"):
        problems.append("\n".join([cuda["problem"], *([f"hint: {cuda['way']}"] if cuda.get("way") else [])]))
    left = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "models")
    if os.path.isdir(left):
        problems.append(f"{left} was left by llcuda 1.x; its models are still found by name, and it may be removed")
    return Status(
        installation=ask(current),
        gpus=machine.get("gpus") or (),
        driver=driver.get("version") or "",
        platform=machine.get("platform") or home.notebook(os.environ) or sys.platform,
        home=store,
        models_cache=models_cache(os.environ),
        client_version=ask(fetch.version) or "",
        problems=problems,
    )

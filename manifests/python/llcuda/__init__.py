"""Run llama.cpp on this machine's NVIDIA GPU: no CUDA installation, no compiler.

>>> import llcuda
>>> engine = llcuda.InferenceEngine()
>>> engine.load_model("gemma-3-1b-Q4_K_M")
>>> print(engine.infer("What is AI?").text)

The first import sets llama.cpp up where a person is watching: in a notebook, at a prompt, in a terminal. Elsewhere the first
use does. ``llcuda.setup()`` does it on request, ``llcuda.status()`` says what is there.

Names are loaded when they are first used, so that importing the package costs next to nothing.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from . import chat, embeddings, errors, jupyter, models, server, utils
    from ._internal.fetch import Event
    from ._internal.setup import Installation, Status, bootstrap, setup, status
    from .engine import InferenceEngine, InferResult, LoadedModel, quick_infer
    from .jupyter import load_ipython_extension as load_ipython_extension
    from .server import ServerManager
    from .utils import (
        check_cuda_available,
        check_gpu_compatibility,
        create_config_file,
        detect_cuda,
        find_gguf_models,
        get_cuda_device_info,
        get_llama_cpp_cuda_path,
        get_recommended_gpu_layers,
        load_config,
        print_system_info,
        setup_environment,
        validate_model_path,
    )

    __version__: str

__all__ = [
    "Event",
    "InferResult",
    "InferenceEngine",
    "Installation",
    "LoadedModel",
    "ServerManager",
    "Status",
    "__version__",
    "bootstrap",
    "chat",
    "check_cuda_available",
    "check_gpu_compatibility",
    "create_config_file",
    "detect_cuda",
    "embeddings",
    "errors",
    "find_gguf_models",
    "get_cuda_device_info",
    "get_llama_cpp_cuda_path",
    "get_recommended_gpu_layers",
    "jupyter",
    "load_config",
    "models",
    "print_system_info",
    "quick_infer",
    "server",
    "setup",
    "setup_environment",
    "status",
    "utils",
    "validate_model_path",
]

_MODULES = ("chat", "embeddings", "engine", "errors", "jupyter", "models", "server", "utils")

_HOMES = {
    "Event": "_internal.fetch",
    "InferResult": "engine",
    "InferenceEngine": "engine",
    "Installation": "_internal.setup",
    "LoadedModel": "engine",
    "ServerManager": "server",
    "Status": "_internal.setup",
    "bootstrap": "_internal.setup",
    "check_cuda_available": "utils",
    "check_gpu_compatibility": "utils",
    "create_config_file": "utils",
    "detect_cuda": "utils",
    "find_gguf_models": "utils",
    "get_cuda_device_info": "utils",
    "get_llama_cpp_cuda_path": "utils",
    "get_recommended_gpu_layers": "utils",
    "load_config": "utils",
    "load_ipython_extension": "jupyter",
    "print_system_info": "utils",
    "quick_infer": "engine",
    "setup": "_internal.setup",
    "setup_environment": "utils",
    "status": "_internal.setup",
    "validate_model_path": "utils",
}
"""Where each name lives."""


if not TYPE_CHECKING:  # to a type checker it would mean that every name exists

    def __getattr__(name: str) -> "Any":
        if name in _HOMES:
            value = getattr(__import__(f"{__name__}.{_HOMES[name]}", fromlist=[name]), name)
        elif name in _MODULES:
            return __import__(f"{__name__}.{name}", fromlist=[name])  # which sets the attribute
        elif name == "__version__":
            value = _version()
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("llcuda")
    except metadata.PackageNotFoundError:  # a source tree that is not installed
        return "0+unknown"


def __dir__() -> "list[str]":
    return sorted({*globals(), *__all__})


# Last, when every name is there: what happens meanwhile, in other threads and nested imports, sees a whole module.
from ._internal.setup import on_import as _on_import  # noqa: E402

_on_import()

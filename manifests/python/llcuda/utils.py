"""What this machine is, and small helpers of llcuda 1.x."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from ._internal import home, registry
from .errors import LlcudaError

__all__ = [
    "auto_configure_for_model",
    "check_cuda_available",
    "check_gpu_compatibility",
    "create_config_file",
    "detect_cuda",
    "find_gguf_models",
    "get_cuda_device_info",
    "get_llama_cpp_cuda_path",
    "get_recommended_gpu_layers",
    "load_config",
    "print_system_info",
    "setup_environment",
    "validate_model_path",
]

MIB = 1024 * 1024


def _capability(sm: Any) -> str:
    """A compute capability as NVIDIA writes it: 75 is 7.5."""
    return f"{sm // 10}.{sm % 10}" if isinstance(sm, int) and sm > 0 else ""


def _detect() -> dict[str, Any]:
    """What the client says of this machine; nothing where it cannot tell, as in llcuda 1.x."""
    try:
        return registry.detect()
    except LlcudaError:
        return {}


def detect_cuda() -> dict[str, Any]:
    """This machine's GPUs. It never raises.

    Returns:
        available (bool); version (str or None), the newest CUDA that the driver supports; gpus, a list of dicts: name,
        memory (such as ``"15360 MiB"``), driver_version, compute_capability (such as ``"7.5"``).
    """
    machine = _detect()
    driver = machine.get("driver") or {}
    gpus = [
        {
            "name": gpu.get("name") or "",
            "memory": f"{gpu.get('memory_mib') or 0} MiB",
            "driver_version": driver.get("version") or "",
            "compute_capability": _capability(gpu.get("sm")),
        }
        for gpu in machine.get("gpus") or ()
    ]
    return {"available": bool(gpus), "version": driver.get("cuda") or None, "gpus": gpus}


def check_cuda_available() -> bool:
    """Whether there is a GPU that CUDA can use. It never raises."""
    return bool(detect_cuda()["available"])


def get_cuda_device_info() -> dict[str, Any] | None:
    """The GPUs, None if there is none. It never raises.

    Returns:
        cuda_version (str or None) and gpus, as in :func:`detect_cuda`.
    """
    found = detect_cuda()
    return {"cuda_version": found["version"], "gpus": found["gpus"]} if found["available"] else None


def check_gpu_compatibility(min_compute_cap: float = 5.0) -> dict[str, Any]:
    """Whether a GPU of this machine can be used. It never raises.

    Args:
        min_compute_cap: The least compute capability; bundles are made for 5.0 and newer.

    Returns:
        compatible (bool), compute_capability (float or None) and gpu_name (str or None) of the first GPU that can be used,
        else of the first; reason (str); platform, which is ``local``, ``colab`` or ``kaggle``.
    """
    result: dict[str, Any] = {
        "compatible": False,
        "compute_capability": None,
        "gpu_name": None,
        "reason": "",
        "platform": home.notebook(os.environ) or "local",
    }
    machine = _detect()
    gpus = machine.get("gpus") or []
    if not gpus:
        result["reason"] = (machine.get("cuda") or {}).get("problem") or "no NVIDIA GPU was found"
        return result
    for gpu in sorted(gpus, key=lambda gpu: (gpu.get("sm") or 0) / 10 < min_compute_cap):
        name, sm = gpu.get("name") or "a GPU", gpu.get("sm") or 0
        result["gpu_name"], result["compute_capability"] = name, sm / 10 if sm else None
        result["compatible"] = sm > 0 and sm / 10 >= min_compute_cap
        if not sm:
            result["reason"] = f"the compute capability of {name} is not known"
        elif result["compatible"]:
            result["reason"] = f"{name} has compute capability {_capability(sm)}"
        else:
            result["reason"] = f"{name} has compute capability {_capability(sm)}, and {min_compute_cap} is the least"
        break
    return result


def get_llama_cpp_cuda_path() -> Path | None:
    """The folder of llama.cpp: ``LLAMA_CPP_DIR``, else that of the installation, None if there is none. It never raises."""
    if named := os.environ.get("LLAMA_CPP_DIR"):
        path = Path(named).expanduser()
        if path.exists() and not _in_store(path):
            return path
    from ._internal.setup import current

    try:
        installation = current()
    except LlcudaError:
        return None
    return Path(installation.path) if installation is not None else None


def _in_store(path: Path) -> bool:
    """Whether a path was taken from an installation, which may have been replaced since."""
    try:
        return path.resolve().is_relative_to(Path(home.store(os.environ)).resolve())
    except (OSError, ValueError):
        return False


def setup_environment() -> dict[str, str]:
    """Set variables by which other programs find llama.cpp.

    They are ``LLAMA_CPP_DIR``, ``LD_LIBRARY_PATH`` and ``CUDA_VISIBLE_DEVICES``. What is set already is left as it is; of
    ``LD_LIBRARY_PATH`` it comes after llama.cpp's folder. This package itself needs none of them.

    Returns:
        The variables that were set.
    """
    before = dict(os.environ)
    folder = get_llama_cpp_cuda_path()
    if folder is not None and "LLAMA_CPP_DIR" not in before:
        os.environ["LLAMA_CPP_DIR"] = str(folder)
        libraries = folder / "lib"
        known = before.get("LD_LIBRARY_PATH", "")
        if libraries.is_dir() and str(libraries) not in known.split(":"):
            os.environ["LD_LIBRARY_PATH"] = f"{libraries}:{known}" if known else str(libraries)
    if "CUDA_VISIBLE_DEVICES" not in before:
        gpus = detect_cuda()["gpus"]
        if gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(str(index) for index in range(len(gpus)))
    return {name: value for name, value in os.environ.items() if before.get(name) != value}


def find_gguf_models(directory: str | None = None) -> list[Path]:
    """GGUF files.

    Args:
        directory: Where to look. The default is the current folder, ``~/models``, and ``LLAMA_CPP_DIR/bin`` if that is set.

    Returns:
        Their paths, sorted.
    """
    if directory:
        folders = [Path(directory).expanduser()]
    else:
        folders = [Path.cwd(), Path.home() / "models"]
        if named := os.environ.get("LLAMA_CPP_DIR"):
            folders.append(Path(named) / "bin")
    return sorted({file for folder in folders if folder.is_dir() for file in folder.glob("*.gguf")})


def print_system_info() -> None:
    """Print what a report of a problem needs: Python, the system, the GPUs, llama.cpp, the models that are here."""
    from ._internal.setup import status

    print(f"Python     {platform.python_version()}, {sys.executable}")
    print(f"system     {platform.system()} {platform.release()}, {platform.machine()}")
    print(status())
    models = find_gguf_models()
    for path in models[:5]:
        print(f"model      {path} ({path.stat().st_size / MIB:.1f} MiB)")
    if len(models) > 5:
        print(f"           and {len(models) - 5} more")


def _config_path(given: Path | None) -> Path:
    return Path(given) if given is not None else Path.home() / ".llcuda" / "config.json"


def create_config_file(config_path: Path | None = None) -> Path:
    """Write a file with defaults, for programs that read it; this package does not.

    Args:
        config_path: The file. The default is ``~/.llcuda/config.json``.

    Returns:
        Its path.
    """
    path = _config_path(config_path)
    folder = get_llama_cpp_cuda_path()
    config = {
        "server": {"url": "http://127.0.0.1:8090", "port": 8090, "host": "127.0.0.1", "auto_start": True},
        "model": {"gpu_layers": 99, "ctx_size": 2048, "n_parallel": 1},
        "inference": {"max_tokens": 128, "temperature": 0.7, "top_p": 0.9, "top_k": 40},
        "paths": {
            "llama_cpp_dir": str(folder) if folder is not None else None,
            "models_dir": str(Path.home() / "models"),
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return path


def load_config(config_path: Path | None = None) -> dict[str, Any]:
    """Read the file of :func:`create_config_file`, which is made if it is not there.

    Args:
        config_path: The file. The default is ``~/.llcuda/config.json``.

    Raises:
        ValueError: The file is not JSON.
    """
    path = _config_path(config_path)
    if not path.exists():
        create_config_file(path)
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config


_LAYERS = ((1.0, 99), (0.8, 40), (0.6, 30), (0.4, 20), (0.2, 10))
"""From which part of the memory that a model needs, how many layers."""

_OVERHEAD = 1.2
"""What a model needs beside its weights: its context and buffers."""


def get_recommended_gpu_layers(model_size_gb: float, vram_gb: float) -> int:
    """A rule of thumb for a model of which only the size is known; :func:`auto_configure_for_model` looks at the file.

    Args:
        model_size_gb: The size of the file in GB.
        vram_gb: The GPU's memory in GB.

    Returns:
        How many layers to put on the GPU; 99 is all.
    """
    if model_size_gb <= 0:
        return 99
    part = vram_gb / (model_size_gb * _OVERHEAD)
    return next((layers for least, layers in _LAYERS if part >= least), 0)


def validate_model_path(model_path: str) -> bool:
    """Whether there is a GGUF file of that path."""
    path = Path(model_path).expanduser()
    return path.exists() and path.suffix.lower() == ".gguf"


def auto_configure_for_model(model_path: Path, vram_gb: float | None = None) -> dict[str, Any]:
    """Settings for a model on this machine. ``load_model`` does not need them: it leaves them to llama.cpp.

    Args:
        model_path: The GGUF file, or a model's name.
        vram_gb: The GPU's memory in GB (of 1024 MiB). The default is this machine's GPUs, all of them.

    Returns:
        gpu_layers, ctx_size (tokens), batch_size, ubatch_size; without a GPU n_parallel as well.

    Raises:
        ModelNotFoundError: There is no such model here.
        LlcudaError: The file is not a model.
    """
    from .models import recommended

    settings = recommended(model_path, vram_gb)
    if vram_gb is None and not detect_cuda()["available"]:
        settings["n_parallel"] = 1
    return settings

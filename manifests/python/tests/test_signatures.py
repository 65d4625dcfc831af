"""What programs written for llcuda 1.x call must be there, with the same parameters and defaults.

signatures/VERSION.json is what its files say: names, parameters in order, defaults as they are written there.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import math
from pathlib import Path
from typing import Any

import pytest

import llcuda
from llcuda import chat, embeddings, jupyter, models

SIGNATURES = Path(__file__).parent / "signatures"

# Everything that is different, and why. A name that is not here has the old parameters in the old order with the old
# defaults; parameters of our own come after them and are optional.
DEVIATIONS = {
    "llcuda.InferenceEngine.__init__ server_url": "None: 8090 if that is free, and the real address afterwards",
    "llcuda.InferenceEngine.check_for_updates": "asked the package index at every import",
}


def differences(version: str) -> dict[str, str]:
    """Every difference between the release and ours, by what it is about."""
    found: dict[str, str] = {}
    for module_name, names in json.loads((SIGNATURES / f"{version}.json").read_text()).items():
        module = importlib.import_module(module_name)
        for name, entry in names.items():
            where = f"{module_name}.{name}"
            if name == "__all__":
                for public in entry["names"]:
                    if not hasattr(module, public) or public not in module.__all__:
                        found[f"{module_name}.{public}"] = "missing"
            elif not hasattr(module, name):
                found[where] = "missing"
            elif "parameters" in entry:
                found |= parameters(where, entry["parameters"], getattr(module, name))
            elif "members" in entry:
                found |= members(where, entry["members"], getattr(module, name))
    return found


def members(where: str, old: dict[str, Any], ours: type) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, entry in old.items():
        if "property" in entry:
            found |= attribute(f"{where}.{name}", name, ours, written=entry["property"] == "write")
        elif not hasattr(ours, name):
            found[f"{where}.{name}"] = "missing"
        elif name == "__init__" or not name.startswith("__"):  # who calls the others is Python
            found |= parameters(f"{where}.{name}", entry["parameters"], getattr(ours, name))
    return found


def attribute(where: str, name: str, ours: type, written: bool) -> dict[str, str]:
    one = ours()
    if not hasattr(one, name) or callable(getattr(one, name)):
        return {where: "missing, or a method"}
    if written:
        try:
            setattr(one, name, getattr(one, name))
        except AttributeError:
            return {where: "cannot be set"}
    return {}


def parameters(where: str, old: list[list[str]], ours: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    mine = [parameter for parameter in inspect.signature(ours).parameters.values() if parameter.name != "self"]
    variadic = {parameter.kind for parameter in mine}
    positional = [p for p in mine if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    for index, (name, *default) in enumerate(old):
        if name.startswith("**"):
            if inspect.Parameter.VAR_KEYWORD not in variadic:
                found[f"{where} {name}"] = "missing"
        elif index >= len(positional) or positional[index].name != name:
            found[f"{where} {name}"] = "missing or elsewhere"
        elif default and not same(default[0], positional[index].default):
            found[f"{where} {name}"] = f"is {positional[index].default!r}, was {default[0]}"
    known = {name.lstrip("*") for name, *_ in old}
    for parameter in mine:
        may_lack = parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        if parameter.name not in known and parameter.default is inspect.Parameter.empty and not may_lack:
            found[f"{where} {parameter.name}"] = "new and required"
    return found


def same(written: str, value: Any) -> bool:
    old = math.inf if "inf" in written else ast.literal_eval(written)
    if isinstance(value, tuple):  # as good as a list, and nobody changes it
        value = list(value)
    return bool(old == value) and isinstance(old, bool) == isinstance(value, bool)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("version", ["1.0.2", "1.1.9"])
def test_signatures(version: str) -> None:
    unexpected = {what: how for what, how in differences(version).items() if what not in DEVIATIONS}
    assert not unexpected, "\n".join(f"{what}: {how}" for what, how in unexpected.items())


@pytest.mark.usefixtures("here")
def test_deviations_are_real() -> None:
    found = differences("1.0.2") | differences("1.1.9")
    assert sorted(DEVIATIONS.keys() - found.keys()) == []


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("version", ["1.0.2", "1.1.9"])
def test_attributes(version: str, smollm2: Path) -> None:
    engine = llcuda.InferenceEngine()
    embedder = embeddings.EmbeddingEngine(engine)
    objects = [
        engine,
        llcuda.InferResult(),
        llcuda.ServerManager(),
        chat.Message("user", "Hello"),
        chat.ChatEngine(engine),
        chat.ConversationManager(engine),
        embedder,
        embeddings.SemanticSearch(embedder),
        embeddings.TextClustering(embedder),
        jupyter.ChatWidget(engine),
        models.ModelInfo(str(smollm2)),
        models.ModelManager([]),
    ]
    by_type = {f"{type(one).__module__}.{type(one).__name__}".replace("llcuda.engine.", "llcuda."): one for one in objects}
    missing, seen = [], 0
    for module, names in json.loads((SIGNATURES / f"{version}.json").read_text()).items():
        for name, entry in names.items():
            if "members" in entry:
                one, seen = by_type[f"{module}.{name}"], seen + 1
                missing += [
                    f"{module}.{name}.{attribute}" for attribute in entry["attributes"] if not hasattr(one, attribute)
                ]
    assert (missing, seen) == ([], len(objects))

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

SIGNATURES = Path(__file__).parent / "signatures"

# Everything that is different, and why. A name that is not here has the old parameters in the old order with the old
# defaults; parameters of our own come after them and are optional.
DEVIATIONS = {
    "llcuda.InferenceEngine.__init__ server_url": "None: 8090 if that is free, and the real address afterwards",
    "llcuda.server.ServerManager.__init__ server_url": "None: as for the engine",
    "llcuda.quick_infer server_url": "None: as for the engine",
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
        mine = inspect.getattr_static(ours, name, None)
        if mine is None and not hasattr(ours, name):
            found[f"{where}.{name}"] = "missing"
        elif "property" in entry:
            if callable(getattr(ours, name, None)):
                found[f"{where}.{name}"] = "a method, was a property"
            elif entry["property"] == "write" and isinstance(mine, property) and mine.fset is None:
                found[f"{where}.{name}"] = "cannot be set"
        else:
            if entry.get("classmethod") and not isinstance(mine, classmethod):
                found[f"{where}.{name}"] = "no class method"
            found |= parameters(f"{where}.{name}", entry["parameters"], getattr(ours, name), bound=entry.get("classmethod", False))
    return found


def parameters(where: str, old: list[list[str]], ours: Any, bound: bool = True) -> dict[str, str]:
    found: dict[str, str] = {}
    mine = list(inspect.signature(ours).parameters.values())
    if mine and mine[0].name == "self" or not bound:
        mine = mine[1:]
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
        if parameter.name not in known and parameter.default is inspect.Parameter.empty and parameter.kind in (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            inspect.Parameter.KEYWORD_ONLY,
        ):
            found[f"{where} {parameter.name}"] = "new and required"
    return found


def same(written: str, value: Any) -> bool:
    old = math.inf if "inf" in written else ast.literal_eval(written)
    if isinstance(value, tuple):  # as good as a list, and nobody changes it
        value = list(value)
    return bool(old == value) and isinstance(old, bool) == isinstance(value, bool)


@pytest.mark.parametrize("version", ["1.0.2", "1.1.9"])
def test_signatures(version: str) -> None:
    unexpected = {what: how for what, how in differences(version).items() if what not in DEVIATIONS}
    assert not unexpected


def test_deviations_are_real() -> None:
    found = differences("1.0.2") | differences("1.1.9")
    assert not DEVIATIONS.keys() - found.keys()

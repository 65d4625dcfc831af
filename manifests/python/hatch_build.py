"""Takes the client into the wheel.

LLCUDA_CLIENT names a folder in the project with the client's programs and their bill of materials;
`ci wheel` makes it, and the folder `licenses` with the licenses of what is linked into them. Without
it the wheel is for any platform and has no client: that is also what `pip install ./manifests/python`
gives.
"""

from __future__ import annotations

import glob
import json
import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

# The client runs on any Linux; the bundles that it brings need glibc, so it is not musllinux.
TAG = "py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64"
LICENSE = "MIT"


def client(root: str) -> Path | None:
    """The folder with the client's programs, if there is to be one."""
    name = os.environ.get("LLCUDA_CLIENT")
    return Path(root, name) if name else None


def bill(folder: Path) -> Path:
    """The bill of materials in that folder."""
    (found,) = folder.glob("*.spdx.json")
    return found


class License(MetadataHookInterface):
    """The licenses of everything in the wheel, as the bill of materials declares them."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Give the expression, and the files with the texts."""
        root, expressions, files = Path(self.root), {LICENSE}, ["LICENSE"]
        if folder := client(self.root):
            for package in json.loads(bill(folder).read_bytes())["packages"]:
                if package["primaryPackagePurpose"] == "LIBRARY":
                    expressions.update(package["licenseDeclared"].split(" AND "))
            texts = sorted(p for p in (root / "licenses").rglob("*") if p.is_file())
            files += [glob.escape(p.relative_to(root).as_posix()) for p in texts]
        metadata["license"] = " AND ".join(sorted(expressions))
        metadata["license-files"] = files


class Client(BuildHookInterface[Any]):
    """The client's programs, the tag of the platform that they are for, and their bill of materials."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Take the programs in, where there are any; an editable install finds them elsewhere."""
        folder = client(self.root)
        if folder is None or version == "editable":
            return
        for path in folder.iterdir():
            if os.access(path, os.X_OK):
                build_data["force_include"][str(path)] = f"llcuda/_bin/{path.name}"
        build_data["sbom_files"].append(str(bill(folder)))
        build_data["pure_python"] = False
        build_data["tag"] = TAG


def get_build_hook() -> type[BuildHookInterface[Any]]:
    """Tell hatchling which of the classes is the hook."""
    return Client


def get_metadata_hook() -> type[MetadataHookInterface]:
    """Tell hatchling which of the classes is the hook."""
    return License

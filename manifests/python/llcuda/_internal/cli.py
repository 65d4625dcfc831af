"""The commands ``llcuda`` and ``llcuda-fetch``.

``llcuda`` by itself says what is there, and ``llcuda setup`` is the client's ``install``. Everything else is the client's,
which this process becomes: its help, its exit codes, its way with signals.
"""

from __future__ import annotations

import os
import sys

from ..errors import LlcudaError
from . import fetch as client


def main() -> int:
    """The command ``llcuda``. It returns only where it does not become the client."""
    given = sys.argv[1:]
    if given in ([], ["status"]):
        from .setup import status

        text = f"{status()}\n"
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        return 0
    if given[0] == "setup":
        given[0] = "install"
    return _become(given)


def fetch() -> int:
    """The command ``llcuda-fetch``: the client as it is."""
    return _become(sys.argv[1:])


def _become(args: list[str]) -> int:
    try:
        path = client.program()
        try:
            os.execv(path, [client.NAME, *args])  # noqa: S606 - this is what the command is for
        except OSError as err:
            raise client.cannot_start(path, err) from None
    except LlcudaError as err:
        print(f"llcuda: {err}", file=sys.stderr)
        return err.code

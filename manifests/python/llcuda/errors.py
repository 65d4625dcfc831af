"""What can go wrong, one class for each cause.

Every error of this package is a :class:`LlcudaError`. Each is also the built-in error that llcuda 1.0.x raised in its
place, so ``except RuntimeError`` and ``except FileNotFoundError`` go on working.

Attributes of every error:

- ``message`` (str): what happened and why.
- ``hints`` (tuple of str): ways out, best first.
- ``code`` (int): the exit code that ``llcuda-fetch`` gives for the same cause.

``str(error)`` is the message and a ``hint:`` line for each hint.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "ContextLengthError",
    "DiskError",
    "LlcudaError",
    "ModelNotFoundError",
    "NetworkError",
    "NoBundleError",
    "NoGPUError",
    "OfflineError",
    "OutOfMemoryError",
    "RequestError",
    "ServerError",
    "ServerMismatchError",
    "ServerNotRunningError",
    "ServerStartError",
    "ServerTimeoutError",
    "SetupError",
    "UnsupportedPlatformError",
    "UntrustedError",
    "UsageError",
]


class LlcudaError(Exception):
    """The base of all errors of this package.

    Args:
        message: What happened and why.
        hints: Ways out, best first.
        code: The exit code of ``llcuda-fetch``; the default is the class's own.
    """

    code: int = 1

    def __init__(self, message: str = "", *, hints: Sequence[str] = (), code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hints: tuple[str, ...] = tuple(hints)
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return "\n".join([self.message, *(f"hint: {hint}" for hint in self.hints)])


class SetupError(LlcudaError, RuntimeError):
    """Setting up, or another command of the client, failed for a reason that has no class of its own."""


class UsageError(LlcudaError, ValueError):
    """An argument is wrong."""

    code = 2


class ModelNotFoundError(UsageError, FileNotFoundError):
    """There is no model of that name, or no such file."""


class UntrustedError(LlcudaError, RuntimeError):
    """A signature, a checksum or a release was refused. Nothing of it was used."""

    code = 3


class NoGPUError(LlcudaError, RuntimeError):
    """No GPU or no driver was found, and running on the processor was not asked for."""

    code = 4


class NoBundleError(LlcudaError, RuntimeError):
    """No bundle of the release fits this machine."""

    code = 5


class NetworkError(LlcudaError, ConnectionError):
    """The network or a server did not answer. What was downloaded is kept."""

    code = 6


class OfflineError(LlcudaError, ConnectionError):
    """Offline was asked for, and what is needed is not on this machine."""

    code = 7


class DiskError(LlcudaError, OSError):
    """The disk is full or cannot be written to."""

    code = 8


class UnsupportedPlatformError(LlcudaError, RuntimeError):
    """There is no client for this platform. ``InferenceEngine(server_url=...)`` works everywhere."""


class ServerError(LlcudaError, RuntimeError):
    """The base of what can go wrong with llama-server."""


class ServerStartError(ServerError):
    """llama-server did not start, or it ended before it was ready.

    Args:
        message: What happened and why.
        hints: Ways out, best first.
        log: The last lines of the server's log.
        returncode: The server's exit code; negative is the number of the signal that ended it; None if it is unknown.
        reason: ``memory``, ``port``, ``model``, ``argument``, ``timeout``, ``crash``, ``ended``, or ``""``.
    """

    def __init__(
        self,
        message: str = "",
        *,
        hints: Sequence[str] = (),
        code: int | None = None,
        log: str = "",
        returncode: int | None = None,
        reason: str = "",
    ) -> None:
        super().__init__(message, hints=hints, code=code)
        self.log = log
        self.returncode = returncode
        self.reason = reason


class OutOfMemoryError(ServerStartError, MemoryError):
    """The model, its context or its buffers do not fit into memory."""


class ServerTimeoutError(ServerStartError, TimeoutError):
    """llama-server was not ready in time."""


class ServerNotRunningError(ServerError, ConnectionError):
    """There is no server at the address."""


class ServerMismatchError(ServerError):
    """The server at the address has another model than the one asked for."""


class RequestError(ServerError):
    """llama-server refused a request or broke it off.

    Args:
        message: What happened and why.
        hints: Ways out, best first.
        status: The HTTP status; None if there was no answer.
        body: The answer's text.
    """

    def __init__(
        self,
        message: str = "",
        *,
        hints: Sequence[str] = (),
        code: int | None = None,
        status: int | None = None,
        body: str = "",
    ) -> None:
        super().__init__(message, hints=hints, code=code)
        self.status = status
        self.body = body


class ContextLengthError(RequestError, ValueError):
    """The prompt is longer than the model's context."""

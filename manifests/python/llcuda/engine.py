"""A model on this machine: load it, complete prompts, chat.

:class:`InferenceEngine` starts a llama-server through :mod:`llcuda.server`, or uses one that runs already, and talks to it.
Every generation is a stream inside, so that an interrupt ends it on the server as well; the server and its model stay.
"""

from __future__ import annotations

from typing import Any

from ._internal.answers import InferResult
from ._internal.openai_forms import OpenAIForms
from ._internal.serving import LoadedModel
from .errors import LlcudaError
from .server import DEFAULT_URL

__all__ = ["InferResult", "InferenceEngine", "LoadedModel", "quick_infer"]

# Help, pickles and tracebacks name them by the public module.
InferResult.__module__ = LoadedModel.__module__ = __name__


class InferenceEngine(OpenAIForms):
    """One model on a llama-server.

    Threads may share an engine: each request has a connection of its own. A forked child may use it, too, but only the
    process that loaded the model ends the server. The server ends with ``close()``, with the ``with`` block, when the
    engine is garbage, and when the process is gone.

    Args:
        server_url: The address of a server that runs, or where one is to be started. None starts one on port 8090, or on
            a free port if that is taken.
        api_key: The server's key. None makes a random one for a server that is started here, unless ``LLCUDA_API_KEY`` or
            ``LLAMA_API_KEY`` has one; ``""`` is none.
        timeout: How many seconds a server may send nothing during a request; None is 600. There is no bound on a whole
            answer.

    Attributes:
        server_url (str): Where the server is.
        api_key (str | None): Its key.
        model (LoadedModel | None): What is loaded.
        server (ServerManager | None): The server that this engine started.

    Raises:
        UsageError: ``server_url`` is not an address.

    Example:
        >>> with llcuda.InferenceEngine() as engine:
        ...     engine.load_model("gemma-3-1b-Q4_K_M")
        ...     print(engine.infer("The capital of France is").text)
    """

    @classmethod
    def from_pretrained(cls, repo_id: str, filename: str, *, revision: str | None = None, **kwargs: Any) -> InferenceEngine:
        """An engine with a model of the Hugging Face Hub.

        Args:
            repo_id: ``org/repo``.
            filename: The file in it.
            revision: A branch, tag or commit; None is the default branch.
            **kwargs: Parameters of :class:`InferenceEngine` and of :meth:`load_model`.
        """
        own = {name: kwargs.pop(name) for name in ("server_url", "api_key", "timeout") if name in kwargs}
        engine = cls(**own)
        engine.load_model(f"{repo_id}:{filename}{f'@{revision}' if revision else ''}", **kwargs)
        return engine

    def __enter__(self) -> InferenceEngine:
        return self

    def __exit__(self, exc_type: object, exc_val: object, exc_tb: object) -> None:
        self.close()

    def __reduce_ex__(self, _: object) -> Any:
        raise TypeError(
            "an InferenceEngine cannot be copied or pickled, because it owns a running server: "
            "make one in each process, or InferenceEngine(engine.server_url, api_key=engine.api_key) to share the server"
        )

    def __repr__(self) -> str:
        what = self.model.name if self.model else "no model"
        return f"<llcuda.InferenceEngine {self.server_url}: {what}>"

    def _repr_html_(self) -> str:
        from html import escape

        rows = [("server", self.server_url), ("model", "none: load_model(NAME)")]
        if self.model:
            m = self.model
            layers = "unknown" if m.gpu_layers is None else str(m.gpu_layers)
            rows[1:] = [
                ("model", m.name),
                ("file", m.path),
                ("context", f"{m.context} tokens"),
                ("layers on GPUs", layers + (f" ({m.why})" if m.why else "")),
                ("requests at once", str(m.parallel)),
            ]
        cells = "".join(
            f'<tr><th style="text-align:left">{escape(k)}</th><td style="text-align:left">{escape(v)}</td></tr>'
            for k, v in rows
        )
        return f"<table>{cells}</table>"


def quick_infer(
    prompt: str,
    model_path: str | None = None,
    max_tokens: int = 128,
    server_url: str = DEFAULT_URL,
    auto_start: bool = True,
) -> str:
    """Complete one prompt; what goes wrong is the text.

    Args:
        prompt: The text to go on from.
        model_path: A model, as of :meth:`InferenceEngine.load_model`; None uses the server that runs at ``server_url``.
        max_tokens: The most tokens to generate.
        server_url: As of :class:`InferenceEngine`; a model is loaded at the default or at a free port.
        auto_start: Whether a server may be started.

    Returns:
        The answer, or ``"Error: …"``.
    """
    try:
        with InferenceEngine(None if server_url == DEFAULT_URL else server_url) as engine:
            if model_path is not None:
                engine.load_model(model_path, auto_start=auto_start, verbose=False)
            result = engine.infer(prompt, max_tokens=max_tokens)
        return result.text if result.success else f"Error: {result.error_message}"
    except LlcudaError as err:
        return f"Error: {err}"

"""An engine in the forms of OpenAI's API, and the model's tokens."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from ..errors import LlcudaError, RequestError
from ..server import DEFAULT_URL, ServerManager, is_local, reporting
from .answers import assembled, message_list
from .fetch import Event
from .generating import Generating
from .http import Api, Stream
from .serving import EMBEDDING_TOKENS, server_arguments

if TYPE_CHECKING:
    import openai


class OpenAIForms(Generating):
    """The part of :class:`llcuda.InferenceEngine` that speaks as OpenAI's API does."""

    @overload
    def create_chat_completion(
        self, messages: str | Sequence[Mapping[str, Any]], *, stream: Literal[False] = False, **kwargs: Any
    ) -> dict[str, Any]: ...

    @overload
    def create_chat_completion(
        self, messages: str | Sequence[Mapping[str, Any]], *, stream: Literal[True], **kwargs: Any
    ) -> Generator[dict[str, Any], None, None]: ...

    def create_chat_completion(
        self, messages: str | Sequence[Mapping[str, Any]], *, stream: bool = False, **kwargs: Any
    ) -> dict[str, Any] | Generator[dict[str, Any], None, None]:
        """A chat completion in the form of OpenAI's API.

        Args:
            messages: As of :meth:`chat`.
            stream: Give the chunks as they come.
            **kwargs: Fields of the request: ``max_tokens``, ``temperature``, ``tools``, ``response_format``, ``stop``, …

        Returns:
            The completion, or an iterator over its chunks.

        Raises:
            RequestError: The server refused or broke off.
        """
        return self._create("/v1/chat/completions", {**kwargs, "messages": message_list(messages)}, stream)

    @overload
    def create_completion(self, prompt: str, *, stream: Literal[False] = False, **kwargs: Any) -> dict[str, Any]: ...

    @overload
    def create_completion(
        self, prompt: str, *, stream: Literal[True], **kwargs: Any
    ) -> Generator[dict[str, Any], None, None]: ...

    def create_completion(
        self, prompt: str, *, stream: bool = False, **kwargs: Any
    ) -> dict[str, Any] | Generator[dict[str, Any], None, None]:
        """A completion of a prompt as it is, in the form of OpenAI's API.

        Args:
            prompt: The text to go on from.
            stream: Give the chunks as they come.
            **kwargs: Fields of the request: ``max_tokens``, ``temperature``, ``stop``, …

        Returns:
            The completion, or an iterator over its chunks.

        Raises:
            RequestError: The server refused or broke off.
        """
        return self._create("/v1/completions", {**kwargs, "prompt": prompt}, stream)

    def _create(
        self, path: str, body: dict[str, Any], stream: bool
    ) -> dict[str, Any] | Generator[dict[str, Any], None, None]:
        # A stream inside, too: only a stream's end is noticed by a server that is busy with other requests.
        chunks = self._chunks(self._api().stream(path, {"stream_options": {"include_usage": True}, **body, "stream": True}))
        return chunks if stream else assembled(chunks)

    def _chunks(self, stream: Stream) -> Generator[dict[str, Any], None, None]:
        with stream:
            try:
                yield from stream
            except LlcudaError as err:
                raise self._explained(err) from None

    def create_embedding(self, input: str | Sequence[str], **kwargs: Any) -> dict[str, Any]:  # noqa: A002
        """Embeddings in the form of OpenAI's API.

        If the model was not loaded with ``embeddings=True``, a second server with the same model is started for it.

        Args:
            input: A text, or several.
            **kwargs: Further fields of the request.

        Returns:
            The answer: ``data`` has an ``embedding`` for each text.

        Raises:
            RequestError: The server refused, as with a text that is too long.
        """
        texts = input if isinstance(input, str) else list(input)
        return dict(self._embed(texts, "mean", kwargs))

    def _embed(self, texts: str | list[str], pooling: str, more: Mapping[str, Any]) -> Any:
        """Ask for embeddings, of a second server if this one does not make them."""
        body = {**more, "input": texts}
        with self._loading:
            second = self._embedders.get(pooling)
        if second is None:
            try:
                return self._ask("/v1/embeddings", body)
            except RequestError as err:
                if err.status != 501:
                    raise
                second = self._embedder(pooling, err)
        return Api(second.server_url, second.api_key, self._timeout).json("POST", "/v1/embeddings", body)

    def _embedder(self, pooling: str, refusal: RequestError) -> ServerManager:
        """The second server of the model, for embeddings."""
        with self._loading:
            if pooling in self._embedders:
                return self._embedders[pooling]
            path = self.model.path if self.model is not None else ""
            if not os.path.isfile(path) or not is_local(self.server_url):
                raise refusal
            layers = self.model.gpu_layers if self.model is not None else None
            on_cpu = layers == 0
            server = ServerManager(DEFAULT_URL, api_key=self._given_key)
            arguments = server_arguments(0 if on_cpu else None, EMBEDDING_TOKENS, None, True, pooling, None, {})
            with reporting(True) as report:
                size = os.path.getsize(path) / 1e6
                message = (
                    f"Starting a second server of {os.path.basename(path)} for embeddings: about {size:.0f} MB more memory "
                    "for its weights; load_model(..., embeddings=True) makes one server do both"
                )
                report(Event("step", {"message": message}))
                server.launch(path, arguments, port=None, host="127.0.0.1", timeout=600, allow_cpu=on_cpu, report=report)
            self._embedders[pooling] = server
            return server

    def openai(self, **kwargs: Any) -> openai.OpenAI:
        """A client of the package ``openai`` for this engine's server.

        Args:
            **kwargs: Further parameters of ``openai.OpenAI``.

        Raises:
            ImportError: The package is not installed. ``base_url`` and ``api_key`` are what any other client needs.
        """
        try:
            import openai
        except ImportError:
            raise ImportError(
                "pip install openai brings the client; engine.base_url and engine.api_key are what any other one needs"
            ) from None
        if "http_client" not in kwargs:  # a proxy of the environment is not for this machine's own server
            kwargs["http_client"] = openai.DefaultHttpxClient(trust_env=False)
        return openai.OpenAI(**{"base_url": self.base_url, "api_key": self.api_key or "none", **kwargs})

    # Tokens

    def tokenize(self, text: str) -> list[int]:
        """The model's tokens of a text.

        Args:
            text: The text.

        Raises:
            RequestError: The server refused.
        """
        return [int(token) for token in self._ask("/tokenize", {"content": text})["tokens"]]

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of tokens.

        Args:
            tokens: What :meth:`tokenize` gives.

        Raises:
            RequestError: The server refused.
        """
        return str(self._ask("/detokenize", {"tokens": list(tokens)})["content"])

    def count_chat_tokens(self, messages: str | Sequence[Mapping[str, Any]]) -> int:
        """How many tokens of the context a conversation takes, by the model's chat template.

        Args:
            messages: As of :meth:`chat`.

        Raises:
            RequestError: The server refused.
        """
        prompt = self._ask("/apply-template", {"messages": message_list(messages)})["prompt"]
        body = {"content": prompt, "add_special": True, "parse_special": True}
        return len(self._ask("/tokenize", body)["tokens"])

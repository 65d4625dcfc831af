"""What an engine generates: completions, chats, and what they took."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from ..errors import LlcudaError, RequestError
from .answers import InferResult, completion_request, fail, message_list, take
from .http import Stream
from .serving import Serving

if TYPE_CHECKING:
    from typing import TypeVar

    T = TypeVar("T")

LATENCIES = 100_000
"""How many latencies are kept for get_metrics()."""


class Generating(Serving):
    """The part of :class:`llcuda.InferenceEngine` that completes prompts and chats.

    Every generation is a stream inside, so that an interrupt ends it on the server as well.
    """

    def __init__(self, server_url: str | None = None, *, api_key: str | None = None, timeout: float | None = None) -> None:
        super().__init__(server_url, api_key=api_key, timeout=timeout)
        self._counting = threading.Lock()
        self._metrics: dict[str, Any] = {}
        self.reset_metrics()

    # Completions

    def infer(
        self,
        prompt: str,
        max_tokens: int = 128,
        temperature: float = 0.7,
        top_p: float = 0.9,
        top_k: int = 40,
        seed: int = 0,
        stop_sequences: list[str] | None = None,
        **sampling: Any,
    ) -> InferResult:
        """Complete a prompt as it is, without the model's chat template. :meth:`chat` uses the template.

        Args:
            prompt: The text to go on from.
            max_tokens: The most tokens to generate; -1 is as many as fit.
            temperature: Randomness; 0 takes the likeliest token each time.
            top_p: Keep the likeliest tokens whose probabilities add up to this.
            top_k: Keep this many of the likeliest tokens; 0 keeps all.
            seed: Of the random numbers; 0 is a random one.
            stop_sequences: Texts that end the answer; they are not part of it.
            **sampling: Further fields of llama-server's ``/completion``, such as ``min_p`` or ``json_schema``.

        Returns:
            The result. It never raises for what goes wrong: ``success`` is False, ``error`` has it.
        """
        result = InferResult()
        try:
            body = completion_request(prompt, max_tokens, temperature, top_p, top_k, seed, stop_sequences, sampling)
            self._finish(self._api().stream("/completion", body), result)
        except Exception as err:
            fail(result, err)
        return result

    def _finish(self, stream: Stream, result: InferResult) -> None:
        for _ in self._pieces(stream, result):
            pass

    def infer_stream(
        self,
        prompt: str,
        callback: Callable[[str], Any],
        max_tokens: int = 128,
        temperature: float = 0.7,
        **kwargs: Any,
    ) -> InferResult:
        """Complete a prompt and hand each piece to a function as it comes.

        Args:
            prompt: As of :meth:`infer`.
            callback: Called with each piece of text. What it raises ends the generation and is raised here.
            max_tokens: As of :meth:`infer`.
            temperature: As of :meth:`infer`.
            **kwargs: Further parameters of :meth:`infer`.

        Returns:
            The result, with the whole text.
        """
        result = InferResult()
        try:
            pieces = self._pieces(self._completion_stream(prompt, max_tokens, temperature, **kwargs), result)
        except Exception as err:
            fail(result, err)
            return result
        with contextlib.closing(pieces):
            while True:
                try:
                    piece = next(pieces)
                except StopIteration:
                    return result
                except Exception as err:
                    fail(result, err)
                    return result
                callback(piece)

    def stream(
        self, prompt: str, max_tokens: int = 128, temperature: float = 0.7, **sampling: Any
    ) -> Generator[str, None, None]:
        """Complete a prompt piece by piece. Closing the iterator, or leaving its loop, ends the generation.

        Args:
            prompt: As of :meth:`infer`.
            max_tokens: As of :meth:`infer`.
            temperature: As of :meth:`infer`.
            **sampling: Further parameters of :meth:`infer`.

        Yields:
            The pieces of the answer.

        Raises:
            RequestError: The server refused or broke off.
            ServerNotRunningError: There is no server.
        """
        return self._pieces(self._completion_stream(prompt, max_tokens, temperature, **sampling), InferResult())

    def _completion_stream(
        self,
        prompt: str,
        max_tokens: int,
        temperature: float,
        top_p: float = 0.9,
        top_k: int = 40,
        seed: int = 0,
        stop_sequences: list[str] | None = None,
        **sampling: Any,
    ) -> Stream:
        body = completion_request(prompt, max_tokens, temperature, top_p, top_k, seed, stop_sequences, sampling)
        return self._api().stream("/completion", body)

    def batch_infer(self, prompts: list[str], max_tokens: int = 128, **kwargs: Any) -> list[InferResult]:
        """Complete several prompts, as many at once as the server answers at once (``n_parallel``).

        Args:
            prompts: The prompts.
            max_tokens: As of :meth:`infer`, for each.
            **kwargs: Further parameters of :meth:`infer`.

        Returns:
            The results in the order of the prompts.
        """
        prompts = list(prompts)
        results = [InferResult() for _ in prompts]
        if not prompts:
            return results
        todo = iter(range(len(prompts)))
        taking = threading.Lock()
        open_: dict[int, Stream] = {}
        stopped = False

        def work() -> None:
            while True:
                with taking:
                    i = next(todo, None)
                    if i is None or stopped:
                        return
                try:
                    temperature = kwargs.get("temperature", 0.7)
                    rest = {k: v for k, v in kwargs.items() if k != "temperature"}
                    stream = self._completion_stream(prompts[i], max_tokens, temperature, **rest)
                    with taking:
                        open_[i] = stream
                        if stopped:
                            return
                    self._finish(stream, results[i])
                except Exception as err:
                    fail(results[i], err)
                finally:
                    with taking:
                        open_.pop(i, None)

        count = min(len(prompts), self._parallel())
        threads = [threading.Thread(target=work, name=f"llcuda-batch-{n}", daemon=True) for n in range(count)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException:
            with taking:
                stopped = True
                streams = list(open_.values())
            for stream in streams:
                stream.close()
            raise
        return results

    def _parallel(self) -> int:
        if self.model is None:
            try:
                return max(1, int(self._api().json("GET", "/props", timeout=10).get("total_slots") or 1))
            except (LlcudaError, AttributeError, ValueError):
                return 1
        return max(1, self.model.parallel)

    def _pieces(self, stream: Stream, result: InferResult) -> Generator[str, None, None]:
        """The pieces of a stream's answer. The result is filled in; it is whole when the generator is exhausted."""
        began = time.perf_counter()
        texts: list[str] = []
        final = False
        try:
            with stream:
                for data in stream:
                    piece = take(data, result)
                    final = final or bool(result.finish_reason)
                    if piece:
                        texts.append(piece)
                        yield piece
            if not final:
                raise RequestError(f"{self.server_url}: the answer ended before it was complete")
        except LlcudaError as err:
            raise self._explained(err) from None
        finally:
            result.text = "".join(texts)
            result.latency_ms = (time.perf_counter() - began) * 1000
            if not final:
                result.tokens_generated = result.tokens_generated or len(texts)
            result.tokens_per_sec = result.tokens_generated / (result.latency_ms / 1000) if result.latency_ms else 0.0
        result.success = True
        self._count(result)

    # Chat

    @overload
    def chat(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        max_tokens: int = 256,
        temperature: float = 0.7,
        stream: Literal[False] = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        response_format: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> InferResult: ...

    @overload
    def chat(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        max_tokens: int = 256,
        temperature: float = 0.7,
        stream: Literal[True],
        tools: Sequence[Mapping[str, Any]] | None = None,
        response_format: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Generator[str, None, None]: ...

    def chat(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        max_tokens: int = 256,
        temperature: float = 0.7,
        stream: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        response_format: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> InferResult | Generator[str, None, None]:
        """Answer as the assistant, by the model's own chat template.

        Args:
            messages: What the user says, or the conversation: mappings with ``role`` and ``content``.
            max_tokens: The most tokens to generate; -1 is as many as fit.
            temperature: Randomness; 0 takes the likeliest token each time.
            stream: Give the pieces of the answer as they come.
            tools: Functions that the model may call, in OpenAI's form.
            response_format: The form of the answer: ``{"type": "json_object"}``, or ``json_schema`` with a schema.
            **kwargs: Further fields of llama-server's ``/v1/chat/completions``, such as ``top_p``, ``seed``, ``stop``.

        Returns:
            The result, or with ``stream=True`` the pieces of its text. Closing that iterator ends the generation.

        Raises:
            ContextLengthError: The conversation is longer than the context.
            RequestError: The server refused or broke off.
            ServerNotRunningError: There is no server.
        """
        result = InferResult()
        request = self._chat_stream(messages, max_tokens, temperature, tools, response_format, kwargs)
        pieces = self._pieces(request, result)
        if stream:
            return pieces
        for _ in pieces:
            pass
        return result

    def _chat_stream(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        max_tokens: int | None = 256,
        temperature: float | None = 0.7,
        tools: Sequence[Mapping[str, Any]] | None = None,
        response_format: Mapping[str, Any] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> Stream:
        body: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature}
        body.update(more or {})
        body.update({"messages": message_list(messages), "stream": True})
        if tools:
            body["tools"] = [dict(tool) for tool in tools]
        if response_format is not None:
            body["response_format"] = dict(response_format)
        return self._api().stream("/v1/chat/completions", body)

    # Without blocking an event loop: a thread each

    async def ainfer(self, prompt: str, max_tokens: int = 128, temperature: float = 0.7, **kwargs: Any) -> InferResult:
        """:meth:`infer` for asyncio. Cancelling the task ends the generation."""
        result = InferResult()
        try:
            stream = self._completion_stream(prompt, max_tokens, temperature, **kwargs)
            await _in_thread(lambda: self._finish(stream, result), stream)
        except Exception as err:
            fail(result, err)
        return result

    @overload
    async def achat(
        self, messages: str | Sequence[Mapping[str, Any]], *, stream: Literal[False] = False, **kwargs: Any
    ) -> InferResult: ...

    @overload
    async def achat(
        self, messages: str | Sequence[Mapping[str, Any]], *, stream: Literal[True], **kwargs: Any
    ) -> AsyncGenerator[str, None]: ...

    async def achat(
        self, messages: str | Sequence[Mapping[str, Any]], *, stream: bool = False, **kwargs: Any
    ) -> InferResult | AsyncGenerator[str, None]:
        """:meth:`chat` for asyncio. Cancelling the task ends the generation.

        With ``stream=True``: ``async for piece in await engine.achat(..., stream=True)``.
        """
        known = {k: kwargs.pop(k) for k in ("max_tokens", "temperature", "tools", "response_format") if k in kwargs}
        request = self._chat_stream(messages, more=kwargs, **known)
        result = InferResult()
        if stream:
            return self._apieces(request, result)
        await _in_thread(lambda: self._finish(request, result), request)
        return result

    def astream(
        self, prompt: str, max_tokens: int = 128, temperature: float = 0.7, **sampling: Any
    ) -> AsyncGenerator[str, None]:
        """:meth:`stream` for asyncio: ``async for piece in engine.astream(...)``. ``aclose()`` ends the generation."""
        return self._apieces(self._completion_stream(prompt, max_tokens, temperature, **sampling), InferResult())

    async def _apieces(self, stream: Stream, result: InferResult) -> AsyncGenerator[str, None]:
        import asyncio

        loop, queue = asyncio.get_running_loop(), asyncio.Queue[str | BaseException | None]()

        def put(item: str | BaseException | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(queue.put_nowait, item)

        def run() -> None:
            try:
                for piece in self._pieces(stream, result):
                    put(piece)
                put(None)
            except BaseException as err:
                put(err)

        threading.Thread(target=run, name="llcuda-async", daemon=True).start()
        try:
            while (item := await queue.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stream.close()

    # Metrics

    def _count(self, result: InferResult) -> None:
        with self._counting:
            self._metrics["requests"] += 1
            self._metrics["total_tokens"] += result.tokens_generated
            self._metrics["total_latency_ms"] += result.latency_ms
            latencies = self._metrics["latencies"]
            latencies.append(result.latency_ms)
            del latencies[:-LATENCIES]

    def get_metrics(self) -> dict[str, dict[str, float]]:
        """What the answers so far took.

        Returns:
            ``latency`` with mean_ms, p50_ms, p95_ms, p99_ms, min_ms, max_ms in milliseconds and sample_count, and
            ``throughput`` with total_tokens, total_requests, tokens_per_sec, requests_per_sec.
        """
        with self._counting:
            counted = dict(self._metrics)
            ordered = sorted(counted["latencies"])
        seconds = counted["total_latency_ms"] / 1000

        def at(part: float) -> float:
            return float(ordered[min(len(ordered) - 1, int(len(ordered) * part))]) if ordered else 0.0

        return {
            "latency": {
                "mean_ms": sum(ordered) / len(ordered) if ordered else 0.0,
                "p50_ms": at(0.5),
                "p95_ms": at(0.95),
                "p99_ms": at(0.99),
                "min_ms": float(ordered[0]) if ordered else 0.0,
                "max_ms": float(ordered[-1]) if ordered else 0.0,
                "sample_count": len(ordered),
            },
            "throughput": {
                "total_tokens": counted["total_tokens"],
                "total_requests": counted["requests"],
                "tokens_per_sec": counted["total_tokens"] / seconds if seconds else 0.0,
                "requests_per_sec": counted["requests"] / seconds if seconds else 0.0,
            },
        }

    def reset_metrics(self) -> None:
        """Count from zero."""
        with self._counting:
            self._metrics = {"requests": 0, "total_tokens": 0, "total_latency_ms": 0.0, "latencies": []}


async def _in_thread(work: Callable[[], T], stream: Stream) -> T:
    """Run something in a thread of its own. Cancelling closes the stream, which ends it."""
    import asyncio

    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(value: Any, err: BaseException | None) -> None:
        if future.done():
            return
        if err is not None:
            future.set_exception(err)
        else:
            future.set_result(value)

    def run() -> None:
        value, failure = None, None
        try:
            value = work()
        except BaseException as err:
            failure = err
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(settle, value, failure)

    threading.Thread(target=run, name="llcuda-async", daemon=True).start()
    try:
        return await future
    except asyncio.CancelledError:
        stream.close()
        raise

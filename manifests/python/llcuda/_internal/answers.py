"""What a model answers: the requests, the parts of an answer as they come, and the whole of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import RequestError, UsageError


class InferResult:
    """What the model answered.

    Attributes:
        success (bool): Whether there is an answer.
        text (str): The answer.
        tokens_generated (int): The answer's tokens.
        latency_ms (float): Milliseconds from the request to the last token.
        tokens_per_sec (float): The answer's tokens by the whole time, in tokens per second; ``timings`` has the server's
            own rates.
        error_message (str): Why there is no answer; empty if there is one.
        prompt_tokens (int): The prompt's tokens.
        finish_reason (str): ``stop``, ``length`` (max_tokens or the context is used up), ``tool_calls`` or ``error``.
        timings (dict): What llama-server measured: ``prompt_n``, ``prompt_ms``, ``predicted_n``, ``predicted_per_second``, …
        error (Exception | None): The error itself.
        reasoning (str): What a reasoning model thought before it answered.
        tool_calls (list of dict): The calls that the model asks for, in OpenAI's form.
    """

    success: bool = False
    text: str = ""
    tokens_generated: int = 0
    latency_ms: float = 0.0
    tokens_per_sec: float = 0.0
    error_message: str = ""
    prompt_tokens: int = 0
    finish_reason: str = ""
    error: Exception | None = None
    reasoning: str = ""

    def __init__(self) -> None:
        self.timings: dict[str, Any] = {}
        self.tool_calls: list[dict[str, Any]] = []

    def raise_for_error(self) -> None:
        """Raise what went wrong, if something did.

        Raises:
            Exception: ``error``; a RequestError if there is only a message.
        """
        if self.success:
            return
        raise self.error if self.error is not None else RequestError(self.error_message or "there is no answer")

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        if not self.success:
            return f"InferResult(error={self.error_message!r})"
        return (
            f"InferResult(tokens={self.tokens_generated}, latency={self.latency_ms:.1f}ms, "
            f"throughput={self.tokens_per_sec:.1f} tok/s)"
        )

    def _repr_markdown_(self) -> str:
        from ..jupyter import safe_markdown

        return safe_markdown(self.text if self.success else f"**Error:** {self.error_message}")


def completion_request(
    prompt: str,
    max_tokens: int,
    temperature: float,
    top_p: float,
    top_k: int,
    seed: int,
    stop: list[str] | None,
    more: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "seed": seed if seed else -1,
        "stop": [stop] if isinstance(stop, str) else list(stop or ()),
        **more,
        "prompt": prompt,
        "n_predict": max_tokens,
        "stream": True,
    }


def message_list(messages: str | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    if isinstance(messages, Mapping):
        return [dict(messages)]
    made = []
    for message in messages:
        to_dict = getattr(message, "to_dict", None)
        if not isinstance(message, Mapping) and to_dict is None:
            raise UsageError(f"a message is a mapping with role and content, not {message!r}")
        made.append(dict(to_dict() if to_dict is not None else message))
    return made


def fail(result: InferResult, err: Exception) -> None:
    result.success, result.error, result.error_message, result.finish_reason = False, err, str(err), "error"


def take(data: dict[str, Any], result: InferResult) -> str:
    """Take one event of a stream into the result, and give its piece of text."""
    if timings := data.get("timings"):
        result.timings = timings
        result.tokens_generated = int(timings.get("predicted_n") or result.tokens_generated)
        result.prompt_tokens = int(timings.get("prompt_n") or 0) + int(timings.get("cache_n") or 0)
    if usage := data.get("usage"):
        result.tokens_generated = int(usage.get("completion_tokens") or result.tokens_generated)
        result.prompt_tokens = int(usage.get("prompt_tokens") or result.prompt_tokens)
    choices = data.get("choices")
    if choices is None:
        if data.get("stop"):
            result.finish_reason = "length" if data.get("stop_type") == "limit" else "stop"
            result.tokens_generated = int(data.get("tokens_predicted") or result.tokens_generated)
            result.prompt_tokens = int(data.get("tokens_evaluated") or result.prompt_tokens)
        return str(data.get("content") or "")
    if not choices or choices[0].get("index"):
        return ""
    choice = choices[0]
    result.finish_reason = choice.get("finish_reason") or result.finish_reason
    delta = choice.get("delta") or {}
    result.reasoning += delta.get("reasoning_content") or ""
    for call in delta.get("tool_calls") or ():
        _take_call(call, result.tool_calls)
    return delta.get("content") or ""


def assembled(chunks: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The completion that a stream of chunks is, in OpenAI's form."""
    whole: dict[str, Any] = {"choices": []}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        whole.update({k: v for k, v in chunk.items() if k != "choices" and v is not None})
        for part in chunk.get("choices") or ():
            choice = choices.setdefault(int(part.get("index") or 0), {"index": int(part.get("index") or 0)})
            choice["finish_reason"] = part.get("finish_reason") or choice.get("finish_reason")
            if part.get("logprobs"):
                for name, values in part["logprobs"].items():
                    choice.setdefault("logprobs", {}).setdefault(name, []).extend(values or ())
            if "delta" not in part:
                choice["text"] = choice.get("text", "") + (part.get("text") or "")
                continue
            message, delta = choice.setdefault("message", {"role": "assistant", "content": None}), part["delta"] or {}
            for name in ("content", "reasoning_content"):
                if delta.get(name):
                    message[name] = (message.get(name) or "") + delta[name]
            for call in delta.get("tool_calls") or ():
                _take_call(call, message.setdefault("tool_calls", []))
    for choice in choices.values():
        if "message" in choice and "tool_calls" not in choice["message"]:
            choice["message"]["content"] = choice["message"]["content"] or ""
    if not choices or not all(choice["finish_reason"] for choice in choices.values()):
        raise RequestError("the answer ended before it was complete")
    whole["object"] = str(whole.get("object", "")).removesuffix(".chunk")
    whole["choices"] = [choices[index] for index in sorted(choices)]
    return whole


def _take_call(call: Mapping[str, Any], calls: list[dict[str, Any]]) -> None:
    """Take a part of a tool call: the first has its name, the others more of its arguments."""
    index = int(call.get("index") or 0)
    while len(calls) <= index:
        calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
    whole, part = calls[index], call.get("function") or {}
    whole["id"] = call.get("id") or whole["id"]
    whole["function"]["name"] += part.get("name") or ""
    whole["function"]["arguments"] += part.get("arguments") or ""

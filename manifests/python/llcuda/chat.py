"""Conversations: a history, the model's chat template, and files that keep them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine import InferenceEngine

__all__ = ["ChatEngine", "ConversationManager", "Message"]


class Message:
    """One message of a conversation.

    Args:
        role: ``system``, ``user``, ``assistant`` or ``tool``.
        content: The text.
        name: Who says it, for models that tell speakers apart.

    Attributes:
        timestamp (float): When it was made, in seconds since 1970.
    """

    def __init__(self, role: str, content: str, name: str | None = None) -> None:
        self.role = role
        self.content = content
        self.name = name
        self.timestamp = time.time()

    def to_dict(self) -> dict[str, str]:
        """The message as the server takes it."""
        made = {"role": self.role, "content": self.content}
        if self.name:
            made["name"] = self.name
        return made

    def __repr__(self) -> str:
        shown = self.content if len(self.content) <= 50 else self.content[:50] + "..."
        return f"Message(role={self.role!r}, content={shown!r})"


class ChatEngine:
    """A conversation with the model of an engine.

    Args:
        engine: The engine; it may load its model later.
        system_prompt: What the model is told first.
        max_history: How many messages are kept; system messages are never dropped.
        max_tokens: The most tokens of an answer.
        temperature: Randomness; 0 takes the likeliest token each time.

    Attributes:
        messages (list of Message): The conversation.
    """

    def __init__(
        self,
        engine: InferenceEngine,
        system_prompt: str | None = None,
        max_history: int = 20,
        max_tokens: int = 256,
        temperature: float = 0.7,
    ) -> None:
        self.engine = engine
        self.system_prompt = system_prompt
        self.max_history = max_history
        self.max_tokens = max_tokens
        self.temperature = temperature
        self.messages: list[Message] = []
        if system_prompt:
            self.add_system_message(system_prompt)

    def add_message(self, role: str, content: str, name: str | None = None) -> ChatEngine:
        """Add a message; the oldest ones that are not the system's go where there are more than ``max_history``.

        Args:
            role: Whose it is.
            content: The text.
            name: Who says it.

        Returns:
            This object, for chaining.
        """
        self.messages.append(Message(role, content, name))
        excess = len(self.messages) - self.max_history
        kept = []
        for message in self.messages:
            if excess > 0 and message.role != "system" and message is not self.messages[-1]:
                excess -= 1
            else:
                kept.append(message)
        self.messages = kept
        return self

    def add_system_message(self, content: str) -> ChatEngine:
        """Add a message of the system."""
        return self.add_message("system", content)

    def add_user_message(self, content: str) -> ChatEngine:
        """Add a message of the user."""
        return self.add_message("user", content)

    def add_assistant_message(self, content: str) -> ChatEngine:
        """Add a message of the assistant."""
        return self.add_message("assistant", content)

    def complete(self, max_tokens: int | None = None, temperature: float | None = None, **kwargs: Any) -> str:
        """Answer the conversation, and add the answer to it.

        Args:
            max_tokens: The most tokens; None is the conversation's.
            temperature: Randomness; None is the conversation's.
            **kwargs: Further parameters of :meth:`InferenceEngine.chat`.

        Returns:
            The answer.

        Raises:
            RequestError: The server refused or broke off; the conversation is as it was.
            ServerNotRunningError: There is no server.
        """
        return "".join(self.complete_stream(max_tokens, temperature, **kwargs))

    def complete_stream(
        self, max_tokens: int | None = None, temperature: float | None = None, **kwargs: Any
    ) -> Iterator[str]:
        """Answer the conversation piece by piece. The answer is added to it when it is complete.

        Args:
            max_tokens: As of :meth:`complete`.
            temperature: As of :meth:`complete`.
            **kwargs: As of :meth:`complete`.

        Yields:
            The pieces of the answer.

        Raises:
            RequestError: As :meth:`complete` does.
            ServerNotRunningError: There is no server.
        """
        pieces = self.engine.chat(
            self.get_history(),
            max_tokens=self.max_tokens if max_tokens is None else max_tokens,
            temperature=self.temperature if temperature is None else temperature,
            stream=True,
            **kwargs,
        )
        said = []
        try:
            for piece in pieces:
                said.append(piece)
                yield piece
        finally:
            pieces.close()
        self.add_assistant_message("".join(said))

    def clear_history(self, keep_system: bool = True) -> ChatEngine:
        """Begin again.

        Args:
            keep_system: Keep the system's messages.

        Returns:
            This object, for chaining.
        """
        self.messages = [m for m in self.messages if keep_system and m.role == "system"]
        return self

    def get_history(self) -> list[dict[str, str]]:
        """The conversation as the server takes it."""
        return [message.to_dict() for message in self.messages]

    def save_history(self, filepath: str | os.PathLike[str]) -> None:
        """Write the conversation to a file.

        Args:
            filepath: A JSON file; one that is there is replaced.
        """
        about = {
            "max_history": self.max_history,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "timestamp": time.time(),
        }
        write_json(filepath, {"messages": self.get_history(), "metadata": about}, indent=2)

    def load_history(self, filepath: str | os.PathLike[str]) -> ChatEngine:
        """Read a conversation, also one that llcuda 1.x wrote; it replaces this one.

        Args:
            filepath: The file.

        Returns:
            This object, for chaining.
        """
        data = read_json(filepath)
        self.messages = [Message(m["role"], m["content"], m.get("name")) for m in data["messages"]]
        about = data.get("metadata") or {}
        self.max_history = about.get("max_history", self.max_history)
        self.max_tokens = about.get("max_tokens", self.max_tokens)
        self.temperature = about.get("temperature", self.temperature)
        return self

    def count_tokens(self) -> int:
        """How many tokens the conversation has, by the model's template and vocabulary.

        Raises:
            RequestError: The server refused.
            ServerNotRunningError: There is no server.
        """
        if not self.messages:
            return 0
        return self.engine.count_chat_tokens(self.get_history())


class ConversationManager:
    """Several conversations with one model, by name.

    Args:
        engine: The engine of all of them.

    Attributes:
        conversations (dict of str to ChatEngine): The conversations.
        current_conversation (str | None): The name of the one that :meth:`chat` goes on with.
    """

    def __init__(self, engine: InferenceEngine) -> None:
        self.engine = engine
        self.conversations: dict[str, ChatEngine] = {}
        self.current_conversation: str | None = None

    def create_conversation(self, name: str, system_prompt: str | None = None, **kwargs: Any) -> ChatEngine:
        """Begin a conversation. The first one is the current one.

        Args:
            name: Its name; one of that name is replaced.
            system_prompt: What the model is told first.
            **kwargs: Further parameters of :class:`ChatEngine`.
        """
        self.conversations[name] = ChatEngine(self.engine, system_prompt=system_prompt, **kwargs)
        if self.current_conversation is None:
            self.current_conversation = name
        return self.conversations[name]

    def switch_to(self, name: str) -> ChatEngine:
        """Make a conversation the current one.

        Raises:
            KeyError: There is none of that name.
        """
        if name not in self.conversations:
            raise KeyError(f"there is no conversation {name!r}")
        self.current_conversation = name
        return self.conversations[name]

    def get_current(self) -> ChatEngine:
        """The current conversation.

        Raises:
            RuntimeError: There is none.
        """
        if self.current_conversation is None:
            raise RuntimeError("there is no conversation: create_conversation(NAME) begins one")
        return self.conversations[self.current_conversation]

    def chat(self, message: str, **kwargs: Any) -> str:
        """Say something in the current conversation, and give the answer.

        Args:
            message: What the user says.
            **kwargs: Further parameters of :meth:`ChatEngine.complete`.

        Raises:
            RuntimeError: There is no conversation.
            RequestError: The server refused or broke off; the message is not kept.
        """
        conversation = self.get_current()
        before = list(conversation.messages)
        conversation.add_user_message(message)
        try:
            return conversation.complete(**kwargs)
        except BaseException:
            conversation.messages = before
            raise

    def list_conversations(self) -> list[str]:
        """The names of all conversations."""
        return list(self.conversations)

    def delete_conversation(self, name: str) -> None:
        """Delete a conversation, if there is one of that name."""
        if self.conversations.pop(name, None) is not None and self.current_conversation == name:
            self.current_conversation = next(iter(self.conversations), None)

    def save_all(self, directory: str | os.PathLike[str]) -> None:
        """Write each conversation to ``NAME.json`` in a folder, which is made if need be.

        Raises:
            ValueError: A conversation's name cannot be a file's.
        """
        folder = Path(directory)
        for name in self.conversations:
            if not name or "/" in name or "\0" in name:
                raise ValueError(f"the conversation {name!r} cannot be a file: save_history(FILE) names one")
        folder.mkdir(parents=True, exist_ok=True)
        for name, conversation in self.conversations.items():
            conversation.save_history(folder / f"{name}.json")

    def load_all(self, directory: str | os.PathLike[str]) -> None:
        """Read every ``NAME.json`` of a folder as a conversation. No folder: nothing is read."""
        for file in sorted(Path(directory).glob("*.json")):
            self.conversations[file.stem] = ChatEngine(self.engine).load_history(file)
        if self.current_conversation is None:
            self.current_conversation = next(iter(self.conversations), None)


def write_json(filepath: str | os.PathLike[str], data: Mapping[str, Any], indent: int | None = None) -> None:
    """Write a file beside the old one, and replace it: what is there is whole at any time."""
    path = os.path.realpath(os.path.expanduser(filepath))
    beside = f"{path}.{os.getpid()}.tmp"
    try:
        with open(beside, "w", encoding="utf-8") as file:
            json.dump(data, file, indent=indent, ensure_ascii=False)
        os.replace(beside, path)
    except BaseException:
        if os.path.exists(beside):
            os.unlink(beside)
        raise


def read_json(filepath: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file that :func:`write_json` or llcuda 1.x wrote."""
    with open(os.path.expanduser(filepath), encoding="utf-8") as file:
        data = json.load(file)
    if not isinstance(data, dict):
        raise ValueError(f"reading {os.fspath(filepath)}: it was not written by llcuda")
    return data

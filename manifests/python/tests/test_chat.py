"""Conversations: what is sent, what is kept, and files, also those of 1.0.2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from engines import engine
from fakeserver import FakeServer, fake

from llcuda import InferenceEngine, errors
from llcuda.chat import ChatEngine, ConversationManager, Message

__all__ = ["engine", "fake"]

# As 1.0.2 wrote it.
OLD_HISTORY = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Grüße", "name": "Ann"},
        {"role": "assistant", "content": "Hello"},
    ],
    "metadata": {"max_history": 7, "max_tokens": 33, "temperature": 0.1, "timestamp": 1766900000.5},
}


def answering(fake: FakeServer, *pieces: str) -> InferenceEngine:
    chunks: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    fake.streams("/v1/chat/completions", *chunks, end)
    return InferenceEngine(fake.url)


def test_a_conversation(fake: FakeServer) -> None:
    chat = ChatEngine(answering(fake, "Hel", "lo"), "Be brief.", max_tokens=9, temperature=0)
    assert chat.add_user_message("Hi").complete() == "Hello"
    assert chat.get_history() == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
    ]
    sent = fake.requests[-1][2]
    assert (sent["messages"], sent["max_tokens"], sent["temperature"]) == (chat.get_history()[:2], 9, 0)
    chat.add_user_message("More").complete(max_tokens=3, temperature=0.0, top_k=1)
    sent = fake.requests[-1][2]
    assert (len(sent["messages"]), sent["max_tokens"], sent["temperature"], sent["top_k"]) == (4, 3, 0, 1)
    assert [m.role for m in chat.clear_history().messages] == ["system"]
    assert chat.clear_history(keep_system=False).messages == []


def test_an_error_is_no_answer(fake: FakeServer) -> None:
    engine = answering(fake, "Hel")
    fake.streams("/v1/chat/completions", {"choices": [{"index": 0, "delta": {"content": "Hel"}}]}, end=False)
    chat = ChatEngine(engine).add_user_message("Hi")
    before = chat.get_history()
    with pytest.raises(errors.RequestError):
        chat.complete()
    with pytest.raises(errors.RequestError):
        list(chat.complete_stream())
    assert chat.get_history() == before
    manager = ConversationManager(engine)
    manager.create_conversation("a")
    with pytest.raises(errors.RequestError):
        manager.chat("Hi")
    assert manager.get_current().get_history() == []


def test_a_stream_that_is_left_is_not_kept(fake: FakeServer) -> None:
    chat = ChatEngine(answering(fake, "Hel", "lo")).add_user_message("Hi")
    assert list(chat.complete_stream()) == ["Hel", "lo"]
    for _ in chat.complete_stream():
        break
    assert [m.role for m in chat.messages] == ["user", "assistant"]


@pytest.mark.parametrize("system", [0, 1, 3])
def test_the_oldest_go_first(system: int) -> None:
    chat = ChatEngine(InferenceEngine(), max_history=4)
    for i in range(system):
        chat.add_system_message(f"s{i}")
    for i in range(9):
        chat.add_user_message(f"u{i}")
    kept = [m.content for m in chat.messages]
    assert kept == [f"s{i}" for i in range(system)] + [f"u{i}" for i in range(9 - max(1, 4 - system), 9)]


def test_history_of_1_0_2(tmp_path: Path) -> None:
    file = tmp_path / "h.json"
    file.write_text(json.dumps(OLD_HISTORY, indent=2))
    chat = ChatEngine(InferenceEngine()).load_history(str(file))
    assert chat.get_history() == OLD_HISTORY["messages"]
    assert (chat.max_history, chat.max_tokens, chat.temperature) == (7, 33, 0.1)
    chat.save_history(file)
    written = json.loads(file.read_text())
    assert written["messages"] == OLD_HISTORY["messages"]
    assert written["metadata"].keys() == OLD_HISTORY["metadata"].keys()  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "h.json"
    file.write_text("[]")
    chat = ChatEngine(InferenceEngine(), "s")
    with pytest.raises(ValueError, match=r"h\.json"):
        chat.load_history(file)
    assert len(chat.messages) == 1


def test_conversations(fake: FakeServer, tmp_path: Path) -> None:
    manager = ConversationManager(answering(fake, "x"))
    with pytest.raises(RuntimeError, match="create_conversation"):
        manager.get_current()
    manager.create_conversation("a", "Be brief.", max_tokens=3)
    manager.create_conversation("b")
    assert manager.current_conversation == "a"
    assert manager.chat("Hi") == "x"
    assert manager.switch_to("b") is manager.conversations["b"]
    with pytest.raises(KeyError):
        manager.switch_to("c")
    manager.save_all(tmp_path / "all")
    other = ConversationManager(manager.engine)
    other.load_all(tmp_path / "none")
    assert other.list_conversations() == []
    other.load_all(str(tmp_path / "all"))
    assert other.list_conversations() == ["a", "b"]
    assert other.conversations["a"].get_history() == manager.conversations["a"].get_history()
    assert other.conversations["a"].max_tokens == 3
    manager.delete_conversation("b")
    manager.delete_conversation("b")
    assert (manager.list_conversations(), manager.current_conversation) == (["a"], "a")
    manager.create_conversation("../x")
    with pytest.raises(ValueError, match="save_history"):
        manager.save_all(tmp_path / "all")


def test_message() -> None:
    assert Message("user", "x").to_dict() == {"role": "user", "content": "x"}
    assert Message("user", "x", "Ann").to_dict() == {"role": "user", "content": "x", "name": "Ann"}
    assert Message("user", "x").timestamp > 1.7e9
    assert repr(Message("user", "y" * 60)) == f"Message(role='user', content='{'y' * 50}...')"


@pytest.mark.real
def test_real_conversation(engine: InferenceEngine) -> None:
    chat = ChatEngine(engine, "You know capitals.", max_tokens=16, temperature=0)
    assert chat.count_tokens() > 3
    assert chat.add_user_message("What is the capital of France?").complete()
    before = chat.count_tokens()
    assert "".join(chat.add_user_message("Thanks.").complete_stream()) == chat.messages[-1].content
    assert chat.count_tokens() > before
    assert ChatEngine(engine).count_tokens() == 0

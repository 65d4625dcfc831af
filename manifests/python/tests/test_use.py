"""What comes out of the real model, by each way in."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from real import MODEL

import llcuda
from llcuda import chat, embeddings

pytestmark = pytest.mark.real

PROMPT = "The capital of France is"


def post(engine: llcuda.InferenceEngine, path: str, body: dict[str, Any]) -> Any:
    """Asks the server as curl would."""
    request = urllib.request.Request(
        engine.server_url + path,
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {engine.api_key}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def test_same_as_curl(engine: llcuda.InferenceEngine) -> None:
    answer = post(engine, "/completion", {"prompt": PROMPT, "n_predict": 24, "temperature": 0, "cache_prompt": False})
    assert answer["content"].startswith(" Paris")
    result = engine.infer(PROMPT, max_tokens=24, temperature=0, cache_prompt=False)
    pieces: list[str] = []
    called = engine.infer_stream(PROMPT, pieces.append, max_tokens=24, temperature=0, cache_prompt=False)
    streamed = list(engine.stream(PROMPT, max_tokens=24, temperature=0, cache_prompt=False))
    assert [result.text, "".join(pieces), called.text, "".join(streamed)] == [answer["content"]] * 4
    assert len(streamed) > 10 and len(pieces) > 10, "in pieces"
    assert (result.tokens_generated, result.finish_reason) == (24, "length")
    assert result.prompt_tokens == answer["tokens_evaluated"]


def test_chat_same_as_curl(engine: llcuda.InferenceEngine) -> None:
    messages = [{"role": "user", "content": "Name the capital of France."}]
    body = {"messages": messages, "max_tokens": 24, "temperature": 0, "cache_prompt": False}
    answer = post(engine, "/v1/chat/completions", body)["choices"][0]["message"]["content"]
    assert "Paris" in answer
    whole = engine.chat(messages, max_tokens=24, temperature=0, cache_prompt=False)
    pieces = list(engine.chat(messages, max_tokens=24, temperature=0, stream=True, cache_prompt=False))
    openai_shape = engine.create_chat_completion(messages, max_tokens=24, temperature=0, cache_prompt=False)
    assert [whole.text, "".join(pieces), openai_shape["choices"][0]["message"]["content"]] == [answer] * 3


@pytest.mark.parametrize("text", ["😀", "日本語", "naïve café", "a😀é\n👩‍👩‍👧"])
def test_characters_of_several_tokens(engine: llcuda.InferenceEngine, text: str) -> None:
    """A character may come in several tokens and so in several chunks. It is never seen in parts."""
    grammar = f'root ::= "{text}"'.replace("\n", "\\n")
    pieces = list(engine.stream("Repeat:", max_tokens=64, grammar=grammar))
    assert "".join(pieces) == text and "\ufffd" not in "".join(pieces)
    assert engine.infer("Repeat:", max_tokens=64, grammar=grammar).text == text
    assert engine.detokenize(engine.tokenize(text)) == text


def test_stream_closed(engine: llcuda.InferenceEngine) -> None:
    """Who stops reading stops the model."""
    stream = engine.stream("Once upon a time", max_tokens=3000, ignore_eos=True)
    assert next(stream)
    stream.close()
    assert engine.infer(PROMPT, max_tokens=4, temperature=0).text.startswith(" Paris")
    slots = urllib.request.Request(engine.server_url + "/slots", headers={"Authorization": f"Bearer {engine.api_key}"})
    with urllib.request.urlopen(slots) as answer:
        assert not any(slot["is_processing"] for slot in json.load(answer))


def test_batch(engine: llcuda.InferenceEngine) -> None:
    prompts = [f"{number} + 1 =" for number in range(6)]
    results = engine.batch_infer(prompts, max_tokens=4, temperature=0, cache_prompt=False)
    one_by_one = [engine.infer(prompt, max_tokens=4, temperature=0, cache_prompt=False) for prompt in prompts]
    assert [result.tokens_generated for result in results] == [result.tokens_generated for result in one_by_one]
    assert all(result.success for result in results)


TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tell the weather in a town",
            "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
        },
    }
]


def test_openai(engine: llcuda.InferenceEngine) -> None:
    """OpenAI's own client, with the address and the key."""
    client = engine.openai()
    assert str(client.base_url).rstrip("/") == engine.base_url and client.api_key == engine.api_key
    asked: list[Any] = [{"role": "user", "content": "Name the capital of France."}]
    answer = client.chat.completions.create(model="any", messages=asked, max_tokens=24, temperature=0)
    assert "Paris" in str(answer.choices[0].message.content)
    chunks = client.chat.completions.create(model="any", messages=asked, max_tokens=24, temperature=0, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "Paris" in text
    # The model is too small to call tools, but it is asked with them; what a grammar forces it can do.
    asked_with_tools = client.chat.completions.create(model="any", messages=asked, tools=TOOLS, max_tokens=8)
    assert asked_with_tools.choices[0].finish_reason in ("length", "stop", "tool_calls")
    schema = TOOLS[0]["function"]["parameters"] | {"additionalProperties": False}
    answer = client.chat.completions.create(
        model="any",
        messages=[{"role": "user", "content": "Which town is the capital of France? Answer in JSON."}],
        response_format={"type": "json_schema", "json_schema": {"name": "place", "schema": schema}},
        max_tokens=64,
        temperature=0,
    )
    assert json.loads(str(answer.choices[0].message.content)).keys() == {"town"}


@pytest.mark.usefixtures("here")
def test_openai_embeddings() -> None:
    with llcuda.InferenceEngine() as engine:
        engine.load_model(MODEL, ctx_size=1024, embeddings=True, progress=False)
        made = engine.openai().embeddings.create(model="any", input=["Hello", "world"], encoding_format="float")
        ours = engine.create_embedding(["Hello", "world"])
    assert [len(row.embedding) for row in made.data] == [576, 576]
    for row, other in zip(made.data, ours["data"], strict=True):
        assert other["embedding"] == pytest.approx(row.embedding)


NEAR = [
    ("The cat is sleeping on the sofa.", "A cat sleeps on the couch.", "The stock market fell sharply today."),
    (
        "How do I install Python packages?",
        "What is the way to install a package for Python?",
        "My grandmother bakes apple pies.",
    ),
]


@pytest.mark.parametrize(("text", "paraphrase", "stranger"), NEAR)
def test_embeddings(engine: llcuda.InferenceEngine, text: str, paraphrase: str, stranger: str) -> None:
    embedder = embeddings.EmbeddingEngine(engine)
    a, b, c = embedder.embed(text), embedder.embed(paraphrase), embedder.embed(stranger)
    assert a.shape == (576,) and str(a.dtype) == "float32"
    assert embeddings.cosine_similarity(a, b) > embeddings.cosine_similarity(a, c)
    batch = embedder.embed_batch([text, paraphrase, stranger], use_cache=False)
    for one, row in zip((a, b, c), batch, strict=True):
        assert embeddings.cosine_similarity(one, row) > 0.999


def test_search(engine: llcuda.InferenceEngine) -> None:
    search = embeddings.SemanticSearch(embeddings.EmbeddingEngine(engine))
    search.add_documents(
        [text for _, *texts in NEAR for text in texts], metadata=[{"number": number} for number in range(4)]
    )
    for number, (query, *_) in enumerate(NEAR):
        ((document, score, about), *_) = search.search(query, top_k=2)
        assert (document, about) == (NEAR[number][1], {"number": 2 * number}) and score > 0


# The files that llcuda 1.0.2 wrote are JSON of these forms.


def test_cache_of_1_0_2(tmp_path: Path) -> None:
    file = tmp_path / "cache.json"
    about = {"pooling": "mean", "normalize": True, "timestamp": 1735000000.5}
    file.write_text(json.dumps({"embeddings": {"Hello": [0.6, 0.8]}, "metadata": about}))
    embedder = embeddings.EmbeddingEngine(llcuda.InferenceEngine())
    embedder.load_cache(str(file))
    assert embedder.embed("Hello").tolist() == pytest.approx([0.6, 0.8])
    embedder.save_cache(str(file))
    written = json.loads(file.read_text())
    assert written["embeddings"]["Hello"] == pytest.approx([0.6, 0.8])


def test_index_of_1_0_2(tmp_path: Path) -> None:
    file = tmp_path / "index.json"
    index = {"documents": ["a", "b"], "embeddings": [[1.0, 0.0], [0.0, 1.0]], "metadata": [{"n": 1}, {}]}
    file.write_text(json.dumps(index))
    search = embeddings.SemanticSearch(embeddings.EmbeddingEngine(llcuda.InferenceEngine()))
    search.load_index(str(file))
    assert len(search) == 2
    search.save_index(str(file))
    written = json.loads(file.read_text())
    assert {name: written[name] for name in index} == index


def test_history_of_1_0_2(tmp_path: Path) -> None:
    file = tmp_path / "history.json"
    history: dict[str, Any] = {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi", "name": "Ann"}],
        "metadata": {"max_history": 7, "max_tokens": 33, "temperature": 0.0, "timestamp": 1735000000.5},
    }
    file.write_text(json.dumps(history, indent=2))
    talk = chat.ChatEngine(llcuda.InferenceEngine())
    talk.load_history(str(file))
    assert (talk.max_history, talk.max_tokens, talk.temperature) == (7, 33, 0.0)
    assert talk.get_history() == history["messages"]
    talk.save_history(str(file))
    written = json.loads(file.read_text())
    assert written["messages"] == history["messages"] and written["metadata"].keys() >= history["metadata"].keys()


def test_conversation(engine: llcuda.InferenceEngine) -> None:
    """What was said before is part of the next question, and no template is missing."""
    talk = chat.ChatEngine(engine, system_prompt="You are brief.", max_tokens=32, temperature=0)
    talk.add_user_message("My name is Zebulon. Please remember it.")
    assert talk.complete()
    talk.add_user_message("What is my name?")
    assert "Zebulon" in "".join(talk.complete_stream())
    assert [message["role"] for message in talk.get_history()] == ["system", "user", "assistant", "user", "assistant"]

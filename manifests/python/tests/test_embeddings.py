"""Embeddings: vectors, their cache, search, groups, and files of 1.0.2."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from engines import ALONE, engine
from fakeserver import FakeServer, Handler, fake

from llcuda import InferenceEngine, errors
from llcuda.embeddings import (
    EmbeddingEngine,
    SemanticSearch,
    TextClustering,
    cosine_similarity,
    dot_product_similarity,
    euclidean_distance,
)

__all__ = ["engine", "fake"]


def vector(text: str) -> list[float]:
    return [float(text.count("a")), float(text.count("b")), 1.0]


@pytest.fixture
def embedder(fake: FakeServer) -> EmbeddingEngine:
    """Its vectors count letters. The server gives them in the wrong order."""

    def answer(handler: Handler) -> None:
        texts = handler.body["input"]
        data = [{"index": i, "embedding": vector(text)} for i, text in enumerate(texts)]
        handler.json({"data": data[::-1]})

    fake.answers["/v1/embeddings"] = answer
    return EmbeddingEngine(InferenceEngine(fake.url))


def test_embed(embedder: EmbeddingEngine, fake: FakeServer) -> None:
    one = embedder.embed("aab")
    assert one.dtype == np.float32
    assert one.tolist() == [2, 1, 1]
    many = embedder.embed_batch(["b", "aab", "b", "aa"])
    assert many.dtype == np.float32
    assert many.tolist() == [[0, 1, 1], [2, 1, 1], [0, 1, 1], [2, 0, 1]]
    assert [request[2]["input"] for request in fake.requests] == [["aab"], ["b", "aa"]]
    assert "embd_normalize" not in fake.requests[0][2]
    assert embedder.get_cache_stats() == {"cache_size": 3, "cache_max": 1000, "hits": 1, "misses": 4, "hit_rate": 0.2}
    embedder.embed("aab", use_cache=False)
    assert len(fake.requests) == 3
    embedder.clear_cache()
    assert embedder.get_cache_stats()["cache_size"] == 0
    assert embedder.embed_batch([]).shape == (0, 0)
    with pytest.raises(TypeError, match="embed takes one"):
        embedder.embed_batch("a text")


def test_many_texts_are_several_requests(embedder: EmbeddingEngine, fake: FakeServer) -> None:
    texts = ["a" * i for i in range(150)]
    assert embedder.embed_batch(texts)[:, 0].tolist() == list(range(150))
    assert [len(request[2]["input"]) for request in fake.requests] == [64, 64, 22]


def test_the_cache_forgets_the_oldest(embedder: EmbeddingEngine) -> None:
    embedder.cache_size = 2
    embedder.embed_batch(["a", "b", "ab"])
    assert list(embedder.cache) == ["b", "ab"]
    embedder.cache_size = 0
    assert embedder.embed("aaa").tolist() == [3, 0, 1]


def test_not_normalized(fake: FakeServer, embedder: EmbeddingEngine) -> None:
    EmbeddingEngine(embedder.engine, normalize=False).embed("a")
    assert fake.requests[0][2]["embd_normalize"] == -1


def test_files_of_1_0_2(embedder: EmbeddingEngine, fake: FakeServer, tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"
    about = {"pooling": "mean", "normalize": True, "cache_size": 1}
    cache.write_text(json.dumps({"embeddings": {"old": [0.5, 0.25]}, "metadata": about}))
    embedder.load_cache(str(cache))
    assert embedder.embed("old").tolist() == [0.5, 0.25]
    embedder.save_cache(cache)
    assert json.loads(cache.read_text()) == {"embeddings": {"old": [0.5, 0.25]}, "metadata": about}
    index = tmp_path / "index.json"
    index.write_text(json.dumps({"documents": ["x"], "embeddings": [[1.0, 0.0, 0.0]], "metadata": [{"n": 1}]}))
    search = SemanticSearch(embedder)
    search.load_index(index)
    assert [(d, m) for d, _, m in search.search("a")] == [("x", {"n": 1})]
    search.add_documents(["b"])
    search.save_index(str(index))
    again = SemanticSearch(embedder)
    again.load_index(index)
    assert again.search("b", 1) == search.search("b", 1)
    again.clear_index()
    assert len(again) == 0
    again.save_index(index)
    again.load_index(index)
    assert again.search("x") == []


@pytest.mark.parametrize(("how", "best"), [("cosine", "b"), ("dot", "bbb"), ("euclidean", "b")])
def test_search(embedder: EmbeddingEngine, how: str, best: str) -> None:
    search = SemanticSearch(embedder)
    search.add_documents(["aaa", "b", "bbb"], [{"n": 0}, {"n": 1}, {"n": 2}])
    found = search.search("b", top_k=2, similarity_fn=how)
    assert len(found) == 2
    assert found[0][0] == best
    assert found[0][2] == {"n": ["aaa", "b", "bbb"].index(best)}
    assert found[0][1] >= found[1][1]
    with pytest.raises(ValueError, match="metadata for 1"):
        search.add_documents(["x", "y"], [{}])
    with pytest.raises(ValueError, match="manhattan"):
        search.search("b", similarity_fn="manhattan")
    assert len(search) == 3


def test_similarities() -> None:
    a, b, zero = (np.array(v, dtype=np.float32) for v in ([3, 4], [4, 3], [0, 0]))
    assert cosine_similarity(a, b) == pytest.approx(24 / 25)
    assert dot_product_similarity(a, b) == 24
    assert euclidean_distance(a, b) == pytest.approx(math.sqrt(2))
    assert cosine_similarity(a, zero) == 0


def test_clusters(embedder: EmbeddingEngine) -> None:
    clustering = TextClustering(embedder, n_clusters=2)
    with pytest.raises(RuntimeError):
        clustering.predict(["a"])
    texts = ["aaaa", "bbbb", "aaaaa", "bbbbb"]
    labels = clustering.fit(texts)
    assert sorted(sorted(group) for group in clustering.get_clusters(texts, labels).values()) == [texts[::2], texts[1::2]]
    assert clustering.predict(["aaaaaa", "bbb"]).tolist() == labels[:2].tolist()


def test_without_numpy() -> None:
    code = """
import sys
sys.modules["numpy"] = None
from llcuda import *
from llcuda.embeddings import EmbeddingEngine
try:
    EmbeddingEngine(InferenceEngine())
except ImportError as err:
    print(err)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'pip install "llcuda[embeddings]"' in done.stdout, done.stderr


PAIRS = [
    ("A cat sleeps on the sofa.", "A kitten is sleeping on the couch."),
    ("The stock market fell sharply today.", "Share prices dropped a lot today."),
]


@pytest.mark.real
def test_real_meaning(engine: InferenceEngine) -> None:
    embedder = EmbeddingEngine(engine)
    (a, b), (c, d) = ((embedder.embed(x), embedder.embed(y)) for x, y in PAIRS)
    assert float(np.linalg.norm(a)) == pytest.approx(1, abs=1e-3)
    assert min(cosine_similarity(a, b), cosine_similarity(c, d)) > max(cosine_similarity(a, c), cosine_similarity(b, d))
    raw = EmbeddingEngine(engine, normalize=False).embed(PAIRS[0][0])
    assert float(np.linalg.norm(raw)) > 2
    assert cosine_similarity(raw, a) == pytest.approx(1, abs=1e-3)
    long = embedder.embed("word " * 600)  # more than the 512 tokens of llama-server's own batch
    assert long.shape == a.shape
    with pytest.raises(errors.RequestError):
        embedder.embed("word " * 2100)


@pytest.mark.real
def test_real_second_server(
    here: None, installed: Mapping[str, str], smollm2: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An engine that generates gets a second server, which ends with the model."""
    with InferenceEngine() as engine:
        engine.load_model(str(smollm2), **ALONE, ctx_size=256, progress=False)
        embedder = EmbeddingEngine(engine)
        a, b, c = (embedder.embed(text) for text in (*PAIRS[0], PAIRS[1][0]))
        assert cosine_similarity(a, b) > cosine_similarity(a, c)
        assert "second server" in capsys.readouterr().err
        assert len(engine.create_embedding("x")["data"]) == 1
        second = engine._embedders["mean"]
        assert list(engine._embedders) == ["mean"]
        assert second.check_server_health()
        assert engine.infer("x", max_tokens=1).success
    assert not second.check_server_health()


@pytest.mark.real
def test_real_by_name(here: None, smollm2: Path) -> None:
    embedder = EmbeddingEngine(str(smollm2), pooling="last")
    with embedder.engine:
        assert embedder.embed("x").shape == (576,)
        assert embedder.engine.infer("x", max_tokens=1).success

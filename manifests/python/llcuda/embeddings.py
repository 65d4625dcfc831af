"""Embeddings, and searching and grouping texts by them.

Vectors are arrays of numpy: ``pip install "llcuda[embeddings]"``. Grouping uses scikit-learn:
``pip install "llcuda[clustering]"``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .chat import read_json, write_json

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from .engine import InferenceEngine

    Vector = npt.NDArray[np.float32]

__all__ = [
    "EmbeddingEngine",
    "SemanticSearch",
    "TextClustering",
    "cosine_similarity",
    "dot_product_similarity",
    "euclidean_distance",
]

BATCH_TEXTS = 64
"""How many texts one request has: an interrupt, and a progress line, come between two."""


def _numpy() -> Any:
    try:
        import numpy
    except ImportError:
        raise ImportError('embeddings need numpy: pip install "llcuda[embeddings]"') from None
    return numpy


class EmbeddingEngine:
    """Turns texts into vectors.

    Args:
        engine: An engine with a model, or the name of a model, which is loaded for embeddings. An engine whose model was
            loaded without ``embeddings=True`` starts a second server with the same model at the first use.
        pooling: How a vector is made of the tokens': ``mean``, ``cls`` or ``last``. A server that makes embeddings already
            keeps its own way.
        normalize: Scale vectors to the length 1.
        cache_size: How many texts' vectors are kept.

    Attributes:
        cache (dict of str to ndarray): The vectors that are kept, the oldest first.
        cache_hits (int): How often a vector was there.
        cache_misses (int): How often it had to be made.

    Raises:
        ImportError: numpy is not installed.
    """

    def __init__(
        self,
        engine: InferenceEngine | str,
        pooling: str = "mean",
        normalize: bool = True,
        cache_size: int = 1000,
    ) -> None:
        _numpy()
        if isinstance(engine, str):
            from .engine import InferenceEngine

            name, engine = engine, InferenceEngine()
            engine.load_model(name, embeddings=True, pooling=pooling)
        self.engine = engine
        self.pooling = pooling
        self.normalize = normalize
        self.cache_size = cache_size
        self.cache: dict[str, Vector] = {}
        self.cache_hits = 0
        self.cache_misses = 0
        self._lock = threading.Lock()

    def embed(self, text: str, use_cache: bool = True) -> Vector:
        """The vector of a text.

        Args:
            text: The text; 2048 tokens at the most, unless the model was loaded with a larger batch.
            use_cache: Take a vector that is kept, and keep this one.

        Returns:
            An array of float32 with as many numbers as the model's width.

        Raises:
            RequestError: The server refused, as with a text that is too long or empty.
        """
        vectors: Vector = self.embed_batch([text], use_cache)
        return vectors[0]  # type: ignore[no-any-return]

    def embed_batch(self, texts: Sequence[str], use_cache: bool = True, show_progress: bool = False) -> Vector:
        """The vectors of several texts.

        Args:
            texts: The texts.
            use_cache: Take vectors that are kept, and keep these.
            show_progress: Show how far it is.

        Returns:
            An array of float32 with a row for each text, in their order.

        Raises:
            RequestError: The server refused.
        """
        np = _numpy()
        if isinstance(texts, str):
            raise TypeError("embed_batch takes several texts; embed takes one")
        texts = list(texts)
        if not texts:
            return np.zeros((0, 0), dtype=np.float32)  # type: ignore[no-any-return]
        found: dict[str, Vector] = {}
        if use_cache:
            with self._lock:
                found = {text: self.cache[text] for text in texts if text in self.cache}
                self.cache_hits += sum(1 for text in texts if text in found)
                self.cache_misses += sum(1 for text in texts if text not in found)
        missing = [text for text in dict.fromkeys(texts) if text not in found]
        for text, vector in zip(missing, self._made(missing, show_progress), strict=True):
            found[text] = vector
            if use_cache:
                self._keep(text, vector)
        return np.stack([found[text] for text in texts])  # type: ignore[no-any-return]

    def _made(self, texts: list[str], show: bool) -> list[Vector]:
        np = _numpy()
        from ._internal.fetch import Event
        from .server import reporting

        made: list[Vector] = []
        with reporting(show) as report:
            for start in range(0, len(texts), BATCH_TEXTS):
                part = texts[start : start + BATCH_TEXTS]
                answer = self.engine._embed(part, self.pooling, {} if self.normalize else {"embd_normalize": -1})
                rows = sorted(answer["data"], key=lambda row: int(row["index"]))
                made += [np.asarray(row["embedding"], dtype=np.float32) for row in rows]
                if show:
                    report(Event("step", {"message": f"Embedded {len(made)} of {len(texts)} texts"}))
        return made

    def _keep(self, text: str, vector: Vector) -> None:
        with self._lock:
            self.cache[text] = vector
            while len(self.cache) > max(0, self.cache_size):
                del self.cache[next(iter(self.cache))]

    def clear_cache(self) -> None:
        """Forget all vectors, and count from zero."""
        with self._lock:
            self.cache = {}
            self.cache_hits = self.cache_misses = 0

    def get_cache_stats(self) -> dict[str, Any]:
        """How the cache does: cache_size and cache_max in texts, hits, misses, and hit_rate between 0 and 1."""
        with self._lock:
            asked = self.cache_hits + self.cache_misses
            return {
                "cache_size": len(self.cache),
                "cache_max": self.cache_size,
                "hits": self.cache_hits,
                "misses": self.cache_misses,
                "hit_rate": self.cache_hits / asked if asked else 0.0,
            }

    def save_cache(self, filepath: str | os.PathLike[str]) -> None:
        """Write the vectors that are kept to a JSON file.

        Args:
            filepath: The file; one that is there is replaced.
        """
        with self._lock:
            vectors = {text: vector.tolist() for text, vector in self.cache.items()}
        about = {"pooling": self.pooling, "normalize": self.normalize, "cache_size": len(vectors)}
        write_json(filepath, {"embeddings": vectors, "metadata": about})

    def load_cache(self, filepath: str | os.PathLike[str]) -> None:
        """Read vectors, also those that llcuda 1.x wrote; they replace what is kept.

        Args:
            filepath: The file.
        """
        np = _numpy()
        data = read_json(filepath)
        with self._lock:
            self.cache = {text: np.array(vector, dtype=np.float32) for text, vector in data["embeddings"].items()}


def cosine_similarity(vec1: Vector, vec2: Vector) -> float:
    """The cosine of the angle between two vectors: 1 for the same direction, 0 where one of them is zero."""
    np = _numpy()
    length = float(np.linalg.norm(vec1)) * float(np.linalg.norm(vec2))
    return float(np.dot(vec1, vec2)) / length if length else 0.0


def euclidean_distance(vec1: Vector, vec2: Vector) -> float:
    """The distance between two vectors."""
    np = _numpy()
    return float(np.linalg.norm(np.subtract(vec1, vec2)))


def dot_product_similarity(vec1: Vector, vec2: Vector) -> float:
    """The dot product of two vectors."""
    return float(_numpy().dot(vec1, vec2))


class SemanticSearch:
    """Finds the documents that are nearest in meaning to a question.

    Args:
        embedder: What makes the vectors.

    Attributes:
        documents (list of str): The documents.
        metadata (list of dict): What is known of each.
        embeddings (ndarray | None): Their vectors, one a row.
    """

    def __init__(self, embedder: EmbeddingEngine) -> None:
        self.embedder = embedder
        self.documents: list[str] = []
        self.metadata: list[dict[str, Any]] = []
        self.embeddings: Vector | None = None

    def __len__(self) -> int:
        return len(self.documents)

    def add_documents(
        self,
        documents: Sequence[str],
        metadata: Sequence[dict[str, Any]] | None = None,
        show_progress: bool = False,
    ) -> None:
        """Add documents.

        Args:
            documents: Their texts.
            metadata: What is known of each; as many as documents.
            show_progress: Show how far it is.

        Raises:
            ValueError: There are more or fewer metadata than documents.
        """
        np = _numpy()
        documents = list(documents)
        about = [{} for _ in documents] if metadata is None else list(metadata)
        if len(about) != len(documents):
            raise ValueError(f"there are {len(documents)} documents, and metadata for {len(about)}")
        if not documents:
            return
        vectors = self.embedder.embed_batch(documents, show_progress=show_progress)
        self.embeddings = vectors if self.embeddings is None else np.vstack([self.embeddings, vectors])
        self.documents += documents
        self.metadata += about

    def search(self, query: str, top_k: int = 5, similarity_fn: str = "cosine") -> list[tuple[str, float, dict[str, Any]]]:
        """The documents nearest to a question, the nearest first.

        Args:
            query: The question.
            top_k: How many.
            similarity_fn: ``cosine``, ``dot``, or ``euclidean``, whose score is the distance below zero.

        Returns:
            For each the document, its score, and what is known of it.

        Raises:
            ValueError: There is no such similarity.
        """
        np = _numpy()
        if similarity_fn not in ("cosine", "dot", "euclidean"):
            raise ValueError(f"similarity_fn is cosine, dot or euclidean, not {similarity_fn!r}")
        if self.embeddings is None or not self.documents:
            return []
        asked = self.embedder.embed(query)
        if similarity_fn == "euclidean":
            scores = -np.linalg.norm(self.embeddings - asked, axis=1)
        else:
            scores = self.embeddings @ asked
            if similarity_fn == "cosine":
                lengths = np.linalg.norm(self.embeddings, axis=1) * np.linalg.norm(asked)
                scores = np.divide(scores, lengths, out=np.zeros_like(scores), where=lengths > 0)
        best = np.argsort(-scores, kind="stable")[: max(0, top_k)]
        return [(self.documents[i], float(scores[i]), self.metadata[i]) for i in best]

    def save_index(self, filepath: str | os.PathLike[str]) -> None:
        """Write documents, vectors and metadata to a JSON file.

        Args:
            filepath: The file; one that is there is replaced.
        """
        vectors = None if self.embeddings is None else self.embeddings.tolist()
        write_json(filepath, {"documents": self.documents, "embeddings": vectors, "metadata": self.metadata})

    def load_index(self, filepath: str | os.PathLike[str]) -> None:
        """Read an index, also one that llcuda 1.x wrote; it replaces this one.

        Args:
            filepath: The file.
        """
        np = _numpy()
        data = read_json(filepath)
        self.documents = data["documents"]
        self.embeddings = np.array(data["embeddings"], dtype=np.float32) if data["embeddings"] else None
        self.metadata = data["metadata"]

    def clear_index(self) -> None:
        """Remove all documents."""
        self.documents, self.metadata, self.embeddings = [], [], None


class TextClustering:
    """Groups texts by meaning, with scikit-learn's k-means.

    Args:
        embedder: What makes the vectors.
        n_clusters: How many groups.

    Attributes:
        cluster_centers (ndarray | None): The middle of each group, after :meth:`fit`.
    """

    def __init__(self, embedder: EmbeddingEngine, n_clusters: int = 5) -> None:
        self.embedder = embedder
        self.n_clusters = n_clusters
        self.cluster_centers: Any = None

    def fit(self, texts: Sequence[str], show_progress: bool = False) -> Any:
        """Group texts.

        Args:
            texts: The texts; at least as many as groups.
            show_progress: Show how far it is.

        Returns:
            An array with the number of each text's group.

        Raises:
            ImportError: scikit-learn is not installed.
        """
        try:
            from sklearn.cluster import KMeans
        except ImportError:
            raise ImportError('grouping needs scikit-learn: pip install "llcuda[clustering]"') from None
        vectors = self.embedder.embed_batch(texts, show_progress=show_progress)
        means = KMeans(n_clusters=self.n_clusters, random_state=42, n_init=10)
        labels = means.fit_predict(vectors)
        self.cluster_centers = means.cluster_centers_
        return labels

    def get_clusters(self, texts: Sequence[str], labels: Any) -> dict[int, list[str]]:
        """The texts of each group.

        Args:
            texts: The texts.
            labels: What :meth:`fit` or :meth:`predict` gave for them.
        """
        groups: dict[int, list[str]] = {}
        for text, label in zip(texts, labels, strict=True):
            groups.setdefault(int(label), []).append(text)
        return groups

    def predict(self, texts: Sequence[str]) -> Any:
        """The groups that texts belong to.

        Args:
            texts: The texts.

        Returns:
            An array with the number of each text's group.

        Raises:
            RuntimeError: Nothing was grouped yet.
        """
        if self.cluster_centers is None:
            raise RuntimeError("fit(texts) comes first")
        np = _numpy()
        vectors = self.embedder.embed_batch(texts)
        distances = np.linalg.norm(vectors[:, None, :] - self.cluster_centers[None, :, :], axis=2)
        return np.argmin(distances, axis=1)

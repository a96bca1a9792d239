"""Search by words: BM25, the floor under every model that reads a query."""

import logging
import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

_WORD = re.compile(r"\w+")


class BM25:
    """Rank texts by the words they share with a query.

    Words are runs of letters and digits, in lower case; nothing is stemmed and no word is left out. A text scores
    ``idf * tf / (tf + k1 * (1 - b + b * length / mean_length))`` for each word of the query (a repeated one counts
    again), with ``idf = log(1 + (n - df + 0.5) / (df + 0.5))`` (Robertson and Zaragoza 2009, in Lucene's form). The
    arithmetic is the package bm25s' (Lù 2024).

    Args:
        texts: one for each item, in the order of item indices.
        k1: how soon further occurrences of a word stop to count.
        b: how much long texts are held back, 0 to 1.

    Raises:
        ValueError: if there are no texts.
    """

    def __init__(self, texts: Sequence[str], k1: float = 1.2, b: float = 0.75) -> None:
        if not texts:
            raise ValueError("texts is empty; BM25 needs at least one text to search in.")
        import bm25s  # noqa: PLC0415 -- most of a second, for those who search

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it asks for DEBUG itself
        self.num_items = len(texts)
        tokens = [_words(text) for text in texts]
        self._index = bm25s.BM25(k1=k1, b=b, method="lucene", dtype="float64") if any(tokens) else None
        if self._index is not None:
            self._index.index(tokens, show_progress=False)

    def search(self, queries: Sequence[str], k: int) -> np.ndarray:
        """The ``k`` best texts of each query; of two with equal scores the lower index comes first.

        Returns:
            int64 array of shape (num_queries, k), best first; -1 where no further text shares a word with the query.

        Raises:
            ValueError: if ``k`` is below 1.
        """
        if k < 1:
            raise ValueError(f"k is {k}; a list needs 1 place or more.")
        ranked = np.full((len(queries), k), -1, dtype=np.int64)
        for row, query in enumerate(queries):
            scores = self._scores(query)
            found = np.flatnonzero(scores > 0)
            best = found[np.lexsort((found, -scores[found]))][:k]
            ranked[row, : len(best)] = best
        return ranked

    def _scores(self, query: str) -> np.ndarray:
        """Of every text, shape (num_items,)."""
        words = _words(query)
        if self._index is None or not words:
            return np.zeros(self.num_items)
        scores = self._index.get_scores_from_ids(self._index.get_tokens_ids(words))
        # sums that are equal on paper differ in the last bits with the order of addition: make them ties again
        return np.round(scores, 9)


def document_texts(items: pa.Table) -> list[str]:
    """What a search by words reads of each item of a ``schema.ITEMS`` table: title, brand, categories, description."""
    return [
        " ".join([item["title"], item["brand"], *item["categories"], item["description"]])
        for item in items.select(["title", "brand", "categories", "description"]).to_pylist()
    ]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())

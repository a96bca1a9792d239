"""BM25 against its formula."""

import math
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.baselines import BM25, document_texts
from llmrec.schema import ITEMS

WORDS = ("red", "Blue", "the", "lamp", "<emb>", "z")


def oracle(texts: list[str], query: str, k1: float, b: float) -> list[float]:
    documents = [re.findall(r"\w+", text.lower()) for text in texts]
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for document in documents:
        score = 0.0
        for word in re.findall(r"\w+", query.lower()):
            df = sum(word in other for other in documents)
            idf = math.log(1 + (len(documents) - df + 0.5) / (df + 0.5))
            tf = document.count(word)
            score += idf * tf / (tf + k1 * (1 - b + b * len(document) / mean)) if tf else 0.0
        scores.append(score)
    return scores


sentences = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)


@settings(deadline=None, max_examples=60)
@given(st.lists(sentences, min_size=1, max_size=8), sentences, st.sampled_from([(1.2, 0.75), (0.9, 0.4)]))
def test_ranks_by_the_formula_with_ties_in_order(texts: list[str], query: str, constants: tuple[float, float]) -> None:
    scores = np.round(oracle(texts, query, *constants), 9)
    expected = [row for row in sorted(range(len(texts)), key=lambda row: (-scores[row], row)) if scores[row] > 0]
    found = BM25(texts, *constants).search([query, "nowhere"], 9)
    assert found.shape == (2, 9)
    assert found.dtype == np.int64
    assert found[0].tolist() == expected + [-1] * (9 - len(expected))
    assert found[1].tolist() == [-1] * 9


def test_lists_are_cut_at_k_and_odd_input_is_refused() -> None:
    assert BM25(["a", "a", "a b"]).search(["a"], 2).tolist() == [[0, 1]]
    assert BM25(["a"]).search([], 2).shape == (0, 2)
    with pytest.raises(ValueError, match="texts is empty"):
        BM25([])
    with pytest.raises(ValueError, match="k is 0"):
        BM25(["a"]).search(["a"], 0)


def test_a_document_is_every_field_of_an_item() -> None:
    row = {"item_id": "1", "title": "T", "description": "D", "brand": "B", "categories": ["C", "E"]}
    assert document_texts(pa.Table.from_pylist([row], ITEMS)) == ["T B C E D"]

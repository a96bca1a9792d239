"""Item mining, on searches whose lists are known."""

from collections.abc import Sequence

import numpy as np
import pytest

from llmrec.prompts.query_mining import mine_items, relevant_by_cosine, relevant_targets, with_keywords

LISTS = {
    "warm": [0, 1, 2],
    "warm (wool, coat)": [2, 3, 0, 4],
    "red": [5, 6],
    "red (dress)": [6, 5],
    "blue": [7],
}


def search(texts: Sequence[str], k: int) -> np.ndarray:
    return np.array([(LISTS[text] + [-1] * k)[:k] for text in texts])


QUERIES, KEYWORDS = ["warm", "red", "blue"], [["wool", "coat"], ["dress"], []]


def test_items_stay_that_only_query_and_keywords_find_and_the_scorer_likes() -> None:
    mined = mine_items(QUERIES, KEYWORDS, search, relevant_targets([[0, 4], [6], [7]]), 4)
    assert mined.rows == [[4], [], []]
    assert mined.counts == {"queries": 3, "kept": 1, "dropped": 2, "items": 1}


def test_the_depth_of_the_search_counts() -> None:
    everything = relevant_targets([list(range(9))] * 3)
    assert mine_items(QUERIES, KEYWORDS, search, everything, 4).rows == [[3, 4], [], []]
    assert mine_items(QUERIES, KEYWORDS, search, everything, 2).rows == [[2, 3], [], []]  # 2 is third without keywords


def test_an_encoder_judges_by_its_cosine() -> None:
    items = np.eye(8)[[0, 1, 2, 3, 3, 5, 6, 7]] * 2.5
    items[4] = [0, 0, 0, 1, 1, 0, 0, 0]

    def embed(texts: Sequence[str]) -> np.ndarray:
        return np.array([np.eye(8)[3] * 9 for _ in texts])

    assert mine_items(QUERIES, KEYWORDS, search, relevant_by_cosine(embed, items, 0.9), 4).rows[0] == [3]
    assert mine_items(QUERIES, KEYWORDS, search, relevant_by_cosine(embed, items, 0.7), 4).rows[0] == [3, 4]
    with pytest.raises(ValueError, match="threshold is 2"):
        relevant_by_cosine(embed, items, 2)


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match="3 queries have 1 lists"):
        mine_items(QUERIES, KEYWORDS[:1], search, relevant_targets([[0]] * 3), 4)
    with pytest.raises(ValueError, match="one answer for each item"):
        mine_items(QUERIES, KEYWORDS, search, lambda _, rows: [[True] for _ in rows], 4)


def test_the_second_search_is_worded_as_in_the_paper() -> None:
    assert with_keywords("warm", ["wool", "coat"]) == "warm (wool, coat)"
    assert with_keywords("warm", []) == "warm"

"""The trie against brute force over all prefixes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.trie import Trie
from tests.tiny import random_semantic_ids


@st.composite
def id_sets(draw: st.DrawFn) -> np.ndarray:
    depth = draw(st.integers(1, 4))
    rows = draw(st.sets(st.tuples(*[st.integers(0, 4)] * depth), min_size=1, max_size=40))
    return np.array(draw(st.permutations(sorted(rows))), dtype=np.int32)


@given(id_sets())
def test_children_are_exactly_the_codes_that_lead_to_an_item(ids: np.ndarray) -> None:
    trie = Trie.from_semantic_ids(ids)
    for depth in range(ids.shape[1] + 1):
        for prefix in {tuple(row[:depth]) for row in ids}:
            node = int(trie.walk(np.array([prefix], dtype=np.int64).reshape(1, depth))[0])
            expected = (
                sorted({row[depth] for row in ids if tuple(row[:depth]) == prefix}) if depth < ids.shape[1] else []
            )
            assert trie.children(node).tolist() == expected


@given(id_sets())
def test_every_item_is_reached_and_the_items_under_a_node_are_one_run(ids: np.ndarray) -> None:
    trie = Trie.from_semantic_ids(ids)
    np.testing.assert_array_equal(trie.semantic_ids, ids)
    for depth in range(ids.shape[1] + 1):
        starts, ends = trie.item_range(trie.walk(ids[:, :depth]))
        for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
            expected = [other for other in range(len(ids)) if (ids[other, :depth] == ids[row, :depth]).all()]
            assert sorted(trie.items[start:end].tolist()) == expected


@given(id_sets(), st.lists(st.integers(-2, 7), min_size=1, max_size=4))
def test_an_unknown_prefix_is_minus_one_whatever_its_codes(ids: np.ndarray, prefix: list[int]) -> None:
    prefix = prefix[: ids.shape[1]]
    known = any(row[: len(prefix)].tolist() == prefix for row in ids)
    assert (Trie.from_semantic_ids(ids).walk(np.array([prefix]))[0] >= 0) == known


def test_the_order_of_items_does_not_change_the_trie() -> None:
    ids = random_semantic_ids(200, (8, 8, 8))
    order = np.random.default_rng(1).permutation(len(ids))
    first, second = Trie.from_semantic_ids(ids), Trie.from_semantic_ids(ids[order])
    np.testing.assert_array_equal(first.codes, second.codes)
    np.testing.assert_array_equal(first.child_offsets, second.child_offsets)
    np.testing.assert_array_equal(first.items, order[second.items])


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.empty((0, 3)), "needs shape"),
        ([[0, -2], [0, 0]], "holds the code -2"),
        ([[0, -1, 1], [0, 0, 0]], "goes on after -1"),
        ([[-1, -1], [0, 0]], "is empty"),
        ([[0, -1], [0, 1]], r"\[0\] is a prefix of another"),
        ([[0, -1], [1, -1]], "ends before level 2"),
    ],
)
def test_what_cannot_be_indexed_is_refused(ids: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trie.from_semantic_ids(np.array(ids))

"""Pairs of an epoch and their batches."""

import numpy as np
import pytest
import torch

from llmrec.training.query_pairs import PairCollator, QueryExample, QueryPair, QueryPairs

EXAMPLES = [QueryExample([5, 6], [1, 7, 2, 3], [4, 9]), QueryExample([8], [3], [2])]


def test_each_epoch_draws_one_relevant_item_and_the_same_one_again() -> None:
    pairs = QueryPairs(EXAMPLES, seed=0)
    drawn = set()
    for epoch in range(20):
        pairs.epoch = epoch
        assert pairs[0] == pairs[0]
        assert pairs[1].items == [2]
        drawn.add(pairs[0].items[0])
    assert drawn == {4, 9}


def test_hard_negatives_are_drawn_without_repeats() -> None:
    pairs = QueryPairs(EXAMPLES, 0, [[10, 11, 12], [13, 14]], 2)
    for epoch in range(10):
        pairs.epoch = epoch
        assert len(set(pairs[0].items[1:])) == 2
        assert set(pairs[0].items[1:]) <= {10, 11, 12}


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="A query has 2 hard negatives, and 3 are to be drawn: mine more"):
        QueryPairs(EXAMPLES, 0, [[10, 11, 12], [13, 14]], 3)
    with pytest.raises(ValueError, match="no training query"):
        QueryPairs([], 0)


def test_a_batch_has_own_items_first_and_a_loss_on_thoughts_only() -> None:
    items = [[30 + item, 3] for item in range(15)]
    batch = PairCollator(items)([QueryPair(EXAMPLES[0], [9, 10]), QueryPair(EXAMPLES[1], [2, 13])])
    assert batch["item_rows"].tolist() == [9, 2, 10, 13]
    assert batch["relevant"].tolist() == [[4, 9], [2, -1]]
    rows = [ids[:length].tolist() for ids, length in zip(batch["input_ids"], batch["lengths"], strict=True)]
    assert rows == [[5, 6, 1, 7, 2, 3], [8, 3], [39, 3], [32, 3], [40, 3], [43, 3]]
    expected = torch.full((6, 6), -100)
    expected[0, 2:] = torch.tensor([1, 7, 2, 3])
    assert torch.equal(batch["labels"], expected)  # a query without a thought has none


def test_lengths_are_of_query_and_thought() -> None:
    assert np.array_equal(QueryPairs(EXAMPLES, 0).lengths(), [6, 2])

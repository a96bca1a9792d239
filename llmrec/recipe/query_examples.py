"""From a folder of queries to what LREM is trained on."""

from collections.abc import Callable, Sequence

import numpy as np

from llmrec.dataset import QueryDataset
from llmrec.models.lrem import LremPrompts
from llmrec.prompts.keywords import join_keywords
from llmrec.training.query_pairs import QueryExample

#: How deep a search for hard negatives goes.
_MINED = 50


def query_examples(dataset: QueryDataset, split: str, prompts: LremPrompts) -> list[QueryExample]:
    """Token ids and relevant items of every query of a split."""
    rows = dataset.queries(split)
    relevant = relevant_items(dataset, split)
    return [
        QueryExample(prompts.query(query), prompts.thought(join_keywords(keywords)), items)
        for query, keywords, items in zip(
            rows["query"].to_pylist(), rows["keywords"].to_pylist(), relevant, strict=True
        )
    ]


def relevant_items(dataset: QueryDataset, split: str) -> list[list[int]]:
    """Of each query of a split the items with a grade above 0, by their index."""
    rows = dataset.queries(split)
    index = {item_id: row for row, item_id in enumerate(dataset.items["item_id"].to_pylist())}
    graded = zip(rows["item_ids"].to_pylist(), rows["grades"].to_pylist(), strict=True)
    return [[index[item] for item, grade in zip(items, grades, strict=True) if grade > 0] for items, grades in graded]


def hard_negatives(
    dataset: QueryDataset, split: str, search: Callable[[Sequence[str], int], np.ndarray]
) -> list[list[int]]:
    """For each query of a split the items that a search finds and that are not relevant, filled up with random ones.

    Args:
        dataset: of the queries.
        split: whose queries.
        search: texts and a list length to item indices, int64 of shape (num_queries, length), -1 for empty places.
    """
    found = search(dataset.queries(split)["query"].to_pylist(), _MINED)
    generator = np.random.default_rng(0)
    mined = []
    for items, relevant in zip(found, relevant_items(dataset, split), strict=True):
        listed = [int(item) for item in items if item >= 0 and item not in relevant]
        others = generator.permutation(dataset.items.num_rows)[: _MINED + len(relevant)]
        spare = [int(item) for item in others if item not in relevant and item not in listed]
        mined.append([*listed, *spare][:_MINED])
    return mined

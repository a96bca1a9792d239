"""Training examples of LREM: a query, the thought behind it, and an item that it looks for."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from llmrec.models.lrem.embedding import IGNORED_LABEL
from llmrec.models.lrem.searcher import padded


class QueryExample(NamedTuple):
    """One query.

    Attributes:
        prompt: token ids of the query.
        thought: what follows them, up to the embedding token.
        relevant: items that it looks for, by their index.
    """

    prompt: list[int]
    thought: list[int]
    relevant: list[int]


class QueryPair(NamedTuple):
    """A query with the items that it is trained on: one that it looks for, then hard negatives."""

    example: QueryExample
    items: list[int]


class QueryPairs(Dataset):
    """Pairs of the epoch that training is in: of several relevant items, and of hard negatives, some are drawn.

    Args:
        examples: queries, each with a relevant item.
        seed: of what is drawn.
        hard_negatives: for each query items that are not relevant though they look alike; empty for none.
        num_negatives: how many of them a pair takes.

    Raises:
        ValueError: if there is no example, or a query has fewer hard negatives than are taken.
    """

    epoch = 0

    def __init__(
        self,
        examples: Sequence[QueryExample],
        seed: int,
        hard_negatives: Sequence[Sequence[int]] = (),
        num_negatives: int = 0,
    ) -> None:
        if not examples:
            raise ValueError("There is no training query: this folder's split is empty.")
        fewest = min((len(items) for items in hard_negatives), default=0)
        if fewest < num_negatives:
            raise ValueError(f"A query has {fewest} hard negatives, and {num_negatives} are to be drawn: mine more.")
        self.examples = examples
        self.seed = seed
        self.hard_negatives = hard_negatives
        self.num_negatives = num_negatives

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, row: int) -> QueryPair:
        generator = np.random.default_rng((self.seed, self.epoch, row))
        example = self.examples[row]
        items = [example.relevant[generator.integers(len(example.relevant))]]
        if self.num_negatives:
            items += generator.choice(self.hard_negatives[row], self.num_negatives, replace=False).tolist()
        return QueryPair(example, items)

    def lengths(self) -> np.ndarray:
        """Tokens of each query and its thought: int array of shape (num_examples,)."""
        return np.array([len(example.prompt) + len(example.thought) for example in self.examples])


class PairCollator:
    """Pairs as one batch, items behind queries.

    Args:
        items: token ids of every item of the catalogue.
    """

    def __init__(self, items: Sequence[Sequence[int]]) -> None:
        self.items = items

    def __call__(self, pairs: Sequence[QueryPair]) -> dict[str, Tensor]:
        """``input_ids`` and ``labels`` (num_queries + num_items, longest), ``lengths``, ``item_rows`` (num_items,) and
        ``relevant`` (num_queries, most), -1 past the relevant items; the first items are the queries' own."""
        examples = [pair.example for pair in pairs]
        rows = [pair.items[0] for pair in pairs] + [item for pair in pairs for item in pair.items[1:]]
        queries = [[*example.prompt, *example.thought] for example in examples]
        input_ids, lengths = padded([*queries, *(self.items[row] for row in rows)])
        labels = input_ids.new_full(input_ids.shape, IGNORED_LABEL)
        for place, example in enumerate(examples):
            if len(example.thought) > 1:  # without reasoning there is nothing to write
                written = slice(len(example.prompt), int(lengths[place]))
                labels[place, written] = input_ids[place, written]
        relevant, _ = padded([example.relevant for example in examples], -1)
        item_rows, _ = padded([rows])
        return {
            "input_ids": input_ids,
            "lengths": lengths,
            "labels": labels,
            "item_rows": item_rows[0],
            "relevant": relevant,
        }

"""Rewards of recommended lists: what each item of a group is worth, given the item that came next.

Every function takes a batch of lists and gives numbers of the same shape:

- ``items``: int64 array of shape (num_groups, list_length) of item indices, best first, no item twice in a row.
- ``targets``: int64 array of shape (num_groups,): the item that came next.
"""

from typing import Literal

import numpy as np

RewardName = Literal["hit", "ndcg"]


def hit_reward(items: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """1 for the item that came next, 0 for every other."""
    return (items == targets[:, None]).astype(np.float64)


def ndcg_reward(items: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """What every other item costs the list in ndcg: the gain of putting the target in its place.

    An item at place i of a list with the target at place t gets -|1 / log2(1 + i) - 1 / log2(1 + t)|, and the target
    gets the sum of what the others cost, so a group's rewards sum to 0 (LambdaRank's weights: Burges, From RankNet to
    LambdaRank to LambdaMART, 2010, section 4). Where the target is not in the list, all rewards are 0.
    """
    hits = items == targets[:, None]
    discounts = 1 / np.log2(np.arange(2, items.shape[1] + 2))
    found = hits.any(axis=1, keepdims=True)
    at_target = discounts[hits.argmax(axis=1)][:, None]
    costs = np.where(found & ~hits, np.abs(discounts[None] - at_target), 0.0)
    return np.where(hits, costs.sum(axis=1, keepdims=True), -costs)


def without_hit(items: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """True for the groups, shape (num_groups,), whose list does not hold the target: they have no advantage."""
    return ~(items == targets[:, None]).any(axis=1)

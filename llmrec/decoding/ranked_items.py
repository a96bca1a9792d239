"""From the leaves that a search ends at to lists of items."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from llmrec.decoding.device_trie import DeviceTrie
from llmrec.decoding.rules import BatchRules
from llmrec.decoding.selection import best


@dataclass(frozen=True)
class RankedItems:
    """Recommendations for a batch of users, best first.

    Attributes:
        items: int64 tensor of shape (num_users, k): item indices, -1 where there were no more to give.
        scores: float32 tensor of the same shape: log-probability of the semantic ID (of the mixture, where the search
            had a prior), -inf where ``items`` is -1. Items that share a semantic ID share its score.
    """

    items: Tensor
    scores: Tensor


def ranked_items(
    trie: DeviceTrie,
    leaves: Tensor,
    scores: Tensor,
    k: int,
    limits: BatchRules | None = None,
    groups: Tensor | None = None,
    per_group: int | None = None,
) -> RankedItems:
    """Items of ``leaves``, in their order; items of one leaf in the trie's order.

    Args:
        trie: the catalogue's semantic IDs.
        leaves: int64 (users, leaves), best first; -1 for none.
        scores: float32 of the same shape.
        k: list length.
        limits: rules of the users, for leaves of several items.
        groups: int64 (users, leaves): what ``per_group`` counts by.
        per_group: at most so many items of each group.
    """
    start, end = trie.item_range(leaves.clamp(min=0))
    places = start.unsqueeze(-1) + torch.arange(trie.trie.max_leaf_items, device=start.device)
    found = (places < end.unsqueeze(-1)) & (leaves >= 0).unsqueeze(-1)
    places = places.clamp(max=trie.trie.num_items - 1)
    if limits is not None and trie.trie.max_leaf_items > 1:
        found = found & limits.allow_runs(places, places + 1)
    found = found.flatten(1)
    order = -torch.arange(found.shape[1], device=start.device, dtype=torch.float32)
    order = order.expand_as(found).masked_fill(~found, -torch.inf)
    if groups is not None:
        groups = groups.unsqueeze(-1).expand_as(places).flatten(1)
    chosen, index = best(order, k, groups, per_group)
    found = chosen > -torch.inf
    items = torch.where(found, trie.items_at(places.flatten(1).gather(1, index)), -1)
    scores = scores.unsqueeze(-1).expand_as(places).flatten(1).gather(1, index).masked_fill(~found, -torch.inf)
    missing = k - items.shape[1]
    if missing > 0:
        items = functional.pad(items, (0, missing), value=-1)
        scores = functional.pad(scores, (0, missing), value=-torch.inf)
    return RankedItems(items, scores.float())

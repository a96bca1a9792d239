"""Fusion with a collaborative recommender inside the search: two distributions over items, mixed at every node."""

from math import log, log1p
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from llmrec.decoding.device_trie import DeviceTrie
from llmrec.decoding.rules import BatchRules


class PriorScores(NamedTuple):
    """Another recommender's opinion of the items, for each request of a batch.

    Attributes:
        scores: float (requests, num_items), not negative, such as ``ItemKNN.scores``. A row is divided by its sum; a
            row of zeros leaves the request to the model alone.
        weight: its share of the mixture, above 0 and below 1: an item that it does not know must stay findable.
    """

    scores: sparse.csr_array
    weight: float


class ItemPrior:
    """A distribution over items for each request of a batch, as mass under the nodes of the trie.

    A prefix is worth ``(1 - weight) * (its probability under the model) + weight * (the prior's mass of its items)``.
    Both are sums over the items below, so the worth of a node is that of its children together, and that of an item
    the mixture of its two probabilities: with beams as wide as the catalogue the search ranks by the mixture exactly,
    in one pass.

    Args:
        trie: the catalogue's semantic IDs.
        prior: what the model is mixed with.
        limits: rules of the requests: what they rule out draws no beam to a node. Rules never change an item's worth.

    Raises:
        ValueError: if the weight is out of range, a score is negative, or the items are not the trie's.
    """

    def __init__(self, trie: DeviceTrie, prior: PriorScores, limits: BatchRules | None = None) -> None:
        scores, weight = prior
        if not 0 < weight < 1:
            raise ValueError(f"The prior's weight is {weight}; allowed is above 0 (no prior at all) and below 1.")
        if scores.shape[1] != trie.trie.num_items:
            raise ValueError(f"The prior scores {scores.shape[1]} items; the trie has {trie.trie.num_items}.")
        if scores.nnz and not scores.data.min() >= 0:
            raise ValueError(f"The prior holds the score {scores.data.min()}; scores must be numbers of 0 or more.")
        self.trie = trie
        self.weight = weight
        places, mass = _padded_rows(scores, trie.trie.item_positions)
        # the places of each request, ascending; those that fill a row up lie behind all items
        self._places = torch.as_tensor(places, device=trie.device)
        mass_at = torch.as_tensor(mass, device=trie.device)
        total = mass_at.sum(1, keepdim=True)
        self._known = (total > 0).squeeze(1)
        mass_at = mass_at / total.where(total > 0, 1.0)
        if limits is not None:
            mass_at = mass_at * limits.allow_runs(self._places, (self._places + 1).clamp(max=trie.trie.num_items))
        self._mass_before = torch.nn.functional.pad(mass_at.cumsum(1), (1, 0))

    def mix(self, nodes: Tensor, log_probs: Tensor) -> Tensor:
        """Log of the mixture.

        Args:
            nodes: int64 (requests, ...), not dead.
            log_probs: the model's log-probabilities of the prefixes that lead to them, of the same shape.
        """
        start, end = (edge.flatten(1).contiguous() for edge in self.trie.item_range(nodes))
        before, behind = (self._mass_before.gather(1, torch.searchsorted(self._places, edge)) for edge in (start, end))
        # two cumulative sums: a node without mass has the very same one at both ends
        mass = (behind - before).view(nodes.shape).log().to(log_probs.dtype)
        mixed = torch.logaddexp(log_probs + log1p(-self.weight), mass + log(self.weight))
        known = self._known.view(-1, *[1] * (nodes.dim() - 1))
        return torch.where(known, mixed, log_probs)


def _padded_rows(scores: sparse.csr_array, item_positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places in the trie's order, ascending, and the scores there: int64 and float64 (requests, most of a row)."""
    counts = np.diff(scores.indptr)
    rows = np.repeat(np.arange(len(counts)), counts)
    positions = item_positions[scores.indices].astype(np.int64)
    order = np.lexsort((positions, rows))
    column = np.arange(len(rows)) - np.repeat(scores.indptr[:-1], counts)
    shape = (len(counts), int(counts.max(initial=0)))
    places = np.full(shape, len(item_positions), dtype=np.int64)
    mass = np.zeros(shape)
    places[rows, column], mass[rows, column] = positions[order], scores.data[order]
    return places, mass

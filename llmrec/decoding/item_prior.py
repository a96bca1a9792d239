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

    A prefix is worth ``(1 - weight) * (its probability under the model) + weight * (the prior's mass of its items)``,
    and so is a whole semantic ID: with beams as wide as the catalogue the search ranks IDs by the mixture exactly, in
    one pass. Items that share an ID share its worth. Under scores of ``catalog`` the model's share is a distribution
    too; under those of ``vocabulary`` it lacks what the model gives to tokens that lead to no item.

    Args:
        trie: the catalogue's semantic IDs.
        prior: what the model is mixed with.
        limits: rules of the requests: what they rule out draws no beam to a node. They never change what another
            semantic ID is worth.

    Raises:
        ValueError: if the weight is out of range, a score is negative or infinite, or the items are not the trie's.
    """

    def __init__(self, trie: DeviceTrie, prior: PriorScores, limits: BatchRules | None = None) -> None:
        scores, weight = prior
        if not 0 < weight < 1:
            raise ValueError(f"The prior's weight is {weight}; allowed is above 0 (no prior at all) and below 1.")
        if scores.shape[1] != trie.trie.num_items:
            raise ValueError(f"The prior scores {scores.shape[1]} items; the trie has {trie.trie.num_items}.")
        wrong = scores.data[~(np.isfinite(scores.data) & (scores.data >= 0))]
        if len(wrong):
            raise ValueError(f"The prior holds the score {wrong[0]}; scores must be numbers of 0 or more.")
        self.trie = trie
        self.weight = weight
        places, mass = _padded_rows(scores, trie.trie.item_positions)
        # the places of each request, ascending; those that fill a row up lie behind all items
        self._places = torch.as_tensor(places, device=trie.device)
        total = mass.sum(1, keepdims=True)
        mass = mass / np.where(total > 0, total, 1)
        if limits is not None:
            allowed = limits.allow_runs(self._places, (self._places + 1).clamp(max=trie.trie.num_items))
            mass = mass * allowed.cpu().numpy()
        # summed one by one on the host: the sums of a parallel scan may fall where a mass is 0
        before = np.pad(mass.cumsum(1), ((0, 0), (1, 0)))
        self._mass_before = torch.as_tensor(before, device=trie.device)
        self._known = torch.as_tensor(total[:, 0] > 0, device=trie.device)

    def mix(self, nodes: Tensor, log_probs: Tensor) -> Tensor:
        """Log of the mixture.

        Args:
            nodes: int64 (requests, ...), not dead.
            log_probs: the model's log-probabilities of the prefixes that lead to them, of the same shape.
        """
        start, end = (edge.flatten(1).contiguous() for edge in self.trie.item_range(nodes))
        before, behind = (self._mass_before.gather(1, torch.searchsorted(self._places, edge)) for edge in (start, end))
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

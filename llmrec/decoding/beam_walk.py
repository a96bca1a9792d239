"""The catalogue's side of a beam search: which prefixes are looked at, which live on, and the items they end at.

Who scores the continuations (a model here, an engine in another process) is the caller's business.
"""

from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor

from llmrec.decoding.device_trie import DeviceTrie
from llmrec.decoding.item_prior import ItemPrior
from llmrec.decoding.ranked_items import RankedItems, ranked_items
from llmrec.decoding.rules import BatchRules
from llmrec.decoding.selection import best
from llmrec.decoding.trace import BeamTrace


@dataclass
class Beams:
    """Live prefixes of one depth, each of shape (users, beams); where a user has fewer, nodes are -1, the rest -inf."""

    nodes: Tensor
    keys: Tensor  # what beams are ranked by
    scores: Tensor  # log-probabilities
    first_codes: Tensor

    @classmethod
    def roots(cls, num_users: int, device: torch.device) -> "Beams":
        """One empty prefix for each user."""
        zeros = torch.zeros(num_users, 1, device=device)
        return cls(zeros.long(), zeros, zeros, zeros.long())


class Children(NamedTuple):
    """Continuations of all beams, each of shape (users, beams, widest branching).

    Attributes:
        nodes: they lead to.
        codes: ``END`` where a shorter ID ends.
        valid: whether the catalogue has the continuation.
        allowed: whether the rules leave an item under it too.
    """

    nodes: Tensor
    codes: Tensor
    valid: Tensor
    allowed: Tensor


class BeamWalk:
    """One search of a batch of users, level by level: ``children``, scores from the caller, ``keep``; then ``ranked``.

    Args:
        trie: the catalogue's semantic IDs.
        num_users: how many searches.
        num_beams: search width.
        k: list length.
        limits: rules of the users.
        max_per_first_code: at most so many items whose semantic IDs start with the same code. While prefixes are short,
            no first code may hold more beams than leave room for enough others to fill ``k`` places.
        trace: collects the beam tree, where given.
        prior: mixed with the caller's scores, where given: beams and items are then ranked by the mixture.

    Raises:
        ValueError: if ``max_per_first_code`` is below 1.
    """

    def __init__(
        self,
        trie: DeviceTrie,
        num_users: int,
        num_beams: int,
        k: int,
        limits: BatchRules | None = None,
        max_per_first_code: int | None = None,
        trace: BeamTrace | None = None,
        prior: ItemPrior | None = None,
    ) -> None:
        if max_per_first_code is not None and max_per_first_code < 1:
            raise ValueError(f"max_per_first_code is {max_per_first_code}; it needs 1 or more.")
        self.trie = trie
        self.depth = 0
        self.beams = Beams.roots(num_users, trie.device)
        self._num_beams, self._k = num_beams, k
        self._limits, self._max_per_first_code, self._trace = limits, max_per_first_code, trace
        self._prior = prior

    @property
    def finished(self) -> bool:
        return self.depth == self.trie.num_codebooks

    def children(self) -> Children:
        """Continuations of the beams that are live now."""
        nodes, codes, valid = self.trie.children(self.beams.nodes, self.depth)
        allowed = valid if self._limits is None else valid & self._limits.allow(nodes)
        return Children(nodes, codes, valid, allowed)

    def keep(self, children: Children, log_probs: Tensor) -> tuple[Tensor, Tensor]:
        """Let the best continuations live on.

        Args:
            children: of the beams.
            log_probs: of the children after their prefixes: float32 (users, beams, widest branching); what is not
                allowed counts as -inf.

        Returns:
            The new beams' last codes, and the beams they continue: int64 (users, new beams).
        """
        scores = self.beams.scores.unsqueeze(-1) + log_probs.masked_fill(~children.allowed, -torch.inf)
        keys = scores
        if self._prior is not None:
            keys = self._prior.mix(children.nodes, scores).masked_fill(~children.allowed, -torch.inf)
        before = self.beams
        self.beams, parents, codes = keep(
            self.depth, before, children.nodes, children.codes, keys, scores, self._num_beams, self._cap()
        )
        if self._trace is not None:
            after = self.beams
            self._trace.add(before.keys, children.nodes, children.codes, keys, after.nodes, after.keys, parents, codes)
        self.depth += 1
        return codes, parents

    def ranked(self) -> RankedItems:
        """Items of the beams that reached the last level."""
        beams = self.beams
        return ranked_items(
            self.trie, beams.nodes, beams.keys, self._k, self._limits, beams.first_codes, self._max_per_first_code
        )

    def _cap(self) -> int | None:
        if self._max_per_first_code is None or self.depth + 1 == self.trie.num_codebooks:
            return self._max_per_first_code
        return max(1, self._num_beams // ceil(self._k / self._max_per_first_code))


def keep(
    depth: int,
    beams: Beams,
    children: Tensor,
    codes: Tensor,
    keys: Tensor,
    scores: Tensor,
    count: int,
    per_first_code: int | None,
) -> tuple[Beams, Tensor, Tensor]:
    """The candidates (users, beams, branching) that live on: (new beams, their parents, their codes)."""
    first_codes = codes if depth == 0 else beams.first_codes.unsqueeze(-1).expand_as(codes)
    chosen, index = best(keys.flatten(1), count, first_codes.flatten(1), per_first_code)
    live = chosen > -torch.inf
    kept = Beams(
        torch.where(live, children.flatten(1).gather(1, index), -1),
        chosen,
        chosen if keys is scores else scores.flatten(1).gather(1, index),
        first_codes.flatten(1).gather(1, index),
    )
    return kept, index // codes.shape[-1], codes.flatten(1).gather(1, index)

"""Distillation from item-kNN: what it expects after each item of a training history becomes part of the targets.

A history names one next item, item-kNN names all that other users took next to its items. A small model learns such
links slowly, code by code; told of them it learns them in fewer passes (docs/benchmarks.md). The teacher's scores leave
out what the history itself added to the links, or they would only say again what the label says.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from llmrec.baselines import ItemKNN
from llmrec.training.examples import IGNORED_LABEL


class SoftTargets(NamedTuple):
    """What a teacher expects at some of a batch's targets; the weights of one target sum to 1.

    Attributes:
        targets: int64 (entries,), number of the target among all of the batch, row by row.
        tokens: int64 (entries,), token id.
        weights: float32 (entries,), its share.
    """

    targets: np.ndarray
    tokens: np.ndarray
    weights: np.ndarray


class ItemKNNTeacher:
    """Item-kNN's shares of the codes that may follow, at every code of a history but the first item's.

    At the first code of an item they are the shares of all items, summed by code; at a later one those of the items
    that agree with the label so far. Items that share a semantic ID count as one. Where no item has a link, or none
    that agrees, there are no shares.

    Args:
        sequences: each user's training items, oldest first, as rows of ``item_tokens``.
        item_tokens: token ids of each item's semantic ID, of shape (num_items, num_levels).
        share: of the teacher in the targets, above 0 and below 1.
        exclude_seen: whether items that the history holds already get nothing, as in evaluation.
    """

    def __init__(
        self, sequences: Sequence[Sequence[int]], item_tokens: np.ndarray, share: float, exclude_seen: bool = True
    ) -> None:
        self.share = share
        self.id_tokens, numbers = np.unique(item_tokens, axis=0, return_inverse=True)
        self.exclude_seen = exclude_seen
        self.item_knn = ItemKNN().fit([numbers[list(sequence)].tolist() for sequence in sequences], len(self.id_tokens))
        self._number_of = {tuple(tokens): number for number, tokens in enumerate(self.id_tokens.tolist())}
        size = (len(self.id_tokens), int(self.id_tokens.max()) + 1)
        entries = np.ones(size[0]), np.arange(size[0])
        self._tokens_of_ids = [
            sparse.csr_array((entries[0], (entries[1], tokens)), shape=size) for tokens in self.id_tokens.T
        ]

    def __call__(self, labels: np.ndarray) -> SoftTargets:
        """Shares for the histories in ``labels`` of shape (batch, length), -100 where there is no target.

        A history is an unbroken run of targets that spells two items or more, and nothing else.
        """
        histories, starts = self._histories(labels)
        if not histories:
            return SoftTargets(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
        scores = self.item_knn.scores_within(histories, self.exclude_seen)
        # rows of scores: the items of all histories one after the other, each history's first one without an entry
        truth = np.array([number for history in histories for number in history])
        lengths = np.array([len(history) for history in histories])
        num_levels = self.id_tokens.shape[1]
        places = np.arange(len(truth)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        first_targets = np.repeat(starts, lengths) + places * num_levels
        found = []
        for level, tokens_of_ids in enumerate(self._tokens_of_ids):
            of_tokens = sparse.coo_array(scores @ tokens_of_ids)
            totals = np.bincount(of_tokens.row, of_tokens.data, minlength=len(truth))
            shares = (of_tokens.data / totals[of_tokens.row]).astype(np.float32)
            found.append((first_targets[of_tokens.row] + level, of_tokens.col.astype(np.int64), shares))
            if level < num_levels - 1:
                entries = scores.tocoo()
                agrees = self.id_tokens[entries.col, level] == self.id_tokens[truth[entries.row], level]
                kept = (entries.data[agrees], (entries.row[agrees], entries.col[agrees]))
                scores = sparse.csr_array(kept, shape=scores.shape)
        return SoftTargets(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def _histories(self, labels: np.ndarray) -> tuple[list[list[int]], list[int]]:
        """Histories as numbers of IDs, and for each the number of its first target among all of the batch."""
        is_target = labels != IGNORED_LABEL
        edges = np.diff(np.pad(is_target, ((0, 0), (1, 1))).astype(np.int8), axis=1)
        rows, begins = np.nonzero(edges == 1)
        _, ends = np.nonzero(edges == -1)
        before = np.cumsum(ends - begins) - (ends - begins)
        num_levels = self.id_tokens.shape[1]
        histories, starts = [], []
        for row, begin, end, start in zip(rows, begins, ends, before, strict=True):
            if (end - begin) % num_levels or end - begin < 2 * num_levels:
                continue
            spelt = labels[row, begin:end].reshape(-1, num_levels).tolist()
            numbers = [self._number_of.get(tuple(tokens), -1) for tokens in spelt]
            if min(numbers) >= 0:
                histories.append(numbers)
                starts.append(int(start))
        return histories, starts


def distilled_loss(logits: Tensor, labels: Tensor, soft: SoftTargets, share: float) -> Tensor:
    """Summed cross-entropy of targets that are the label, and for ``share`` what the teacher expects where it does.

    Args:
        logits: at the targets, float32 (num_targets, vocabulary).
        labels: int64 (num_targets,).
        soft: shares of tokens at some of them.
        share: of the teacher, 0 to 1.
    """
    targets, tokens, weights = (torch.from_numpy(part).to(logits.device) for part in soft)
    # weights sum to 1, so that what is normalised once for the label holds for the teacher too
    moved = (weights * (logits[targets, labels[targets]] - logits[targets, tokens])).sum()
    return nn.functional.cross_entropy(logits, labels, reduction="sum") + share * moved

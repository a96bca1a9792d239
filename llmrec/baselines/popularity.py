"""The same most frequent items for everyone."""

from collections.abc import Collection, Sequence

import numpy as np


class Popularity:
    """Rank items by how often the training sequences hold them; of two with equal counts the lower index comes first.

    Attributes:
        counts: int64 array of shape (num_items,), once fitted.
    """

    counts: np.ndarray

    def fit(self, train_sequences: Sequence[Sequence[int]], num_items: int) -> "Popularity":
        """Count the items of ``train_sequences``, one sequence of item indices per user."""
        items = np.fromiter((item for sequence in train_sequences for item in sequence), dtype=np.int64)
        self.counts = np.bincount(items, minlength=num_items)
        return self

    def recommend(
        self,
        histories: Sequence[Sequence[int]],
        k: int,
        exclude: Sequence[Collection[int]] | None = None,
        candidates: np.ndarray | None = None,
    ) -> np.ndarray:
        """The ``k`` most frequent items that are not excluded.

        Args:
            histories: item indices of each user, oldest first; only their number matters here.
            k: list length.
            exclude: item indices that each user must not get.
            candidates: bool array of shape (num_items,): the items that anyone may get; None for all.

        Returns:
            int64 array of shape (num_users, k), best first; -1 where no item is left.
        """
        order = np.argsort(-self.counts, kind="stable")
        order = order if candidates is None else order[candidates[order]]
        ranked = np.full((len(histories), k), -1, dtype=np.int64)
        for user in range(len(histories)):
            excluded = set(exclude[user]) if exclude is not None else set()
            # nobody can exclude more than len(excluded) of the first ones
            kept = [item for item in order[: k + len(excluded)].tolist() if item not in excluded][:k]
            ranked[user, : len(kept)] = kept
        return ranked

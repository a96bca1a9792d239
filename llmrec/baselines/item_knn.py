"""Item-kNN over directional co-occurrence: short, fast, and ahead of many published neural recommenders."""

from collections.abc import Collection, Sequence

import numpy as np
from scipy import sparse

_USERS_AT_ONCE = 1024
#: Below it a difference of equal sums is rounding.
_NO_SCORE = 1e-9


class ItemKNN:
    """What followed the last items of this history in other users' sequences?

    Within ``window`` places, an item at distance ``gap`` before another adds ``1 / gap`` to the link from the first to
    the second, and ``backward / gap`` to the link back. A link is divided by the square root of the product of the two
    items' counts. An item's score is the sum of its links from the last ``query_length`` items of the history, with
    weight ``decay ** steps_back``.

    Args:
        window: largest distance of two items that counts as a co-occurrence.
        backward: weight of the link from the later item to the earlier one.
        query_length: how many of the latest items of a history are looked up.
        decay: factor for each step back in the history.

    Attributes:
        links: sparse float64 array of shape (num_items, num_items), from row to column, once fitted.
        counts: how often each item was met, int64 of shape (num_items,), once fitted.
    """

    links: sparse.csr_array
    counts: np.ndarray

    def __init__(self, window: int = 10, backward: float = 0.5, query_length: int = 10, decay: float = 0.7) -> None:
        self.window = window
        self.backward = backward
        self.query_length = query_length
        self.decay = decay

    def fit(self, train_sequences: Sequence[Sequence[int]], num_items: int) -> "ItemKNN":
        """Build the links from ``train_sequences``: item indices of each user, oldest first."""
        lengths = np.fromiter((len(sequence) for sequence in train_sequences), dtype=np.int64)
        items = np.fromiter((item for sequence in train_sequences for item in sequence), dtype=np.int64)
        users = np.repeat(np.arange(len(lengths)), lengths)
        links = sparse.csr_array((num_items, num_items), dtype=np.float64)
        for gap in range(1, self.window + 1):
            same_user = users[gap:] == users[:-gap]
            earlier, later = items[:-gap][same_user], items[gap:][same_user]
            forward = sparse.coo_array(
                (np.full(len(earlier), 1 / gap), (earlier, later)), shape=(num_items, num_items)
            ).tocsr()
            links = links + forward + self.backward * forward.T
        self.counts = np.bincount(items, minlength=num_items)
        inverse_root = sparse.diags_array(1 / np.sqrt(np.maximum(self.counts, 1)))
        self.links = sparse.csr_array(inverse_root @ links @ inverse_root)
        return self

    def recommend(
        self,
        histories: Sequence[Sequence[int]],
        k: int,
        exclude: Sequence[Collection[int]] | None = None,
        candidates: np.ndarray | None = None,
    ) -> np.ndarray:
        """The ``k`` items with the highest scores; of two with equal scores the lower index comes first.

        Args:
            histories: item indices of each user, oldest first.
            k: list length.
            exclude: item indices that each user must not get.
            candidates: bool array of shape (num_items,): the items that anyone may get; None for all.

        Returns:
            int64 array of shape (num_users, k), best first; -1 where fewer items have any link from the history.
        """
        ranked = np.full((len(histories), k), -1, dtype=np.int64)
        for start in range(0, len(histories), _USERS_AT_ONCE):
            scores = self.scores(histories[start : start + _USERS_AT_ONCE])
            for row in range(scores.shape[0]):
                entries = slice(scores.indptr[row], scores.indptr[row + 1])
                items, values = scores.indices[entries], scores.data[entries]
                if candidates is not None:
                    kept = candidates[items]
                    items, values = items[kept], values[kept]
                if exclude is not None:
                    kept = ~np.isin(items, list(exclude[start + row]))
                    items, values = items[kept], values[kept]
                best = items[np.lexsort((items, -values))][:k]
                ranked[start + row, : len(best)] = best
        return ranked

    def scores(self, histories: Sequence[Sequence[int]]) -> sparse.csr_array:
        """The items' scores for each history, none of them negative: float64 (num_users, num_items)."""
        scores = sparse.csr_array(self._query(histories) @ self.links)
        # sums that are equal on paper differ in the last bits with the order of addition: make them ties again
        scores.data = np.round(scores.data, 12)
        return scores

    def scores_within(self, sequences: Sequence[Sequence[int]], exclude_seen: bool = True) -> sparse.csr_array:
        """For each item of training sequences the scores given those before it, as other users' sequences have them.

        What a sequence itself added to the links is left out, exactly if no item stands in it twice.

        Args:
            sequences: parts of the sequences that were fitted on, each unbroken; with an item or more in all of them.
            exclude_seen: whether items that stand before get no score.

        Returns:
            float64 of shape (items of all sequences, num_items), above 0 where there is an entry; a sequence's first
            item has none.
        """
        lengths = np.array([len(sequence) for sequence in sequences])
        items = np.concatenate([np.asarray(sequence, dtype=np.int64) for sequence in sequences])
        starts = np.cumsum(lengths) - lengths
        scores = (
            self._query([sequence[:place] for sequence in sequences for place in range(len(sequence))]) @ self.links
        )

        # padded to (sequences, longest): links that a sequence added from its item j to its item u, asked for at t
        longest = lengths.max(initial=0)
        place = np.arange(longest)
        is_item = place < lengths[:, None]
        padded = np.zeros(is_item.shape, dtype=np.int64)
        padded[is_item] = items
        gap = place - place[:, None]
        near = np.where((gap != 0) & (np.abs(gap) <= self.window), 1 / np.maximum(np.abs(gap), 1), 0)
        inverse_root = is_item / np.sqrt(np.maximum(self.counts[padded], 1))
        added = np.where(gap > 0, near, self.backward * near) * inverse_root[:, :, None] * inverse_root[:, None, :]
        steps_back = -gap - 1
        asked = np.where(
            (steps_back >= 0) & (steps_back < self.query_length), self.decay ** np.maximum(steps_back, 0), 0
        )
        own = asked @ added

        sequence, row, column = np.nonzero(is_item[:, :, None] & is_item[:, None, :])
        where = (starts[sequence] + row, padded[sequence, column])
        scores = sparse.csr_array(scores - sparse.coo_array((own[sequence, row, column], where), shape=scores.shape))
        if exclude_seen:
            stands_before = column < row
            seen = (where[0][stands_before], where[1][stands_before])
            scores = scores - scores * (sparse.coo_array((np.ones(len(seen[0])), seen), shape=scores.shape) > 0)
        scores.data[scores.data < _NO_SCORE] = 0
        scores.eliminate_zeros()
        return scores

    def _query(self, histories: Sequence[Sequence[int]]) -> sparse.csr_array:
        """Weights of the looked-up items: float64 (num_users, num_items)."""
        queries = [list(history)[-self.query_length :][::-1] for history in histories]
        weights = self.decay ** np.arange(self.query_length)
        return sparse.csr_array(
            (
                np.concatenate([weights[: len(items)] for items in queries]),
                np.array([item for items in queries for item in items], dtype=np.int64),
                np.concatenate([[0], np.cumsum([len(items) for items in queries])]),
            ),
            shape=(len(queries), self.links.shape[0]),
        )

"""A catalogue scored by SETRec: one forward pass for a user, then a product with every item (section 3.3)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from llmrec.models.setrec.item_features import ItemFeatures
from llmrec.models.setrec.model import PADDING, SetRecModel
from llmrec.vector_index import IndexKind, VectorIndex

#: Items whose tokens are computed at a time.
_ITEMS_AT_ONCE = 65_536


class SetScores(NamedTuple):
    """Scores of every item for each user: by the CF token, and summed over the semantic tokens.

    Attributes:
        cf, semantic: float32 of shape (batch, num_items).
    """

    cf: Tensor
    semantic: Tensor

    def grounded(self, beta: float) -> Tensor:
        """(1 - beta) CF score + beta * sum of the semantic scores."""
        return (1 - beta) * self.cf + beta * self.semantic


class SetSearch:
    """A model over one catalogue, whose tokens are computed once. Several may share a model.

    Args:
        model: in evaluation mode.
        features: of the catalogue's items.
        index: how ``best`` searches. None is a product with every item, on the model's device, which holds a score of
            every item for every user; the others search on the CPU, a part of the catalogue only if ``approximate``.

    Raises:
        ValueError: if the embeddings are of other widths than the model's.
    """

    def __init__(self, model: SetRecModel, features: ItemFeatures, index: IndexKind | None = None) -> None:
        model.check_features(features)
        self.model = model
        self._features = features.to(model.queries.weight.device)
        with torch.no_grad():
            parts = torch.arange(len(features), device=self._features.cf.device).split(_ITEMS_AT_ONCE)
            vectors = torch.cat([self._vectors_of(items) for items in parts])
        # an index holds them itself: no second copy is kept
        self._vectors = vectors if index is None else None
        self._index = None if index is None else VectorIndex(vectors.cpu().numpy(), index)

    @torch.no_grad()
    def score(self, histories: Sequence[Sequence[int]]) -> SetScores:
        """Scores of every item after each history of item indices, oldest first; a history may be empty.

        Raises:
            ValueError: if the search has an index, which knows the best items only.
        """
        if self._vectors is None:
            raise ValueError("Scores of every item come from a search without an index: SetSearch(model, features).")
        states = self._states(histories)
        cf, semantic = self._vectors.tensor_split([states.shape[2]], dim=1)
        return SetScores(states[:, 0] @ cf.T, states[:, 1:].flatten(1) @ semantic.T)

    @torch.no_grad()
    def best(
        self,
        histories: Sequence[Sequence[int]],
        beta: float,
        k: int,
        exclude: Sequence[Sequence[int]],
        allow: Sequence[Sequence[int] | None],
    ) -> tuple[Tensor, Tensor]:
        """The items of the highest grounded score after each history, best first.

        Args:
            histories: item indices, oldest first.
            beta: weight of the semantic scores.
            k: list length.
            exclude: items that each list may not hold.
            allow: the only items that each list may hold; None for all.

        Returns:
            Item indices, -1 for empty places, and their scores; both of shape (batch, k).
        """
        # a grounded score is one product: the queries carry the weights
        states = self._states(histories)
        queries = torch.cat([(1 - beta) * states[:, :1], beta * states[:, 1:]], dim=1).flatten(1)
        if self._index is None:
            assert self._vectors is not None
            scores = queries @ self._vectors.T
            return best_items(scores, k, _banned(exclude, allow, scores))
        found = self._index.search(queries.cpu().numpy(), k, exclude)
        items, values = (torch.from_numpy(part).to(queries.device) for part in found)
        for row, allowed in enumerate(allow):
            if allowed is not None:  # few of many, which an approximate search would miss
                few = torch.tensor(sorted(set(allowed) - set(exclude[row])), dtype=torch.int64, device=queries.device)
                places, values[row : row + 1] = best_items(queries[row : row + 1] @ self._vectors_of(few).T, k)
                items[row] = torch.cat([few, few.new_tensor([PADDING])])[places[0]]
        return items, values

    def _states(self, histories: Sequence[Sequence[int]]) -> Tensor:
        """Of the queries after each history, float32 of shape (batch, 1 + N, hidden_size)."""
        history = padded_rows(histories).to(self._features.cf.device)
        return self.model.query(history, tokens_of=self._tokens_of)[:, 0].float()

    def _tokens_of(self, items: Tensor) -> Tensor:
        return self.model.tokenize(self._features.cf[items], self._features.text[items])

    def _vectors_of(self, items: Tensor) -> Tensor:
        """Their tokens in one row each, float32 of shape (num_items, (1 + N) * hidden_size)."""
        return self._tokens_of(items).flatten(-2).float()


def best_items(scores: Tensor, k: int, banned: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The ``k`` highest of each row: item indices, -1 for empty places, and their scores; both (batch, k).

    Args:
        scores: float32 of shape (batch, num_items).
        k: list length.
        banned: bool of the same shape: not to be returned.
    """
    if banned is not None:
        scores = scores.masked_fill(banned, -torch.inf)
    values, items = scores.topk(min(k, scores.shape[1]))
    items = items.masked_fill(values == -torch.inf, PADDING)
    missing = k - items.shape[1]
    pad = torch.nn.functional.pad
    return pad(items, (0, missing), value=PADDING), pad(values, (0, missing), value=-torch.inf)


def _banned(exclude: Sequence[Sequence[int]], allow: Sequence[Sequence[int] | None], scores: Tensor) -> Tensor:
    """True where a list may not have an item, shape of ``scores``."""
    banned = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    for row, (excluded, allowed) in enumerate(zip(exclude, allow, strict=True)):
        if allowed is not None:
            banned[row] = True
            banned[row, list(allowed)] = False
        banned[row, list(excluded)] = True
    return banned


def padded_rows(rows: Sequence[Sequence[int]], padding: int = PADDING) -> Tensor:
    """Rows of integers as one int64 tensor, padded at the end."""
    width = max((len(row) for row in rows), default=0)
    padded = [[*row, *[padding] * (width - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.int64).reshape(len(rows), width)

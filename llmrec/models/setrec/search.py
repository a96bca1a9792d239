"""A catalogue scored by SETRec: one forward pass for a user, then a product with every item (section 3.3)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from llmrec.models.setrec.item_features import ItemFeatures
from llmrec.models.setrec.model import PADDING, SetRecModel

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

    Raises:
        ValueError: if the embeddings are of other widths than the model's.
    """

    def __init__(self, model: SetRecModel, features: ItemFeatures) -> None:
        model.check_features(features)
        self.model = model
        features = features.to(model.queries.weight.device)
        with torch.no_grad():
            parts = zip(features.cf.split(_ITEMS_AT_ONCE), features.text.split(_ITEMS_AT_ONCE), strict=True)
            self.tokens = torch.cat([model.tokenize(cf, text) for cf, text in parts])
            # of items, in the shape of the two products that every request takes
            self._cf = self.tokens[:, 0].float().contiguous()
            self._semantic = self.tokens[:, 1:].float().flatten(1).contiguous()

    @torch.no_grad()
    def score(self, histories: Sequence[Sequence[int]]) -> SetScores:
        """Scores after each history of item indices, oldest first; a history may be empty."""
        history = padded_rows(histories).to(self.tokens.device)
        states = self.model.query(history, tokens=self.tokens)[:, 0].float()
        return SetScores(states[:, 0] @ self._cf.T, states[:, 1:].flatten(1) @ self._semantic.T)


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


def padded_rows(rows: Sequence[Sequence[int]], padding: int = PADDING) -> Tensor:
    """Rows of integers as one int64 tensor, padded at the end."""
    width = max((len(row) for row in rows), default=0)
    padded = [[*row, *[padding] * (width - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.int64).reshape(len(rows), width)

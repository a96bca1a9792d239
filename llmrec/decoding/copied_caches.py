"""A cache for every beam, for models whose attention takes no tree mask: the prompt still runs once for each user."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from llmrec.decoding.model_outputs import ModelForward


class CopiedCaches:
    """The model state of one search: rows of a batch are beams, and caches follow them.

    Arguments and methods as for ``SharedPrefix``.
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], hidden: bool) -> None:
        self.forward = ModelForward(model, prompts, hidden)
        self._mask = self.forward.prefix_mask.long()
        self._next_position = self._mask.sum(1)
        self._beams = 1
        self._cache: Any = None

    def prefill(self) -> Tensor:
        positions = (self._mask.cumsum(1) - 1).clamp(min=0)
        states, self._cache = self.forward(self.forward.prefix_ids, self._mask, positions, None, last_only=True)
        return states

    def advance(self, tokens: Tensor, parents: Tensor) -> Tensor:
        users, beams = tokens.shape
        rows = (torch.arange(users, device=tokens.device).unsqueeze(1) * self._beams + parents).flatten()
        self._cache.reorder_cache(rows)
        self.forward.select_rows(rows)
        self._mask = torch.cat([self._mask[rows], self._mask.new_ones(len(rows), 1)], dim=1)
        positions = self._next_position[rows].unsqueeze(1)
        self._next_position, self._beams = self._next_position[rows] + 1, beams
        states, self._cache = self.forward(tokens.reshape(-1, 1), self._mask, positions, self._cache, last_only=True)
        return states.view(users, beams, -1)

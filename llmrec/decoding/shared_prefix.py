"""One prefix for all beams of a user (tree attention).

The prompt runs once. The beams of a level then run as extra tokens of the *same* sequence under an explicit 4-D mask
that shows each of them the prompt and its own ancestors: all beams share the prompt's key-value cache, and nothing is
ever copied or reordered.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel

from llmrec.decoding.model_outputs import ModelForward


class SharedPrefix:
    """The model state of one search: the prefix, then one block of columns for each level's beams.

    Sliding-window layers keep all their keys here, since beams stand further apart in columns than in positions; the
    mask carries the window. A T5's relative position bias goes by column too: there the mask carries the difference.

    Args:
        model: model whose attention takes a 4-D mask. ``probe`` finds out.
        prompts: token ids of each user's prompt.
        hidden: as for ``ModelForward``.

    Raises:
        ValueError: if a layer is neither of full nor of sliding-window attention.
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], hidden: bool) -> None:
        config = model.config.get_text_config(decoder=True)
        self._layer_types = sorted(set(getattr(config, "layer_types", None) or []))
        # a short probe could not tell a chunk that is longer than itself
        unknown = set(self._layer_types) - {"full_attention", "sliding_attention"}
        if unknown or getattr(config, "attention_chunk_size", None):
            raise ValueError(f"layers of {sorted(unknown) or 'chunked attention'} can't share a prefix")
        self.forward = ModelForward(model, prompts, hidden)
        self._window: int | None = getattr(config, "sliding_window", None)
        self._bool_mask = config._attn_implementation == "sdpa"
        self._dtype = model.dtype
        self._relative = _relative_attention(model)
        self._prefix_mask = self.forward.prefix_mask
        self._lengths = self._prefix_mask.sum(1, keepdim=True)
        self._positions = (self._prefix_mask.long().cumsum(1) - 1).clamp(min=0)
        self._cache: Any = DynamicCache()
        if model.config.is_encoder_decoder:
            self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self._ancestors: Tensor | None = None  # bool (users, beams, columns after the prefix)
        self._depth = 0

    def prefill(self) -> Tensor:
        """Outputs after the prefix: (users, 1, width)."""
        states, self._cache = self.forward(
            self.forward.prefix_ids, self._prefix_mask.long(), self._positions, self._cache, last_only=True
        )
        return states

    def advance(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """Outputs after one more token for each beam: (users, beams, width).

        Args:
            tokens: int64 (users, beams).
            parents: int64 (users, beams): the beam of the level before that each one continues.
        """
        users, beams = tokens.shape
        own = torch.eye(beams, dtype=torch.bool, device=tokens.device).expand(users, -1, -1)
        if self._ancestors is not None:
            rows = parents.unsqueeze(-1).expand(-1, -1, self._ancestors.shape[-1])
            own = torch.cat([self._ancestors.gather(1, rows), own], dim=-1)
        self._ancestors = own
        visible = torch.cat([self._prefix_mask.unsqueeze(1).expand(-1, beams, -1), own], dim=-1)
        positions = (self._lengths + self._depth).expand(-1, beams)
        self._positions = torch.cat([self._positions, positions], dim=1)
        self._depth += 1
        states, self._cache = self.forward(tokens, self._mask(visible), positions, self._cache, last_only=False)
        return states

    def _mask(self, visible: Tensor) -> Any:
        """4-D mask, or one for each kind of layer, from bool (users, beams, columns)."""
        if self._layer_types == ["full_attention"]:
            return self._additive(visible)
        if not self._layer_types:
            return self._additive(self._windowed(visible))
        full, sliding = self._additive(visible), self._additive(self._windowed(visible))
        return {kind: sliding if kind == "sliding_attention" else full for kind in self._layer_types}

    def _windowed(self, visible: Tensor) -> Tensor:
        if self._window is None:
            return visible
        distance = (self._lengths + self._depth - 1).unsqueeze(-1) - self._positions.unsqueeze(1)
        return visible & (distance < self._window)

    def _additive(self, visible: Tensor) -> Tensor:
        mask = visible.unsqueeze(1)
        if self._relative is None and self._bool_mask:
            return mask
        additive = torch.zeros(mask.shape, dtype=self._dtype, device=mask.device)
        if self._relative is not None:
            additive = self._bias_correction(visible.shape[1], visible.shape[2]).to(self._dtype)
        return torch.where(mask, additive, torch.finfo(self._dtype).min)

    def _bias_correction(self, beams: int, columns: int) -> Tensor:
        """Position bias by depth less the one by column that T5 adds itself: (1, heads, beams, columns)."""
        by_column = self._relative.compute_bias(beams, columns, past_seen_tokens=columns - beams)
        # the prefix is the start token alone: users share all positions
        depths = self._positions[0]
        by_depth = self._relative.compute_bias(1, int(self._depth) + 1, past_seen_tokens=int(self._depth))
        return by_depth[..., depths] - by_column


def _relative_attention(model: PreTrainedModel) -> Any:
    """The self-attention that owns a T5's relative position bias, or None."""
    if not model.config.is_encoder_decoder:
        return None
    return next(
        (module for module in model.get_decoder().modules() if hasattr(module, "relative_attention_bias")), None
    )

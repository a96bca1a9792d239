"""Attention over packed sequences with the kernel that comes with torch, for GPUs without the flash-attn package."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, sdpa_mask

#: Name of the attention: ``--attn_implementation varlen``.
VARLEN = "varlen"


def register_varlen_attention() -> None:
    """Make ``attn_implementation="varlen"`` known to transformers."""
    AttentionInterface.register(VARLEN, _attention)
    AttentionMaskInterface.register(VARLEN, _mask)


def flattens_batches(attn_implementation: str | None) -> bool:
    """Whether an attention takes a packed batch as one long sequence with boundaries (``cu_seq_lens_q``)."""
    return attn_implementation is not None and (attn_implementation == VARLEN or "flash" in attn_implementation)


def _mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Callable = causal_mask_function,
    attention_mask: torch.Tensor | None = None,
    allow_is_causal_skip: bool = True,
    **kwargs: Any,
) -> torch.Tensor | None:
    """An empty mask for a packed sequence, whose boundaries the kernel gets; otherwise what sdpa gets."""
    if attention_mask is None and batch_size == 1 and q_length == kv_length and not allow_is_causal_skip:
        return torch.empty(0, device=kwargs.get("device", "cpu"))
    return sdpa_mask(
        batch_size,
        q_length,
        kv_length,
        mask_function=mask_function,
        attention_mask=attention_mask,
        allow_is_causal_skip=allow_is_causal_skip,
        **kwargs,
    )


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers asks for it: ``query`` of shape (batch, heads, tokens, head size).

    Raises:
        ValueError: for a packed sequence without its boundaries, or with dropout, which the kernel has not.
    """
    starts = kwargs.get("cu_seq_lens_q")
    if starts is None:
        if attention_mask is not None and attention_mask.numel() == 0:
            raise ValueError(
                "A packed sequence came without cu_seq_lens_q: collate it with TRL's padding-free collator."
            )
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if dropout:
        raise ValueError(f"attn_implementation {VARLEN} has no dropout, and {dropout} was asked for: use sdpa.")
    longest = int(kwargs["max_length_q"])
    window = (-1 if sliding_window is None else sliding_window - 1, 0)
    # one sequence holds all: (tokens, heads, head size), as the kernel wants it
    dtype = _kernel_dtype(query)
    query, key, value = (states[0].transpose(0, 1).to(dtype) for states in (query, key, value))
    output: torch.Tensor = varlen_attn(  # type: ignore[assignment]
        query, key, value, starts, starts, longest, longest, scale=scaling, window_size=window, enable_gqa=True
    )
    return output[None], None


def _kernel_dtype(states: torch.Tensor) -> torch.dtype:
    """Of the kernel's inputs: rotary positions turn what autocast made 16 bits wide back into float32."""
    if states.dtype != torch.float32 or not torch.is_autocast_enabled(states.device.type):
        return states.dtype
    return torch.get_autocast_dtype(states.device.type)

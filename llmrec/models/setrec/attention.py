"""An explicit mask for every attention backend that takes one: none may fall back to plain causal attention."""

from typing import Any

import torch
from torch import Tensor

#: Backends that take any mask. Flash attention takes none, and would attend causally without a word.
MASKED_BACKENDS = ("eager", "sdpa", "flex_attention")


def check_backend(backend: str | None) -> None:
    """Refuse a backend that would ignore the mask.

    Raises:
        ValueError: naming those that do not.
    """
    if backend not in MASKED_BACKENDS:
        raise ValueError(
            f"attn_implementation {backend!r} takes no mask, and SETRec without its mask is another model: allowed "
            f"are {', '.join(MASKED_BACKENDS)}."
        )


def backend_mask(allowed: Tensor, backend: str, dtype: torch.dtype) -> Any:
    """The mask in the form that a backend takes.

    Args:
        allowed: bool of shape (batch, 1, queries, keys).
        backend: one of ``MASKED_BACKENDS``.
        dtype: of the hidden states.

    Returns:
        ``allowed`` itself for sdpa; 0 and the lowest number of ``dtype``, of the same shape, for eager; a
        ``BlockMask`` for flex_attention.
    """
    check_backend(backend)
    if backend == "sdpa":
        return allowed
    if backend == "eager":
        return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)
    from torch.nn.attention.flex_attention import create_block_mask  # noqa: PLC0415 -- brings the compiler

    return create_block_mask(
        lambda batch, head, query, key: allowed[batch, 0, query, key],  # noqa: ARG005 -- the interface has the head
        B=allowed.shape[0],
        H=None,
        Q_LEN=allowed.shape[2],
        KV_LEN=allowed.shape[3],
        device=str(allowed.device),
    )

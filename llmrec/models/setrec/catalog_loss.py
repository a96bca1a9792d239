"""Cross-entropy over a whole catalogue, a chunk of items at a time where its logits would not fit."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

#: Logits that are held at once: 128 MB in float32, and as much again for their gradient.
LOGITS_AT_ONCE = 2**25


def catalog_cross_entropy(
    states: Tensor, targets: Tensor, tokens_of: Callable[[Tensor], Tensor], num_items: int, chunk: int | None = None
) -> Tensor:
    """Sum over rows and queries of -log softmax of the target among all items (arXiv 2502.10833, equation 8).

    A query's logit of an item is the product of its state with that item's token of the same place. Beyond one chunk,
    tokens and logits of a chunk are computed again for its gradient instead of being kept.

    Args:
        states: at the queries, shape (rows, num_tokens, hidden_size).
        targets: item indices, int64 of shape (rows,).
        tokens_of: item indices (n,) to tokens (n, num_tokens, hidden_size).
        num_items: size of the catalogue.
        chunk: items at a time; None takes as many as ``LOGITS_AT_ONCE`` allows.

    Returns:
        A scalar in float32; 0 for no rows, with gradients of 0.
    """
    chunk = chunk or max(1, LOGITS_AT_ONCE // max(1, states.shape[0] * states.shape[1]))
    device = states.device.type
    # autocast would take the products, and with them the loss, back to half precision
    with torch.autocast(device, enabled=False):
        target_logits = (states.float() * tokens_of(targets).float()).sum(-1).T

    def normalizer(states: Tensor, items: Tensor) -> Tensor:
        with torch.autocast(device, enabled=False):
            return torch.einsum("rkh,ckh->krc", states.float(), tokens_of(items).float()).logsumexp(-1)

    chunks = torch.arange(num_items, device=states.device).split(chunk)
    if len(chunks) == 1:
        return (normalizer(states, chunks[0]) - target_logits).sum()
    parts = [checkpoint(normalizer, states, items, use_reentrant=False) for items in chunks]
    return (torch.stack(parts).logsumexp(0) - target_logits).sum()

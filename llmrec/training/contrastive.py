"""InfoNCE: a query's own item against the others of its batch, over all processes where asked for."""

import torch
from torch import Tensor, distributed, nn


def info_nce(queries: Tensor, items: Tensor, own: Tensor, temperature: float, excluded: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of each query's own item by cosine over ``temperature`` (LREM, Eq. 7: query to item only).

    Args:
        queries: float of shape (num_queries, dim), rows of length 1.
        items: float of shape (num_items, dim), rows of length 1.
        own: each query's item among ``items``, int64 of shape (num_queries,).
        temperature: the paper does not report its own.
        excluded: bool of shape (num_queries, num_items): items that are no negatives of a query.

    Returns:
        Shape ().
    """
    scores = queries @ items.T / temperature
    if excluded is not None:
        scores = scores.masked_fill(excluded, -torch.inf)
    return nn.functional.cross_entropy(scores, own)


def relevant_elsewhere(item_rows: Tensor, relevant: Tensor, own: Tensor) -> Tensor:
    """Which items of a batch are relevant to a query without being its own: no negatives of it.

    Args:
        item_rows: which item of the catalogue each is, int64 of shape (num_items,).
        relevant: of each query the relevant items of the catalogue, int64 of shape (num_queries, most), -1 past them.
        own: each query's item among the batch's, int64 of shape (num_queries,).

    Returns:
        Bool of shape (num_queries, num_items).
    """
    excluded = (item_rows[None, :, None] == relevant[:, None, :]).any(dim=-1)
    excluded[torch.arange(len(own), device=own.device), own] = False
    return excluded


def gather_with_gradient(rows: Tensor) -> Tensor:
    """The rows of all processes, in order of rank; gradients go back to the process that each row came from.

    Args:
        rows: shape (num_rows, ...), equal on all processes.

    Returns:
        Shape (num_processes * num_rows, ...).
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return rows
    return _Gather.apply(rows)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: torch.autograd.function.FunctionCtx, rows: Tensor) -> Tensor:  # type: ignore[override]
        everyone = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(everyone, rows.contiguous())
        context.num_rows = len(rows)  # type: ignore[attr-defined]
        return torch.cat(everyone)

    @staticmethod
    def backward(context: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:  # type: ignore[override]
        summed = gradient.contiguous().clone()
        distributed.all_reduce(summed)
        first = distributed.get_rank() * context.num_rows  # type: ignore[attr-defined]
        return summed[first : first + context.num_rows]  # type: ignore[attr-defined]

"""Uniform semantic mapping: spread a batch over all codes of a level as evenly as distances allow (LC-Rec)."""

import torch
from torch import Tensor

#: Masses of one item that differ by no more than this fraction are equal.
TIE_TOLERANCE = 1e-9


@torch.no_grad()
def sinkhorn_codes(distances: Tensor, epsilon: float, iterations: int) -> Tensor:
    """One code for each item by Sinkhorn-Knopp on the whole batch.

    Distances are scaled to -1..1 over the whole (batch, codes) matrix; then rows and columns of exp(-distance /
    epsilon) are normalised in turn, so that each item has mass 1 / batch and each code mass 1 / codes, codes last.
    Kept as two scaling vectors, which is the same in exact arithmetic and several times faster than dividing the
    matrix. A row's own scale can't change which code is its largest, so the last one is never applied.

    Ties go to the nearest code (ours). Where codes outnumber items, an item owns many codes outright, and their masses
    differ in the last bit only: the original's argmax picks one by rounding, another one on other hardware.

    Args:
        distances: (..., batch, codes) squared distances; leading dimensions are separate batches.
        epsilon: temperature; below 0.0015 float64 overflows.
        iterations: of one row and one column normalisation each.

    Returns:
        int64 of shape (..., batch).
    """
    largest = distances.amax(dim=(-2, -1), keepdim=True)
    middle = (largest + distances.amin(dim=(-2, -1), keepdim=True)) / 2
    scaled = (distances - middle) / (largest - middle + 1e-5)
    kernel = torch.exp(-scaled.double() / epsilon)
    batch, codes = kernel.shape[-2:]
    kernel = kernel / kernel.sum(dim=(-2, -1), keepdim=True)
    column_scale = kernel.new_ones(*kernel.shape[:-2], codes, 1)
    for _ in range(iterations):
        row_scale = 1 / (batch * (kernel @ column_scale))
        column_scale = 1 / (codes * (kernel.mT @ row_scale))
    mass = kernel * column_scale.mT
    tied = mass >= (1 - TIE_TOLERANCE) * mass.amax(dim=-1, keepdim=True)
    return torch.where(tied, distances, torch.inf).argmin(dim=-1)

"""Collisions: items with the same codes. LC-Rec's rounds, then the nearest free codes, then one further level."""

import numpy as np
import torch

from llmrec.item_tokenizer.config import ItemTokenizerConfig
from llmrec.item_tokenizer.quantizer import Quantizer
from llmrec.item_tokenizer.sinkhorn import sinkhorn_codes

#: Most float64 numbers of one Sinkhorn batch of groups (128 MiB).
MAX_GROUP_NUMBERS = 2**24


def collision_rate(codes: np.ndarray) -> float:
    """Share of items that a catalogue of distinct IDs would not need: (items - distinct IDs) / items."""
    return 1 - len(np.unique(codes, axis=0)) / len(codes)


def collision_groups(codes: np.ndarray) -> list[np.ndarray]:
    """Rows of the items that share all their codes with another: one ascending array for each shared ID."""
    _, inverse, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(inverse.reshape(-1), kind="stable")
    groups = np.split(order, np.cumsum(counts)[:-1])
    return [group for group in groups if len(group) > 1]


def conflict_rounds(
    quantizer: Quantizer, embeddings: np.ndarray, codes: np.ndarray, config: ItemTokenizerConfig
) -> np.ndarray:
    """Spread colliding items over the last level's codes (LC-Rec's index generation, steps 2 and 3).

    Each round finds the groups of colliding items once, at its start, and re-quantizes each group as one Sinkhorn
    batch at the last level. Earlier levels never change. Exact duplicates stay together, as in the original.

    Args:
        quantizer: a fitted one.
        embeddings: (num_items, dim) float32.
        codes: int32 (num_items, num_codebooks), the nearest codes.
        config: rounds, epsilon and iterations.

    Returns:
        A new int32 array like ``codes``.
    """
    codes = codes.copy()
    for _ in range(config.conflict_rounds):
        groups = collision_groups(codes)
        before = codes[:, -1].copy()
        for batch in _batches_of_equal_size(groups, config.codebook_size):
            codes[batch, -1] = _requantize(quantizer, embeddings, codes, batch, config)
        if np.array_equal(codes[:, -1], before):  # no collision left, or a fixed point: later rounds change nothing
            break
    return codes


def take_free_codes(
    quantizer: Quantizer, embeddings: np.ndarray, codes: np.ndarray, config: ItemTokenizerConfig
) -> np.ndarray:
    """Move items that still collide to the nearest last-level code that is free under their prefix (ours).

    What the rounds leave, exact duplicates above all, would cost every item one further code. Of a group the first
    item keeps its codes, the others choose in row order. Where a prefix has too few codes the further level is needed
    anyway, and nothing moves.

    Args:
        quantizer: a fitted one.
        embeddings: (num_items, dim) float32.
        codes: int32 (num_items, num_codebooks), as ``conflict_rounds`` returns them.
        config: rounds; with none, which asks for collisions to stay, nothing moves either.

    Returns:
        A new int32 array like ``codes``.
    """
    _, inverse, counts = np.unique(codes[:, :-1], axis=0, return_inverse=True, return_counts=True)
    inverse = inverse.reshape(-1)
    if not config.conflict_rounds or counts.max(initial=0) > config.codebook_size:
        return codes.copy()
    moved = codes.copy()
    for group in collision_groups(codes):
        used = set(moved[inverse == inverse[group[0]], -1].tolist())
        later = group[1:]
        for row, order in zip(later, last_codes_by_distance(quantizer, embeddings[later], codes[later]), strict=True):
            moved[row, -1] = next(code for code in order if code not in used)
            used.add(int(moved[row, -1]))
    return moved


def last_codes_by_distance(quantizer: Quantizer, embeddings: np.ndarray, codes: np.ndarray) -> list[list[int]]:
    """For each row of ``embeddings`` the last level's codes under the prefix in ``codes``, the nearest first."""
    device = quantizer.codebooks.device
    points = torch.tensor(embeddings, dtype=torch.float32, device=device)
    prefixes = torch.tensor(codes, dtype=torch.int64, device=device)
    return quantizer.last_level_distances(points, prefixes).argsort(dim=-1, stable=True).tolist()


def _requantize(
    quantizer: Quantizer, embeddings: np.ndarray, codes: np.ndarray, batch: np.ndarray, config: ItemTokenizerConfig
) -> np.ndarray:
    """Last-level codes of ``batch``, an array of rows of shape (groups, group size)."""
    device = quantizer.codebooks.device
    rows = batch.reshape(-1)
    points = torch.tensor(embeddings[rows], dtype=torch.float32, device=device)
    prefixes = torch.tensor(codes[rows], dtype=torch.int64, device=device)
    distances = quantizer.last_level_distances(points, prefixes).reshape(*batch.shape, -1)
    return sinkhorn_codes(distances, config.sinkhorn_epsilon, config.sinkhorn_iterations).cpu().numpy()


def _batches_of_equal_size(groups: list[np.ndarray], codebook_size: int) -> list[np.ndarray]:
    """Groups of one size stacked to (groups, size): a thousand pairs are one batched Sinkhorn instead of a thousand."""
    by_size: dict[int, list[np.ndarray]] = {}
    for group in groups:
        by_size.setdefault(len(group), []).append(group)
    batches = []
    for size, same in sorted(by_size.items()):
        step = max(1, MAX_GROUP_NUMBERS // (size * codebook_size))
        batches += [np.stack(same[start : start + step]) for start in range(0, len(same), step)]
    return batches


def add_disambiguation_level(codes: np.ndarray, codebook_size: int) -> tuple[np.ndarray, int]:
    """One further code for every item: its rank, in row order, among the items with the same codes; 0 if alone.

    Args:
        codes: int32 (num_items, num_codebooks), with collisions.
        codebook_size: of the other levels.

    Returns:
        int32 (num_items, num_codebooks + 1) with unique rows, and the level's size: ``codebook_size``, or the next
        power of two that holds the largest group, so that later items fit.
    """
    rank = np.zeros(len(codes), dtype=np.int32)
    for group in collision_groups(codes):
        rank[group] = np.arange(len(group))
    size = max(codebook_size, 1 << int(rank.max()).bit_length())
    return np.column_stack([codes, rank]), size

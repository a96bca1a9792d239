"""Collaborative embeddings: items near each other in training histories get close vectors; and their mix with text."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import svds

from llmrec.item_tokenizer.pca import principal_components
from llmrec.schema import DataError

CombineMode = Literal["text", "collaborative", "concat", "average"]


def collaborative_embeddings(
    train_sequences: Sequence[Sequence[str]], item_ids: Sequence[str], dim: int = 64, window: int = 10, seed: int = 42
) -> np.ndarray:
    """Truncated SVD of windowed item co-occurrence, from training interactions only.

    Two items of one history that lie ``gap`` <= ``window`` positions apart add 1 / gap to their cell; cells are
    divided by the square root of both items' totals (cosine normalisation), and the singular vectors scaled by the
    square root of their singular values. Signs are fixed: the largest entry of each singular vector is positive.

    Args:
        train_sequences: item ids of each user, oldest first.
        item_ids: the catalogue; its order is the order of the rows.
        dim: width of the result; columns beyond the number of items are 0.
        window: largest distance between two items that counts.
        seed: of the SVD's start vector.

    Returns:
        float32 of shape (num_items, dim). Items that never occur near another have a row of zeros.

    Raises:
        DataError: if a sequence holds an unknown item, or no history holds two items.
    """
    cooccurrence = _cooccurrence(train_sequences, item_ids, window)
    totals = np.asarray(cooccurrence.sum(axis=1)).reshape(-1)
    scale = sparse.diags_array(1 / np.sqrt(np.where(totals > 0, totals, 1)))
    vectors, values = _truncated_svd((scale @ cooccurrence @ scale).tocsr(), min(dim, len(item_ids)), seed)
    largest = np.abs(vectors).argmax(axis=0)
    signs = np.where(vectors[largest, np.arange(len(values))] < 0, -1, 1)
    result = np.zeros((len(item_ids), dim), dtype=np.float32)
    result[:, : len(values)] = vectors * signs * np.sqrt(values)
    result[totals == 0] = 0  # the SVD leaves rounding noise there
    return result


def _cooccurrence(sequences: Sequence[Sequence[str]], item_ids: Sequence[str], window: int) -> sparse.csr_array:
    index = {item_id: row for row, item_id in enumerate(item_ids)}
    try:
        items = np.array([index[item_id] for sequence in sequences for item_id in sequence], dtype=np.int64)
    except KeyError as error:
        raise DataError(
            f"A training history holds the item {error.args[0]!r}, which is not among the {len(item_ids)} items. "
            "Take both from one dataset folder."
        ) from None
    users = np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences])
    size = (len(item_ids), len(item_ids))
    total = sparse.csr_array(size, dtype=np.float64)
    for gap in range(1, window + 1):
        same_user = users[:-gap] == users[gap:]
        left, right = items[:-gap][same_user], items[gap:][same_user]
        weights = np.full(len(left), 1 / gap)
        total = total + sparse.coo_array((weights, (left, right)), shape=size).tocsr()
    total = total + total.T
    total.setdiag(0)  # an item repeated by one user says nothing about others
    total.eliminate_zeros()
    if total.nnz == 0:
        raise DataError(
            "No training history holds two different items near each other, so there is nothing collaborative to "
            "learn: use combine='text'."
        )
    return total


def _truncated_svd(matrix: sparse.csr_array, rank: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Left singular vectors (num_items, rank) and singular values (rank,), largest first."""
    num_items = matrix.shape[0]
    if rank >= num_items - 1:  # ARPACK finds fewer vectors than the matrix has
        vectors, values, _ = np.linalg.svd(matrix.toarray())
        return vectors[:, :rank], values[:rank]
    start = np.random.default_rng(seed).uniform(-1, 1, num_items)
    vectors, values, _ = svds(matrix, k=rank, v0=start)
    order = np.argsort(-values)
    return vectors[:, order], values[order]


def shrunk_weights(
    weight: float, shrinkage: float, train_sequences: Sequence[Sequence[str]], item_ids: Sequence[str]
) -> np.ndarray:
    """How far each item's co-occurrence counts beside its text: weight * n / (n + shrinkage), n training interactions.

    Neighbourhood models shrink similarities so (Bell and Koren, ICDM 2007, section 3): few observations say little, so
    what stands in for them, here the text, keeps its share.

    Args:
        weight: that many observations approach.
        shrinkage: interactions at which an item has half of it; above 0.
        train_sequences: item ids of each user.
        item_ids: the catalogue; its order is the order of the rows.

    Returns:
        float32 of shape (num_items,).
    """
    found = Counter(item_id for sequence in train_sequences for item_id in sequence)
    counts = np.array([found[item_id] for item_id in item_ids], dtype=np.float32)
    return weight * counts / (counts + np.float32(shrinkage))


def combine_embeddings(
    text: np.ndarray | None,
    collaborative: np.ndarray | None,
    mode: CombineMode,
    collaborative_weight: float | np.ndarray | None = None,
) -> np.ndarray:
    """Text and collaborative embeddings as one, each row L2-normalised first (rows of zeros stay).

    ``concat`` puts them side by side, scaled so that the collaborative part makes up ``collaborative_weight`` of a
    row's squared norm; new items can be added later with a collaborative part of zeros. ``average`` is their weighted
    mean; the wider of the two is first projected to the other's width on its principal components, which depend on
    the items given, so a catalogue that will grow should use ``concat``.

    Args:
        text: float32 (num_items, text_dim); may be None for ``collaborative``.
        collaborative: float32 (num_items, collaborative_dim); may be None for ``text``.
        mode: what to return.
        collaborative_weight: from 0 (text only) to 1, for all items or (num_items,); ``text`` and ``collaborative``
            have none.

    Returns:
        float32 of shape (num_items, dim).

    Raises:
        ValueError: if an argument is missing or out of range.
    """
    if mode == "text" and text is not None:
        return _normalised(text)
    if mode == "collaborative" and collaborative is not None:
        return _normalised(collaborative)
    if mode not in ("text", "collaborative", "concat", "average"):
        raise ValueError(f"mode={mode!r}: choose 'text', 'collaborative', 'concat' or 'average'.")
    if text is None or collaborative is None or len(text) != len(collaborative):
        raise ValueError(f"mode={mode!r} needs embeddings of the same items: text, collaborative, or both.")
    if collaborative_weight is None:
        raise ValueError(f"mode={mode!r} needs a collaborative_weight: from 0 (text only) to 1, or one for each item.")
    if np.min(collaborative_weight) < 0 or np.max(collaborative_weight) > 1:
        raise ValueError(f"collaborative_weight={collaborative_weight}: give numbers from 0 (text only) to 1.")
    weight = np.broadcast_to(np.float32(collaborative_weight), len(text))[:, None]
    if mode == "concat":
        parts = [np.sqrt(1 - weight) * _normalised(text), np.sqrt(weight) * _normalised(collaborative)]
        return np.concatenate(parts, axis=1).astype(np.float32)
    width = min(text.shape[1], collaborative.shape[1])
    text, collaborative = _project(text, width), _project(collaborative, width)
    return ((1 - weight) * _normalised(text) + weight * _normalised(collaborative)).astype(np.float32)


def _normalised(embeddings: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return (embeddings / np.where(norms > 0, norms, 1)).astype(np.float32)


def _project(embeddings: np.ndarray, width: int) -> np.ndarray:
    """On the first ``width`` principal components; unchanged where it is that narrow already."""
    if embeddings.shape[1] <= width:
        return embeddings
    mean, components = principal_components(embeddings, width)
    return (embeddings - mean) @ components

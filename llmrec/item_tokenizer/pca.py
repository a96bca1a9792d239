"""Principal components of a catalogue's embeddings, read in chunks."""

import numpy as np

CHUNK_ROWS = 8192


def principal_components(embeddings: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and first principal components; deterministic: the largest entry of each component is positive.

    Args:
        embeddings: (num_items, dim); a memory map will do.
        width: number of components; at most ``dim``.

    Returns:
        float64 of shape (dim,) and (dim, width), most variance first.
    """
    dim = embeddings.shape[1]
    total, products = np.zeros(dim), np.zeros((dim, dim))
    for start in range(0, len(embeddings), CHUNK_ROWS):
        chunk = np.asarray(embeddings[start : start + CHUNK_ROWS], dtype=np.float64)
        total += chunk.sum(axis=0)
        products += chunk.T @ chunk
    mean = total / len(embeddings)
    _, vectors = np.linalg.eigh(products / len(embeddings) - np.outer(mean, mean))  # ascending
    vectors = vectors[:, ::-1][:, :width]
    largest = np.abs(vectors).argmax(axis=0)
    return mean, vectors * np.where(vectors[largest, np.arange(width)] < 0, -1, 1)

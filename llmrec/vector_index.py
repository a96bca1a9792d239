"""Inner-product search over the vectors of a catalogue, by faiss: exact, or approximate where that is asked for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import faiss
import numpy as np

from llmrec.atomic import atomic_path

IndexKind = Literal["exact", "approximate"]

#: Fewest vectors that faiss wants for each cell's centre, and the most that it is given here.
_FEWEST_PER_CELL, _MOST_PER_CELL = 39, 64
#: Of the cells, one in so many is searched, and never fewer than ``_FEWEST_CELLS``.
_CELLS_PER_SEARCHED_ONE = 32
_FEWEST_CELLS = 16


class VectorIndex:
    """Vectors by number, searched by their inner product with a query.

    The approximate index puts vectors into cells by k-means and searches the cells nearest to a query (inverted lists):
    it is built several times faster than a graph, and by the same seed always the same.

    Args:
        vectors: float32 of shape (num_vectors, dim), copied.
        kind: ``approximate`` searches some cells of the vectors only; where there are few vectors, all the same.
    """

    def __init__(self, vectors: np.ndarray, kind: IndexKind = "exact") -> None:
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        num_vectors, dim = vectors.shape
        num_cells = min(int(4 * num_vectors**0.5), num_vectors // _FEWEST_PER_CELL)
        if kind == "exact" or num_cells < 2:
            self._index: faiss.Index = faiss.IndexFlatIP(dim)
        else:
            cells = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, num_cells, faiss.METRIC_INNER_PRODUCT)
            cells.nprobe = min(num_cells, max(_FEWEST_CELLS, num_cells // _CELLS_PER_SEARCHED_ONE))
            cells.cp.niter, cells.cp.max_points_per_centroid = 10, _MOST_PER_CELL
            cells.train(vectors)
            self._index = cells
        self._index.add(vectors)

    def __len__(self) -> int:
        return self._index.ntotal

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return self._index.d

    def search(
        self, queries: np.ndarray, k: int, exclude: Sequence[Sequence[int]] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` vectors of the highest inner product with each query, best first.

        Args:
            queries: float32 of shape (num_queries, dim).
            k: list length.
            exclude: numbers of vectors that a query must not be answered with, for each query.

        Returns:
            Numbers of vectors, int64, -1 for empty places; and their products, float32, -inf for empty places. Both of
            shape (num_queries, k).
        """
        exclude = [()] * len(queries) if exclude is None else exclude
        wanted = min(len(self), k + max((len(set(numbers)) for numbers in exclude), default=0))
        found = np.full((len(queries), k), -1, dtype=np.int64)
        products = np.full((len(queries), k), -np.inf, dtype=np.float32)
        if not wanted or not len(queries):
            return found, products
        all_products, all_numbers = self._index.search(np.ascontiguousarray(queries, dtype=np.float32), wanted)
        for row, banned in enumerate(exclude):
            allowed = (all_numbers[row] >= 0) & ~np.isin(all_numbers[row], list(banned))
            numbers = all_numbers[row][allowed][:k]
            found[row, : len(numbers)] = numbers
            products[row, : len(numbers)] = all_products[row][allowed][:k]
        return found, products

    def save(self, path: str | Path) -> None:
        """Write faiss' own format."""
        with atomic_path(path) as temporary:
            faiss.write_index(self._index, str(temporary))

    @classmethod
    def load(cls, path: str | Path) -> "VectorIndex":
        """Read what ``save`` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"There is no index {path}: build one with VectorIndex(vectors).save(path).")
        index = cls.__new__(cls)
        index._index = faiss.read_index(str(path))
        return index

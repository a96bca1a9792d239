"""The index of valid semantic-ID prefixes: a trie in compressed sparse rows, built with NumPy operations only."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Trie:
    """All prefixes of the catalogue's semantic IDs.

    Nodes are numbered breadth first, the root is node 0, and siblings stand in the order of their codes. So the node
    that edge ``e`` leads to is simply ``e + 1``, and no child pointers are stored (the layout of a LOUDS-like CSR; the
    decode step follows STATIC, arXiv 2602.22647, section 3, in gathering only the children of live nodes).

    Attributes:
        child_offsets: int64 array of shape (num_inner_nodes + 1,); the edges of node ``n`` are
            ``child_offsets[n]:child_offsets[n + 1]``.
        codes: int32 array of shape (num_edges,): the code on each edge.
        leaf_items: int64 array of shape (num_leaves,): the item index at each leaf, in node order.
        level_starts: number of the first node at each depth, root first; ``level_starts[-1]`` is the first leaf.
    """

    child_offsets: np.ndarray
    codes: np.ndarray
    leaf_items: np.ndarray
    level_starts: tuple[int, ...]

    @classmethod
    def from_semantic_ids(cls, semantic_ids: np.ndarray) -> "Trie":
        """Index ``semantic_ids``, an integer array of shape (num_items, num_codebooks) with unique rows.

        Raises:
            ValueError: if the array is empty, holds a negative code, or two items share a semantic ID.
        """
        ids = np.asarray(semantic_ids)
        if ids.ndim != 2 or ids.size == 0:
            raise ValueError(
                f"semantic_ids needs shape (num_items, num_codebooks) and an item or more, got {ids.shape}."
            )
        if ids.min() < 0:
            raise ValueError(f"semantic_ids holds the negative code {ids.min()}; codes start at 0.")
        num_items, num_codebooks = ids.shape
        order = np.lexsort(ids.T[::-1])
        ids = ids[order]
        # is_new[i, l]: row i is the first with its prefix of length l + 1
        is_new = np.ones((num_items, num_codebooks), dtype=bool)
        is_new[1:] = np.logical_or.accumulate(ids[1:] != ids[:-1], axis=1)
        if not is_new[:, -1].all():
            row = int(np.argmin(is_new[:, -1]))
            raise ValueError(f"Two items share the semantic ID {ids[row].tolist()}; each needs its own.")
        codes, child_counts, level_starts = [], [], [0, 1]
        parents = np.zeros(num_items, dtype=np.int64)
        for level in range(num_codebooks):
            first = is_new[:, level]
            codes.append(ids[first, level].astype(np.int32))
            child_counts.append(np.bincount(parents[first]))
            parents = np.cumsum(first) - 1
            level_starts.append(level_starts[-1] + len(codes[-1]))
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(child_counts))])
        return cls(offsets.astype(np.int64), np.concatenate(codes), order.astype(np.int64), tuple(level_starts[:-1]))

    @property
    def num_codebooks(self) -> int:
        return len(self.level_starts) - 1

    @property
    def num_nodes(self) -> int:
        return len(self.codes) + 1

    @property
    def first_leaf(self) -> int:
        return self.level_starts[-1]

    @cached_property
    def max_children(self) -> tuple[int, ...]:
        """Largest number of children of any node, for each depth."""
        counts = np.diff(self.child_offsets)
        return tuple(int(counts[a:b].max()) for a, b in zip(self.level_starts, self.level_starts[1:], strict=False))

    @cached_property
    def code_span(self) -> int:
        """One more than the largest code."""
        return int(self.codes.max()) + 1

    @cached_property
    def edge_parents(self) -> np.ndarray:
        """int64 (num_edges,): the node that each edge leaves."""
        return np.repeat(np.arange(len(self.child_offsets) - 1), np.diff(self.child_offsets))

    @cached_property
    def edge_keys(self) -> np.ndarray:
        """int64 (num_edges,): parent node * code_span + code. Ascending, so one binary search finds any edge."""
        return self.edge_parents * self.code_span + self.codes

    def children(self, node: int) -> np.ndarray:
        """Codes that may follow ``node``, ascending; empty at a leaf."""
        if node >= self.first_leaf:
            return self.codes[:0]
        return self.codes[self.child_offsets[node] : self.child_offsets[node + 1]]

    def walk(self, prefixes: np.ndarray) -> np.ndarray:
        """Nodes reached from the root.

        Args:
            prefixes: integer array of shape (num_prefixes, depth), depth from 0 to num_codebooks.

        Returns:
            int64 array of shape (num_prefixes,); -1 where no item has the prefix.
        """
        prefixes = np.asarray(prefixes, dtype=np.int64)
        nodes = np.zeros(len(prefixes), dtype=np.int64)
        for level in range(prefixes.shape[1]):
            code = prefixes[:, level]
            keys = nodes * self.code_span + code
            edges = np.minimum(np.searchsorted(self.edge_keys, keys), len(self.codes) - 1)
            found = (nodes >= 0) & (code >= 0) & (code < self.code_span) & (self.edge_keys[edges] == keys)
            nodes = np.where(found, edges + 1, -1)
        return nodes

    @cached_property
    def item_paths(self) -> np.ndarray:
        """int64 array of shape (num_items, num_codebooks): the nodes on the way to each item, leaf last."""
        nodes = np.arange(self.first_leaf, self.num_nodes)
        paths = np.empty((len(nodes), self.num_codebooks), dtype=np.int64)
        for level in reversed(range(self.num_codebooks)):
            paths[self.leaf_items, level] = nodes
            nodes = self.edge_parents[nodes - 1]
        return paths

    @cached_property
    def leaf_counts(self) -> np.ndarray:
        """int64 array of shape (num_nodes,): how many items lie under each node."""
        counts = np.bincount(self.item_paths.reshape(-1), minlength=self.num_nodes)
        counts[0] = len(self.leaf_items)
        return counts

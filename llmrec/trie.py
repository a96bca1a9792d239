"""The index of valid semantic-ID prefixes: a trie in compressed sparse rows, built with NumPy operations only."""

import json
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np

from llmrec.atomic import atomic_path, write_json

#: Pads an ID that ends before the deepest level: the step that ends it, which costs nothing and takes no token.
END = -1

_INFO_FILE = "trie.json"
_ARRAYS = ("child_offsets", "codes", "item_starts", "items")


@dataclass(frozen=True, eq=False)
class Trie:
    """All prefixes of the catalogue's semantic IDs.

    Nodes are numbered breadth first, the root is node 0, and siblings stand in the order of their codes. So the node
    that edge ``e`` leads to is simply ``e + 1``, no child pointers are stored, and the items under any node are one
    run of ``items`` (the decode step follows STATIC, arXiv 2602.22647, section 3, in gathering only the children of
    live nodes).

    Items with one semantic ID share a leaf, the lower item index first: list the items in the order that should decide.

    Attributes:
        child_offsets: (num_inner_nodes + 1,); the edges of node ``n`` are ``child_offsets[n]:child_offsets[n + 1]``.
        codes: (num_edges,): the code on each edge, ``END`` where a shorter ID ends.
        item_starts: (num_nodes + 1,): where the run of each node's items starts in ``items``; it ends where that of
            the next node of the same depth starts, or with ``items``. The last entry is the number of items.
        items: (num_items,): item indices, ordered by semantic ID.
        level_starts: number of the first node at each depth, root first; ``level_starts[-1]`` is the first leaf.

    Arrays are as narrow as the catalogue allows (18 bytes an item for 10 million random IDs of 4 levels), and may be
    memory-mapped.
    """

    child_offsets: np.ndarray
    codes: np.ndarray
    item_starts: np.ndarray
    items: np.ndarray
    level_starts: tuple[int, ...]

    @classmethod
    def from_semantic_ids(cls, semantic_ids: np.ndarray) -> "Trie":
        """Index ``semantic_ids``, an integer array of shape (num_items, num_codebooks).

        IDs that are shorter than the longest are padded with ``END`` at their end.

        Raises:
            ValueError: if the array is empty, a code is below ``END``, an ID is empty, goes on after ``END``, or is a
                prefix of another ID (no model could tell where it ends: give it a code more).
        """
        ids = np.asarray(semantic_ids)
        _check_semantic_ids(ids)
        num_items, num_codebooks = ids.shape
        order = _lexicographic_order(ids)
        ids = ids[order]
        # is_new[i, l]: row i is the first with its prefix of length l + 1
        is_new = np.ones((num_items, num_codebooks), dtype=bool)
        np.not_equal(ids[1:], ids[:-1], out=is_new[1:])
        np.logical_or.accumulate(is_new, axis=1, out=is_new)
        code_type = np.int16 if ids.max() <= np.iinfo(np.int16).max else np.int32
        index_type = np.int32 if num_items * num_codebooks < np.iinfo(np.int32).max else np.int64
        codes, child_counts, item_starts, level_starts = [], [], [np.zeros(1, index_type)], [0, 1]
        parents = np.zeros(num_items, dtype=index_type)
        for level in range(num_codebooks):
            first = np.flatnonzero(is_new[:, level])
            codes.append(ids[first, level].astype(code_type))
            child_counts.append(np.bincount(parents[first]).astype(index_type))
            item_starts.append(first.astype(index_type))
            _check_prefix_free(ids, first, codes[-1], child_counts[-1], level)
            parents = np.cumsum(is_new[:, level], dtype=index_type) - 1
            level_starts.append(level_starts[-1] + len(first))
        return cls(
            np.concatenate([[0], np.cumsum(np.concatenate(child_counts))]).astype(index_type),
            np.concatenate(codes),
            np.concatenate([*item_starts, np.array([num_items], index_type)]),
            order.astype(index_type),
            tuple(level_starts[:-1]),
        )

    def extend(self, semantic_ids: np.ndarray) -> "Trie":
        """The trie of this catalogue's items followed by new ones: the one that building anew gives.

        Args:
            semantic_ids: of the new items, shape (num_new_items, num_codebooks) with this trie's num_codebooks.
        """
        return Trie.from_semantic_ids(np.concatenate([self.semantic_ids, semantic_ids]))

    def save(self, folder: str | Path) -> None:
        """Write ``trie.json`` and one ``.npy`` file for each array into ``folder``, replacing it as a whole."""
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            for name in _ARRAYS:
                np.save(temporary / f"{name}.npy", getattr(self, name), allow_pickle=False)
            write_json(temporary / _INFO_FILE, {"level_starts": list(self.level_starts)})

    @classmethod
    def load(cls, folder: str | Path) -> "Trie":
        """Open what ``save`` wrote, memory-mapped: pages are read when they are used.

        Raises:
            FileNotFoundError: if ``folder`` holds no trie.
        """
        folder = Path(folder)
        if not (folder / _INFO_FILE).is_file():
            raise FileNotFoundError(f"{folder} holds no {_INFO_FILE}: write one with Trie.save.")
        info = json.loads((folder / _INFO_FILE).read_text())
        # copy on write: torch shares no memory that it may not write to
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False) for name in _ARRAYS}
        return cls(**arrays, level_starts=tuple(info["level_starts"]))

    @property
    def num_codebooks(self) -> int:
        return len(self.level_starts) - 1

    @property
    def num_items(self) -> int:
        return len(self.items)

    @property
    def num_nodes(self) -> int:
        return len(self.codes) + 1

    @property
    def first_leaf(self) -> int:
        return self.level_starts[-1]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(getattr(self, name).nbytes for name in _ARRAYS)

    @cached_property
    def _child_counts(self) -> tuple[np.ndarray, ...]:
        """Number of children of the nodes at each depth."""
        starts = self.level_starts
        return tuple(np.diff(self.child_offsets[a : b + 1]) for a, b in pairwise(starts))

    @property
    def _level_codes(self) -> tuple[np.ndarray, ...]:
        """The codes on the edges of each level."""
        starts = (*self.level_starts[1:], self.num_nodes)
        return tuple(self.codes[a - 1 : b - 1] for a, b in pairwise(starts))

    @cached_property
    def max_children(self) -> tuple[int, ...]:
        """Largest number of children of any node, for each depth."""
        return tuple(int(counts.max()) for counts in self._child_counts)

    @cached_property
    def num_codes(self) -> tuple[int, ...]:
        """One more than the largest code, for each level."""
        return tuple(int(codes.max()) + 1 for codes in self._level_codes)

    @cached_property
    def is_dense(self) -> tuple[bool, ...]:
        """For each depth, whether every node has every code below ``num_codes``: look-ups then need no search."""
        return tuple(
            int(counts.min()) == num_codes and not ends
            for counts, num_codes, ends in zip(self._child_counts, self.num_codes, self.has_end, strict=True)
        )

    @cached_property
    def has_end(self) -> tuple[bool, ...]:
        """For each level, whether an ID may end before it."""
        return tuple(int(codes.min()) == END for codes in self._level_codes)

    @cached_property
    def max_leaf_items(self) -> int:
        """Largest number of items with one semantic ID."""
        return int(np.diff(self.item_starts[self.first_leaf :]).max())

    @cached_property
    def item_positions(self) -> np.ndarray:
        """(num_items,): place of each item in ``items``."""
        positions = np.empty_like(self.items)
        positions[self.items] = np.arange(self.num_items, dtype=self.items.dtype)
        return positions

    @cached_property
    def semantic_ids(self) -> np.ndarray:
        """(num_items, num_codebooks): what the trie was built from."""
        ids = np.empty((self.num_items, self.num_codebooks), dtype=self.codes.dtype)
        for level, codes in enumerate(self._level_codes):
            start = self.level_starts[level + 1]
            counts = np.diff(self.item_starts[start : start + len(codes)], append=self.num_items)
            ids[self.items, level] = np.repeat(codes, counts)
        return ids

    def children(self, node: int) -> np.ndarray:
        """Codes that may follow ``node``, ascending; empty at a leaf."""
        if node >= self.first_leaf:
            return self.codes[:0]
        return self.codes[self.child_offsets[node] : self.child_offsets[node + 1]]

    def item_range(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Start and end of the runs in ``items`` that lie under ``nodes`` (integers of any shape)."""
        starts = self.item_starts[nodes]
        ends = self.item_starts[np.asarray(nodes) + 1]
        # the next node opens a new level, or is the sentinel behind the last leaf
        return starts, np.where(ends > starts, ends, self.num_items)

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
            live = np.maximum(nodes, 0)
            low, end = self.child_offsets[live].astype(np.int64), self.child_offsets[live + 1].astype(np.int64)
            high = end
            for _ in range(self.max_children[level].bit_length()):
                middle = (low + high) // 2
                go_right = (low < high) & (self.codes[np.minimum(middle, len(self.codes) - 1)] < prefixes[:, level])
                low, high = np.where(go_right, middle + 1, low), np.where(go_right, high, middle)
            edges = np.minimum(low, len(self.codes) - 1)
            found = (nodes >= 0) & (low < end) & (self.codes[edges] == prefixes[:, level])
            nodes = np.where(found, edges + 1, -1)
        return nodes


def _check_semantic_ids(ids: np.ndarray) -> None:
    if ids.ndim != 2 or ids.size == 0:
        raise ValueError(f"semantic_ids needs shape (num_items, num_codebooks) and an item or more, got {ids.shape}.")
    if ids.dtype.kind not in "iu" or ids.max() >= np.iinfo(np.int32).max:
        raise ValueError(f"semantic_ids holds {ids.dtype} up to {ids.max()}; codes are integers below 2**31 - 1.")
    if ids.min() < END:
        raise ValueError(f"semantic_ids holds the code {ids.min()}; codes start at 0, and {END} pads shorter IDs.")
    if ids[:, -1].max() == END:
        raise ValueError(
            f"Every semantic ID ends before level {ids.shape[1]}: leave out the columns that are all {END}."
        )
    if ids.min() == END:
        ended = ids == END
        goes_on = (ended[:, :-1] & ~ended[:, 1:]).any(axis=1) | ended[:, 0]
        if goes_on.any():
            row = int(goes_on.argmax())
            raise ValueError(
                f"The semantic ID {ids[row].tolist()} of item {row} is empty or goes on after {END}, which may only "
                "pad the end of a shorter ID."
            )


def _check_prefix_free(ids: np.ndarray, first: np.ndarray, codes: np.ndarray, counts: np.ndarray, level: int) -> None:
    ends = codes == END
    if not ends.any():
        return
    shared = ends & (np.repeat(counts, counts) > 1)
    if shared.any():
        row = ids[first[shared.argmax()]]
        raise ValueError(
            f"The semantic ID {row[:level].tolist()} is a prefix of another one: no model could tell where it ends. "
            "Give it one more code."
        )


def _lexicographic_order(ids: np.ndarray) -> np.ndarray:
    """Rows by their codes, equal ones by their index."""
    sizes = [int(largest) + 2 for largest in ids.max(axis=0)]
    if np.prod([float(size) for size in sizes]) >= 2.0**62:
        return np.lexsort(ids.T[::-1])
    keys = np.zeros(len(ids), dtype=np.int64)
    for level, size in enumerate(sizes):
        keys *= size
        keys += ids[:, level]
        keys += 1
    return np.argsort(keys, kind="stable")

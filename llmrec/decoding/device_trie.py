"""The trie on the model's device: the two look-ups that every decoder needs, as tensor operations."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from llmrec.trie import Trie


class DeviceTrie:
    """A ``Trie`` whose codes are a language model's token ids.

    Args:
        trie: valid prefixes.
        code_token_ids: int64 array of shape (num_codebooks, largest codebook size): the token id of each code.
        device: where the model is.
    """

    def __init__(self, trie: Trie, code_token_ids: np.ndarray, device: torch.device | str = "cpu") -> None:
        if code_token_ids.shape[0] != trie.num_codebooks or code_token_ids.shape[1] < trie.code_span:
            raise ValueError(
                f"code_token_ids has shape {code_token_ids.shape}; the trie needs {trie.num_codebooks} levels "
                f"of at least {trie.code_span} codes."
            )
        self.trie = trie
        self.device = torch.device(device)
        self.num_codebooks = trie.num_codebooks
        # a leaf has no children: one more offset for each leaf keeps the look-up free of branches
        offsets = np.concatenate([trie.child_offsets, np.full(len(trie.leaf_items), len(trie.codes))])
        self.child_offsets = self._tensor(offsets)
        levels = np.repeat(np.arange(trie.num_codebooks), np.diff((*trie.level_starts[1:], trie.num_nodes)))
        self.edge_tokens = self._tensor(code_token_ids[levels, trie.codes])
        self.leaf_items = self._tensor(trie.leaf_items)
        self.token_span = int(code_token_ids.max()) + 1
        keys = trie.edge_parents * self.token_span + code_token_ids[levels, trie.codes]
        order = np.argsort(keys, kind="stable")
        self._keys = self._tensor(keys[order])
        self._key_edges = self._tensor(order)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, dtype=torch.long, device=self.device)

    def children(self, nodes: Tensor, depth: int) -> tuple[Tensor, Tensor, Tensor]:
        """Continuations of live nodes.

        Args:
            nodes: shape (...), nodes at ``depth``; -1 marks a dead one.
            depth: length of the prefixes that led to them.

        Returns:
            (child nodes, token ids, valid), each of shape (..., widest branching at this depth).
        """
        live = nodes.clamp(min=0)
        start = self.child_offsets[live]
        width = torch.arange(self.trie.max_children[depth], device=self.device)
        edges = start.unsqueeze(-1) + width
        valid = (edges < self.child_offsets[live + 1].unsqueeze(-1)) & (nodes >= 0).unsqueeze(-1)
        edges = edges.clamp(max=len(self.edge_tokens) - 1)
        return edges + 1, self.edge_tokens[edges], valid

    def step(self, nodes: Tensor, tokens: Tensor) -> Tensor:
        """Nodes after one more token, of the shape of both arguments; -1 where the token leads to no item."""
        in_span = (tokens >= 0) & (tokens < self.token_span) & (nodes >= 0)
        keys = torch.where(in_span, nodes * self.token_span + tokens, -1)
        position = torch.searchsorted(self._keys, keys).clamp(max=len(self._keys) - 1)
        return torch.where(self._keys[position] == keys, self._key_edges[position] + 1, -1)

    def items(self, nodes: Tensor) -> Tensor:
        """Item indices at leaf ``nodes``; -1 where the node is dead (-1)."""
        leaves = (nodes - self.trie.first_leaf).clamp(min=0)
        return torch.where(nodes >= 0, self.leaf_items[leaves], -1)


class ExcludedItems:
    """Items that must not be recommended to each user, pruned where the search would enter a fully excluded subtree.

    Args:
        trie: valid prefixes.
        items: for each user, the item indices to leave out.
        device: where the search runs.
    """

    def __init__(self, trie: Trie, items: Sequence[Sequence[int]], device: torch.device | str) -> None:
        self.num_nodes = trie.num_nodes
        users = np.repeat(np.arange(len(items)), [len(set(row)) for row in items])
        flat = np.array([item for row in items for item in sorted(set(row))], dtype=np.int64)
        keys = (users[:, None] * trie.num_nodes + trie.item_paths[flat]).reshape(-1)
        keys, counts = np.unique(keys, return_counts=True)
        # a node is dead for a user once every item under it is excluded
        dead = keys[counts == trie.leaf_counts[keys % trie.num_nodes]] if len(keys) else keys
        self._dead = torch.as_tensor(dead, dtype=torch.long, device=device)

    def allows(self, nodes: Tensor) -> Tensor:
        """Whether an item is left under each node; ``nodes`` and the result have the users as first dimension."""
        if len(self._dead) == 0:
            return torch.ones_like(nodes, dtype=torch.bool)
        users = torch.arange(len(nodes), device=nodes.device).view(-1, *[1] * (nodes.dim() - 1))
        keys = users * self.num_nodes + nodes
        position = torch.searchsorted(self._dead, keys).clamp(max=len(self._dead) - 1)
        return self._dead[position] != keys

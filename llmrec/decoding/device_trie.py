"""The trie on the model's device: the two look-ups that every decoder needs, as tensor operations without a sync."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from llmrec.trie import END, Trie


class DeviceTrie:
    """A ``Trie`` whose codes are a language model's token ids.

    On the CPU its tensors are the trie's own arrays, memory-mapped ones included.

    Args:
        trie: valid prefixes.
        code_token_ids: int64 array of shape (num_codebooks, largest codebook size): the token id of each code, -1 where
            a codebook has no such code.
        device: where the model is.

    Attributes:
        code_tokens: for each level, int64 tensor of shape (number of codes in use,): the token id of each code.

    Raises:
        ValueError: if a code in the trie has no token.
    """

    def __init__(self, trie: Trie, code_token_ids: np.ndarray, device: torch.device | str = "cpu") -> None:
        self.trie = trie
        self.device = torch.device(device)
        self.num_codebooks = trie.num_codebooks
        self._check_tokens(code_token_ids)
        self.code_tokens = [
            torch.as_tensor(code_token_ids[level, :count], dtype=torch.long, device=self.device)
            for level, count in enumerate(trie.num_codes)
        ]
        self.child_offsets = self._tensor(trie.child_offsets)
        self.codes = self._tensor(trie.codes)
        self.item_starts = self._tensor(trie.item_starts)
        self._items = self._tensor(trie.items)

    def _check_tokens(self, code_token_ids: np.ndarray) -> None:
        if code_token_ids.ndim != 2 or code_token_ids.shape[0] != self.num_codebooks:
            raise ValueError(
                f"code_token_ids has shape {code_token_ids.shape}; the trie's semantic IDs have {self.num_codebooks} "
                "levels, so it needs as many rows. Use the vocabulary of the catalog that the trie was built from."
            )
        for level, count in enumerate(self.trie.num_codes):
            if count > code_token_ids.shape[1] or code_token_ids[level, :count].min() < 0:
                known = int((code_token_ids[level] >= 0).sum())
                raise ValueError(
                    f"A semantic ID has code {count - 1} at level {level}, but the vocabulary has tokens for the codes "
                    f"0 to {known - 1} there. Use the model and the catalog of one checkpoint."
                )

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, device=self.device)

    @cached_property
    def token_codes(self) -> Tensor:
        """Code of each token id: int32 (num_codebooks, largest token id + 1), -2 where the token is no code."""
        table = torch.full((self.num_codebooks, max(int(tokens.max()) for tokens in self.code_tokens) + 1), END - 1)
        for level, tokens in enumerate(self.code_tokens):
            table[level, tokens.cpu()] = torch.arange(len(tokens))
        return table.to(self.device, torch.int32)

    def spelt_items(self, tokens: Sequence[int]) -> list[int]:
        """The items whose whole semantic IDs stand in a prompt, in its order; of items that share one, the first.

        Args:
            tokens: token ids; each code of each level has a token of its own.
        """
        level_and_code = self._level_and_code
        found: list[list[int]] = []
        place = 0  # level that would go on with the last ID; 0 where none is open
        for token in tokens:
            level, code = level_and_code.get(token, (-1, 0))
            if level == 0:
                found.append([code])
            elif level > 0 and level == place:
                found[-1].append(code)
            place = level + 1 if level in (0, place) else 0
        if not found:
            return []
        ids = np.full((len(found), self.num_codebooks), END, dtype=np.int64)
        for row, codes in enumerate(found):
            ids[row, : len(codes)] = codes
        nodes = self.trie.walk(ids)
        return self.trie.items[self.trie.item_range(nodes[nodes >= 0])[0]].tolist()

    @cached_property
    def _level_and_code(self) -> dict[int, tuple[int, int]]:
        levels = enumerate(self.code_tokens)
        return {token: (level, code) for level, tokens in levels for code, token in enumerate(tokens.tolist())}

    def children(self, nodes: Tensor, depth: int) -> tuple[Tensor, Tensor, Tensor]:
        """Continuations of live nodes.

        Args:
            nodes: shape (...), nodes at ``depth``; -1 marks a dead one.
            depth: length of the prefixes that led to them, less than num_codebooks.

        Returns:
            (child nodes, codes, valid), each of shape (..., widest branching at this depth). The code is ``END`` where
            a shorter ID ends, and 0 where the slot is not valid.
        """
        live = nodes.clamp(min=0)
        width = torch.arange(self.trie.max_children[depth], device=self.device)
        start = self.child_offsets[live].long()
        edges = start.unsqueeze(-1) + width
        if self.trie.is_dense[depth]:
            return edges + 1, width.expand_as(edges), (nodes >= 0).unsqueeze(-1).expand_as(edges)
        count = torch.where(nodes >= 0, self.child_offsets[live + 1].long() - start, 0)
        valid = width < count.unsqueeze(-1)
        edges = edges.clamp(max=len(self.codes) - 1)
        # the edges behind a node's own may be of another level, whose codes this one does not have
        return edges + 1, self.codes[edges].long().masked_fill(~valid, 0), valid

    def step(self, nodes: Tensor, tokens: Tensor, depth: int, eos_token_id: int) -> Tensor:
        """Nodes after one more token; -1 where the token leads to no item.

        Args:
            nodes: nodes at ``depth``, -1 for dead ones.
            tokens: of the same shape.
            depth: length of the prefixes so far, less than num_codebooks.
            eos_token_id: ends an ID that is shorter than the longest; whatever follows it is padding.
        """
        in_table = (tokens >= 0) & (tokens < self.token_codes.shape[1])
        codes = torch.where(in_table, self.token_codes[depth][torch.where(in_table, tokens, 0)], END - 1)
        if self.trie.has_end[depth]:
            ended = self.codes[(nodes - 1).clamp(min=0)] == END if depth else torch.zeros_like(in_table)
            codes = torch.where(ended | (tokens == eos_token_id), END, codes)
        live = nodes.clamp(min=0)
        low, end = self.child_offsets[live].long(), self.child_offsets[live + 1].long()
        last = len(self.codes) - 1
        if self.trie.is_dense[depth]:
            edges = low + codes.clamp(min=0)
        else:
            high = end
            for _ in range(self.trie.max_children[depth].bit_length()):
                middle = (low + high) // 2
                go_right = (low < high) & (self.codes[middle.clamp(max=last)] < codes)
                low, high = torch.where(go_right, middle + 1, low), torch.where(go_right, high, middle)
            edges = low
        found = (nodes >= 0) & (edges < end) & (self.codes[edges.clamp(max=last)] == codes)
        return torch.where(found, edges + 1, -1)

    def item_range(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """First and last-plus-one place under each node in the trie's order of items, int64; nodes are not dead."""
        starts, ends = self.item_starts[nodes].long(), self.item_starts[nodes + 1].long()
        return starts, torch.where(ends > starts, ends, self.trie.num_items)

    def items_at(self, positions: Tensor) -> Tensor:
        """Item indices at places in the trie's order of items."""
        return self._items[positions].long()

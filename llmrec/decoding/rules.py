"""What may be recommended in one request, as runs of the trie's items: exact in any combination, checked per node."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llmrec.decoding.device_trie import DeviceTrie
from llmrec.trie import Trie


@dataclass(frozen=True)
class Rules:
    """What one request may get. All that is given holds at once.

    Args:
        exclude: item indices that must not be returned: seen, out of stock.
        allow: item indices, or the name of a subset that the search was given; nothing else is returned.
        require_prefix: codes that the semantic ID must start with.
        forbid_prefixes: lists of codes that the semantic ID must not start with.
    """

    exclude: Sequence[int] = ()
    allow: Sequence[int] | str | None = None
    require_prefix: Sequence[int] = ()
    forbid_prefixes: Sequence[Sequence[int]] = ()

    def __bool__(self) -> bool:
        """Whether anything is ruled out."""
        given = (self.exclude, self.require_prefix, self.forbid_prefixes)
        return self.allow is not None or any(len(rule) > 0 for rule in given)


class ItemSubsets:
    """Named parts of the catalogue that requests may be limited to: a category, a store, a market.

    Kept as running counts over the trie's order of items, 4 bytes an item and subset.

    Args:
        device_trie: the catalogue's semantic IDs.
        subsets: item indices of each name.

    Raises:
        ValueError: if a subset is empty or names an item that there is not.
    """

    def __init__(self, device_trie: DeviceTrie, subsets: Mapping[str, Sequence[int]]) -> None:
        trie = device_trie.trie
        self.index = {name: row for row, name in enumerate(subsets)}
        self.counts = np.zeros((len(subsets), trie.num_items + 1), dtype=np.int32)
        for name, items in subsets.items():
            if len(items) == 0:
                raise ValueError(f"The subset {name!r} is empty: a request limited to it could get nothing.")
            member = np.zeros(trie.num_items, dtype=bool)
            member[_positions(trie, items, f"The subset {name!r}")] = True
            np.cumsum(member, out=self.counts[self.index[name], 1:])
        self.device_counts = torch.as_tensor(self.counts, device=device_trie.device)

    def row(self, name: str) -> int:
        if name not in self.index:
            raise ValueError(f"allow names the subset {name!r}; this search knows {sorted(self.index) or 'none'}.")
        return self.index[name]


class BatchRules:
    """The rules of a batch, ready for the search.

    A place is a position in the trie's order of items, in which the items under a node are one run. Each request's
    rules become sorted, disjoint dead runs; where it is limited to a named subset, all places are first mapped to how
    many of the subset's items stand before them. A node lives while its run is longer than the dead places in it, so a
    beam dies as soon as no item under it may be returned, whatever the rules are together.

    Args:
        trie: the catalogue's semantic IDs.
        rules: one for each request; None is no rule.
        subsets: what ``allow`` may name.

    Raises:
        ValueError: if an allow-list is empty, or a rule names an item, prefix or subset that there is not.
    """

    def __init__(self, trie: DeviceTrie, rules: Sequence[Rules | None], subsets: ItemSubsets) -> None:
        self.trie = trie
        self._stride = trie.trie.num_items + 2
        self._subset = torch.tensor([_subset_row(rule, subsets) for rule in rules], device=trie.device)
        self._counts: Tensor | None = None
        if (self._subset >= 0).any():
            self._counts = subsets.device_counts
        starts, ends = [], []
        for user, rule in enumerate(rules):
            base = user * self._stride
            runs = _dead_runs(trie.trie, rule, subsets)
            # one empty run opens each user's part, so that every look-up finds a run of its own user
            starts.append(np.concatenate([[0], runs[:, 0]]) + base)
            ends.append(np.concatenate([[0], runs[:, 1]]) + base)
        flat_starts, flat_ends = np.concatenate(starts), np.concatenate(ends)
        before = np.concatenate([[0], np.cumsum(flat_ends - flat_starts)[:-1]])
        self._starts, self._ends, self._before = (
            torch.as_tensor(array, dtype=torch.long, device=trie.device) for array in (flat_starts, flat_ends, before)
        )

    def allow(self, nodes: Tensor) -> Tensor:
        """Whether an item may be returned under each node; nodes are not dead, the first dimension is the request."""
        return self.allow_runs(*self.trie.item_range(nodes))

    def allow_runs(self, start: Tensor, end: Tensor) -> Tensor:
        """Whether a place between ``start`` and ``end`` may be returned; the first dimension is the request."""
        shape = (-1, *[1] * (start.dim() - 1))
        if self._counts is not None:
            subset = self._subset.view(shape)
            start, end = (
                torch.where(subset >= 0, self._counts[subset.clamp(min=0), place].long(), place)
                for place in (start, end)
            )
        base = torch.arange(len(start), device=start.device).view(shape) * self._stride
        return (end - start) > self._dead_before(base + end) - self._dead_before(base + start)

    def _dead_before(self, keys: Tensor) -> Tensor:
        run = torch.searchsorted(self._starts, keys, right=True) - 1
        return self._before[run] + torch.minimum(keys, self._ends[run]) - self._starts[run]


def batch_rules(
    trie: DeviceTrie, rules: Sequence[Rules | None] | None, subsets: ItemSubsets, num_requests: int
) -> BatchRules | None:
    """The rules of a batch, or None where nothing is ruled out.

    Raises:
        ValueError: if there is not one entry for each request.
    """
    if rules is None:
        return None
    if len(rules) != num_requests:
        raise ValueError(f"{len(rules)} rules for {num_requests} prompts: give one for each, None where there is none.")
    return BatchRules(trie, rules, subsets) if any(rules) else None


def allowed_children(
    trie: DeviceTrie, nodes: Tensor, depth: int, limits: BatchRules | None
) -> tuple[Tensor, Tensor, Tensor]:
    """``DeviceTrie.children`` of nodes (users, ...), valid only where the rules leave an item under the child."""
    children, codes, valid = trie.children(nodes, depth)
    return children, codes, valid if limits is None else valid & limits.allow(children)


def _subset_row(rule: Rules | None, subsets: ItemSubsets) -> int:
    return subsets.row(rule.allow) if rule is not None and isinstance(rule.allow, str) else -1


def _dead_runs(trie: Trie, rule: Rules | None, subsets: ItemSubsets) -> np.ndarray:
    """Sorted, disjoint runs of places that ``rule`` rules out: int64 (num_runs, 2)."""
    if not rule:
        return np.zeros((0, 2), dtype=np.int64)
    runs = np.concatenate([np.zeros((0, 2), dtype=np.int64), *_raw_runs(trie, rule)])
    if isinstance(rule.allow, str):
        runs = subsets.counts[subsets.row(rule.allow)][runs].astype(np.int64)
    runs = runs[np.argsort(runs[:, 0], kind="stable")]
    runs = runs[runs[:, 1] > runs[:, 0]]
    if len(runs) == 0:
        return runs
    # merge what overlaps: a run opens where it starts behind everything before it
    reach = np.maximum.accumulate(runs[:, 1])
    opens = np.concatenate([[True], runs[1:, 0] > reach[:-1]])
    first = np.flatnonzero(opens)
    return np.stack([runs[first, 0], np.maximum.reduceat(runs[:, 1], first)], axis=1)


def _raw_runs(trie: Trie, rule: Rules) -> Iterator[np.ndarray]:
    if len(rule.exclude):
        places = _positions(trie, rule.exclude, "exclude")
        yield np.stack([places, places + 1], axis=1)
    if rule.allow is not None and not isinstance(rule.allow, str):
        if len(rule.allow) == 0:
            raise ValueError("allow is empty: nothing could be returned. Leave it out to allow the whole catalogue.")
        places = np.unique(_positions(trie, rule.allow, "allow"))
        yield np.stack([np.concatenate([[0], places + 1]), np.concatenate([places, [trie.num_items]])], axis=1)
    if len(rule.require_prefix):
        start, end = _prefix_run(trie, rule.require_prefix, "require_prefix")
        yield np.array([[0, start], [end, trie.num_items]])
    for prefix in rule.forbid_prefixes:
        yield np.array([_prefix_run(trie, prefix, "forbid_prefixes")])


def _prefix_run(trie: Trie, prefix: Sequence[int], name: str) -> tuple[int, int]:
    if not 0 < len(prefix) <= trie.num_codebooks:
        raise ValueError(f"{name} holds {list(prefix)}; a prefix has 1 to {trie.num_codebooks} codes.")
    node = trie.walk(np.array([prefix]))
    if node[0] < 0:
        raise ValueError(f"{name} holds {list(prefix)}, which no item's semantic ID starts with.")
    start, end = trie.item_range(node)
    return int(start[0]), int(end[0])


def _positions(trie: Trie, items: Sequence[int], name: str) -> np.ndarray:
    indices = np.asarray(items, dtype=np.int64)
    wrong = (indices < 0) | (indices >= trie.num_items)
    if wrong.any():
        raise ValueError(f"{name} holds the item index {indices[wrong][0]}; allowed are 0 to {trie.num_items - 1}.")
    return trie.item_positions[indices].astype(np.int64)

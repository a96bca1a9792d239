"""What happened in a search, for people to look at: the beam tree, and what each code of a list contributed."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from llmrec.decoding.device_trie import DeviceTrie


@dataclass(frozen=True)
class TracedBeam:
    """A prefix of semantic IDs that was looked at.

    Attributes:
        codes: from the first level on.
        log_prob: of the last code after the ones before it.
        score: of the whole prefix: the sum of the log-probabilities.
        survives: whether it was kept; otherwise it is one of the best of those that were cut.
        num_items: catalogue items under the prefix, rules aside.
    """

    codes: tuple[int, ...]
    log_prob: float
    score: float
    survives: bool
    num_items: int


class _Level(NamedTuple):
    """Candidates are (users, beams before, branching), what lives on is (users, beams)."""

    scores_before: Tensor
    nodes: Tensor
    codes: Tensor
    scores: Tensor
    kept_nodes: Tensor
    kept_scores: Tensor
    parents: Tensor
    kept_codes: Tensor


@dataclass
class BeamTrace:
    """Collects the levels of one search of a batch; nothing is computed before it is asked for."""

    _levels: list[_Level] = field(default_factory=list)

    def add(self, *level: Tensor) -> None:
        """Called by ``BeamWalk`` after each level."""
        self._levels.append(_Level(*level))

    def code_log_probs(self, trie: DeviceTrie, items: Tensor) -> Tensor:
        """What each code of ranked items adds to their score: float32 (users, k, num_codebooks).

        Args:
            trie: of the search.
            items: int64 (users, k), as ranked; rows of -1 come out as nan.
        """
        places = torch.as_tensor(trie.trie.item_positions, device=trie.device)[items.clamp(min=0)].unsqueeze(-1)
        totals = [torch.zeros(items.shape, device=trie.device)]
        for level in self._levels:
            start, end = (edge.unsqueeze(1) for edge in trie.item_range(level.kept_nodes.clamp(min=0)))
            above = (start <= places) & (places < end) & (level.kept_nodes >= 0).unsqueeze(1)
            totals.append(level.kept_scores.gather(1, above.int().argmax(-1)))
        return torch.stack(totals, -1).diff(dim=-1).masked_fill((items < 0).unsqueeze(-1), torch.nan)

    def levels(self, trie: DeviceTrie, user: int, num_cut: int) -> list[list[TracedBeam]]:
        """The beam tree of one user, level by level: the beams that were kept, best first, then the best of the others.

        Args:
            trie: of the search.
            user: row of the batch.
            num_cut: at most so many beams that were cut, for each level.
        """
        tree: list[list[TracedBeam]] = []
        prefixes: list[tuple[int, ...]] = [()]
        for level in self._levels:
            scores, nodes, codes = level.scores[user], level.nodes[user], level.codes[user]
            kept = level.kept_nodes[user]
            cut = scores.masked_fill(torch.isin(nodes, kept[kept >= 0]), -torch.inf).flatten()
            best = cut.topk(min(num_cut, len(cut))).indices
            best = best[cut[best] > -torch.inf]
            parents = torch.cat([level.parents[user], best // scores.shape[-1]])
            last = torch.cat([level.kept_codes[user], codes.flatten()[best]])
            found = torch.cat([kept, nodes.flatten()[best]])
            total = torch.cat([level.kept_scores[user], cut[best]])
            start, end = trie.item_range(found.clamp(min=0))
            columns = (found, parents, last, total, total - level.scores_before[user][parents], end - start)
            beams, new_prefixes = [], []
            rows = zip(*(column.tolist() for column in columns), strict=True)
            for place, (node, parent, code, score, log_prob, num_items) in enumerate(rows):
                if place < len(kept):
                    new_prefixes.append((*prefixes[parent], code))
                if node >= 0:
                    survives = place < len(kept)
                    beams.append(TracedBeam((*prefixes[parent], code), log_prob, score, survives, num_items))
            tree.append(beams)
            prefixes = new_prefixes
        return tree

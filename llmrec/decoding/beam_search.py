"""Catalog-constrained beam search over one shared prefix (decoder-only models).

The prompt runs once for each user. The beams of a level then run as extra tokens of the *same* sequence under an
explicit 4-D mask that shows each of them the prompt and its own ancestors (tree attention), so that the prompt's
key-value cache is shared by all beams and is never copied or reordered.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from llmrec.decoding.device_trie import DeviceTrie, ExcludedItems


@dataclass(frozen=True)
class RankedItems:
    """Recommendations for a batch of users, best first.

    Attributes:
        items: int64 tensor of shape (num_users, k): item indices, -1 where the catalogue had no more to give.
        scores: float32 tensor of the same shape: sum of token log-probabilities, -inf where ``items`` is -1.
    """

    items: Tensor
    scores: Tensor


@torch.no_grad()
def beam_search(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    trie: DeviceTrie,
    num_beams: int,
    k: int,
    exclude: Sequence[Sequence[int]] | None = None,
) -> RankedItems:
    """Rank catalogue items as continuations of each prompt.

    Scores are the model's log-probabilities over its whole vocabulary, summed over the levels of the semantic ID: what
    ``generate`` gives with a masking processor, not renormalised over the valid continuations.

    Args:
        model: decoder-only model whose attention accepts a 4-D additive mask (SDPA and eager do).
        prompts: token ids of each user's prompt, at least one token each.
        trie: the catalogue's semantic IDs.
        num_beams: search width.
        k: list length, at most ``num_beams``.
        exclude: for each user, item indices that must not be returned.

    Raises:
        ValueError: if ``k`` exceeds ``num_beams`` or a prompt is empty.
    """
    if not 0 < k <= num_beams:
        raise ValueError(f"k is {k}; it needs 1 <= k <= num_beams, and num_beams is {num_beams}.")
    if not all(len(prompt) for prompt in prompts):
        raise ValueError("A prompt is empty: each needs one token or more.")
    excluded = None if exclude is None else ExcludedItems(trie.trie, exclude, trie.device)
    search = _SharedPrefix(model, prompts)
    scores = torch.zeros(len(prompts), 1, device=model.device)
    nodes = torch.zeros(len(prompts), 1, dtype=torch.long, device=model.device)
    log_probs = search.prefill()
    for depth in range(trie.num_codebooks):
        scores, nodes, tokens, parents = _select(trie, excluded, depth, nodes, scores, log_probs, num_beams)
        if depth + 1 < trie.num_codebooks:
            log_probs = search.advance(tokens, parents)
    items = trie.items(torch.where(scores > -torch.inf, nodes, -1))
    return RankedItems(*_pad_lists(items[:, :k], scores[:, :k], k))


def _select(
    trie: DeviceTrie,
    excluded: ExcludedItems | None,
    depth: int,
    nodes: Tensor,
    scores: Tensor,
    log_probs: Tensor,
    num_beams: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Best continuations of (users, beams) -> (scores, nodes, tokens, parent beams), each (users, new beams)."""
    children, tokens, valid = trie.children(nodes, depth)
    if excluded is not None:
        valid &= excluded.allows(children)
    candidates = scores.unsqueeze(-1) + log_probs.gather(-1, tokens)
    candidates = candidates.masked_fill(~valid, -torch.inf).flatten(1)
    best, index = candidates.topk(min(num_beams, candidates.shape[1]), dim=1)
    parents = index // children.shape[-1]
    new_nodes = torch.where(best > -torch.inf, children.flatten(1).gather(1, index), -1)
    return best, new_nodes, tokens.flatten(1).gather(1, index), parents


def _pad_lists(items: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    missing = k - items.shape[1]
    if missing > 0:
        items = torch.nn.functional.pad(items, (0, missing), value=-1)
        scores = torch.nn.functional.pad(scores, (0, missing), value=-torch.inf)
    return items, scores.float()


def pad_left(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Prompts as one batch: token ids and a bool mask of the real ones, both (users, longest prompt)."""
    width = max(len(prompt) for prompt in prompts)
    input_ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros(len(prompts), width, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        input_ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = True
    return input_ids.to(device), mask.to(device)


class _SharedPrefix:
    """The model state of one search: left-padded prompts, then one block of columns for each level's beams."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> None:
        self.model = model
        self.input_ids, self.prompt_mask = pad_left(prompts, model.device)
        self.lengths = self.prompt_mask.sum(1, keepdim=True)
        self.cache = DynamicCache(config=model.config)
        self.ancestors: Tensor | None = None  # bool (users, beams, columns after the prompt)
        self.depth = 0

    def prefill(self) -> Tensor:
        """Log-probabilities after the prompt: (users, 1, vocabulary)."""
        positions = (self.prompt_mask.long().cumsum(1) - 1).clamp(min=0)
        return self._forward(self.input_ids, self.prompt_mask.long(), positions, logits_to_keep=1)

    def advance(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """Log-probabilities after one more token for each beam: (users, beams, vocabulary)."""
        users, beams = tokens.shape
        own = torch.eye(beams, dtype=torch.bool, device=tokens.device).expand(users, -1, -1)
        if self.ancestors is None:
            self.ancestors = own
        else:
            inherited = self.ancestors.gather(1, parents.unsqueeze(-1).expand(-1, -1, self.ancestors.shape[-1]))
            self.ancestors = torch.cat([inherited, own], dim=-1)
        visible = torch.cat([self.prompt_mask.unsqueeze(1).expand(-1, beams, -1), self.ancestors], dim=-1)
        mask = torch.zeros(visible.shape, dtype=self.model.dtype, device=tokens.device)
        mask = mask.masked_fill(~visible, torch.finfo(self.model.dtype).min).unsqueeze(1)
        positions = (self.lengths + self.depth).expand(-1, beams)
        self.depth += 1
        return self._forward(tokens, mask, positions, logits_to_keep=0)

    def _forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, logits_to_keep: int) -> Tensor:
        logits = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=logits_to_keep,
        ).logits
        return logits.float().log_softmax(-1)

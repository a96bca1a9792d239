"""Every item scored by teacher forcing, one at a time: what a search must agree with."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from llmrec.decoding.device_trie import DeviceTrie


def random_prompts(lengths: Sequence[int], seed: int = 3) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(2, 250, length).tolist() for length in lengths]


def oracle_scores(model: PreTrainedModel, prompt: Sequence[int], trie: DeviceTrie, scores: str) -> Tensor:
    """Log-probability of each item's semantic ID after ``prompt``: (num_items,)."""
    log_probs = []
    for semantic_id in trie.trie.semantic_ids:
        tokens = [int(trie.code_tokens[level][code]) for level, code in enumerate(semantic_id) if code >= 0]
        log_probs.append(score_item(code_logits(model, prompt, tokens), semantic_id, trie, scores))
    return torch.stack(log_probs)


def oracle_ranking(scores: Tensor, allowed: Sequence[int], k: int) -> tuple[list[int], Tensor]:
    """The ``k`` best of the allowed items; equal scores in the order of items."""
    order = [item for item in scores.argsort(descending=True, stable=True).tolist() if item in set(allowed)][:k]
    return order, scores[order]


def code_logits(model: PreTrainedModel, prompt: Sequence[int], tokens: Sequence[int]) -> Tensor:
    """Logits (len(tokens), vocabulary) that predict each token, from one whole sequence without a cache."""
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            start = [[model.config.decoder_start_token_id, *tokens[:-1]]]
            output = model(input_ids=torch.tensor([list(prompt)]), decoder_input_ids=torch.tensor(start))
            return output.logits[0].float()
        return model(torch.tensor([[*prompt, *tokens[:-1]]]), use_cache=False).logits[0, len(prompt) - 1 :].float()


def score_item(logits: Tensor, semantic_id: np.ndarray, trie: DeviceTrie, scores: str) -> Tensor:
    total = torch.zeros(())
    for level in range(len(logits)):
        tokens = trie.code_tokens[level]
        log_probs = logits[level]
        if scores == "catalog":
            same_prefix = (trie.trie.semantic_ids[:, :level] == semantic_id[:level]).all(axis=1)
            siblings = np.unique(trie.trie.semantic_ids[same_prefix, level])
            log_probs = torch.full_like(logits[level], -torch.inf)
            log_probs[tokens[siblings]] = logits[level][tokens[siblings]]
        total = total + log_probs.log_softmax(-1)[tokens[int(semantic_id[level])]]
    return total

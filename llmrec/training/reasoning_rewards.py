"""LREM's three rewards of a thought (section 4.5 of the method's page): its form, its length, what it finds."""

from collections.abc import Sequence

import numpy as np

from llmrec.models.lrem import ReasoningTokens

#: Weights of format, length and rank in the sum (paper).
REWARD_WEIGHTS = (0.5, 0.2, 1.0)


def format_reward(completion: Sequence[int], tokens: ReasoningTokens) -> float:
    """1 for an opening token, text, the closing token, the embedding token and nothing else.

    A query that leaves nothing out needs no keywords, so the text may be empty, as it is in such training examples.
    """
    formed = len(completion) >= len(tokens) and [*completion[:1], *completion[-2:]] == list(tokens)
    return float(formed and not set(completion[1:-2]) & set(tokens))


def length_reward(completion: Sequence[int], tokens: ReasoningTokens, max_thought_tokens: int) -> float:
    """1 if at most ``max_thought_tokens`` tokens stand between opening and end, the end of the completion included."""
    start = 1 if list(completion[:1]) == [tokens.think] else 0
    thought = completion[start:]
    ends = [place for place, token_id in enumerate(thought) if token_id in tokens]
    return float(min([*ends, len(thought)]) <= max_thought_tokens)


def rank_reward(ranks: np.ndarray, num_candidates: int | np.ndarray) -> np.ndarray:
    """1 - log(rank) / log(N): 1 for the first of N candidates, 0 for the last.

    Args:
        ranks: of the true item, from 1, any shape.
        num_candidates: N, above 1; one for all, or of the same shape.

    Raises:
        ValueError: if there is one candidate only, or a rank is out of range.
    """
    if np.min(num_candidates) < 2:
        raise ValueError(f"There are {np.min(num_candidates)} candidates; a rank among fewer than 2 says nothing.")
    if np.min(ranks) < 1 or np.any(ranks > num_candidates):
        raise ValueError(f"Ranks go from {np.min(ranks)} to {np.max(ranks)}; allowed are 1 to the candidates' number.")
    return 1 - np.log(ranks) / np.log(num_candidates)


def target_ranks(queries: np.ndarray, items: np.ndarray, own: np.ndarray, excluded: np.ndarray) -> np.ndarray:
    """Where each query's own item stands among the candidates; of equals it comes last.

    Args:
        queries: float of shape (num_queries, dim).
        items: candidates, float of shape (num_items, dim).
        own: each query's item among them, int of shape (num_queries,).
        excluded: bool of shape (num_queries, num_items): candidates that do not count.

    Returns:
        Int64 of shape (num_queries,), from 1.
    """
    scores = queries @ items.T
    mine = scores[np.arange(len(own)), own][:, None]
    return ((scores >= mine) & ~excluded).sum(axis=1)

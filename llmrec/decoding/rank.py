"""Lists for many users: batches of similar length, and progress."""

from collections.abc import Callable, Sequence

import numpy as np
from tqdm.auto import tqdm

from llmrec.decoding.beam_search import BeamSearch
from llmrec.decoding.item_prior import PriorScores
from llmrec.decoding.rules import Rules


def rank_items(
    search: BeamSearch,
    prompts: Sequence[Sequence[int]],
    num_beams: int,
    k: int,
    rules: Sequence[Rules | None] | None = None,
    batch_size: int = 32,
    progress: bool = True,
    prior: Callable[[Sequence[int]], PriorScores | None] | None = None,
) -> np.ndarray:
    """Rank catalogue items for each prompt.

    Args:
        search: of the model and catalogue.
        prompts: token ids for each user.
        num_beams: search width.
        k: list length, at most ``num_beams``.
        rules: what each user may get.
        batch_size: users at a time.
        progress: show a bar.
        prior: from places in ``prompts`` to what the search mixes in for those users.

    Returns:
        int64 array of shape (num_users, k): item indices, best first; -1 where there were no more to give.
    """
    ranked = np.full((len(prompts), k), -1, dtype=np.int64)
    order = np.argsort([-len(prompt) for prompt in prompts], kind="stable")
    for start in tqdm(range(0, len(order), batch_size), desc="Ranking", unit="batch", disable=not progress):
        rows = order[start : start + batch_size]
        batch = None if rules is None else [rules[row] for row in rows]
        mixed = None if prior is None else prior(rows.tolist())
        lists = search([prompts[row] for row in rows], num_beams, k, batch, prior=mixed)
        ranked[rows] = lists.items.cpu().numpy()
    return ranked

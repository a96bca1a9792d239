"""Histories in, ranked items out: one forward pass for a user, then the whole catalogue scored."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm

from llmrec.models.setrec.model import PADDING, SetRecModel
from llmrec.models.setrec.search import SetSearch, best_items


@dataclass
class SetRecRecommender:
    """Grounding of SETRec (arXiv 2502.10833, section 3.3): (1 - beta) CF score + beta * sum of the semantic scores.

    Args:
        item_ids: of the catalogue, in the order of the model's items.
        max_history: items of the history shown to the model, the latest ones.
        batch_size: users at a time.
    """

    item_ids: list[str]
    max_history: int
    batch_size: int = 256

    def recommend(
        self,
        model: SetRecModel,
        histories: Sequence[Sequence[int]],
        k: int,
        exclude: Sequence[Sequence[int]] | None = None,
        candidates: np.ndarray | None = None,
        progress: bool = True,
        user_ids: Sequence[str] | None = None,  # noqa: ARG002 -- the interface's: histories are all that is read
    ) -> np.ndarray:
        """As ``llmrec.evaluation.recommender.Ranks`` says, with the model's own beta."""
        return self.recommend_each(model, histories, k, [model.config.beta], exclude, candidates, progress)[0]

    def recommend_each(
        self,
        model: SetRecModel,
        histories: Sequence[Sequence[int]],
        k: int,
        betas: Sequence[float],
        exclude: Sequence[Sequence[int]] | None = None,
        candidates: np.ndarray | None = None,
        progress: bool = True,
    ) -> np.ndarray:
        """A list for each user and beta from one pass: int64 of shape (num_betas, num_users, k), -1 for empty places.

        Raises:
            ValueError: if the model knows another number of items than there are ids.
        """
        if len(model.items) != len(self.item_ids):
            raise ValueError(f"The model knows {len(model.items)} items, and the catalogue has {len(self.item_ids)}.")
        was_training = model.training
        model.eval()
        search = SetSearch(model, model.items)
        ranked = np.full((len(betas), len(histories), k), PADDING, dtype=np.int64)
        order = np.argsort([-min(len(history), self.max_history) for history in histories], kind="stable")
        starts = range(0, len(order), self.batch_size)
        for start in tqdm(starts, desc="Ranking", unit="batch", disable=not progress):
            rows = order[start : start + self.batch_size]
            scores = search.score([histories[row][-self.max_history :] for row in rows])
            banned = torch.zeros(scores.cf.shape, dtype=torch.bool, device=scores.cf.device)
            if candidates is not None:
                banned |= torch.from_numpy(~candidates).to(banned.device)
            for place, items in enumerate(exclude[row] for row in rows) if exclude is not None else ():
                banned[place, list(items)] = True
            for number, beta in enumerate(betas):
                ranked[number, rows] = best_items(scores.grounded(beta), k, banned)[0].cpu().numpy()
        model.train(was_training)
        return ranked

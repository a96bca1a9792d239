"""How much text counts against collaboration in SETRec's scores: chosen on validation."""

from collections.abc import Sequence

import numpy as np

from llmrec.evaluation import Evaluator
from llmrec.models.setrec import SetRecModel
from llmrec.models.setrec.recommender import SetRecRecommender
from llmrec.recipe.evaluation import rank_in_shares

#: Tried in this order; of two that do equally well the first is kept.
BETAS = tuple(round(step / 10, 1) for step in range(11))
_METRIC = "ndcg@10"


def choose_beta(
    recommender: SetRecRecommender, model: SetRecModel, evaluator: Evaluator, beta: float | None = None
) -> dict[str, float]:
    """Rank the evaluator's users under every beta, and leave the one with the best ndcg@10 in the model's config.

    The released code does so on the test users (docs/methods/setrec.md); here it must be the validation users.

    Args:
        recommender: asks the model.
        model: on every process, each of which ranks its share of the users.
        evaluator: of the validation users.
        beta: takes the place of the choice.

    Returns:
        ndcg@10 and the hit rates under that beta, and ``beta`` itself.
    """
    betas = BETAS if beta is None else (beta,)
    k = max(evaluator.ks)

    def rank(rows: Sequence[int]) -> np.ndarray:
        """The lists of every beta side by side."""
        histories, seen = ([lists[row] for row in rows] for lists in (evaluator.histories, evaluator.seen))
        each = recommender.recommend_each(model, histories, k, betas, seen, evaluator.candidates, progress=False)
        return np.hstack([*each])

    ranked = np.hsplit(rank_in_shares(recommender, evaluator, rank), len(betas))
    results = [evaluator.evaluate("validation", lists).metrics for lists in ranked]
    best = int(np.argmax([metrics[_METRIC] for metrics in results]))
    model.config.beta = betas[best]
    shown = (_METRIC, *(f"hit_rate@{k}" for k in evaluator.ks))
    return {**{name: results[best][name] for name in shown}, "beta": betas[best]}

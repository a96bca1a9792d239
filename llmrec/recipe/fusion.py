"""How much of item-kNN a recipe's search mixes into the model's ranking: as asked for, or as validation says."""

import logging
from dataclasses import dataclass, field, replace
from typing import Any

from llmrec.baselines import Fusion, ItemKNN
from llmrec.dataset import RecDataset
from llmrec.evaluation.recommender import Recommender
from llmrec.recipe.evaluation import SearchArguments, ranking_evaluation

logger = logging.getLogger(__name__)

#: What validation chooses from; of equally good ones the first, which is the model alone.
WEIGHTS = (0.0, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9)


@dataclass
class FusionArguments(SearchArguments):
    """Item-kNN in the search."""

    fusion_weight: float | None = field(
        default=None,
        metadata={"help": "Share of item-kNN in the ranking; 0: the model alone; unset: chosen on validation users."},
    )


def check_fusion(args: FusionArguments) -> None:
    """Refuse a weight that is none, or that nothing could choose.

    Raises:
        ValueError: if the weight is out of range, or missing where the validation items are trained on.
    """
    weight = args.fusion_weight
    if weight is not None and not 0 <= weight < 1:
        raise ValueError(f"fusion_weight is {weight}; allowed is 0 (the model alone) up to, but not, 1.")
    if weight is None and args.refit:
        raise ValueError(
            "refit trains on the validation items, which then can't choose a fusion_weight: give one that was chosen "
            "without refit, or 0 for the model alone."
        )


def open_fusion(
    args: FusionArguments,
    dataset: RecDataset,
    recommender: Recommender,
    model: Any,
    seed: int,
) -> tuple[Fusion | None, dict[str, Any]]:
    """Item-kNN of the training interactions and its weight; None for the model alone. Every process gets the same.

    Args:
        args: of the recipe.
        dataset: whose training interactions item-kNN reads.
        recommender: ranks the validation users where ``args`` names no weight.
        model: fine-tuned model.
        seed: of the sample of validation users.

    Returns:
        What is mixed in, and for the protocol its weight and the validation ndcg@10 of each weight that was tried.
    """
    if args.fusion_weight == 0:
        return None, {"fusion_weight": 0}
    rows_of = recommender.renderer.catalog.rows_of
    sequences = [rows_of(sequence) for sequence in dataset.train_sequences(refit=args.refit)]
    item_knn = ItemKNN().fit(sequences, len(recommender.item_ids))
    weight = args.fusion_weight
    chosen: dict[str, Any] = {}
    if weight is None:
        found = {}
        for tried in WEIGHTS:
            fused = replace(recommender, fusion=Fusion(item_knn, tried) if tried else None)
            found[tried] = ranking_evaluation(args, dataset, fused, seed)(model)["ndcg@10"]
        weight = max(found, key=lambda tried: found[tried])
        tried_weights = ", ".join(f"{tried}: {value:.4f}" for tried, value in found.items())
        logger.info("Weight of item-kNN by validation ndcg@10 (%s): %s.", tried_weights, weight)
        chosen["valid_ndcg@10_by_weight"] = found
    return Fusion(item_knn, weight) if weight else None, {"fusion_weight": weight, **chosen}

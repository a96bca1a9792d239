"""LC-Rec's reinforcement stage: the checkpoint it starts from, what it continues, and what it changed."""

from functools import partial
from typing import Any

from transformers import PreTrainedModel
from trl import ModelConfig

from llmrec.dataset import RecDataset
from llmrec.evaluation.comparison import compare_models
from llmrec.evaluation.recommender import Recommender
from llmrec.hub import load_checkpoint
from llmrec.recipe.evaluation import SearchArguments, rank_users
from llmrec.training.arguments import RecommendationGRPOConfig
from llmrec.training.backbone import load_pretrained
from llmrec.training.rollouts import RolloutPrompts


def check_start(model_args: ModelConfig, prompts: dict[str, Any], refit: bool) -> None:
    """Refuse a start that is none of ours, or was asked otherwise than it will be now.

    Args:
        model_args: names the start.
        prompts: how prompts will be worded, as a checkpoint notes it.
        refit: whether the validation items will be trained on.

    Raises:
        ValueError: if it can't be started from.
    """
    start = model_args.model_name_or_path
    if start is None:
        raise ValueError("--stage rl starts from a checkpoint of this recipe: name its folder in --model_name_or_path.")
    checkpoint = load_checkpoint(start, model_args.model_revision)
    checkpoint.check_prompts(prompts)
    if checkpoint.config["refit"] and not refit:
        raise ValueError(
            f"{start} was trained with the validation items, which then can't choose a checkpoint: start from a model "
            "trained without --refit, or give --refit true (no validation) and --fusion_weight."
        )


def rollout_prompts(
    args: SearchArguments, config: RecommendationGRPOConfig, dataset: RecDataset, recommender: Recommender
) -> RolloutPrompts:
    """What is continued: parts of the training histories, worded as for evaluation."""
    rows_of = recommender.renderer.catalog.rows_of
    sequences = [rows_of(sequence) for sequence in dataset.train_sequences(refit=args.refit)]
    tokens = partial(recommender.prompt_tokens, is_encoder_decoder=False)
    return RolloutPrompts(sequences, tokens, config.targets, args.exclude_seen, config.seed)


def compare_with_start(
    args: SearchArguments,
    model_args: ModelConfig,
    dataset: RecDataset,
    recommender: Recommender,
    model: PreTrainedModel,
    seed: int,
) -> tuple[dict[str, Any], str]:
    """What the stage changed, as numbers and a table; every process ranks its share."""
    start = load_pretrained(model_args, quantized=False)[0].to(model.device)
    item_ids = recommender.renderer.catalog.item_ids
    return compare_models(partial(rank_users, recommender), dataset, item_ids, start, model, args, seed)

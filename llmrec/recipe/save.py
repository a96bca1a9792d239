"""The end of a recipe's training: one process writes the checkpoint, and training is given up."""

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, Trainer
from trl import ModelConfig

from llmrec.catalog import Catalog
from llmrec.hub import save_checkpoint
from llmrec.training.backbone import load_backbone, load_pretrained
from llmrec.training.processes import end_training, whole_state_dict
from llmrec.training.tuning import merge_adapter

logger = logging.getLogger(__name__)


def save_trained(
    trainer: Trainer,
    model_args: ModelConfig,
    base: tuple[Any, ...],
    tokenizer: PreTrainedTokenizerBase,
    catalog: Catalog,
    item_tokenizer_folder: Path | None,
    options: dict[str, Any],
    prompts: dict[str, Any],
    improved: bool = True,
    **parts: Any,
) -> torch.device:
    """Write the checkpoint, adapters merged, of weights that the processes may hold in shards.

    Args:
        trainer: at the end of its training.
        model_args: of the recipe.
        base: what ``load_backbone`` was given after them.
        tokenizer: with the catalogue's tokens.
        catalog: of the model.
        item_tokenizer_folder: what made the semantic IDs, if they were made here.
        options: of the run.
        prompts: how they are worded.
        improved: a training that has not improved the model leaves the one that it started from.
        parts: what else ``save_checkpoint`` takes, its ``method`` among it.

    Returns:
        The device of this process.
    """
    weights = whole_state_dict(trainer)
    if trainer.is_world_process_zero():
        folder, trained = Path(trainer.args.output_dir), trainer.accelerator.unwrap_model(trainer.model)
        if improved:
            adapter = trained, folder / "adapter", model_args
            model = merge_adapter(*adapter, lambda whole: load_backbone(whole, *base)[0], weights)
        else:
            logger.warning("No checkpoint ranked the validation users better than the start did: the start is kept.")
            model, _ = load_pretrained(model_args, quantized=False)
        state_dict = weights if model is trained else None
        checkpoint = model, tokenizer, catalog, item_tokenizer_folder, options, prompts
        save_checkpoint(folder, *checkpoint, state_dict=state_dict, **parts)
    return end_training(trainer)

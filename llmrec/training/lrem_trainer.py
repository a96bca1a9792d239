"""LREM's cold start: the loss of the thoughts and InfoNCE from one pass, in as much memory as there is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig, get_peft_model
from transformers import EarlyStoppingCallback, PreTrainedModel, Trainer, TrainerCallback

from llmrec.models.lrem import add_embeddings
from llmrec.training.arguments import CollatedTrainingArguments
from llmrec.training.contrastive import gather_with_gradient, info_nce, relevant_elsewhere
from llmrec.training.epochs import EpochCallback
from llmrec.training.processes import shard_on_cpu
from llmrec.training.query_pairs import PairCollator, QueryPairs
from llmrec.training.ranking_trainer import RankingEvaluation, RankingValidation
from llmrec.training.tuning import prepare_adapter


@dataclass
class LremTrainingArguments(CollatedTrainingArguments):
    """``TrainingArguments`` whose defaults train the small model; without an accelerator it turns ``use_cpu`` on."""

    output_dir: str | None = field(
        default="outputs/lrem", metadata={"help": "Folder of the run: checkpoint and results."}
    )
    text_weight: float = field(default=0.1, metadata={"help": "Weight of the thoughts' loss (paper: 0.1)."})
    contrastive_weight: float = field(default=1.0, metadata={"help": "Weight of InfoNCE (paper: 1)."})
    temperature: float = field(default=0.05, metadata={"help": "Of InfoNCE; the paper does not say: ours."})
    rows_at_a_time: int | None = field(
        default=None,
        metadata={"help": "Gradient caching: texts whose activations are kept at a time; all if unset."},
    )
    gather_negatives: bool = field(
        default=False, metadata={"help": "Also take the items of the other processes' batches as negatives."}
    )
    num_train_epochs: float = field(default=16, metadata={"help": "Passes over the training queries."})
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Queries in a training batch."})
    per_device_eval_batch_size: int = field(default=128, metadata={"help": "Texts in an evaluation batch."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate."})
    weight_decay: float = field(default=0.01, metadata={"help": "Decoupled weight decay."})
    logging_steps: float = field(default=20, metadata={"help": "Log the training loss every so many steps."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to validate and save."})
    seed: int = field(default=42, metadata={"help": "Of everything drawn: weights, pairs, order."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dataloader_persistent_workers:
            raise ValueError("dataloader_persistent_workers would keep the first epoch's pairs: leave it off.")
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0.")
        if self.rows_at_a_time is not None and self.rows_at_a_time < 1:
            raise ValueError(f"rows_at_a_time is {self.rows_at_a_time}; give 1 or more, or leave it out for all.")


class LremTrainer(RankingValidation, Trainer):
    """Faults, resuming and validation as for every method; the loss is ``text_weight`` x SFT + InfoNCE."""

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,  # noqa: ARG002 -- a mean over queries, as in the paper
    ) -> Any:
        item_rows, relevant = inputs.pop("item_rows"), inputs.pop("relevant")
        outputs = model(**inputs, rows_at_a_time=self.args.rows_at_a_time)
        queries, items = outputs["embeddings"].split([len(relevant), len(item_rows)])
        own = torch.arange(len(queries), device=queries.device)
        if self.args.gather_negatives and model.training:
            own = own + len(items) * self.args.process_index
            items, item_rows = gather_with_gradient(items), gather_with_gradient(item_rows)
        excluded = relevant_elsewhere(item_rows, relevant, own)
        contrastive = info_nce(queries, items, own, self.args.temperature, excluded)
        text = outputs["text_loss"] / len(queries)  # the paper's: summed over tokens, a mean over queries
        loss = self.args.text_weight * text + self.args.contrastive_weight * contrastive
        return (loss, {"loss": loss}) if return_outputs else loss


def build_lrem_trainer(
    model: PreTrainedModel,
    args: LremTrainingArguments,
    items: list[list[int]],
    train_pairs: QueryPairs,
    valid_pairs: QueryPairs | None,
    ranking_evaluation: RankingEvaluation | None,
    early_stopping_patience: int | None,
    peft_config: PeftConfig | None = None,
    inputs: Mapping[str, str] | None = None,
) -> LremTrainer:
    """The trainer of the first stage.

    Args:
        model: causal, with the control tokens' rows.
        args: its configuration.
        items: token ids of every item of the catalogue.
        train_pairs: drawn anew each epoch.
        valid_pairs: for the validation loss; None trains without validation.
        ranking_evaluation: validation by searching the catalogue.
        early_stopping_patience: evaluations without a better ``metric_for_best_model`` before training stops.
        peft_config: LoRA, or None for full fine-tuning.
        inputs: fingerprints of what is trained on, noted in every checkpoint.
    """
    shard_on_cpu()
    add_embeddings(model)
    callbacks: list[TrainerCallback] = [EpochCallback(train_pairs)]
    if early_stopping_patience is not None and valid_pairs is not None:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience))
    if args.gradient_checkpointing and peft_config is not None:
        model.enable_input_require_grads()
    trained = model if peft_config is None else get_peft_model(model, peft_config)
    prepare_adapter(trained)
    trainer = LremTrainer(
        model=trained,
        args=args,
        train_dataset=train_pairs,
        eval_dataset=valid_pairs,
        data_collator=PairCollator(items),
        callbacks=callbacks,
    )
    # the forward takes keywords, which transformers reads as: it divides the loss by the accumulated batches itself
    trainer.model_accepts_loss_kwargs = False
    trainer.ranking_evaluation = ranking_evaluation
    trainer.inputs = inputs
    trainer.train_examples = train_pairs
    return trainer

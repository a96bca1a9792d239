"""Training of SETRec: transformers' Trainer over histories of item indices, validated by ranking the catalogue."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback
from trl import ModelConfig, get_peft_config

from llmrec.models.setrec import SetRecModel
from llmrec.training.arguments import CollatedTrainingArguments
from llmrec.training.epochs import EpochCallback
from llmrec.training.processes import shard_on_cpu
from llmrec.training.ranking_trainer import RankingEvaluation, RankingValidation
from llmrec.training.set_examples import SetExamples, collate_sets

#: Parts that no pretrained model has: trained in full beside an adapter.
_NEW_PARTS = ("cf_projection", "auto_encoder", "queries")


@dataclass
class SetRecTrainingArguments(CollatedTrainingArguments):
    """``TrainingArguments`` whose defaults train the small model; without an accelerator it turns ``use_cpu`` on."""

    output_dir: str | None = field(
        default="outputs/setrec", metadata={"help": "Folder of the run: checkpoint and results."}
    )
    num_train_epochs: float = field(default=4, metadata={"help": "Passes over the training examples."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Histories in a training batch."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Histories in an evaluation batch."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate."})
    weight_decay: float = field(default=0.01, metadata={"help": "Decoupled weight decay."})
    logging_steps: float = field(default=50, metadata={"help": "Log the training loss every so many steps."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save, and so from where a run resumes."})
    seed: int = field(default=42, metadata={"help": "Of everything drawn: weights, windows, order."})


class SetRecTrainer(RankingValidation, Trainer):
    """Faults, resuming and validation as for every method."""


def setrec_adapter(model_args: ModelConfig, model: SetRecModel) -> LoraConfig | None:
    """TRL's LoRA settings for the backbone, with SETRec's own parts trained in full; None for full fine-tuning."""
    config = get_peft_config(model_args)
    if config is None:
        return None
    config.task_type = None
    # the paper's, by T5's names and by everyone else's
    projections = ["q", "v", "o"] if model.backbone.config.is_encoder_decoder else ["q_proj", "v_proj", "o_proj"]
    config.target_modules = config.target_modules or projections
    config.modules_to_save = [*(config.modules_to_save or []), *_NEW_PARTS]
    return config


def build_setrec_trainer(
    model: SetRecModel,
    args: SetRecTrainingArguments,
    train_examples: SetExamples,
    valid_examples: SetExamples | None,
    ranking_evaluation: RankingEvaluation | None,
    early_stopping_patience: int | None,
    peft_config: LoraConfig | None = None,
    inputs: Mapping[str, str] | None = None,
) -> SetRecTrainer:
    """The trainer.

    Args:
        model: with its items set.
        args: its configuration.
        train_examples: drawn anew each epoch.
        valid_examples: for the validation loss; None trains without validation.
        ranking_evaluation: validation by ranking; None leaves the loss alone.
        early_stopping_patience: evaluations without a better ``metric_for_best_model`` before training stops.
        peft_config: LoRA, or None for full fine-tuning.
        inputs: fingerprints of what is trained on, noted in every checkpoint.
    """
    shard_on_cpu()
    callbacks: list[TrainerCallback] = [EpochCallback(train_examples)]
    if early_stopping_patience is not None and valid_examples is not None:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience))
    trained: SetRecModel | PeftModel = model if peft_config is None else get_peft_model(model, peft_config)
    trainer = SetRecTrainer(
        model=trained,
        args=args,
        train_dataset=train_examples,
        eval_dataset=valid_examples,
        data_collator=collate_sets,
        callbacks=callbacks,
    )
    trainer.ranking_evaluation = ranking_evaluation
    trainer.inputs = inputs
    trainer.train_examples = train_examples
    return trainer

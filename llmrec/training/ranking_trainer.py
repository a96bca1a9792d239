"""TRL's and transformers' trainers, with validation by ranking the catalogue beside the validation loss."""

from collections.abc import Callable
from typing import Any

from peft import PeftConfig
from transformers import (
    DataCollatorForSeq2Seq,
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
)
from transformers.trainer_utils import EvalLoopOutput
from trl import SFTConfig, SFTTrainer

from llmrec.training.examples import EpochCallback, EpochExamples

#: Validation by ranking: the model in, metrics without a prefix out (``{"ndcg@10": ...}``).
RankingEvaluation = Callable[[PreTrainedModel], dict[str, float]]


class _RankingEvaluation:
    """Adds ranking metrics to those of the evaluation loop, so that logs, early stopping and the choice of the best
    checkpoint all see them."""

    ranking_evaluation: RankingEvaluation | None = None

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)  # type: ignore[misc]
        if self.ranking_evaluation is not None:
            model = self.accelerator.unwrap_model(self.model)  # type: ignore[attr-defined]
            for name, value in self.ranking_evaluation(model).items():
                output.metrics[f"{metric_key_prefix}_{name}"] = value
        return output


class RankingSFTTrainer(_RankingEvaluation, SFTTrainer):
    """For decoder-only models."""


class RankingSeq2SeqTrainer(_RankingEvaluation, Seq2SeqTrainer):
    """For encoder-decoders, which TRL's SFTTrainer does not train."""


def build_trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    args: SFTConfig,
    train_examples: EpochExamples,
    valid_examples: EpochExamples | None,
    ranking_evaluation: RankingEvaluation | None,
    early_stopping_patience: int | None,
    peft_config: PeftConfig | None = None,
) -> Trainer:
    """The trainer that fits the model's architecture.

    Args:
        model: with its new vocabulary rows.
        tokenizer: with its new tokens.
        args: TRL's configuration; an encoder-decoder takes what it shares with ``TrainingArguments``.
        train_examples: drawn anew each epoch.
        valid_examples: for the validation loss; None trains without validation.
        ranking_evaluation: validation by ranking; None leaves the loss alone.
        early_stopping_patience: evaluations without a better ``metric_for_best_model`` before training stops.
        peft_config: LoRA, or None for full fine-tuning.
    """
    callbacks: list[TrainerCallback] = [EpochCallback(train_examples)]
    if early_stopping_patience is not None and valid_examples is not None:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience))
    shared: dict[str, Any] = {
        "model": model,
        "train_dataset": train_examples.dataset(),
        "eval_dataset": None if valid_examples is None else valid_examples.dataset(),
        "processing_class": tokenizer,
        "callbacks": callbacks,
    }
    if model.config.is_encoder_decoder:
        if peft_config is not None:
            raise ValueError("LoRA for encoder-decoder models is not supported yet: train them in full.")
        collator = DataCollatorForSeq2Seq(tokenizer, model=model)
        trainer: Trainer = RankingSeq2SeqTrainer(args=_seq2seq_arguments(args), data_collator=collator, **shared)
    else:
        trainer = RankingSFTTrainer(args=args, peft_config=peft_config, **shared)
        head = trainer.model.get_output_embeddings()
        if not hasattr(head, "bias"):
            # TRL's fused head reads it, and PEFT's wrapper around trained rows passes on the weight only
            head.bias = None
    trainer.ranking_evaluation = ranking_evaluation
    return trainer


def _seq2seq_arguments(args: SFTConfig) -> Seq2SeqTrainingArguments:
    known = set(Seq2SeqTrainingArguments.__dataclass_fields__)
    shared = [name for name, field in type(args).__dataclass_fields__.items() if field.init and name in known]
    return Seq2SeqTrainingArguments(**{name: getattr(args, name) for name in shared})

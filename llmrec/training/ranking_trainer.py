"""TRL's and transformers' trainers, with validation by ranking the catalogue beside the validation loss."""

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from datasets import Dataset
from peft import PeftConfig, get_peft_model
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import Sampler
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

from llmrec.training.distillation import ItemKNNTeacher, distilled_loss
from llmrec.training.epochs import EpochCallback, EpochExamples, GroupedExamples, GroupedSampler
from llmrec.training.examples import IGNORED_LABEL
from llmrec.training.faults import FaultTolerance
from llmrec.training.loss_tiles import small_tiles
from llmrec.training.muon import MUON_RATE, MuonWithRest, layer_matrices
from llmrec.training.packing import PackedCollator
from llmrec.training.processes import shard_on_cpu, whole_model
from llmrec.training.target_loss import add_target_loss
from llmrec.training.tuning import prepare_adapter
from llmrec.training.varlen_attention import VARLEN, flattens_batches

#: Validation by ranking: the model in, metrics without a prefix out (``{"ndcg@10": ...}``).
RankingEvaluation = Callable[[PreTrainedModel], dict[str, float]]


class RankingValidation(FaultTolerance):
    """Adds ranking metrics to those of the evaluation loop, so that logs, early stopping and the choice of the best
    checkpoint all see them, and groups batches by the lengths of the epoch."""

    ranking_evaluation: RankingEvaluation | None = None
    train_examples: GroupedExamples

    def _get_train_sampler(self, *args: Any) -> Sampler | None:
        if self.args.train_sampling_strategy == "group_by_length":  # type: ignore[attr-defined]
            return GroupedSampler(self.args.train_batch_size, self.train_examples, self.args.seed)  # type: ignore[attr-defined]
        return super()._get_train_sampler(*args)  # type: ignore[misc]

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)  # type: ignore[misc]
        if self.ranking_evaluation is not None:
            with whole_model(self) as model:  # type: ignore[arg-type]
                metrics = self.ranking_evaluation(model)
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        return output


def mean_over_targets(trainer: Trainer, total: torch.Tensor, labels: torch.Tensor, counted: Any) -> torch.Tensor:
    """A batch's loss from the sum over its targets, for however many batches and processes make a step.

    Args:
        trainer: whose step it is.
        total: of the batch, of shape ().
        labels: of the batch.
        counted: targets of the whole step, where the trainer counted them; else each batch counts as much.
    """
    targets = (labels != IGNORED_LABEL).sum() if counted is None else counted
    loss = total / torch.as_tensor(targets).clamp(min=1)
    if counted is None:
        return loss / (trainer.current_gradient_accumulation_steps if trainer.model.training else 1)
    return loss * trainer.accelerator.num_processes if trainer.args.average_tokens_across_devices else loss


class RankingSFTTrainer(RankingValidation, SFTTrainer):
    """For decoder-only models."""

    teacher: ItemKNNTeacher | None = None
    optimizer: Optimizer | None

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        if self.optimizer is not None or not getattr(self.args, "muon", False):
            return super().create_optimizer(model)
        model = self.model if model is None else model
        matrices = layer_matrices(model)
        chosen = {id(weight) for weight in matrices}
        trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
        rest = [(name, weight) for name, weight in trained if id(weight) not in chosen]
        decays = set(self.get_decay_parameter_names(model))
        groups = [
            {"params": [weight for name, weight in rest if (name in decays) is decay], "weight_decay": amount}
            for decay, amount in ((True, self.args.weight_decay), (False, 0.0))
        ]
        optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, model)
        others = optimizer_class(groups, **options)
        self.optimizer = MuonWithRest(matrices, others, MUON_RATE * self.args.learning_rate, self.args.weight_decay)
        return self.optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        if self.teacher is None or not self.model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs["labels"][:, 1:]
        others = {name: value for name, value in inputs.items() if name != "labels"}
        outputs = model(**others, use_cache=False)
        is_target = labels != IGNORED_LABEL
        logits, targets = outputs.logits[:, :-1][is_target].float(), labels[is_target]
        total = distilled_loss(logits, targets, self.teacher(labels.cpu().numpy()), self.teacher.share)
        self._metrics["train"]["mean_token_accuracy"].append((logits.argmax(-1) == targets).float().mean().item())
        loss = mean_over_targets(self, total, labels, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        with small_tiles(self.args.device):
            return super().training_step(*args, **kwargs)

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        with small_tiles(self.args.device):
            return super().prediction_step(*args, **kwargs)


class RankingSeq2SeqTrainer(RankingValidation, Seq2SeqTrainer):
    """For encoder-decoders, which TRL's SFTTrainer does not train; the loss is over targets only, as TRL's is."""

    loss_is_scaled_for_ga = True

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        total = model(**inputs, targets_only=True)["loss"]
        loss = mean_over_targets(self, total, inputs["labels"], num_items_in_batch)
        return (loss, {"loss": loss}) if return_outputs else loss


def build_trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    args: SFTConfig,
    train_examples: EpochExamples,
    valid_examples: EpochExamples | None,
    ranking_evaluation: RankingEvaluation | None,
    early_stopping_patience: int | None,
    peft_config: PeftConfig | None = None,
    inputs: Mapping[str, str] | None = None,
    teacher: ItemKNNTeacher | None = None,
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
        inputs: fingerprints of what is trained on, noted in every checkpoint.
        teacher: what it expects joins the targets of whole histories; for decoder-only models.
    """
    shard_on_cpu()
    callbacks: list[TrainerCallback] = [EpochCallback(train_examples)]
    if early_stopping_patience is not None and valid_examples is not None:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience))
    if args.packing and model.config.is_encoder_decoder:
        raise ValueError("packing is for decoder-only models: give --train_sampling_strategy group_by_length instead.")
    if getattr(args, "muon", False) and model.config.is_encoder_decoder:
        raise ValueError("muon is for decoder-only models: give --muon false.")
    if model.config._attn_implementation == VARLEN and not torch.cuda.is_available():
        raise ValueError(f"attn_implementation {VARLEN} needs a CUDA GPU: give --attn_implementation sdpa.")
    if args.packing:
        # packed sequences are of one length already
        args = copy.copy(args)
        args.train_sampling_strategy = "random"
    with args.main_process_first(desc="tokenizing"):
        train_dataset = _train_dataset(train_examples, args)
    shared: dict[str, Any] = {
        "model": model,
        "train_dataset": train_dataset,
        "eval_dataset": None if valid_examples is None else valid_examples.dataset(),
        "processing_class": tokenizer,
        "callbacks": callbacks,
    }
    if model.config.is_encoder_decoder:
        if peft_config is not None:
            if args.gradient_checkpointing:
                model.enable_input_require_grads()
            shared["model"] = get_peft_model(model, peft_config)
        add_target_loss(model)
        collator = DataCollatorForSeq2Seq(tokenizer, model=model)
        prepare_adapter(shared["model"])
        trainer: Trainer = RankingSeq2SeqTrainer(args=_seq2seq_arguments(args), data_collator=collator, **shared)
    else:
        collator = None
        if args.packing and not flattens_batches(model.config._attn_implementation):
            # TRL's packing flattens a batch to one sequence, which needs the kernels; with others the rows stay apart
            args.packing = False
            collator = PackedCollator(tokenizer.pad_token_id, args.pad_to_multiple_of)
        trainer = RankingSFTTrainer(args=args, peft_config=peft_config, data_collator=collator, **shared)
        trainer.teacher = teacher
        prepare_adapter(trainer.model)
    trainer.ranking_evaluation = ranking_evaluation
    trainer.inputs = inputs
    trainer.train_examples = train_examples
    return trainer


def _train_dataset(examples: EpochExamples, args: SFTConfig) -> Dataset:
    """The training rows, with every epoch that will be trained tokenized beforehand."""
    num_epochs = math.ceil(args.num_train_epochs)
    if args.max_steps > 0:
        rows = len(examples.packed_dataset(1) if args.packing else examples)
        batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        num_epochs = math.ceil(args.max_steps * batch / rows)
    if args.packing:
        return examples.packed_dataset(max(1, num_epochs))
    for epoch in range(num_epochs):
        examples.tokenized(epoch)
    return examples.dataset()


def _seq2seq_arguments(args: SFTConfig) -> Seq2SeqTrainingArguments:
    known = set(Seq2SeqTrainingArguments.__dataclass_fields__)
    shared = [name for name, field in type(args).__dataclass_fields__.items() if field.init and name in known]
    return Seq2SeqTrainingArguments(**{name: getattr(args, name) for name in shared})

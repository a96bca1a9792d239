"""TRL's SFTConfig and GRPOConfig with defaults for a small model on whatever machine there is."""

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments
from trl import GRPOConfig, SFTConfig

from llmrec.training.muon import MUON_RATE
from llmrec.training.processes import start_cpu_processes
from llmrec.training.rewards import RewardName
from llmrec.training.rollouts import RolloutMethod, TargetChoice
from llmrec.training.run_folder import RESUME_AUTO


@dataclass
class SharedDefaults:
    """Defaults that both stages have; comes before TRL's class among the bases."""

    adam_beta2: float = field(default=0.98, metadata={"help": "AdamW's second beta."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning-rate schedule."})
    warmup_steps: float = field(default=0.05, metadata={"help": "Warm-up: a share of all steps, or their number."})
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Trade compute for memory."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Training checkpoints kept."})
    ddp_timeout: int = field(default=21_600, metadata={"help": "Seconds that other processes wait for the data stage."})
    resume_from_checkpoint: str | None = field(
        default=RESUME_AUTO,
        metadata={"help": "auto: the run's last complete checkpoint, if any. Or the path of a complete checkpoint."},
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Hide such losses from the log; training stops at one, so there are none."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Search each step for weights without a gradient; here all have one."}
    )
    report_to: str = field(default="none", metadata={"help": "Experiment tracker: tensorboard, wandb, trackio ..."})


@dataclass
class CollatedTrainingArguments(SharedDefaults, TrainingArguments):
    """``TrainingArguments`` for rows that a collator of ours makes batches of, under the model's own names."""

    def __post_init__(self) -> None:
        fit_machine(self)
        self.remove_unused_columns = False
        self.label_names = ["labels"]
        self.prediction_loss_only = True
        super().__post_init__()


@dataclass
class RecommendationSFTConfig(SharedDefaults, SFTConfig):
    """``SFTConfig`` whose defaults train the small model of the demo; a YAML file sets the rest for a pretrained one.

    On a machine without an accelerator it turns ``use_cpu`` on, and bf16 off unless asked for: few CPUs have it.
    """

    output_dir: str | None = field(
        default="outputs/lcrec", metadata={"help": "Folder of the run: checkpoint and results."}
    )
    num_train_epochs: float = field(default=8, metadata={"help": "Passes over the training examples."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Sequences in a training batch."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate."})
    weight_decay: float = field(default=0.01, metadata={"help": "Decoupled weight decay."})
    max_length: int | None = field(default=1024, metadata={"help": "Longest sequence in tokens."})
    logging_steps: float = field(default=50, metadata={"help": "Log the training loss every so many steps."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save, and so from where a run resumes."})
    seed: int = field(default=42, metadata={"help": "Of everything drawn: weights, windows, templates, order."})

    def __post_init__(self) -> None:
        fit_machine(self)
        # rows are read through a transform: the trainer must neither prepare them nor drop their columns
        self.dataset_kwargs: dict[str, Any] | None = {**(self.dataset_kwargs or {}), "skip_prepare_dataset": True}
        self.remove_unused_columns = False
        super().__post_init__()
        if self.max_length is None:
            raise ValueError("max_length must be a number of tokens: examples are cut, and packed, to it.")
        if self.dataloader_persistent_workers:
            raise ValueError("dataloader_persistent_workers would keep the first epoch's examples: leave it off.")


@dataclass
class LCRecSFTConfig(RecommendationSFTConfig):
    """The recommended configuration's training, the same for every dataset (docs/benchmarks.md)."""

    num_train_epochs: float = field(default=10, metadata={"help": "Passes over the training examples."})
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Sequences in a training batch."})
    train_sampling_strategy: str = field(
        default="group_by_length", metadata={"help": "How batches are made; packed sequences are drawn at random."}
    )
    muon: bool | None = field(
        default=None,
        metadata={
            "help": f"Muon instead of --optim for the layers' matrices, at {MUON_RATE} times --learning_rate; "
            "unset: for a small decoder-only model."
        },
    )


@dataclass
class ULMRecSFTConfig(RecommendationSFTConfig):
    """The same, in a folder of its own."""

    output_dir: str | None = field(
        default="outputs/ulmrec", metadata={"help": "Folder of the run: checkpoint and results."}
    )


@dataclass
class RecommendationGRPOConfig(SharedDefaults, GRPOConfig):
    """``GRPOConfig`` of the reinforcement stage, with defaults chosen by validation (docs/training.md).

    An epoch takes each user once. Without an accelerator, see ``RecommendationSFTConfig``.
    """

    output_dir: str | None = field(
        default="outputs/lcrec_rl", metadata={"help": "Folder of the run: checkpoint and results."}
    )
    reward: RewardName = field(
        default="hit",
        metadata={
            "help": "hit: 1 for the item that came next. ndcg: what each item costs the list's ndcg by its place."
        },
    )
    rollouts: RolloutMethod = field(
        default="beams",
        metadata={"help": "beams: the list that evaluation ranks. samples: drawn without replacement."},
    )
    targets: TargetChoice = field(
        default="latest",
        metadata={"help": "latest: the last item of a training history. any: one drawn anew for each epoch."},
    )
    num_generations: int = field(default=16, metadata={"help": "Items of a list, which is one group."})
    scale_rewards: str = field(
        default="none",
        metadata={"help": "Divide a reward by the deviation in its group or batch, or by nothing (none)."},
    )
    num_train_epochs: float = field(default=4, metadata={"help": "Passes over the users."})
    per_device_train_batch_size: int = field(
        default=512, metadata={"help": "Items in a training batch: a multiple of num_generations."}
    )
    learning_rate: float = field(default=2e-5, metadata={"help": "Peak learning rate."})
    weight_decay: float = field(default=0.0, metadata={"help": "Decoupled weight decay."})
    logging_steps: float = field(default=10, metadata={"help": "Log rewards and the rest every so many steps."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to validate and save."})
    seed: int = field(default=42, metadata={"help": "Of everything drawn: targets, order, samples."})

    def __post_init__(self) -> None:
        fit_machine(self)
        super().__post_init__()


def fit_machine(config: TrainingArguments) -> None:
    """Turn ``use_cpu`` on, and connect processes, where there is no accelerator."""
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        config.use_cpu = True
        config.bf16 = bool(config.bf16)
        start_cpu_processes(config.ddp_timeout)


def check_saves(config: TrainingArguments) -> None:
    """Refuse a training that would never be validated.

    Raises:
        ValueError: if ``config`` does not save by steps or epochs.
    """
    if config.save_strategy not in ("steps", "epoch"):
        raise ValueError(f"save_strategy is {config.save_strategy}; validation takes place at saves: steps or epoch.")


def choose_by_validation(config: TrainingArguments, metric: str) -> None:
    """Validate whenever ``config`` saves, and end with the checkpoint that has the highest validation ``metric``."""
    config.eval_strategy = config.save_strategy
    config.eval_steps = config.save_steps
    config.load_best_model_at_end = True
    config.metric_for_best_model = f"eval_{metric}"
    config.greater_is_better = True
    config.restore_callback_states_from_checkpoint = True  # a resumed run remembers early stopping's patience

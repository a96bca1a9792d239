"""The ways to train that benchmarks/training.py compares: each one change away from the one before it."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer
from trl import ModelConfig, SFTConfig, SFTTrainer

from benchmarks.training_setup import SourceKind, Workload
from llmrec.models.from_config import SmallModelConfig
from llmrec.training.arguments import RecommendationSFTConfig
from llmrec.training.backbone import load_backbone
from llmrec.training.epochs import EpochExamples
from llmrec.training.ranking_trainer import build_trainer
from llmrec.training.tuning import adapter_config
from llmrec.vocabulary import ItemVocabulary

Tuning = Literal["full", "lora", "lora_4bit"]

GROUPED = {"train_sampling_strategy": "group_by_length"}
CHECKPOINTED = {"gradient_checkpointing": True}


@dataclass(frozen=True)
class Contender:
    """One way to train.

    Args:
        label: in tables.
        source: one example per prefix, or one pass per user with the loss on every item.
        ours: trained by ``build_trainer``; otherwise by TRL's own SFTTrainer, collator and defaults.
        packed: several examples in a sequence.
        options: of the training configuration, beside what all contenders share.
        tuning: which parameters.
        pretrained: starts from the saved base, which new rows are added to, instead of from random weights.
    """

    label: str
    source: SourceKind
    ours: bool = True
    packed: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    tuning: Tuning = "full"
    pretrained: bool = False


CONTENDERS: dict[str, Contender] = {
    "trl_defaults": Contender("TRL defaults, one example per prefix", "prefix", ours=False),
    "prefix": Contender("prefixes without gradient checkpointing", "prefix"),
    "prefix_grouped": Contender("prefixes in batches of like length", "prefix", options=GROUPED),
    "prefix_packed": Contender("prefixes, packed", "prefix", packed=True),
    "history": Contender("history loss, one pass per user", "history"),
    "history_grouped": Contender("history loss in batches of like length", "history", options=GROUPED),
    "history_packed": Contender("history loss, packed", "history", packed=True),
    "pretrained_full": Contender("saved base, full", "history", options=GROUPED, pretrained=True),
    "pretrained_lora": Contender("saved base, LoRA", "history", options=GROUPED, tuning="lora", pretrained=True),
    "pretrained_lora_4bit": Contender(
        "saved base, LoRA on 4 bits", "history", options=GROUPED, tuning="lora_4bit", pretrained=True
    ),
}


@dataclass(frozen=True)
class TrainingSettings:
    """What all contenders share.

    Args:
        device: cpu or cuda.
        bf16: autocast to bfloat16; weights stay as they are.
        batch_sizes: examples of a batch, by source.
        packed_batch_size: packed sequences of a batch.
        max_length: of a packed sequence, and longest example.
        learning_rates: by source, and for ``lora`` adapters.
        epochs: by source: more than a run gets through, since a target or the clock ends it.
        max_steps: ends a run earlier; -1 does not.
        seed: of weights, order and draws.
    """

    device: str
    bf16: bool
    batch_sizes: dict[str, int]
    packed_batch_size: int
    max_length: int
    learning_rates: dict[str, float]
    epochs: dict[str, int]
    max_steps: int
    seed: int

    def arguments(self, contender: Contender, output_dir: str) -> dict[str, Any]:
        """Arguments of the training configuration of a contender: what is not here is its trainer's default."""
        rates = self.learning_rates
        batch_size = self.packed_batch_size if contender.packed else self.batch_sizes[contender.source]
        return {
            "output_dir": output_dir,
            "per_device_train_batch_size": batch_size,
            "num_train_epochs": self.epochs[contender.source],
            "max_steps": self.max_steps,
            "max_length": self.max_length,
            "learning_rate": rates[contender.source if contender.tuning == "full" else "lora"],
            "lr_scheduler_type": "constant_with_warmup",
            "warmup_steps": 20,
            "weight_decay": 0.01,
            "adam_beta2": 0.98,
            "bf16": self.bf16,
            "use_cpu": self.device == "cpu",
            "seed": self.seed,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "packing": contender.packed,
            **contender.options,
        }


def build_contender(
    contender: Contender,
    settings: TrainingSettings,
    workload: Workload,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    output_dir: str,
) -> Trainer:
    """Its trainer over the workload, with nothing trained yet."""
    source = workload.source(contender.source)
    arguments = settings.arguments(contender, output_dir)
    examples = EpochExamples([source], tokenizer.eos_token_id, False, settings.max_length)
    if not contender.ours:
        rows = Dataset.from_dict(examples.dataset()[:])
        return SFTTrainer(model=model, args=SFTConfig(**arguments), train_dataset=rows, processing_class=tokenizer)
    config = RecommendationSFTConfig(**arguments)
    adapter = None
    if contender.tuning != "full":
        vocabulary = ItemVocabulary(tokenizer, workload.renderer.catalog.codebook_sizes)
        adapter = adapter_config(model_config(contender.tuning, None), model, vocabulary.new_token_ids)
    return build_trainer(model, tokenizer, config, examples, None, None, None, adapter)


def model_config(
    tuning: Tuning, folder: str | None, dtype: str = "float32", attention: str | None = None
) -> ModelConfig:
    """TRL's model options of a tuning mode over the base saved in ``folder``."""
    return ModelConfig(
        model_name_or_path=folder,
        dtype=dtype,
        attn_implementation=attention,
        use_peft=tuning != "full",
        lora_r=16,
        lora_alpha=32,
        lora_dropout=0.0,
        load_in_4bit=tuning == "lora_4bit",
    )


def load_base(
    tuning: Tuning, folder: str, workload: Workload, dtype: str = "float32", attention: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The saved base with rows for the catalogue's tokens, as the recipe loads it."""
    options = model_config(tuning, folder, dtype, attention)
    model, tokenizer, _ = load_backbone(options, SmallModelConfig(), workload.renderer.catalog, "text", workload.seed)
    return model, tokenizer


def trained_parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)

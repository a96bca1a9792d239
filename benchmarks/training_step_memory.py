"""Peak memory of one training step over a vocabulary of 151,936: ours, TRL's default, plain transformers.

    python -m benchmarks.training_step_memory ours all 512 memory.json

A batch of 8 x 512 (or fewer) tokens through a small Qwen3 body under Qwen3's own vocabulary, so that what differs is
the loss. The measured step includes gradients and AdamW's update. Labels: on every token, or on the last 32 of each
sequence.
"""

import sys
import tempfile
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import DataCollatorForSeq2Seq, Qwen3Config, Qwen3ForCausalLM, Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer

from benchmarks.decoding_measure import PeakMemory
from benchmarks.training_memory import VOCABULARY
from llmrec.atomic import write_json
from llmrec.models.from_config import train_text_tokenizer
from llmrec.training.arguments import RecommendationSFTConfig
from llmrec.training.epochs import EpochExamples
from llmrec.training.examples import ExampleSource, TokenizedExample
from llmrec.training.ranking_trainer import build_trainer

BATCH, COMPLETION = 8, 32
#: Name -> what it is.
STEPS = {
    "transformers": "transformers' Trainer, model(labels=...): full logits",
    "trl_defaults": "TRL's SFTTrainer, its defaults: chunked loss, gradient checkpointing",
    "ours": "ours, its defaults: chunked loss",
    "ours_checkpointing": "ours with gradient checkpointing",
}
LABELS = ("all", "completion")


class _RandomTokens(ExampleSource):
    """``BATCH`` examples of random tokens, of which the last ``completion`` are under the loss."""

    def __init__(self, vocabulary: int, length: int, completion: int) -> None:
        self.tokens = np.random.default_rng(0).integers(2, vocabulary, (BATCH, length)).tolist()
        self.completion = completion

    @property
    def content(self) -> list[Any]:
        return [self.tokens, self.completion]

    def __len__(self) -> int:
        return BATCH

    def example(self, row: int, epoch: int) -> TokenizedExample:  # noqa: ARG002
        tokens, start = self.tokens[row], len(self.tokens[row]) - self.completion
        return TokenizedExample(tokens[:start], tokens[start:])


def step_memory(name: str, labels: str, length: int, vocabulary: int = VOCABULARY) -> dict[str, Any]:
    """One step of ``STEPS[name]``, in float32 on the CPU; memory beyond what the process held before the model."""
    completion = length if labels == "all" else COMPLETION
    examples = EpochExamples([_RandomTokens(vocabulary, length, completion)], 0, False, length)
    tokenizer = train_text_tokenizer(["no text"], 300)
    memory = PeakMemory("cpu")
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocabulary,
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=32,
            tie_word_embeddings=True,
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = {
            "output_dir": folder,
            "max_steps": 1,
            "per_device_train_batch_size": BATCH,
            "use_cpu": True,
            "bf16": False,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
        }
        trainer = _trainer(name, arguments, model, tokenizer, examples)
        before = memory.peak_bytes()
        trainer.train()
    return {
        "name": name,
        "labels": labels,
        "length": length,
        "peak_bytes": memory.peak_bytes(),
        "before_step_bytes": before,
        "peak_how": memory.how,
    }


def _trainer(name: str, arguments: dict[str, Any], model: Any, tokenizer: Any, examples: EpochExamples) -> Trainer:
    if name.startswith("ours"):
        checkpointing = name == "ours_checkpointing"
        config = RecommendationSFTConfig(
            **arguments, max_length=examples.max_length, gradient_checkpointing=checkpointing
        )
        return build_trainer(model, tokenizer, config, examples, None, None, None)
    rows = Dataset.from_dict(examples.dataset()[:])
    if name == "trl_defaults":
        return SFTTrainer(model=model, args=SFTConfig(**arguments), train_dataset=rows, processing_class=tokenizer)
    collator = DataCollatorForSeq2Seq(tokenizer)
    return Trainer(model=model, args=TrainingArguments(**arguments), train_dataset=rows, data_collator=collator)


def main(name: str, labels: str, length: str, result_file: str) -> None:
    write_json(result_file, step_memory(name, labels, int(length)))


if __name__ == "__main__":
    main(*sys.argv[1:])

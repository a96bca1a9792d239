"""Tokens and seconds per target: one example per prefix (LC-Rec) against one pass per user (history_loss all).

    python benchmarks/history_loss.py --dataset_dir data/ml-100k

Trains the demo's model for some steps each way over the same dataset and semantic IDs, alternating, and prints tokens
per target item and seconds per target item of both, with ratios. Quote the ratios: seconds are the machine's.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from transformers import Trainer

from llmrec.atomic import write_json
from llmrec.catalog import Catalog
from llmrec.dataset import RecDataset
from llmrec.models.from_config import SmallModelConfig, build_small_model, train_text_tokenizer
from llmrec.prompts.instructions import build_instructions
from llmrec.prompts.renderer import SegmentRenderer
from llmrec.training.arguments import RecommendationSFTConfig
from llmrec.training.epochs import EpochExamples
from llmrec.training.examples import ExampleSource, HistoryWindows, InstructionExamples
from llmrec.training.ranking_trainer import build_trainer
from llmrec.vocabulary import ItemVocabulary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", default="data/ml-100k", help="prepared dataset with semantic_ids/ inside")
    parser.add_argument("--steps", type=int, default=20, help="training steps timed for each way, each of 3 rounds")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--max_history", type=int, default=50)
    parser.add_argument("--output", default="benchmarks/results/history_loss.json")
    args = parser.parse_args()
    dataset = RecDataset.load(args.dataset_dir)
    catalog = Catalog.load(dataset.folder / "semantic_ids")
    tokenizer = train_text_tokenizer(catalog.titles, 1024)
    vocabulary = ItemVocabulary.add_to(tokenizer, catalog.codebook_sizes)
    renderer = SegmentRenderer(catalog, vocabulary)
    tables = build_instructions(dataset, dataset.folder / "instructions", ["seqrec"], max_history=args.max_history)
    sources: dict[str, ExampleSource] = {
        "prefix": InstructionExamples(tables["seqrec"], renderer, 0),
        "all": HistoryWindows(dataset.train_sequences(), renderer, args.max_history + 1, 0),
    }
    targets = {
        "prefix": tables["seqrec"].num_rows,
        "all": sum(len(sequence) - 1 for sequence in dataset.train_sequences()),
    }
    results = {name: {"targets": targets[name], **_tokens(source, targets[name])} for name, source in sources.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sources}
    for _ in range(3):
        for name, source in sources.items():
            trainer = _trainer(source, tokenizer, args)
            start = time.perf_counter()
            trainer.train()
            per_example = (time.perf_counter() - start) / (args.steps * args.batch_size)
            seconds[name].append(per_example * len(source) / targets[name])
    for name, result in results.items():
        result["seconds_per_target"] = sorted(seconds[name])[1]
    ratios = {key: results["prefix"][key] / results["all"][key] for key in ("tokens_per_target", "seconds_per_target")}
    content = {"dataset": dataset.name, "threads": torch.get_num_threads(), "ways": results, "prefix_over_all": ratios}
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    write_json(args.output, content)
    print(json.dumps(content, indent=2))


def _tokens(source: ExampleSource, targets: int) -> dict[str, float]:
    """Tokens of one pass over a sample of at most 5,000 examples, per target."""
    rows = range(0, len(source), max(1, len(source) // 5000))
    examples = [source.example(row, 0) for row in rows]
    tokens = sum(len(example.prompt_ids) + len(example.completion_ids) for example in examples)
    return {"tokens_per_target": tokens / len(examples) * len(source) / targets}


def _trainer(source: ExampleSource, tokenizer: object, args: argparse.Namespace) -> Trainer:
    config = RecommendationSFTConfig(
        output_dir="outputs/benchmark",
        max_steps=args.steps,
        per_device_train_batch_size=args.batch_size,
        save_strategy="no",
        disable_tqdm=True,
    )
    examples = EpochExamples([source], tokenizer.eos_token_id, False, 1024)
    model = build_small_model(SmallModelConfig(), tokenizer, 0)
    return build_trainer(model, tokenizer, config, examples, None, None, None)


if __name__ == "__main__":
    main()

"""One contender of benchmarks/training.py on MovieLens, in a process of its own with memory of its own.

python -m benchmarks.training_process job.json result.json
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from benchmarks.decoding_measure import PeakMemory
from benchmarks.training_contenders import CONTENDERS, TrainingSettings, build_contender, load_base
from benchmarks.training_measure import Progress, measure
from benchmarks.training_setup import Workload
from llmrec.atomic import write_json
from llmrec.catalog import Catalog
from llmrec.dataset import RecDataset
from llmrec.evaluation import Evaluator
from llmrec.evaluation.recommender import Recommender
from llmrec.models.from_config import SmallModelConfig, build_small_model, train_text_tokenizer
from llmrec.prompts.renderer import SegmentRenderer
from llmrec.recipe.data import DataArguments, open_catalog, open_dataset
from llmrec.vocabulary import ItemVocabulary, bind_catalog

#: Passes over the items' texts that make the base for LoRA.
BASE_EPOCHS = 10


def open_movielens(dataset_dir: str) -> tuple[RecDataset, Catalog]:
    """Dataset and catalogue of the recipe's defaults, made where they are missing."""
    args = DataArguments(dataset_dir)
    dataset = open_dataset(args)
    return dataset, open_catalog(args, dataset, seed=42)[0]


def small_model(catalog: Catalog, seed: int) -> tuple[Any, Any, SegmentRenderer]:
    """The demo's model with random weights, its tokenizer, and how items become its tokens."""
    tokenizer = train_text_tokenizer(catalog.titles, SmallModelConfig().text_vocab_size)
    vocabulary = ItemVocabulary.add_to(tokenizer, catalog.codebook_sizes)
    model = build_small_model(SmallModelConfig(), tokenizer, seed)
    bind_catalog(model, catalog)
    return model, tokenizer, SegmentRenderer(catalog, vocabulary)


def make_base(job: dict[str, Any]) -> dict[str, Any]:
    """Train the demo's model on the items' texts, as a stand-in for a pretrained one, and save it."""
    settings = TrainingSettings(**job["settings"])
    _, catalog = open_movielens(job["dataset_dir"])
    categories = [", ".join(names) for names in catalog.items["categories"].to_pylist()]
    texts = [f"{title}: {names}" for title, names in zip(catalog.titles, categories, strict=True)]
    tokenizer = train_text_tokenizer(texts, SmallModelConfig().text_vocab_size)
    model = build_small_model(SmallModelConfig(), tokenizer, settings.seed)
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            num_train_epochs=BASE_EPOCHS,
            max_steps=settings.max_steps,
            per_device_train_batch_size=32,
            learning_rate=1e-3,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=settings.device == "cpu",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        rows = Dataset.from_dict({"text": texts})
        trainer = SFTTrainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer)
        output = trainer.train()
    model.save_pretrained(job["base_folder"])
    tokenizer.save_pretrained(job["base_folder"])
    return {"texts": len(texts), "loss": output.training_loss, "seconds": output.metrics["train_runtime"]}


def run_contender(job: dict[str, Any]) -> dict[str, Any]:
    """One contender on MovieLens, as benchmarks/training.py describes it in ``job``."""
    contender, settings = CONTENDERS[job["contender"]], TrainingSettings(**job["settings"])
    dataset, catalog = open_movielens(job["dataset_dir"])
    memory = PeakMemory(settings.device)
    start = time.perf_counter()
    model, tokenizer, renderer = small_model(catalog, settings.seed)
    histories = dataset.train_sequences()
    workload = Workload(renderer, histories, job["max_history"], job["prefix_rows"], settings.seed)
    if contender.pretrained:
        model, tokenizer = load_base(contender.tuning, job["base_folder"], workload)
        renderer = SegmentRenderer(catalog, ItemVocabulary(tokenizer, catalog.codebook_sizes))
        workload = Workload(renderer, histories, job["max_history"], job["prefix_rows"], settings.seed)
    evaluator = Evaluator(
        dataset, catalog.item_ids, "valid", ks=(10,), num_users=job["valid_users"], seed=settings.seed
    )
    recommender = Recommender(renderer, workload.prompt(contender.source), job["max_history"], job["num_beams"], 64)

    def validate(trained: Any) -> float:
        was_training = trained.training
        trained.eval()
        ranked = recommender.recommend(trained, evaluator.histories, 10, evaluator.seen, progress=False)
        trained.train(was_training)
        return evaluator.evaluate("validation", ranked).metrics["ndcg@10"]

    progress = Progress(lambda: None, job["limit_s"], validate if job["target"] else None, job["target"] or 0.0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_contender(contender, settings, workload, model, tokenizer, folder)
        prepared = time.perf_counter() - start

        def targets(label_tokens: int, examples: int) -> float:
            return workload.targets(contender.source, label_tokens, examples)

        result = measure(trainer, progress, targets, memory)
    return {**result, "prepare_s": prepared, "threads": torch.get_num_threads()}


def main(job_file: str, result_file: str) -> None:
    job = json.loads(Path(job_file).read_text())
    write_json(result_file, make_base(job) if job["contender"] == "base" else run_contender(job))


if __name__ == "__main__":
    main(*sys.argv[1:])

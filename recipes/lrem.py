"""LREM: a language model thinks of keywords for a query, then embeds both to find items (arXiv 2510.14321).

Laptop, no GPU and no hub (queries made from MovieLens-100K, a small Qwen3; both stages):

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/lrem.py

One stage at a time: a cold start (thoughts and InfoNCE), then reinforcement from its checkpoint:

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/lrem.py --stage cold_start \
        --output_dir outputs/lrem_cold_start
    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/lrem.py --stage rl \
        --model_name_or_path outputs/lrem_cold_start --output_dir outputs/lrem_rl

One GPU, a pretrained Qwen:

    accelerate launch --config_file accelerate_configs/single_gpu.yaml recipes/lrem.py \
        --config recipes/configs/lrem/qwen_cold_start.yaml

Queries are made if they are missing, an interrupted training resumes, and a finished run prints its report again.
Expected numbers: recipes/README.md. Every option: --help; those of the second stage: --stage rl --help.
"""

import logging
import shutil
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import PartialState
from peft import PeftConfig
from transformers import Trainer
from trl import ModelConfig, TrlParser

from llmrec.baselines import BM25, document_texts
from llmrec.catalog import Catalog
from llmrec.dataset import QueryDataset
from llmrec.evaluation import SearchEvaluator
from llmrec.hub import LREM, load_checkpoint, save_checkpoint, save_search_card
from llmrec.models.from_config import SmallModelConfig
from llmrec.models.lrem import LremPrompts, LremSearcher
from llmrec.models.lrem.catalog_embeddings import embed_catalog
from llmrec.recipe.queries import QueryArguments, open_queries
from llmrec.recipe.query_examples import hard_negatives, query_examples
from llmrec.recipe.run import push_checkpoint, run_options, set_up_logging, start_run
from llmrec.recipe.search import VALIDATION_METRIC, Swap, search_all, search_evaluation, search_report
from llmrec.training.arguments import check_saves, choose_by_validation
from llmrec.training.backbone import load_pretrained
from llmrec.training.grpo_trainer import check_groups
from llmrec.training.lrem_backbone import load_lrem
from llmrec.training.lrem_grpo import LremGRPOConfig, build_lrem_grpo_trainer
from llmrec.training.lrem_trainer import LremTrainingArguments, build_lrem_trainer
from llmrec.training.processes import check_not_zero3, check_sharding, end_training, whole_state_dict
from llmrec.training.query_pairs import QueryPairs
from llmrec.training.run_folder import RunFolder, vocabulary_fingerprint, weights_fingerprint
from llmrec.training.stopwatch import Stopwatch
from llmrec.training.tuning import adapter_config, merge_adapter, tuning_name

logger = logging.getLogger(f"llmrec.{Path(__file__).stem}")

#: What thoughts are replaced by, beside the model's own, as in the paper's Table 2.
SWAPS: tuple[Swap, ...] = ("empty", "random", "query")


@dataclass
class Stage:
    """Read first: it decides which options there are."""

    stage: Literal["both", "cold_start", "rl"] = field(
        default="both",
        metadata={
            "help": "cold_start: thoughts and InfoNCE. rl: reinforcement from a checkpoint; its options: --stage rl "
            "--help. both: one after the other, with the command line's options for the first."
        },
    )
    rl_config: str | None = field(
        default=None, metadata={"help": "With --stage both: YAML file with options of the second stage."}
    )


@dataclass
class LremArguments(Stage, QueryArguments):
    """What is this recipe's own; training is transformers' and TRL's, model and LoRA are TRL's ModelConfig."""

    reasoning: bool = field(
        default=True, metadata={"help": "False embeds queries without a thought: the baseline of the same backbone."}
    )
    max_text_tokens: int = field(default=96, metadata={"help": "First stage: longer queries and items are cut."})
    descriptions: bool = field(default=False, metadata={"help": "First stage: read items with their descriptions."})
    hard_negatives: int = field(
        default=0, metadata={"help": "First stage: items for each query that BM25 finds and that are not relevant."}
    )
    valid_queries: int | None = field(default=500, metadata={"help": "Searched at each validation; all if unset."})
    early_stopping_patience: int | None = field(
        default=5, metadata={"help": f"Stop after so many validations without a better {VALIDATION_METRIC}."}
    )
    hidden_size: int = field(default=128, metadata={"help": "Width of the small model, a Qwen3."})
    num_layers: int = field(default=2, metadata={"help": "Layers of the small model."})
    text_vocab_size: int = field(default=2048, metadata={"help": "Tokens of the small model's text."})


def check_arguments(args: LremArguments, config: Any, model_args: ModelConfig) -> None:
    """Refuse what would fail, or be ignored, only once the long stages have run."""
    check_saves(config)
    if args.rl_config is not None and args.stage != "both":
        raise ValueError("rl_config is for --stage both; a stage by itself takes --config.")
    if args.stage == "both" and not args.reasoning:
        raise ValueError("Without reasoning there is nothing to reinforce: --stage cold_start --reasoning False.")
    if args.hard_negatives < 0 or args.max_text_tokens < 1:
        raise ValueError(
            f"hard_negatives is {args.hard_negatives} and max_text_tokens {args.max_text_tokens}; allowed are 0 or "
            "more, and 1 or more."
        )
    check_sharding(model_args.load_in_4bit or model_args.load_in_8bit, model_args.use_peft)
    if args.stage != "cold_start":
        check_not_zero3("The reinforcement stage of LREM")
    pretrained = ("load_in_4bit", "load_in_8bit", "attn_implementation")
    ignored = [name for name in pretrained if getattr(model_args, name)]
    if model_args.model_name_or_path is None and ignored:
        raise ValueError(f"{', '.join(ignored)}: for a pretrained model only; name one in --model_name_or_path.")
    if args.stage == "rl":
        check_start(model_args)


def check_start(model_args: ModelConfig) -> None:
    """Refuse a start for the second stage that has not gone through the first."""
    if model_args.model_name_or_path is None:
        raise ValueError("--stage rl starts from a checkpoint of --stage cold_start: name its --model_name_or_path.")
    start = load_checkpoint(model_args.model_name_or_path, model_args.model_revision)
    if start.method != LREM or not start.prompts["reasoning"]:
        raise ValueError(f"{start.folder} is no LREM that thinks: train one with --stage cold_start first.")


def parse_arguments(
    argv: list[str] | None,
) -> tuple[LremArguments, LremTrainingArguments | LremGRPOConfig, ModelConfig]:
    """Command line over the YAML file of --config over defaults; an unknown name is an error."""
    first = TrlParser(Stage, add_help=False, allow_abbrev=False)
    chosen = first.parse_args_and_config(argv, return_remaining_strings=True)[0].stage
    training = LremGRPOConfig if chosen == "rl" else LremTrainingArguments
    return TrlParser((LremArguments, training, ModelConfig)).parse_args_and_config(argv)


def main(argv: list[str] | None = None) -> None:
    args, config, model_args = parse_arguments(argv)
    set_up_logging()
    check_arguments(args, config, model_args)
    if args.stage != "both":
        run_stage(args, config, model_args)
        return
    second = second_stage(args, config)
    run_stage(replace(args, stage="cold_start"), config, model_args)
    start = replace(model_args, model_name_or_path=config.output_dir, model_revision="main")
    run_stage(replace(args, stage="rl"), second, start)


def second_stage(args: LremArguments, config: LremTrainingArguments) -> LremGRPOConfig:
    """Options of the second stage of both, which gets the folder and the push; the first one's folder lies in it.

    What it would refuse it refuses here, before the first stage trains.
    """
    folder = str(config.output_dir)
    argv = ["--output_dir", folder, "--seed", str(config.seed), "--disable_tqdm", str(config.disable_tqdm)]
    argv += [] if args.rl_config is None else ["--config", args.rl_config]
    (second,) = TrlParser(LremGRPOConfig).parse_args_and_config(argv)
    for name in ("push_to_hub", "hub_model_id", "hub_private_repo"):
        setattr(second, name, getattr(config, name))
    config.push_to_hub, config.output_dir = False, str(Path(folder) / "cold_start")
    check_saves(second)
    with PartialState().main_process_first():
        num_queries = open_queries(args).queries("rl").num_rows
    check_groups(second, num_queries, "queries of the rl split", "thoughts")
    return second


def run_stage(args: LremArguments, config: Any, model_args: ModelConfig) -> None:
    """One stage, or the report of one that is finished."""
    start_run(args, config, model_args, partial(train_and_test, args, config, model_args), args.queries_dir)


def train_and_test(
    args: LremArguments, config: LremTrainingArguments | LremGRPOConfig, model_args: ModelConfig, run: RunFolder
) -> None:
    """A stage of training; what earlier calls have finished is read."""
    stopwatch = Stopwatch()
    push, config.push_to_hub = config.push_to_hub, False  # at the end, instead of every trainer checkpoint

    # Queries: one process makes what is missing, the others wait and read it
    with PartialState().main_process_first(), stopwatch.stage("data"):
        dataset = open_queries(args)
        catalog = Catalog(dataset.items, np.empty((dataset.items.num_rows, 0)), ())
        evaluator = SearchEvaluator(dataset, "test")

    # Model
    made_of = small_model(args), catalog, training_texts(dataset), args.reasoning, args.max_text_tokens
    load = partial(load_model, args, made_of, config.seed)
    model, prompts, new_token_ids = load(model_args)
    inputs = {"queries": dataset.fingerprint, "vocabulary": vocabulary_fingerprint(prompts.tokenizer)}
    inputs["start"] = weights_fingerprint(model_args.model_name_or_path)
    with PartialState().main_process_first():
        run.check_inputs(inputs)

    # Trainer: validation chooses the checkpoint
    searcher = LremSearcher(prompts, prompts.lines(dataset.items), config.per_device_eval_batch_size)
    choose_by_validation(config, VALIDATION_METRIC)
    adapter = adapter_config(model_args, model, new_token_ids)
    trainer = stage_trainer(args, config, dataset, searcher, model, adapter, inputs)

    # Train or resume
    with stopwatch.stage("training"):
        trainer.train(resume_from_checkpoint=run.last_checkpoint)

    # Save once; test what was saved beside BM25; card, push
    improved = args.stage != "rl" or trainer.state.best_model_checkpoint is not None
    device = save(args, config, model_args, trainer, searcher, catalog, load, improved)
    del trainer, model
    with stopwatch.stage("evaluation"):
        lists = test_lists(args, model_args, dataset, evaluator, searcher, run.folder, device)
    options = protocol_options(args, config, model_args, prompts)
    compared = ("cold start", LREM) if "cold start" in lists else None
    metrics, table = search_report(run.folder, evaluator, lists, options, stopwatch.seconds, compared)
    if PartialState().is_main_process:
        show_searches(dataset, evaluator, lists[LREM])
        base_model = model_args.model_name_or_path
        save_search_card(run.folder, metrics, evaluator.queries[0], base_model=base_model, repo_id=config.hub_model_id)
        push_checkpoint(run.folder, config, push)
        run.finish(table)


def small_model(args: LremArguments) -> SmallModelConfig:
    """What is trained where no pretrained model is named."""
    sizes = {"hidden_size": args.hidden_size, "num_layers": args.num_layers, "text_vocab_size": args.text_vocab_size}
    return SmallModelConfig("qwen3", **sizes)  # type: ignore[arg-type]


def training_texts(dataset: QueryDataset) -> list[str]:
    """What the small model's tokenizer is made for: items, and training queries with their keywords."""
    rows = dataset.queries("train")
    keywords = [word for words in rows["keywords"].to_pylist() for word in words]
    return [*document_texts(dataset.items), *rows["query"].to_pylist(), *keywords]


def load_model(
    args: LremArguments, made_of: tuple[Any, ...], seed: int, model_args: ModelConfig
) -> tuple[Any, LremPrompts, list[int]]:
    """Model, prompts and new token ids; a checkpoint of the first stage brings its own prompts."""
    if args.stage == "rl":
        start = load_checkpoint(model_args.model_name_or_path, model_args.model_revision)
        model, tokenizer = load_pretrained(model_args)
        return model, LremPrompts.from_options(tokenizer, start.prompts), []
    return load_lrem(model_args, *made_of, args.descriptions, seed)


def stage_trainer(
    args: LremArguments,
    config: LremTrainingArguments | LremGRPOConfig,
    dataset: QueryDataset,
    searcher: LremSearcher,
    model: Any,
    adapter: PeftConfig | None,
    inputs: dict[str, str],
) -> Trainer:
    """The trainer of the stage."""
    prompts, items = searcher.prompts, [searcher.prompts.item(line) for line in searcher.lines]
    evaluate = search_evaluation(dataset, searcher, args.valid_queries, config.seed)
    rest = evaluate, args.early_stopping_patience, adapter, inputs
    if isinstance(config, LremGRPOConfig):
        pairs = QueryPairs(query_examples(dataset, "rl", prompts), config.seed)
        return build_lrem_grpo_trainer(model, config, prompts, items, pairs, *rest)
    examples = query_examples(dataset, "train", prompts)
    negatives: list[list[int]] = []
    if args.hard_negatives:
        negatives = hard_negatives(dataset, "train", BM25(document_texts(dataset.items)).search)
    pairs = QueryPairs(examples, config.seed, negatives, args.hard_negatives)
    valid_pairs = QueryPairs(query_examples(dataset, "valid", prompts), config.seed)
    return build_lrem_trainer(model, config, items, pairs, valid_pairs, *rest)


def save(
    args: LremArguments,
    config: LremTrainingArguments | LremGRPOConfig,
    model_args: ModelConfig,
    trainer: Trainer,
    searcher: LremSearcher,
    catalog: Catalog,
    load: Any,
    improved: bool,
) -> torch.device:
    """One process writes the checkpoint, adapters merged, items embedded; then training is given up.

    A training that has not ``improved`` the model leaves the one that it started from. Returns this process' device.
    """
    weights = whole_state_dict(trainer)
    if trainer.is_world_process_zero():
        folder, trained = Path(config.output_dir), trainer.accelerator.unwrap_model(trainer.model)
        if improved:
            model = merge_adapter(trained, folder / "adapter", model_args, lambda whole: load(whole)[0], weights)
        else:
            logger.warning("No checkpoint searched better for the validation queries than the start: it is kept.")
            model = load_pretrained(model_args, quantized=False)[0]
        if model is trained and weights is not None:  # of which this process holds shards
            model = load(model_args)[0]
            model.load_state_dict(weights, strict=False)
        parts = folder / "embedding_parts"
        embedded = searcher.prompts, searcher.lines, parts, searcher.batch_size
        embeddings = embed_catalog(model.to(trainer.accelerator.device).eval(), *embedded, overwrite=True)
        checkpoint = (model, searcher.prompts.tokenizer, catalog, None, run_options(args, config, model_args))
        save_checkpoint(folder, *checkpoint, searcher.prompts.options, method=LREM, item_embeddings=embeddings)
        shutil.rmtree(parts)
    return end_training(trainer)


def test_lists(
    args: LremArguments,
    model_args: ModelConfig,
    dataset: QueryDataset,
    evaluator: SearchEvaluator,
    searcher: LremSearcher,
    folder: Path,
    device: torch.device,
) -> dict[str, np.ndarray]:
    """Lists of every system for the test queries; of the model also with its thoughts replaced."""
    queries, k = evaluator.queries, max(evaluator.ks)
    lists = {"bm25": BM25(document_texts(dataset.items)).search(queries, k)}
    if args.stage == "rl":
        start = load_checkpoint(model_args.model_name_or_path, model_args.model_revision)
        first = start.model.to(device)
        same_items = searcher.prompts.lines(start.catalog.items) == searcher.lines
        embedded = start.item_embeddings if same_items else None
        lists["cold start"] = search_all(searcher, first, queries, k, embeddings=embedded)
    checkpoint = load_checkpoint(folder)
    model, embeddings = checkpoint.model.to(device), checkpoint.item_embeddings
    lists[LREM] = search_all(searcher, model, queries, k, embeddings=embeddings)
    for thoughts in SWAPS if args.reasoning else ():
        lists[f"{LREM}, thoughts: {thoughts}"] = search_all(searcher, model, queries, k, thoughts, embeddings)
    return lists


def protocol_options(args: LremArguments, config: Any, model_args: ModelConfig, prompts: LremPrompts) -> dict[str, Any]:
    """What defines the numbers beside the evaluator's own protocol; prompts are those of the start."""
    return {
        "stage": args.stage,
        "reasoning": prompts.reasoning,
        "max_text_tokens": prompts.max_text_tokens,
        "descriptions": prompts.descriptions,
        "hard_negatives": 0 if args.stage == "rl" else args.hard_negatives,
        "passes": config.num_train_epochs,
        "tuning": tuning_name(model_args),
        "seed": config.seed,
    }


def show_searches(dataset: QueryDataset, evaluator: SearchEvaluator, ranked: np.ndarray, count: int = 3) -> None:
    """Print what the model finds for a few test queries of different kinds."""
    titles = dataset.items["title"].to_pylist()
    firsts = [evaluator.kinds.index(kind) for kind in dict.fromkeys(evaluator.kinds)]
    for row in firsts[:count]:
        print(f"\n{evaluator.queries[row]}")
        for place, item in enumerate(ranked[row, :3], 1):
            print(f"  {place}. {titles[item]}")


if __name__ == "__main__":
    main()

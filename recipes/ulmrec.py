"""ULMRec: each user has an index, made of reviews and history, that the language model reads (arXiv 2412.05543).

Laptop, no GPU and no hub (MovieLens-100K, whose users wrote nothing: their items' texts stand for reviews):

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/ulmrec.py

The same with titles as answers, from the catalogue's titles only:

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/ulmrec.py --answer titles

One GPU, LoRA on a pretrained Qwen3, Amazon Beauty:

    accelerate launch --config_file accelerate_configs/single_gpu.yaml recipes/ulmrec.py \
        --config recipes/configs/ulmrec/beauty_lora.yaml

Every stage that is missing is run first (data, semantic IDs, SASRec, user indices), an interrupted training resumes,
and a finished run prints its report again. Expected numbers: recipes/README.md. Every option: --help.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import PartialState
from transformers import PreTrainedTokenizerBase, Trainer
from trl import ModelConfig, TrlParser

from llmrec.catalog import Catalog
from llmrec.dataset import RecDataset
from llmrec.evaluation import Evaluator, sample_users
from llmrec.evaluation.recommender import Recommender
from llmrec.hub import load_checkpoint, save_checkpoint, save_model_card
from llmrec.item_tokenizer.user_index import UserIndex
from llmrec.metrics import KS
from llmrec.models.from_config import SmallModelConfig
from llmrec.prompts.history import HISTORY_OPENING, history_prompt
from llmrec.prompts.instructions import build_instructions
from llmrec.prompts.renderer import SegmentRenderer
from llmrec.prompts.segments import Segment
from llmrec.prompts.titles import TitleRenderer
from llmrec.prompts.ulmrec import TASKS, USER_OPENING, Pair, history_to_index, index_to_preference, user_opening
from llmrec.recipe.data import DataArguments, open_catalog, open_dataset
from llmrec.recipe.evaluation import SearchArguments, rank_users, ranking_evaluation, report
from llmrec.recipe.item_features import open_sasrec
from llmrec.recipe.run import push_checkpoint, run_options, set_up_logging, start_run
from llmrec.recipe.user_index import UserIndexArguments, open_user_index
from llmrec.training.arguments import ULMRecSFTConfig, choose_by_validation
from llmrec.training.backbone import load_backbone
from llmrec.training.epochs import EpochExamples
from llmrec.training.examples import HistoryWindows, PairExamples, TargetExamples
from llmrec.training.processes import check_sharding, end_training, whole_state_dict
from llmrec.training.ranking_trainer import build_trainer
from llmrec.training.run_folder import RunFolder, vocabulary_fingerprint, weights_fingerprint
from llmrec.training.stopwatch import Stopwatch
from llmrec.training.tuning import adapter_config, merge_adapter, tuning_name

logger = logging.getLogger(f"llmrec.{Path(__file__).stem}")


@dataclass
class ULMRecArguments(UserIndexArguments, DataArguments, SearchArguments):
    """What is this recipe's own; training is TRL's SFTConfig, model and LoRA are TRL's ModelConfig."""

    answer: Literal["semantic_ids", "titles"] = field(
        default="semantic_ids",
        metadata={"help": "What the model writes. titles: the catalogue's titles, and histories are titles too."},
    )
    tasks: list[str] = field(
        default_factory=lambda: list(TASKS),
        metadata={"help": "Alignment beside the next item: index2preference history2index; empty for none."},
    )
    hidden_size: int = field(default=128, metadata={"help": "Width of the small model, a Qwen3."})
    num_layers: int = field(default=4, metadata={"help": "Layers of the small model."})
    dropout: float = field(default=0.0, metadata={"help": "Dropout of the small model."})


def check_arguments(args: ULMRecArguments, config: ULMRecSFTConfig, model_args: ModelConfig) -> None:
    """Refuse what would fail, or be ignored, only once the long stages have run."""
    unknown = sorted(set(args.tasks) - set(TASKS))
    if unknown:
        raise ValueError(f"tasks holds {', '.join(unknown)}; allowed are {', '.join(TASKS)}.")
    if args.num_beams < max(KS):
        raise ValueError(f"num_beams is {args.num_beams}; metrics go up to {max(KS)}, so it needs {max(KS)} or more.")
    if not args.refit and config.save_strategy not in ("steps", "epoch"):
        raise ValueError(f"save_strategy is {config.save_strategy}; validation takes place at saves: steps or epoch.")
    pretrained = ("load_in_4bit", "load_in_8bit", "attn_implementation")
    ignored = [name for name in pretrained if getattr(model_args, name)]
    if model_args.model_name_or_path is None and ignored:
        raise ValueError(f"{', '.join(ignored)}: for a pretrained model only; name one in --model_name_or_path.")
    check_sharding(model_args.load_in_4bit or model_args.load_in_8bit, model_args.use_peft)


def prompt_options(args: ULMRecArguments) -> dict[str, Any]:
    """How prompts are worded, as a checkpoint notes it."""
    return {
        "opening": HISTORY_OPENING,
        "user_opening": USER_OPENING,
        "user_index": "subword" if args.user_index == "subword" else "added_tokens",
        "answer": args.answer,
        "max_history": args.max_history,
    }


def protocol_options(args: ULMRecArguments, config: ULMRecSFTConfig, model_args: ModelConfig) -> dict[str, Any]:
    """What defines the numbers beside the evaluator's own protocol."""
    return {
        "max_history": args.max_history,
        "answer": args.answer,
        "user_index": args.user_index,
        "tasks": args.tasks,
        "num_beams": args.num_beams,
        "beam_scores": args.beam_scores,
        "passes": config.num_train_epochs,
        "tuning": tuning_name(model_args),
        "seed": config.seed,
    }


def parse_arguments(argv: list[str] | None) -> tuple[ULMRecArguments, ULMRecSFTConfig, ModelConfig]:
    """Command line over the YAML file of --config over defaults; an unknown name is an error."""
    return TrlParser((ULMRecArguments, ULMRecSFTConfig, ModelConfig)).parse_args_and_config(argv)


def main(argv: list[str] | None = None) -> None:
    args, config, model_args = parse_arguments(argv)
    set_up_logging()
    check_arguments(args, config, model_args)
    start_run(args, config, model_args, partial(train_and_test, args, config, model_args))


def train_and_test(args: ULMRecArguments, config: ULMRecSFTConfig, model_args: ModelConfig, run: RunFolder) -> None:
    """Every stage of a run; what earlier calls have finished is read."""
    stopwatch = Stopwatch()
    push, config.push_to_hub = config.push_to_hub, False  # at the end, instead of every trainer checkpoint

    # Data, semantic IDs and users' indices: one process makes what is missing, the others wait and read it
    with PartialState().main_process_first(), stopwatch.stage("data"):
        dataset = open_dataset(args)
        catalog, item_tokenizer_folder = open_items(args, dataset, config.seed)
        sources = dataset, config.seed, args.refit, args.max_history, config.device
        users = open_user_index(args, args, *sources)
        sasrec = open_sasrec(args, *sources)

    # Model and vocabulary
    small = SmallModelConfig("qwen3", args.hidden_size, args.num_layers, dropout=args.dropout)
    user_sizes = () if users is None or args.user_index == "subword" else users.codebook_sizes
    base = (model_args, small, catalog, "text", config.seed, user_sizes)
    model, tokenizer, vocabulary = load_backbone(*base)
    if model.config.is_encoder_decoder:
        raise ValueError("One pass per user needs a decoder-only model: name one in --model_name_or_path.")
    inputs = {"split": dataset.fingerprint, "catalog": catalog.fingerprint}
    inputs["vocabulary"] = vocabulary_fingerprint(tokenizer)
    inputs["start"] = weights_fingerprint(model_args.model_name_or_path)
    inputs["users"] = "none" if users is None else users.fingerprint
    with PartialState().main_process_first():
        run.check_inputs(inputs)

    # Prompts: training examples, and the same wording for validation and test
    renderer = (TitleRenderer if args.answer == "titles" else SegmentRenderer)(catalog, vocabulary)
    batch_size = config.per_device_eval_batch_size
    search = (args.max_history, args.num_beams, batch_size, args.beam_scores)
    recommender = Recommender(renderer, history_prompt, *search, users=users)
    examples = training_examples(args, config, dataset, recommender)

    # Trainer: validation chooses the checkpoint, unless the validation items are trained on too
    validate = None
    if not args.refit:
        choose_by_validation(config, "ndcg@10")
        validate = ranking_evaluation(args, dataset, recommender, config.seed)
    adapter = adapter_config(model_args, model, vocabulary)
    trainer = build_trainer(
        model, tokenizer, config, *examples, validate, args.early_stopping_patience, adapter, inputs
    )

    # Train or resume
    with stopwatch.stage("training"):
        trainer.train(resume_from_checkpoint=run.last_checkpoint)

    # Save once; test what was saved against the floors; card, push
    device = save(args, config, model_args, trainer, tokenizer, catalog, item_tokenizer_folder, users, base)
    del trainer, model
    model = load_checkpoint(run.folder).model.to(device)
    evaluator = Evaluator(dataset, catalog.item_ids, "test", exclude_seen=args.exclude_seen, refit=args.refit)
    with stopwatch.stage("evaluation"):
        ranked = rank_users(recommender, model, evaluator, PartialState().is_main_process)
    if PartialState().is_main_process:
        options = protocol_options(args, config, model_args)
        metrics, table = report(
            "ulmrec", run.folder, evaluator, catalog.titles, ranked, options, stopwatch.seconds, sasrec
        )
        example = tokenizer.decode(recommender.prompt_tokens(range(2), False, evaluator.user_ids[0]))
        save_model_card(
            run.folder, metrics, example, base_model=model_args.model_name_or_path, repo_id=config.hub_model_id
        )
        push_checkpoint(run.folder, config, push)
        run.finish(table)


def open_items(args: ULMRecArguments, dataset: RecDataset, seed: int) -> tuple[Catalog, Path | None]:
    """The catalogue, and where its item tokenizer lies; titles need neither semantic IDs nor a tokenizer."""
    if args.answer == "titles":
        return Catalog(dataset.items, np.empty((dataset.items.num_rows, 0)), ()), None
    return open_catalog(args, dataset, seed)


def training_examples(
    args: ULMRecArguments, config: ULMRecSFTConfig, dataset: RecDataset, recommender: Recommender
) -> tuple[EpochExamples, EpochExamples | None]:
    """Histories with their users' indices in front, the alignment tasks, and what is validated on."""
    renderer, users = recommender.renderer, recommender.users
    sequences = dataset.train_sequences(refit=args.refit)
    known = [*dataset.train["user_id"].to_pylist(), *[None] * (len(sequences) - dataset.train.num_rows)]
    rows_of = recommender.renderer.catalog.rows_of
    fronts = [front(users, user_id, rows_of(items)) for user_id, items in zip(known, sequences, strict=True)]
    sources: list[Any] = [HistoryWindows(sequences, renderer, args.max_history + 1, config.seed, fronts)]
    if users is not None:
        sources += [PairExamples(pairs, renderer) for pairs in alignment_pairs(args, dataset, users, config.seed)]
    shared = {"eos_token_id": renderer.eos_token_id, "is_encoder_decoder": False, "max_length": config.max_length}
    training = EpochExamples(sources, cache_folder=dataset.folder / "tokenized", **shared)
    if args.refit:
        return training, None
    rows = sample_users(dataset.valid, args.valid_users, config.seed)
    histories = [history[-args.max_history :] for history in rows["history"].to_pylist()]
    targets = [items[0] for items in rows["target_item_ids"].to_pylist()]
    asked = zip(rows["user_id"].to_pylist(), histories, strict=True)
    fronts = [front(users, user_id, rows_of(history)) for user_id, history in asked]
    valid = TargetExamples(histories, targets, history_prompt, renderer, ends=False, fronts=fronts)
    return training, EpochExamples([valid], **shared)


def front(users: UserIndex | None, user_id: str | None, history: Sequence[int]) -> list[Segment]:
    """What says whose history follows."""
    return [] if users is None else user_opening(users.codes_of(user_id, history))


def alignment_pairs(args: ULMRecArguments, dataset: RecDataset, users: UserIndex, seed: int) -> list[list[Pair]]:
    """The examples of each alignment task, from training interactions only."""
    pairs: dict[str, list[Pair]] = {}
    if "index2preference" in args.tasks:
        folder = dataset.folder / "instructions"
        table = build_instructions(dataset, folder, ["preferenceobtain"], max_history=args.max_history, seed=seed)
        written = table["preferenceobtain"]
        codes = [users.codes(user_id) for user_id in written["user_id"].to_pylist()]
        texts = ["".join(part["value"] for part in parts) for parts in written["overall_preference"].to_pylist()]
        pairs["index2preference"] = list(index_to_preference(codes, texts))
    if "history2index" in args.tasks:
        codes = [users.codes(user_id) for user_id in dataset.train["user_id"].to_pylist()]
        pairs["history2index"] = list(history_to_index(codes, dataset.train["item_ids"].to_pylist(), args.max_history))
    return [pairs[task] for task in args.tasks]


def save(
    args: ULMRecArguments,
    config: ULMRecSFTConfig,
    model_args: ModelConfig,
    trainer: Trainer,
    tokenizer: PreTrainedTokenizerBase,
    catalog: Catalog,
    item_tokenizer_folder: Path | None,
    users: UserIndex | None,
    base: tuple[Any, ...],
) -> torch.device:
    """One process writes the checkpoint, adapters merged; then training is given up. Returns this process' device."""
    weights = whole_state_dict(trainer)
    if trainer.is_world_process_zero():
        folder, trained = Path(config.output_dir), trainer.accelerator.unwrap_model(trainer.model)
        model = merge_adapter(trained, folder / "adapter", *base, state_dict=weights)
        options = run_options(args, config, model_args)
        checkpoint = (model, tokenizer, catalog, item_tokenizer_folder, options, prompt_options(args))
        state = weights if model is trained else None
        save_checkpoint(folder, *checkpoint, method="ulmrec", state_dict=state, users=users)
    return end_training(trainer)


if __name__ == "__main__":
    main()

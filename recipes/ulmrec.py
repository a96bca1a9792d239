"""ULMRec: each user has an index, made of reviews and history, that the language model reads (arXiv 2412.05543).

Laptop, no GPU and no hub (MovieLens-100K, whose users wrote nothing: their items' texts stand for reviews):

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/ulmrec.py

The same with titles as answers, from the catalogue's titles only:

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/ulmrec.py \
        --config recipes/configs/ulmrec/titles_ml-100k.yaml

One GPU, QLoRA on Llama 2 with the paper's letters, Amazon Beauty:

    accelerate launch --config_file accelerate_configs/single_gpu.yaml recipes/ulmrec.py \
        --config recipes/configs/ulmrec/beauty_letters.yaml

Every stage that is missing is run first (data, semantic IDs, SASRec, user indices), an interrupted training resumes,
and a finished run prints its report again. Expected numbers: recipes/README.md. Every option: --help.
"""

import json
import logging
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from accelerate import PartialState
from trl import ModelConfig, TrlParser

from llmrec.atomic import write_json
from llmrec.baselines import ItemKNN
from llmrec.baselines.sasrec import SASRec
from llmrec.catalog import Catalog
from llmrec.dataset import RecDataset
from llmrec.evaluation import Evaluator
from llmrec.evaluation.candidates import (
    CandidateRecommender,
    ModelRetriever,
    Retriever,
    candidate_report,
    format_candidates,
)
from llmrec.evaluation.recommender import Recommender
from llmrec.hub import load_checkpoint, save_model_card
from llmrec.item_tokenizer.user_index import UserIndex
from llmrec.metrics import KS
from llmrec.models.from_config import SmallModelConfig
from llmrec.prompts.candidates import LETTERS
from llmrec.prompts.history import HISTORY_OPENING, history_prompt
from llmrec.prompts.renderer import SegmentRenderer
from llmrec.prompts.titles import TitleRenderer
from llmrec.prompts.ulmrec import TASKS, USER_OPENING
from llmrec.recipe.data import DataArguments, check_data, open_catalog, open_dataset
from llmrec.recipe.evaluation import SearchArguments, rank_users, ranking_evaluation, report
from llmrec.recipe.item_features import open_sasrec, training_rows
from llmrec.recipe.run import push_checkpoint, run_options, set_up_logging, start_run
from llmrec.recipe.save import save_trained
from llmrec.recipe.user_examples import UserExampleArguments, alignment_pairs, training_examples
from llmrec.recipe.user_index import UserIndexArguments, open_user_index
from llmrec.serving.checkpoint import ServedCheckpoint, open_served
from llmrec.training.arguments import ULMRecSFTConfig, check_saves, choose_by_validation
from llmrec.training.backbone import load_backbone
from llmrec.training.processes import check_sharding
from llmrec.training.ranking_trainer import build_trainer
from llmrec.training.run_folder import RunFolder, vocabulary_fingerprint, weights_fingerprint
from llmrec.training.stopwatch import Stopwatch
from llmrec.training.tuning import adapter_config, tuning_name
from llmrec.vocabulary import ItemVocabulary

logger = logging.getLogger(f"llmrec.{Path(__file__).stem}")


#: Retrievers that are fitted here.
FITTED = ("item_knn", "sasrec")
METRICS_FILE = "metrics.json"


@dataclass
class ULMRecArguments(UserExampleArguments, UserIndexArguments, DataArguments, SearchArguments):
    """What is this recipe's own; training is TRL's SFTConfig, model and LoRA are TRL's ModelConfig."""

    answer: Literal["semantic_ids", "titles", "letters"] = field(
        default="semantic_ids",
        metadata={
            "help": "What the model writes. titles: the catalogue's titles, and histories are titles too. letters: of "
            "a retriever's candidates, as in the paper."
        },
    )
    retriever: str = field(
        default="item_knn",
        metadata={"help": "Of letters: item_knn, sasrec, or the folder or Hub name of an LC-Rec checkpoint."},
    )
    hidden_size: int = field(default=128, metadata={"help": "Width of the small model, a Qwen3."})
    num_layers: int = field(default=4, metadata={"help": "Layers of the small model."})
    dropout: float = field(default=0.0, metadata={"help": "Dropout of the small model."})


def check_arguments(args: ULMRecArguments, config: ULMRecSFTConfig, model_args: ModelConfig) -> None:
    """Refuse what would fail, or be ignored, only once the long stages have run."""
    unknown = sorted(set(args.tasks) - {*TASKS, "none"})
    if unknown:
        raise ValueError(f"tasks holds {', '.join(unknown)}; allowed are {', '.join(TASKS)}, or none.")
    if args.num_beams < max(KS):
        raise ValueError(f"num_beams is {args.num_beams}; metrics go up to {max(KS)}, so it needs {max(KS)} or more.")
    check_data(args, reads_ids=args.answer == "semantic_ids")
    if not args.refit:
        check_saves(config)
    if args.answer == "letters":
        check_retriever(args)
        if not max(KS) <= args.num_candidates <= len(LETTERS):
            raise ValueError(f"num_candidates is {args.num_candidates}; allowed are {max(KS)} to {len(LETTERS)}.")
    pretrained = ("load_in_4bit", "load_in_8bit", "attn_implementation")
    ignored = [name for name in pretrained if getattr(model_args, name)]
    if model_args.model_name_or_path is not None and args.dropout:
        raise ValueError("dropout: for the small model only; a pretrained one has its own in its config.")
    if model_args.model_name_or_path is None and ignored:
        raise ValueError(f"{', '.join(ignored)}: for a pretrained model only; name one in --model_name_or_path.")
    check_sharding(model_args.load_in_4bit or model_args.load_in_8bit, model_args.use_peft)


def prompt_options(args: ULMRecArguments) -> dict[str, Any]:
    """How prompts are worded, as a checkpoint notes it."""
    return {
        "opening": HISTORY_OPENING,
        "user_opening": USER_OPENING,
        "user_index": "added_tokens" if args.user_index == "shuffled" else args.user_index,
        "answer": args.answer,
        "max_history": args.max_history,
    }


def protocol_options(args: ULMRecArguments, config: ULMRecSFTConfig, model_args: ModelConfig) -> dict[str, Any]:
    """What defines the numbers beside the evaluator's own protocol."""
    if args.answer == "letters":
        asked: dict[str, Any] = {"retriever": args.retriever, "num_candidates": args.num_candidates}
        asked["candidate_prefixes"] = args.candidate_prefixes
    else:
        asked = {"num_beams": args.num_beams, "beam_scores": args.beam_scores}
    return {
        "max_history": args.max_history,
        "answer": args.answer,
        **asked,
        "user_index": args.user_index,
        "tasks": [] if args.user_index == "none" else args.tasks,
        "passes": config.num_train_epochs,
        "tuning": tuning_name(model_args),
        "seed": config.seed,
    }


def check_retriever(args: ULMRecArguments) -> None:
    """Refuse a checkpoint that finds no candidates, or knows the answers."""
    if args.retriever in FITTED:
        return
    served = open_served(args.retriever)
    allowed = f"allowed are {', '.join(FITTED)}, or a checkpoint of recipes/lcrec.py with its {METRICS_FILE}"
    if served.method != "lcrec" or not (served.folder / METRICS_FILE).is_file():
        raise ValueError(f"retriever is {args.retriever}; {allowed}.")
    if served.num_beams < args.num_candidates:
        raise ValueError(
            f"retriever {args.retriever} has {served.num_beams} beams for {args.num_candidates} candidates."
        )
    if served.checkpoint.config["refit"] and not args.refit:
        raise ValueError(f"retriever {args.retriever} has trained on the validation items: --refit true, or another.")


def parse_arguments(argv: list[str] | None) -> tuple[ULMRecArguments, ULMRecSFTConfig, ModelConfig]:
    """Command line over the YAML file of --config over defaults; an unknown name is an error."""
    return TrlParser((ULMRecArguments, ULMRecSFTConfig, ModelConfig)).parse_args_and_config(argv)


def main(argv: list[str] | None = None) -> None:
    args, config, model_args = parse_arguments(argv)
    set_up_logging()
    check_arguments(args, config, model_args)
    start_run(args, config, model_args, partial(train_and_test, args, config, model_args), args.dataset_dir)


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
        alignment = alignment_pairs(args, dataset, users, config.seed)

    # Model and vocabulary
    small = SmallModelConfig("qwen3", args.hidden_size, args.num_layers, dropout=args.dropout)
    user_sizes = () if users is None or args.user_index == "subword" else users.codebook_sizes
    base = (small, catalog, "text", config.seed, user_sizes)
    model, tokenizer, vocabulary = load_backbone(model_args, *base)
    if model.config.is_encoder_decoder:
        raise ValueError("One pass per user needs a decoder-only model: name one in --model_name_or_path.")
    inputs = {"split": dataset.fingerprint, "catalog": catalog.fingerprint}
    inputs["vocabulary"] = vocabulary_fingerprint(tokenizer)
    inputs["start"] = weights_fingerprint(model_args.model_name_or_path)
    inputs["users"] = "none" if users is None else users.fingerprint
    if args.answer == "letters" and args.retriever not in FITTED:
        inputs["retriever"] = weights_fingerprint(args.retriever)
    with PartialState().main_process_first():
        run.check_inputs(inputs)

    # Prompts: training examples, and the same wording for validation and test
    recommender = open_recommender(args, config, dataset, catalog, vocabulary, users, sasrec)
    examples = training_examples(args, dataset, recommender, alignment, config.max_length, config.seed)

    # Trainer: validation chooses the checkpoint, unless the validation items are trained on too
    validate = None
    if not args.refit:
        choose_by_validation(config, "ndcg@10")
        validate = ranking_evaluation(args, dataset, recommender, config.seed)
    adapter = adapter_config(model_args, model, vocabulary.new_token_ids)
    trainer = build_trainer(
        model, tokenizer, config, *examples, validate, args.early_stopping_patience, adapter, inputs
    )

    # Train or resume
    with stopwatch.stage("training"):
        trainer.train(resume_from_checkpoint=run.last_checkpoint)

    # Save once; test what was saved against the floors; card, push
    device = save_trained(
        trainer,
        model_args,
        base,
        tokenizer,
        catalog,
        item_tokenizer_folder,
        run_options(args, config, model_args),
        prompt_options(args),
        method="ulmrec",
        users=users,
    )
    del trainer, model
    model = load_checkpoint(run.folder).model.to(device)
    evaluator = Evaluator(dataset, catalog.item_ids, "test", exclude_seen=args.exclude_seen, refit=args.refit)
    with stopwatch.stage("evaluation"):
        ranked = rank_users(recommender, model, evaluator, PartialState().is_main_process)
    if PartialState().is_main_process:
        options = protocol_options(args, config, model_args)
        measured = run.folder, evaluator, catalog.titles, ranked, options, stopwatch.seconds, sasrec
        metrics, table = report("ulmrec", *measured)
        table += report_candidates(run.folder, recommender, evaluator, ranked)
        example = tokenizer.decode(example_prompt(recommender, evaluator.user_ids[0]))
        base_model = model_args.model_name_or_path
        save_model_card(run.folder, metrics, example, base_model=base_model, repo_id=config.hub_model_id)
        push_checkpoint(run.folder, config, push)
        run.finish(table)


def open_items(args: ULMRecArguments, dataset: RecDataset, seed: int) -> tuple[Catalog, Path | None]:
    """The catalogue, and where its item tokenizer lies; titles need neither semantic IDs nor a tokenizer."""
    if args.answer != "semantic_ids":
        return Catalog(dataset.items, np.empty((dataset.items.num_rows, 0)), ()), None
    return open_catalog(args, dataset, seed)


def open_recommender(
    args: ULMRecArguments,
    config: ULMRecSFTConfig,
    dataset: RecDataset,
    catalog: Catalog,
    vocabulary: ItemVocabulary,
    users: UserIndex | None,
    sasrec: SASRec,
) -> Recommender | CandidateRecommender:
    """Who asks the model, in validation and test: as it is trained to answer."""
    batch_size = config.per_device_eval_batch_size
    if args.answer == "letters":
        shown = (args.max_history, batch_size, config.seed, users, args.num_candidates)
        retriever = open_retriever(args, dataset, catalog, sasrec)
        return CandidateRecommender(TitleRenderer(catalog, vocabulary), retriever, *shown)
    renderer = (TitleRenderer if args.answer == "titles" else SegmentRenderer)(catalog, vocabulary)
    search = (args.max_history, args.num_beams, batch_size, args.beam_scores)
    return Recommender(renderer, history_prompt, *search, users=users)


def open_retriever(args: ULMRecArguments, dataset: RecDataset, catalog: Catalog, sasrec: SASRec) -> Retriever:
    """What finds candidates, fitted on the same interactions as the model."""
    if args.retriever == "item_knn":
        return ItemKNN().fit(training_rows(dataset, args.refit), len(catalog))
    if args.retriever == "sasrec":
        return sasrec
    served = open_served(args.retriever)
    assert isinstance(served, ServedCheckpoint)
    trained_on = json.loads((served.folder / METRICS_FILE).read_text())["split_fingerprint"]
    if served.catalog.item_ids != catalog.item_ids or trained_on != dataset.fingerprint:
        raise ValueError(
            f"retriever {args.retriever} was trained on the split {trained_on}, and this is {dataset.fingerprint}: it "
            "may have seen what it is asked for. Train one on this dataset folder."
        )
    return ModelRetriever(replace(served.recommender(), fusion=None), served.load_model("auto"))


def report_candidates(
    folder: Path, recommender: Recommender | CandidateRecommender, evaluator: Evaluator, ranked: np.ndarray
) -> str:
    """Of letters: write and print what the paper's protocol makes of the lists, and how much a letter weighs."""
    if not isinstance(recommender, CandidateRecommender):
        return ""
    shown = recommender.lettered(evaluator.histories, evaluator.seen)
    measured = candidate_report(ranked, shown, evaluator.targets, evaluator.ks)
    write_json(folder / "candidates.json", measured)
    print(f"\n{format_candidates(measured)}")
    return f"\n\n{format_candidates(measured)}"


def example_prompt(recommender: Recommender | CandidateRecommender, user_id: str) -> list[int]:
    """Of a user with two items, for the model card."""
    if isinstance(recommender, CandidateRecommender):
        return recommender.prompt_tokens([0, 1], [2, 3], user_id)
    return recommender.prompt_tokens([0, 1], is_encoder_decoder=False, user_id=user_id)


if __name__ == "__main__":
    main()

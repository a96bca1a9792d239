"""LC-Rec: a language model that recommends by writing the semantic ID of the next item (arXiv 2311.09049).

Laptop, no GPU and no hub (MovieLens-100K, a small Qwen3 from its config; about 15 minutes on 2 cores):

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/lcrec.py

One GPU, LoRA on a pretrained Qwen3, all six alignment tasks:

    accelerate launch --config_file accelerate_configs/single_gpu.yaml recipes/lcrec.py \
        --config recipes/configs/lcrec/qwen3_lora.yaml

Many GPUs, full fine-tuning as in the paper:

    accelerate launch --config_file accelerate_configs/multi_gpu.yaml recipes/lcrec.py \
        --config recipes/configs/lcrec/qwen3_full.yaml

Reinforcement stage on a checkpoint of ours (GRPO on lists of the constrained search):

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/lcrec.py \
        --config recipes/configs/lcrec/ml-100k_rl.yaml

Every stage that is missing is run first (data, semantic IDs, instructions), an interrupted training resumes, and a
finished run prints its report again. Expected numbers: recipes/README.md. Every option: --help.
"""

import logging
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from accelerate import PartialState
from peft import PeftConfig
from transformers import Trainer, TrainingArguments
from trl import ModelConfig, TrlParser

from llmrec.atomic import write_json
from llmrec.catalog import Catalog
from llmrec.dataset import RecDataset
from llmrec.evaluation import Evaluator, sample_users
from llmrec.evaluation.recommender import Recommender
from llmrec.hub import load_checkpoint, save_fusion, save_model_card
from llmrec.item_tokenizer import ItemTokenizer
from llmrec.metrics import KS
from llmrec.models.from_config import SmallModelConfig
from llmrec.prompts.history import HISTORY_OPENING, history_prompt
from llmrec.prompts.instructions import build_instructions
from llmrec.prompts.lcrec import TASKS, seqrec_prompt
from llmrec.prompts.renderer import SegmentRenderer
from llmrec.recipe.data import DataArguments, check_data, open_catalog, open_dataset
from llmrec.recipe.distillation import DistillationArguments, open_teacher, share_of_teacher
from llmrec.recipe.evaluation import rank_users, ranking_evaluation, report
from llmrec.recipe.fusion import FusionArguments, check_fusion, open_fusion
from llmrec.recipe.reinforcement import check_start, compare_with_start, rollout_prompts
from llmrec.recipe.run import push_checkpoint, run_options, set_up_logging, start_run
from llmrec.recipe.save import save_trained
from llmrec.training.arguments import (
    LCRecSFTConfig,
    RecommendationGRPOConfig,
    check_saves,
    choose_by_validation,
)
from llmrec.training.backbone import load_backbone
from llmrec.training.epochs import EpochExamples
from llmrec.training.examples import HistoryWindows, InstructionExamples, TargetExamples
from llmrec.training.grpo_trainer import build_grpo_trainer
from llmrec.training.processes import check_sharding
from llmrec.training.ranking_trainer import build_trainer
from llmrec.training.run_folder import RunFolder, vocabulary_fingerprint, weights_fingerprint
from llmrec.training.stopwatch import Stopwatch
from llmrec.training.tuning import adapter_config, tuning_name

logger = logging.getLogger(f"llmrec.{Path(__file__).stem}")

DROPOUT = 0.1


@dataclass
class Stage:
    """Read first: it decides which options there are."""

    stage: Literal["sft", "rl"] = field(
        default="sft",
        metadata={
            "help": "sft: supervised fine-tuning. rl: reinforcement from a checkpoint; its options: --stage rl --help."
        },
    )


@dataclass
class LCRecArguments(Stage, DataArguments, DistillationArguments, FusionArguments):
    """What is this recipe's own; training is TRL's SFTConfig, model and LoRA are TRL's ModelConfig."""

    tasks: list[str] = field(
        default_factory=lambda: ["seqrec"],
        metadata={"help": "Alignment tasks: seqrec item2index index2item fusionseqrec itemsearch preferenceobtain."},
    )
    history_loss: Literal["all", "prefix"] = field(
        default="all",
        metadata={"help": "all: one pass per user, loss on every item. prefix: one example per prefix (paper)."},
    )
    fusion_samples: int | None = field(default=None, metadata={"help": "fusionseqrec examples kept; all if unset."})
    initialization: Literal["text", "default"] = field(
        default="text",
        metadata={"help": "New rows of a pretrained model: from item titles, or random."},
    )
    start_from_codebooks: bool = field(
        default=True,
        metadata={"help": "The small model's codes start where our item tokenizer has them; false: anywhere."},
    )
    vocabulary_only: bool = field(
        default=False,
        metadata={"help": "Train the new vocabulary rows alone: a first stage, whose checkpoint the next starts from."},
    )
    architecture: Literal["qwen3", "t5"] = field(
        default="qwen3", metadata={"help": "Small model built when no --model_name_or_path is given; t5 is TIGER's."}
    )
    hidden_size: int = field(default=256, metadata={"help": "Width of the small model."})
    num_layers: int = field(default=2, metadata={"help": "Layers of the small model."})
    dropout: float | None = field(default=None, metadata={"help": f"Dropout of the small model; unset: {DROPOUT}."})
    # the recommended configuration, the same for every dataset: docs/benchmarks.md
    codebook_size: int = field(default=1024, metadata={"help": "Codes of each level; the paper has 256 and 4 levels."})
    max_history: int = field(default=20, metadata={"help": "Latest items of a history that the model sees."})
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "Stop after so many validations without a better ndcg@10; unset: never, as cosine wants it."},
    )


def choose_muon(args: LCRecArguments, config: LCRecSFTConfig, model_args: ModelConfig) -> bool:
    """Whether Muon trains the matrices, as given or by default; the answer is noted in ``config``."""
    whole = args.architecture == "qwen3" and not (model_args.use_peft or args.vocabulary_only)
    if config.muon is None:
        config.muon = whole and model_args.model_name_or_path is None
    elif config.muon and not whole:
        raise ValueError("muon: for all weights of a decoder-only model; give --muon false.")
    return config.muon


def check_arguments(args: LCRecArguments, config: TrainingArguments, model_args: ModelConfig) -> None:
    """Refuse what would fail, or be ignored, only once the long stages have run."""
    unknown = sorted(set(args.tasks) - set(TASKS))
    if unknown or not args.tasks:
        raise ValueError(f"tasks holds {unknown or 'nothing'}; allowed are {', '.join(TASKS)}.")
    if args.num_beams < max(KS):
        raise ValueError(f"num_beams is {args.num_beams}; metrics go up to {max(KS)}, so it needs {max(KS)} or more.")
    check_data(args, reads_ids=args.stage == "sft")
    check_fusion(args)
    teacher_share(args, model_args)  # refuses what is none
    if not args.refit:
        check_saves(config)
    if model_args.model_name_or_path is not None:
        if args.dropout is not None:
            raise ValueError("dropout: for the small model only; a pretrained one has its own in its config.")
        return
    pretrained = ("load_in_4bit", "load_in_8bit", "attn_implementation")
    ignored = [name for name in pretrained if getattr(model_args, name)]
    if ignored:
        raise ValueError(f"{', '.join(ignored)}: for a pretrained model only; name one in --model_name_or_path.")
    if args.architecture == "t5" and args.history_loss == "all":
        raise ValueError("history_loss all needs a decoder-only model: give --history_loss prefix for t5.")


def teacher_share(args: LCRecArguments, model_args: ModelConfig) -> float:
    """Of the targets, what item-kNN names."""
    learns_histories = args.stage == "sft" and args.history_loss == "all"
    return share_of_teacher(args.distillation, model_args.model_name_or_path is None, learns_histories)


def base_model(
    args: LCRecArguments, model_args: ModelConfig, catalog: Catalog, item_tokenizer_folder: Path | None, seed: int
) -> tuple[Any, ...]:
    """What ``load_backbone`` needs beside ``model_args``."""
    dropout = DROPOUT if args.dropout is None else args.dropout
    small = SmallModelConfig(args.architecture, args.hidden_size, args.num_layers, dropout=dropout)
    codebooks = None
    if args.start_from_codebooks and model_args.model_name_or_path is None and item_tokenizer_folder is not None:
        codebooks = ItemTokenizer.load(item_tokenizer_folder).quantizer.codebooks
    return small, catalog, args.initialization, seed, (), codebooks


def prompt_options(args: LCRecArguments) -> dict[str, Any]:
    """How prompts are worded, as a checkpoint notes it."""
    return {"history_loss": args.history_loss, "opening": HISTORY_OPENING, "max_history": args.max_history}


def protocol_options(
    args: LCRecArguments, config: TrainingArguments, model_args: ModelConfig, fusion: dict[str, Any]
) -> dict[str, Any]:
    """What defines the numbers beside the evaluator's own protocol."""
    return {
        "max_history": args.max_history,
        "history_loss": args.history_loss,
        "distillation": teacher_share(args, model_args),
        "num_beams": args.num_beams,
        "beam_scores": args.beam_scores,
        **fusion,
        "passes": config.num_train_epochs,
        "tuning": tuning_name(model_args, args.vocabulary_only),
        "seed": config.seed,
    }


def parse_arguments(
    argv: list[str] | None,
) -> tuple[LCRecArguments, LCRecSFTConfig | RecommendationGRPOConfig, ModelConfig]:
    """Command line over the YAML file of --config over defaults; an unknown name is an error."""
    first = TrlParser(Stage, add_help=False, allow_abbrev=False)
    chosen = first.parse_args_and_config(argv, return_remaining_strings=True)[0].stage
    training = RecommendationGRPOConfig if chosen == "rl" else LCRecSFTConfig
    return TrlParser((LCRecArguments, training, ModelConfig)).parse_args_and_config(argv)


def main(argv: list[str] | None = None) -> None:
    args, config, model_args = parse_arguments(argv)
    set_up_logging()
    check_arguments(args, config, model_args)
    quantized = model_args.load_in_4bit or model_args.load_in_8bit
    muon = isinstance(config, LCRecSFTConfig) and choose_muon(args, config, model_args)
    check_sharding(quantized, model_args.use_peft or args.vocabulary_only, muon)
    if args.stage == "rl":
        check_start(model_args, prompt_options(args), args.refit)
    start_run(args, config, model_args, partial(train_and_test, args, config, model_args), args.dataset_dir)


def train_and_test(
    args: LCRecArguments,
    config: LCRecSFTConfig | RecommendationGRPOConfig,
    model_args: ModelConfig,
    run: RunFolder,
) -> None:
    """Every stage of a run; what earlier calls have finished is read."""
    stopwatch = Stopwatch()
    push, config.push_to_hub = config.push_to_hub, False  # at the end, instead of every trainer checkpoint

    # Data, semantic IDs and instructions: one process makes what is missing, the others wait and read it
    with PartialState().main_process_first(), stopwatch.stage("data"):
        dataset = open_dataset(args)
        if args.stage == "rl":
            start = load_checkpoint(model_args.model_name_or_path, model_args.model_revision)
            catalog, item_tokenizer_folder, tables = start.catalog, start.item_tokenizer_folder, {}
        else:
            catalog, item_tokenizer_folder = open_catalog(args, dataset, config.seed)
            tables = open_instructions(args, dataset, config.seed)

    # Model and vocabulary
    base = base_model(args, model_args, catalog, item_tokenizer_folder, config.seed)
    model, tokenizer, vocabulary = load_backbone(model_args, *base)
    inputs = {
        "split": dataset.fingerprint,
        "catalog": catalog.fingerprint,
        "vocabulary": vocabulary_fingerprint(tokenizer),
        "start": weights_fingerprint(model_args.model_name_or_path),
    }
    with PartialState().main_process_first():
        run.check_inputs(inputs)

    # Prompts: training examples, and the same wording for validation and test
    renderer = SegmentRenderer(catalog, vocabulary)
    prompt = history_prompt if args.history_loss == "all" else seqrec_prompt
    recommender = Recommender(
        renderer, prompt, args.max_history, args.num_beams, config.per_device_eval_batch_size, args.beam_scores
    )
    if args.history_loss == "all" and model.config.is_encoder_decoder:
        raise ValueError("history_loss all needs a decoder-only model: give --history_loss prefix for this one.")

    # Trainer: validation chooses the checkpoint, unless the validation items are trained on too
    adapter = adapter_config(model_args, model, vocabulary.new_token_ids, args.vocabulary_only)
    trainer = stage_trainer(args, config, model_args, dataset, tables, recommender, model, adapter, inputs)

    # Train or resume
    with stopwatch.stage("training"):
        trainer.train(resume_from_checkpoint=run.last_checkpoint)

    # Save once; validation says how much of item-kNN the search takes in; test against the floors; card, push
    improved = args.stage == "sft" or args.refit or trainer.state.best_model_checkpoint is not None
    device = save_trained(
        trainer,
        model_args,
        base,
        tokenizer,
        catalog,
        item_tokenizer_folder,
        run_options(args, config, model_args),
        prompt_options(args),
        improved,
        method="lcrec",
        fusion_pending=True,
    )
    del trainer, model
    model = load_checkpoint(run.folder).model.to(device)
    evaluator = Evaluator(dataset, catalog.item_ids, "test", exclude_seen=args.exclude_seen, refit=args.refit)
    with stopwatch.stage("evaluation"):
        fusion, fusion_options = open_fusion(args, dataset, recommender, model, config.seed)
        rank = partial(rank_users, model=model, evaluator=evaluator, progress=PartialState().is_main_process)
        if PartialState().is_main_process:
            save_fusion(run.folder, fusion)
        ranked = rank(recommender)
        fused = None if fusion is None else rank(replace(recommender, fusion=fusion))
        rl = args.stage == "rl"
        compared = compare_with_start(args, model_args, dataset, recommender, model, config.seed) if rl else None
    if PartialState().is_main_process:
        options = protocol_options(args, config, model_args, fusion_options)
        metrics, table = report(
            "lcrec", run.folder, evaluator, catalog.titles, ranked, options, stopwatch.seconds, fused=fused
        )
        if compared is not None:
            write_json(run.folder / "before_after.json", compared[0])
            print(f"\n{compared[1]}")
            table += f"\n\n{compared[1]}"
        example = tokenizer.decode(recommender.prompt_tokens(range(2), model.config.is_encoder_decoder))
        save_model_card(
            run.folder, metrics, example, base_model=model_args.model_name_or_path, repo_id=config.hub_model_id
        )
        push_checkpoint(run.folder, config, push)
        run.finish(table)


def open_instructions(args: LCRecArguments, dataset: RecDataset, seed: int) -> dict[str, pa.Table]:
    """Instruction tables by task; the sequence task needs none where the loss is on whole histories."""
    tasks = [task for task in args.tasks if task != "seqrec" or args.history_loss == "prefix"]
    if not tasks:
        return {}
    folder = dataset.folder / "instructions"
    return build_instructions(
        dataset,
        folder,
        tasks,
        max_history=args.max_history,
        fusion_samples=args.fusion_samples,
        seed=seed,
        refit=args.refit,
    )


def stage_trainer(
    args: LCRecArguments,
    config: LCRecSFTConfig | RecommendationGRPOConfig,
    model_args: ModelConfig,
    dataset: RecDataset,
    tables: dict[str, pa.Table],
    recommender: Recommender,
    model: Any,
    adapter: PeftConfig | None,
    inputs: dict[str, str],
) -> Trainer:
    """The trainer of the stage."""
    rank_validation = None
    if not args.refit:
        choose_by_validation(config, "ndcg@10")
        rank_validation = ranking_evaluation(args, dataset, recommender, config.seed)
    renderer = recommender.renderer
    shared = model, renderer.vocabulary.tokenizer, config
    validates = rank_validation, args.early_stopping_patience
    if isinstance(config, RecommendationGRPOConfig):
        prompts = rollout_prompts(args, config, dataset, recommender)
        return build_grpo_trainer(*shared, prompts, renderer, *validates, adapter, args.beam_scores, inputs)
    examples = training_examples(args, config, dataset, tables, recommender, model.config.is_encoder_decoder)
    share = teacher_share(args, model_args)
    teacher = open_teacher(share, dataset, renderer, args.refit, args.exclude_seen)
    return build_trainer(*shared, *examples, *validates, adapter, inputs, teacher)


def training_examples(
    args: LCRecArguments,
    config: LCRecSFTConfig,
    dataset: RecDataset,
    tables: dict[str, pa.Table],
    recommender: Recommender,
    is_encoder_decoder: bool,
) -> tuple[EpochExamples, EpochExamples | None]:
    """What is trained on, whole histories or their prefixes and the other tasks, and what is validated on."""
    renderer = recommender.renderer
    sources: list[Any] = [InstructionExamples(table, renderer, config.seed) for table in tables.values()]
    if args.history_loss == "all" and "seqrec" in args.tasks:
        sequences = dataset.train_sequences(refit=args.refit)
        sources.insert(0, HistoryWindows(sequences, renderer, args.max_history + 1, config.seed))
    shared = {"eos_token_id": renderer.eos_token_id, "is_encoder_decoder": is_encoder_decoder}
    shared["max_length"] = config.max_length
    training = EpochExamples(sources, cache_folder=dataset.folder / "tokenized", **shared)
    if args.refit:
        return training, None
    return training, EpochExamples([valid_source(args, dataset, recommender, config.seed)], **shared)


def valid_source(args: LCRecArguments, dataset: RecDataset, recommender: Recommender, seed: int) -> TargetExamples:
    """Histories and next items of the users that validation ranks, for the validation loss."""
    rows = sample_users(dataset.valid, args.valid_users, seed)
    histories = [history[-args.max_history :] for history in rows["history"].to_pylist()]
    targets = [items[0] for items in rows["target_item_ids"].to_pylist()]
    ends = args.history_loss == "prefix"
    return TargetExamples(histories, targets, recommender.prompt, recommender.renderer, ends)


if __name__ == "__main__":
    main()

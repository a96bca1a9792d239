"""SETRec: items as unordered sets of tokens, the next one generated in a single forward pass (arXiv 2502.10833).

Laptop, no GPU and no hub (MovieLens-100K split by time, a small Qwen3 from its config; within 20 minutes on 2 cores):

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/setrec.py

The paper's smaller backbone, T5, from its config:

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/setrec.py \
        --config recipes/configs/setrec/t5_ml-100k.yaml

One GPU, LoRA on a pretrained Qwen:

    accelerate launch --config_file accelerate_configs/single_gpu.yaml recipes/setrec.py \
        --config recipes/configs/setrec/qwen_lora.yaml

Every stage that is missing is run first (data, SASRec, text embeddings), an interrupted training resumes, and a
finished run prints its report again. Expected numbers: recipes/README.md. Every option: --help.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from accelerate import PartialState
from peft import PeftModel
from trl import ModelConfig, TrlParser

from llmrec.catalog import Catalog
from llmrec.dataset import PreparationConfig, RecDataset
from llmrec.evaluation import Evaluator, sample_users
from llmrec.evaluation.evaluator import ItemGroup
from llmrec.hub import load_checkpoint, save_checkpoint, save_model_card
from llmrec.models.from_config import SmallModelConfig
from llmrec.models.setrec import ItemFeatures, SetRecModel
from llmrec.models.setrec.config import AttentionRule
from llmrec.models.setrec.recommender import SetRecRecommender
from llmrec.prompts.history import HISTORY_OPENING
from llmrec.recipe.beta import choose_beta
from llmrec.recipe.data import open_dataset
from llmrec.recipe.evaluation import EvaluationArguments, rank_users, report
from llmrec.recipe.item_features import FeatureArguments, open_item_features
from llmrec.recipe.run import push_checkpoint, run_options, set_up_logging, start_run
from llmrec.training.arguments import check_saves, choose_by_validation
from llmrec.training.processes import check_whole, end_training, whole_model, whole_state_dict
from llmrec.training.run_folder import RunFolder, vocabulary_fingerprint, weights_fingerprint
from llmrec.training.set_examples import SetExamples, SetPrefixes, SetTargets, SetWindows
from llmrec.training.setrec_backbone import RESPONSE, load_setrec
from llmrec.training.setrec_trainer import (
    SetRecTrainer,
    SetRecTrainingArguments,
    build_setrec_trainer,
    setrec_adapter,
)
from llmrec.training.stopwatch import Stopwatch
from llmrec.training.tuning import tuning_name

logger = logging.getLogger(f"llmrec.{Path(__file__).stem}")

#: The paper's split: the last 17 % of all interactions are for test.
TEMPORAL_SPLIT = PreparationConfig(split="global_temporal", test_fraction=0.17)


@dataclass
class SetRecArguments(FeatureArguments, EvaluationArguments):
    """What is this recipe's own; training is transformers' TrainingArguments, model and LoRA are TRL's ModelConfig."""

    dataset_dir: str = field(
        default="data/ml-100k_temporal",
        metadata={"help": "Folder made by a data_prep/ script; the default is prepared if missing."},
    )
    num_semantic_tokens: int = field(
        default=4, metadata={"help": "Tokens of an item's text, beside its CF token; 0: CF alone."}
    )
    reconstruction_weight: float = field(default=0.7, metadata={"help": "alpha, weight of the auto-encoder's loss."})
    beta: float | None = field(
        default=None,
        metadata={"help": "Weight of the semantic scores against the CF score, 0 to 1; validation chooses if unset."},
    )
    attention_rule: AttentionRule = field(
        default="set",
        metadata={
            "help": "set: siblings do not see each other (paper). causal, bidirectional: as the released code does for "
            "Qwen where torch's attention runs, and for T5."
        },
    )
    history_loss: Literal["all", "prefix"] = field(
        default="all",
        metadata={"help": "all: one pass per user, loss after every item. prefix: one example per prefix (paper)."},
    )
    architecture: Literal["qwen3", "t5"] = field(
        default="qwen3", metadata={"help": "Small model built when no --model_name_or_path is given."}
    )
    hidden_size: int = field(default=128, metadata={"help": "Width of the small model."})
    num_layers: int = field(default=2, metadata={"help": "Layers of the small model."})
    dropout: float = field(default=0.0, metadata={"help": "Dropout of the small model."})


def check_arguments(args: SetRecArguments, config: SetRecTrainingArguments, model_args: ModelConfig) -> None:
    """Refuse what would fail, or be ignored, only once the long stages have run."""
    if args.attention_rule == "bidirectional" and args.history_loss == "all":
        raise ValueError("attention_rule bidirectional sees what comes next: give --history_loss prefix with it.")
    small = model_args.model_name_or_path is None
    if small and args.attention_rule == ("causal" if args.architecture == "t5" else "bidirectional"):
        raise ValueError(f"attention_rule {args.attention_rule} is not for {args.architecture}; set always is.")
    if args.num_semantic_tokens < 0:
        raise ValueError(f"num_semantic_tokens is {args.num_semantic_tokens}; it needs 0 or more.")
    if args.beta is not None and not 0 <= args.beta <= 1:
        raise ValueError(f"beta is {args.beta}; allowed are 0 (CF alone) to 1 (text alone).")
    if args.refit and args.beta is None:
        raise ValueError("refit leaves no validation items to choose beta with: give --beta, chosen beforehand.")
    if not args.refit:
        check_saves(config)
    if model_args.load_in_4bit or model_args.load_in_8bit:
        raise ValueError("SETRec trains full or with LoRA, over weights in their own precision: no --load_in_4bit.")
    if model_args.use_peft:
        check_whole("LoRA with parts trained in full beside it")
    if small and model_args.attn_implementation:
        raise ValueError("attn_implementation: for a pretrained model only; name one in --model_name_or_path.")


def protocol_options(args: SetRecArguments, config: SetRecTrainingArguments, model_args: ModelConfig) -> dict[str, Any]:
    """What defines the numbers beside the evaluator's own protocol."""
    return {
        "max_history": args.max_history,
        "history_loss": args.history_loss,
        "attention_rule": args.attention_rule,
        "passes": config.num_train_epochs,
        "tuning": tuning_name(model_args),
        "seed": config.seed,
    }


def parse_arguments(argv: list[str] | None) -> tuple[SetRecArguments, SetRecTrainingArguments, ModelConfig]:
    """Command line over the YAML file of --config over defaults; an unknown name is an error."""
    return TrlParser((SetRecArguments, SetRecTrainingArguments, ModelConfig)).parse_args_and_config(argv)


def main(argv: list[str] | None = None) -> None:
    args, config, model_args = parse_arguments(argv)
    set_up_logging()
    check_arguments(args, config, model_args)
    start_run(args, config, model_args, partial(train_and_test, args, config, model_args), args.dataset_dir)


def train_and_test(
    args: SetRecArguments, config: SetRecTrainingArguments, model_args: ModelConfig, run: RunFolder
) -> None:
    """Every stage of a run; what earlier calls have finished is read."""
    stopwatch = Stopwatch()
    push, config.push_to_hub = config.push_to_hub, False  # at the end, instead of every trainer checkpoint

    # Data, and what items are made of: one process makes what is missing, the others wait and read it
    with PartialState().main_process_first(), stopwatch.stage("data"):
        dataset = open_dataset(args, TEMPORAL_SPLIT)
        catalog = Catalog(dataset.items, np.empty((dataset.items.num_rows, 0)), ())
        features, sasrec = open_item_features(args, dataset, config.seed, args.refit, args.max_history, config.device)

    # Model
    small = SmallModelConfig(args.architecture, args.hidden_size, args.num_layers, dropout=args.dropout)
    model, tokenizer = load_setrec(
        model_args,
        small,
        catalog,
        features,
        config.seed,
        num_semantic_tokens=args.num_semantic_tokens,
        reconstruction_weight=args.reconstruction_weight,
        attention_rule=args.attention_rule,
        beta=0.5 if args.beta is None else args.beta,
    )
    inputs = {"split": dataset.fingerprint, "catalog": catalog.fingerprint}
    inputs["vocabulary"] = vocabulary_fingerprint(tokenizer)
    inputs["start"] = weights_fingerprint(model_args.model_name_or_path)
    inputs["features"] = features.fingerprint
    with PartialState().main_process_first():
        run.check_inputs(inputs)

    # Trainer: validation chooses beta and the checkpoint, unless the validation items are trained on too
    recommender = SetRecRecommender(catalog.item_ids, args.max_history, config.per_device_eval_batch_size)
    validate = None if args.refit else ranking_validation(args, dataset, recommender, config.seed)
    if validate is not None:
        choose_by_validation(config, "ndcg@10")
    trainer = build_setrec_trainer(
        model,
        config,
        *training_examples(args, dataset, catalog, config.seed),
        validate,
        args.early_stopping_patience,
        setrec_adapter(model_args, model),
        inputs,
    )

    # Train or resume
    with stopwatch.stage("training"):
        trainer.train(resume_from_checkpoint=run.last_checkpoint)
        if validate is not None:
            with whole_model(trainer) as best:
                validate(best)  # the best checkpoint's own beta

    # Save once; test what was saved against the floors; card, push
    device = save(args, config, model_args, trainer, tokenizer, catalog, features)
    del trainer, model
    model = load_checkpoint(run.folder).model.to(device)
    groups: dict[ItemGroup, tuple[Evaluator, np.ndarray]] = {}
    with stopwatch.stage("evaluation"):
        for items in ("all", "warm", "cold"):
            evaluator = open_evaluator(args, dataset, catalog, items)
            if evaluator is not None:
                groups[items] = evaluator, rank_users(recommender, model, evaluator, PartialState().is_main_process)
    if PartialState().is_main_process:
        options = {**protocol_options(args, config, model_args), "beta": model.config.beta}
        evaluator, ranked = groups.pop("all")
        metrics, table = report(
            "setrec", run.folder, evaluator, catalog.titles, ranked, options, stopwatch.seconds, sasrec, groups
        )
        save_model_card(run.folder, metrics, "", base_model=model_args.model_name_or_path, repo_id=config.hub_model_id)
        push_checkpoint(run.folder, config, push)
        run.finish(table)


def training_examples(
    args: SetRecArguments, dataset: RecDataset, catalog: Catalog, seed: int
) -> tuple[SetExamples, SetExamples | None]:
    """What is trained on, whole histories or their prefixes, and what is validated on."""
    sequences = [catalog.rows_of(sequence) for sequence in dataset.train_sequences(refit=args.refit)]
    if args.history_loss == "all":
        training: SetExamples = SetWindows(sequences, args.max_history, seed)
    else:
        training = SetPrefixes(sequences, args.max_history)
    if args.refit:
        return training, None
    rows = sample_users(dataset.valid, args.valid_users, seed)
    histories = [catalog.rows_of(history[-args.max_history :]) for history in rows["history"].to_pylist()]
    return training, SetTargets(histories, catalog.rows_of([items[0] for items in rows["target_item_ids"].to_pylist()]))


def ranking_validation(
    args: SetRecArguments, dataset: RecDataset, recommender: SetRecRecommender, seed: int
) -> Callable[[Any], dict[str, float]]:
    """Validation by ranking the full catalogue, under the best beta, which the model keeps."""
    evaluator = Evaluator(
        dataset,
        recommender.item_ids,
        "valid",
        exclude_seen=args.exclude_seen,
        ks=(10, 20),
        num_users=args.valid_users,
        seed=seed,
    )
    return lambda model: choose_beta(recommender, model, evaluator, args.beta)


def open_evaluator(args: SetRecArguments, dataset: RecDataset, catalog: Catalog, items: ItemGroup) -> Evaluator | None:
    """Of the test users; None for a group that is all of the items, or that no test user has a target in."""
    if items != "all":
        warm = {item for sequence in dataset.train_sequences(refit=args.refit) for item in sequence}
        targets = {item for items in dataset.test["target_item_ids"].to_pylist() for item in items}
        if warm.issuperset(catalog.item_ids):
            return None
        if not (targets & warm if items == "warm" else targets - warm):
            logger.warning("No test user has a target among the %s items: that group is left out.", items)
            return None
    return Evaluator(dataset, catalog.item_ids, "test", exclude_seen=args.exclude_seen, refit=args.refit, items=items)


def save(
    args: SetRecArguments,
    config: SetRecTrainingArguments,
    model_args: ModelConfig,
    trainer: SetRecTrainer,
    tokenizer: Any,
    catalog: Catalog,
    features: ItemFeatures,
) -> Any:
    """One process writes the checkpoint, adapters merged; then training is given up. Returns this process' device."""
    weights = whole_state_dict(trainer)
    if trainer.is_world_process_zero():
        model: SetRecModel = trainer.accelerator.unwrap_model(trainer.model)
        if isinstance(model, PeftModel):
            model.save_pretrained(str(Path(config.output_dir) / "adapter"))
            model = model.merge_and_unload()
        prompts = {"opening": HISTORY_OPENING, "response": RESPONSE, "max_history": args.max_history}
        checkpoint = (model, tokenizer, catalog, None, run_options(args, config, model_args), prompts)
        save_checkpoint(config.output_dir, *checkpoint, method="setrec", state_dict=weights, item_features=features)
    return end_training(trainer)


if __name__ == "__main__":
    main()

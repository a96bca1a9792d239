"""From a dataset folder to what a method reads of its items: the options, and the stages that make what is missing."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from llmrec.catalog import Catalog
from llmrec.dataset import PreparationConfig, RecDataset, prepare_dataset, read_movielens
from llmrec.item_tokenizer import (
    EmbeddingConfig,
    ItemTokenizerConfig,
    build_catalog,
    catalog_folder,
    read_semantic_ids,
)
from llmrec.item_tokenizer.embeddings import Encoder
from llmrec.item_tokenizer.stage import TOKENIZER_FOLDER

logger = logging.getLogger(__name__)


@dataclass
class DatasetArguments:
    """Which dataset, and what reads its items' texts."""

    dataset_dir: str = field(
        default="data/ml-100k",
        metadata={"help": "Folder made by a data_prep/ script; the default is prepared if missing."},
    )
    text_encoder: str = field(
        default="bundled", metadata={"help": "sentence-transformers folder or Hub name; 'bundled' needs no hub."}
    )
    text_encoder_type: Encoder = field(
        default="sentence_transformer",
        metadata={"help": "causal_lm: mean-pooled title and description, as in the papers."},
    )


@dataclass
class DataArguments(DatasetArguments):
    """What semantic IDs are made of."""

    item_embedding: Literal["text", "collaborative", "concat", "average"] = field(
        default="concat",
        metadata={"help": "What IDs are made of: item text, training co-occurrence, or both."},
    )
    collaborative_weight: float = field(default=0.5, metadata={"help": "Share of co-occurrence in concat and average."})
    collaborative_shrinkage: float = field(
        default=0.0,
        metadata={"help": "Training interactions at which an item has half that share; 0: all have the whole."},
    )
    quantizer: Literal["residual_kmeans", "rqvae"] = field(default="residual_kmeans", metadata={"help": "IDs from."})
    num_codebooks: int = field(default=2, metadata={"help": "Levels of a semantic ID, before a disambiguation level."})
    codebook_size: int = field(default=64, metadata={"help": "Codes of each level; the paper has 256 and 4 levels."})
    num_components: int = field(
        default=32, metadata={"help": "Principal components that residual_kmeans keeps; more for larger codebooks."}
    )
    conflict_rounds: int = field(default=20, metadata={"help": "LC-Rec's rounds against collisions; 0 skips them."})
    semantic_ids_file: str | None = field(
        default=None,
        metadata={"help": "Semantic IDs from elsewhere (JSON lines or parquet) instead of our item tokenizer's."},
    )
    semantic_ids_column: str | None = field(
        default=None, metadata={"help": "Where they stand in that file; unset: semantic_id."}
    )


def check_data(args: DataArguments, reads_ids: bool) -> None:
    """Refuse options of semantic IDs that would be ignored.

    Args:
        args: of the recipe.
        reads_ids: whether this run makes or reads semantic IDs.
    """
    if args.semantic_ids_file is None:
        if args.semantic_ids_column is not None:
            raise ValueError("semantic_ids_column: where IDs stand in a --semantic_ids_file, which is not given.")
        return
    if not reads_ids:
        raise ValueError("semantic_ids_file: this run takes no semantic IDs from a file; leave it out.")
    logger.info(
        "Semantic IDs are those of %s: options of our own item tokenizer change nothing.", args.semantic_ids_file
    )


def open_dataset(args: DatasetArguments, config: PreparationConfig | None = None) -> RecDataset:
    """The prepared dataset; MovieLens-100K is prepared, as ``config`` says, where the recipe's default is missing."""
    folder = Path(args.dataset_dir)
    if not folder.exists() and args.dataset_dir == type(args).dataset_dir:
        reader = {"cache_dir": "data/raw", "path": None}  # as data_prep/movielens.py records its defaults
        return prepare_dataset(read_movielens(), folder, config or PreparationConfig(), reader)
    return RecDataset.load(folder)


def open_catalog(args: DataArguments, dataset: RecDataset, seed: int) -> tuple[Catalog, Path | None]:
    """Catalog and the folder of its item tokenizer, made where they are missing; None for IDs from elsewhere."""
    if args.semantic_ids_file is not None:
        item_ids = dataset.items["item_id"].to_pylist()
        ids = read_semantic_ids(args.semantic_ids_file, item_ids, args.semantic_ids_column or "semantic_id")
        return Catalog(dataset.items, *ids), None
    config = ItemTokenizerConfig(
        quantizer=args.quantizer,
        num_codebooks=args.num_codebooks,
        codebook_size=args.codebook_size,
        num_components=args.num_components,
        conflict_rounds=args.conflict_rounds,
        seed=seed,
    )
    embedding = EmbeddingConfig(
        combine=args.item_embedding,
        collaborative_weight=args.collaborative_weight,
        collaborative_shrinkage=args.collaborative_shrinkage,
        model=args.text_encoder,
        encoder=args.text_encoder_type,
    )
    folder = catalog_folder(dataset, embedding, config)
    _, catalog = build_catalog(dataset, folder, embedding, config)
    return catalog, folder / TOKENIZER_FOLDER

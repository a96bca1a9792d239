"""The stage from a dataset folder to a catalog: embed, fit, report; done once for the same inputs and options."""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmrec.atomic import one_at_a_time, write_json
from llmrec.catalog import Catalog
from llmrec.item_tokenizer.collaborative import (
    CombineMode,
    collaborative_embeddings,
    combine_embeddings,
    shrunk_weights,
)
from llmrec.item_tokenizer.config import ItemTokenizerConfig
from llmrec.item_tokenizer.embeddings import BUNDLED_MODEL, Encoder, embed_items
from llmrec.item_tokenizer.quality import write_quality_report
from llmrec.item_tokenizer.tokenizer import ItemTokenizer

if TYPE_CHECKING:  # ibis takes a second to import, and only the tables are used here
    from llmrec.dataset import RecDataset

logger = logging.getLogger(__name__)

#: Written last: says that the folder is complete, and from what it was made.
RECORD_FILE = "semantic_ids.json"
TOKENIZER_FOLDER = "item_tokenizer"


@dataclass(frozen=True)
class EmbeddingConfig:
    """What the item tokenizer sees of each item.

    Args:
        combine: ``text``, ``collaborative`` (no text model needed), ``concat`` or ``average``; see
            ``combine_embeddings``, and docs/item_tokenizer.md for the measurements behind the default.
        collaborative_weight: share of the collaborative part in ``concat`` and ``average``, 0 to 1.
        collaborative_shrinkage: training interactions at which an item has half of that share, fewer giving less
            (``shrunk_weights``); 0 gives every item the whole.
        collaborative_dim: width of the collaborative embeddings.
        collaborative_window: largest distance of two items in a history that count as near.
        model: of the text: ``bundled``, a folder, or a Hub name; see ``embed_items``.
        encoder: ``sentence_transformer`` or ``causal_lm`` (LC-Rec's).
        revision: of a model on the Hub.
        max_length: tokens of one text at most; ``None`` takes the model's limit.
        embedding_batch_size: texts in one forward pass.
        cache_dir: of text embeddings; ``None`` takes the folder ``embeddings`` inside the dataset folder.

    Raises:
        ValueError: if a weight or shrinkage is out of range.
    """

    combine: CombineMode = "concat"
    collaborative_weight: float = 0.5
    collaborative_shrinkage: float = 0.0
    collaborative_dim: int = 64
    collaborative_window: int = 10
    model: str = BUNDLED_MODEL
    encoder: Encoder = "sentence_transformer"
    revision: str | None = None
    max_length: int | None = None
    embedding_batch_size: int = 64
    cache_dir: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.collaborative_weight <= 1:
            raise ValueError(f"collaborative_weight is {self.collaborative_weight}: give 0 (text only) to 1.")
        if self.collaborative_shrinkage < 0:
            raise ValueError(f"collaborative_shrinkage is {self.collaborative_shrinkage}: give 0 (none) or more.")


def build_catalog(
    dataset: "RecDataset", output_dir: str | Path, embedding: EmbeddingConfig, config: ItemTokenizerConfig
) -> tuple[ItemTokenizer, Catalog]:
    """Give every item of a dataset a semantic ID, and write tokenizer, catalog and quality report into ``output_dir``.

    A second call with the same dataset and options reads what is there. With others it starts anew. Processes at one
    folder wait for each other.

    Args:
        dataset: items, training histories and validation histories.
        output_dir: for ``item_tokenizer/``, ``catalog.parquet``, ``catalog.json``, ``quality.json``, ``quality.png``
            and ``semantic_ids.json`` (inputs and options; written last).
        embedding: what is quantized.
        config: how; its device also embeds.

    Returns:
        The tokenizer and the catalog.
    """
    output_dir = Path(output_dir)
    record = _record(dataset, embedding, config)
    if _recorded(output_dir) != record:
        with one_at_a_time(output_dir):
            if _recorded(output_dir) != record:  # another process may have made it meanwhile
                return _make_catalog(dataset, output_dir, embedding, config, record)
    logger.info("%s is up to date: nothing to do.", output_dir)
    return ItemTokenizer.load(output_dir / TOKENIZER_FOLDER, config.device), Catalog.load(output_dir)


def catalog_folder(dataset: "RecDataset", embedding: EmbeddingConfig, config: ItemTokenizerConfig) -> Path:
    """Where these options have their place inside the dataset folder, so that runs of others don't replace them."""
    record = json.dumps(_record(dataset, embedding, config), sort_keys=True)
    fingerprint = hashlib.sha256(record.encode()).hexdigest()[:8]
    name = f"{config.quantizer}_{config.num_codebooks}x{config.codebook_size}_{embedding.combine}_seed{config.seed}"
    return dataset.folder / "semantic_ids" / f"{name}_{fingerprint}"


def _make_catalog(
    dataset: "RecDataset",
    output_dir: Path,
    embedding: EmbeddingConfig,
    config: ItemTokenizerConfig,
    record: dict[str, Any],
) -> tuple[ItemTokenizer, Catalog]:
    (output_dir / RECORD_FILE).unlink(missing_ok=True)  # until the new files are all there
    embeddings = dataset_embeddings(dataset, embedding, dataset.folder / "embeddings", config.device)
    tokenizer = ItemTokenizer.fit(dataset.items["item_id"].to_pylist(), embeddings, config)
    catalog = Catalog(dataset.items, tokenizer.semantic_ids, tokenizer.codebook_sizes)
    tokenizer.save(output_dir / TOKENIZER_FOLDER)
    catalog.save(output_dir)
    report = write_quality_report(tokenizer, embeddings, dataset.valid, output_dir)
    for warning in report["warnings"]:
        logger.warning(warning)
    write_json(output_dir / RECORD_FILE, record)
    return tokenizer, catalog


def dataset_embeddings(
    dataset: "RecDataset", config: EmbeddingConfig, default_cache_dir: Path, device: str | None = None
) -> np.ndarray:
    """What ``config`` asks for, from item texts and training histories only: float32 (num_items, dim)."""
    text = collaborative = None
    weight: float | np.ndarray = config.collaborative_weight
    if config.combine != "collaborative":
        text = embed_items(
            dataset.items,
            model=config.model,
            cache_dir=config.cache_dir or default_cache_dir,
            batch_size=config.embedding_batch_size,
            device=device,
            max_length=config.max_length,
            encoder=config.encoder,
            revision=config.revision,
        )
    if config.combine != "text":
        training = dataset.train_sequences(), dataset.items["item_id"].to_pylist()
        collaborative = collaborative_embeddings(*training, config.collaborative_dim, config.collaborative_window)
        if config.collaborative_shrinkage:
            weight = shrunk_weights(config.collaborative_weight, config.collaborative_shrinkage, *training)
    return combine_embeddings(text, collaborative, config.combine, weight)


def _record(dataset: "RecDataset", embedding: EmbeddingConfig, config: ItemTokenizerConfig) -> dict[str, Any]:
    """Everything the result depends on: not where it runs, how many texts at a time, or where they are cached."""
    content = [dataset.items.to_pylist(), dataset.train_sequences()]
    record: dict[str, Any] = {
        "split_fingerprint": dataset.fingerprint,
        "inputs": hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16],
        "embedding": asdict(embedding),
        "item_tokenizer": asdict(config),
    }
    for name in ("embedding_batch_size", "cache_dir"):
        del record["embedding"][name]
    del record["item_tokenizer"]["device"]
    return json.loads(json.dumps(record))  # as it reads back: tuples are lists


def _recorded(output_dir: Path) -> dict[str, Any] | None:
    path = output_dir / RECORD_FILE
    return json.loads(path.read_text()) if path.is_file() else None

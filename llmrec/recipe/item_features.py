"""From a dataset folder to the frozen embeddings that SETRec makes its tokens of; made once, kept, and read again."""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import numpy as np
import torch

from llmrec.atomic import one_at_a_time, write_json
from llmrec.baselines.sasrec import SASRec, SASRecConfig
from llmrec.dataset import RecDataset
from llmrec.item_tokenizer.embeddings import embed_items
from llmrec.models.setrec import ItemFeatures
from llmrec.models.setrec.item_features import cf_from_neighbours
from llmrec.recipe.data import DatasetArguments

logger = logging.getLogger(__name__)

#: Written last: says that a folder, which is named by its hash, is complete, and from what it was made.
_RECORD_FILE = "item_features.json"


@dataclass
class SASRecArguments:
    """The sequential recommender whose item embeddings a method reads."""

    cf_dim: int = field(default=64, metadata={"help": "Width of SASRec's item embeddings."})
    sasrec_epochs: int = field(default=30, metadata={"help": "Passes of SASRec over the training histories."})


@dataclass
class FeatureArguments(SASRecArguments, DatasetArguments):
    """What an item's tokens are made of."""

    cold_items: Literal["neighbours", "drawn"] = field(
        default="neighbours",
        metadata={
            "help": "CF embedding of items without training interactions. neighbours: mean of the warm items nearest "
            "by text. drawn: as SASRec drew it, untrained (released code)."
        },
    )


def open_item_features(
    args: FeatureArguments, dataset: RecDataset, seed: int, refit: bool, max_history: int, device: torch.device
) -> tuple[ItemFeatures, SASRec]:
    """Text embeddings of all items and CF embeddings of a SASRec trained on training interactions only.

    Args:
        args: what is asked for.
        dataset: whose items they are.
        seed: of SASRec.
        refit: train it on the validation items too.
        max_history: items that SASRec reads.
        device: where SASRec is trained.

    Returns:
        The features, and the recommender behind them: a floor.
    """
    sequences = training_rows(dataset, refit)
    sasrec = open_sasrec(args, dataset, seed, refit, max_history, device)
    text = embed_items(
        dataset.items,
        model=args.text_encoder,
        cache_dir=dataset.folder / "embeddings",
        encoder=args.text_encoder_type,
    )
    warm = torch.from_numpy(learnt_items(sequences, dataset.items.num_rows))
    features = ItemFeatures(torch.from_numpy(sasrec.item_embeddings), torch.from_numpy(text), warm)
    if args.cold_items == "neighbours":
        features = replace(features, cf=cf_from_neighbours(features))
    return features, sasrec


def training_rows(dataset: RecDataset, refit: bool) -> list[list[int]]:
    """Item indices of each user's training items, oldest first."""
    index = {item_id: row for row, item_id in enumerate(dataset.items["item_id"].to_pylist())}
    return [[index[item] for item in sequence] for sequence in dataset.train_sequences(refit=refit)]


def learnt_items(sequences: list[list[int]], num_items: int) -> np.ndarray:
    """bool (num_items,): the items that SASRec learns from ``sequences``; of a single item it learns nothing."""
    learnt = np.zeros(num_items, dtype=bool)
    learnt[[item for sequence in sequences if len(sequence) > 1 for item in sequence]] = True
    return learnt


def open_sasrec(
    args: SASRecArguments, dataset: RecDataset, seed: int, refit: bool, max_history: int, device: torch.device
) -> SASRec:
    """A SASRec trained on training interactions only; as for ``open_item_features``, made once and read again."""
    sequences = training_rows(dataset, refit)
    config = SASRecConfig(dim=args.cf_dim, num_epochs=args.sasrec_epochs, max_history=max_history, seed=seed)
    record = {"split": dataset.fingerprint, "refit": refit, "sasrec": asdict(config)}
    record["sequences"] = hashlib.sha256(json.dumps(sequences).encode()).hexdigest()[:16]
    # one folder for each: runs with other seeds neither replace it nor wait for it
    name = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]
    folder = dataset.folder / "sasrec" / name
    with one_at_a_time(folder):
        if (folder / _RECORD_FILE).is_file():
            logger.info("%s is up to date: SASRec is read from it.", folder)
            return SASRec.load(folder, config, dataset.items.num_rows)
        sasrec = SASRec(config, device).fit(sequences, dataset.items.num_rows)
        sasrec.save(folder)
        write_json(folder / _RECORD_FILE, record)
        return sasrec

"""From a dataset folder to an index for every user of it; made once, kept, and read again."""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
import torch

from llmrec.atomic import one_at_a_time, write_json
from llmrec.dataset import RecDataset
from llmrec.item_tokenizer.config import ItemTokenizerConfig
from llmrec.item_tokenizer.embeddings import embed_items, embed_texts
from llmrec.item_tokenizer.user_index import UserEmbedder, UserIndex
from llmrec.recipe.data import DatasetArguments
from llmrec.recipe.item_features import SASRecArguments, learnt_items, open_sasrec, training_rows

logger = logging.getLogger(__name__)

#: Written last: says that a folder, which is named by its hash, is complete, and from what it was made.
_RECORD_FILE = "user_index.json"


@dataclass
class UserIndexArguments(SASRecArguments):
    """What users' indices are made of, and how the model reads them."""

    user_index: Literal["added_tokens", "subword", "shuffled", "none"] = field(
        default="added_tokens",
        metadata={
            "help": "added_tokens: a token for each code. subword: codes spelt out, as the released checkpoint has "
            "them. shuffled: each user gets another's index (a control). none: histories alone."
        },
    )
    user_quantizer: Literal["residual_kmeans", "rqvae"] = field(default="rqvae", metadata={"help": "Indices from."})
    user_codebooks: int = field(default=3, metadata={"help": "Levels of a user's index."})
    user_codebook_size: int = field(default=32, metadata={"help": "Codes of each level; the paper has 256."})
    user_index_epochs: int = field(default=1000, metadata={"help": "Passes of the RQ-VAE over the users."})


def open_user_index(
    args: UserIndexArguments,
    data: DatasetArguments,
    dataset: RecDataset,
    seed: int,
    refit: bool,
    max_history: int,
    device: torch.device,
) -> UserIndex | None:
    """An index for every user with a training interaction, from training interactions and their reviews only.

    Args:
        args: what is asked for.
        data: what reads texts.
        dataset: whose users they are.
        seed: of SASRec, the quantizer and the shuffle.
        refit: count the validation items among the training interactions; their reviews never count.
        max_history: items that SASRec reads.
        device: where SASRec is trained.

    Returns:
        None where users are to have no index.
    """
    if args.user_index == "none":
        return None
    user_ids = dataset.train["user_id"].to_pylist()
    sequences = training_rows(dataset, refit)[: len(user_ids)]
    reviews = [[text for text in texts if text] for texts in dataset.train_reviews()]
    config = ItemTokenizerConfig(
        quantizer=args.user_quantizer,
        num_codebooks=args.user_codebooks,
        codebook_size=args.user_codebook_size,
        epochs=args.user_index_epochs,
        seed=seed,
    )
    sasrec = open_sasrec(args, dataset, seed, refit, max_history, device)
    cache = dataset.folder / "embeddings"
    item_texts = embed_items(dataset.items, model=data.text_encoder, cache_dir=cache, encoder=data.text_encoder_type)
    record = {
        "split": dataset.fingerprint,
        "inputs": hashlib.sha256(json.dumps([user_ids, sequences, reviews]).encode()).hexdigest()[:16],
        "sasrec": hashlib.sha256(sasrec.item_embeddings.tobytes()).hexdigest()[:16],
        "text_encoder": [data.text_encoder, data.text_encoder_type],
        "item_texts": hashlib.sha256(item_texts.tobytes()).hexdigest()[:16],
        "tokenizer": {name: value for name, value in asdict(config).items() if name != "device"},
    }
    folder = dataset.folder / "user_index" / hashlib.sha256(json.dumps(record).encode()).hexdigest()[:16]
    with one_at_a_time(folder):
        if (folder / _RECORD_FILE).is_file():
            logger.info("%s is up to date: users' indices are read from it.", folder)
            index = UserIndex.load(folder)
        else:
            learnt = learnt_items(sequences, len(item_texts))
            embedder = UserEmbedder.fit(item_texts, sasrec.item_embeddings, learnt)
            index = UserIndex.fit(user_ids, sequences, _embed_reviews(reviews, data, dataset), embedder, config)
            index.save(folder)
            write_json(folder / _RECORD_FILE, record)
    return _shuffled(index, seed) if args.user_index == "shuffled" else index


def _embed_reviews(reviews: list[list[str]], data: DatasetArguments, dataset: RecDataset) -> list[np.ndarray | None]:
    """Of each user, in order; None where there are none."""
    texts = [text for written in reviews for text in written]
    if not texts:
        logger.info("%s has no reviews: users are embedded from the texts of their items.", dataset.name)
        return [None] * len(reviews)
    embeddings = embed_texts(
        texts, model=data.text_encoder, cache_dir=dataset.folder / "embeddings", encoder=data.text_encoder_type
    )
    ends = np.cumsum([len(written) for written in reviews])
    return [part if len(part) else None for part in np.split(embeddings, ends[:-1])]


def _shuffled(index: UserIndex, seed: int) -> UserIndex:
    """Every user with the index of another, or, by chance, with the own one."""
    tokenizer = index.tokenizer
    order = np.random.default_rng(seed).permutation(len(tokenizer.item_ids))
    tokenizer.semantic_ids = tokenizer.semantic_ids[order]
    return UserIndex(tokenizer, index.embedder)

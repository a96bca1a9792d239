"""A tiny LREM checkpoint on disk: random weights, three control tokens, 40 embedded items."""

from pathlib import Path

import numpy as np

from llmrec.catalog import Catalog
from llmrec.hub import save_checkpoint
from llmrec.models.from_config import SmallModelConfig, build_small_model, train_text_tokenizer
from llmrec.models.lrem import LremPrompts, LremSearcher
from tests.tiny import make_catalog

NUM_ITEMS, WIDTH = 40, 64

#: Queries of several lengths, so that batches of them are padded.
QUERIES = ["film of the sea", "a", "Film 7 of the sea and of the sea and of the sea", "Drama, but not at sea"]


def plain_catalog(num_items: int = NUM_ITEMS) -> Catalog:
    """Items without semantic IDs."""
    return Catalog(make_catalog(num_items).items, np.empty((num_items, 0)), ())


def save_tiny_lrem(folder: Path, reasoning: bool = True) -> Path:
    """Heads are of 32, which vLLM runs too."""
    catalog = plain_catalog()
    tokenizer = train_text_tokenizer(catalog.titles, 300)
    LremPrompts.add_to(tokenizer)
    small = SmallModelConfig(
        hidden_size=WIDTH, num_layers=2, num_heads=2, head_dim=32, intermediate_size=64, text_vocab_size=300
    )
    model = build_small_model(small, tokenizer, 0).eval()
    for parameter in model.parameters():
        parameter.data.mul_(3.0)  # a fresh model is nearly uniform: spread its scores so that thoughts are stable
    prompts = LremPrompts(tokenizer, reasoning=reasoning)
    embeddings = LremSearcher(prompts, prompts.lines(catalog.items), 8).embed_items(model)
    config = {"per_device_eval_batch_size": 8}
    save_checkpoint(
        folder, model, tokenizer, catalog, None, config, prompts.options, method="lrem", item_embeddings=embeddings
    )
    return folder

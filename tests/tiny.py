"""Tiny models and catalogues, built in memory."""

import numpy as np
import pyarrow as pa
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmrec.catalog import Catalog
from llmrec.decoding.device_trie import DeviceTrie
from llmrec.models.from_config import SmallModelConfig, build_small_model, train_text_tokenizer
from llmrec.trie import Trie
from llmrec.vocabulary import ItemVocabulary


def random_semantic_ids(num_items: int, codebook_sizes: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Unique random IDs: int32 of shape (num_items, num_codebooks)."""
    rng = np.random.default_rng(seed)
    flat = rng.choice(int(np.prod(codebook_sizes)), size=num_items, replace=False)
    return np.stack(np.unravel_index(flat, codebook_sizes), axis=1).astype(np.int32)


def make_catalog(
    num_items: int = 30, codebook_sizes: tuple[int, ...] = (4, 4, 4), titles: list[str] | None = None, seed: int = 0
) -> Catalog:
    titles = titles or [f"Film {number} of the sea" for number in range(num_items)]
    items = pa.table(
        {
            "item_id": [str(number) for number in range(num_items)],
            "title": titles,
            "description": [""] * num_items,
            "brand": [""] * num_items,
            "categories": [["Drama"]] * num_items,
        }
    )
    return Catalog(items, random_semantic_ids(num_items, codebook_sizes, seed), codebook_sizes)


def make_model(
    catalog: Catalog, architecture: str = "qwen3", seed: int = 0
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, ItemVocabulary]:
    """A random model over a tokenizer that has the catalogue's tokens."""
    tokenizer = train_text_tokenizer(catalog.titles, 300)
    vocabulary = ItemVocabulary.add_to(tokenizer, catalog.codebook_sizes)
    config = SmallModelConfig(
        architecture=architecture, hidden_size=32, num_layers=2, num_heads=2, head_dim=16, intermediate_size=64
    )
    model = build_small_model(config, tokenizer, seed).eval()
    for parameter in model.parameters():
        parameter.data.mul_(3.0)  # a fresh model is nearly uniform: spread its scores so that rankings are stable
    return model, tokenizer, vocabulary


def make_device_trie(catalog: Catalog, vocabulary: ItemVocabulary) -> DeviceTrie:
    return DeviceTrie(Trie.from_semantic_ids(catalog.semantic_ids), vocabulary.code_token_ids)

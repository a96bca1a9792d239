"""Items to semantic IDs: embeddings, quantizers, collisions, quality."""

from llmrec.item_tokenizer.collaborative import collaborative_embeddings, combine_embeddings
from llmrec.item_tokenizer.config import ItemTokenizerConfig
from llmrec.item_tokenizer.embeddings import embed_items
from llmrec.item_tokenizer.given import read_semantic_ids
from llmrec.item_tokenizer.quality import quality_report
from llmrec.item_tokenizer.stage import EmbeddingConfig, build_catalog, catalog_folder
from llmrec.item_tokenizer.tokenizer import ItemTokenizer

__all__ = [
    "EmbeddingConfig",
    "ItemTokenizer",
    "ItemTokenizerConfig",
    "build_catalog",
    "catalog_folder",
    "collaborative_embeddings",
    "combine_embeddings",
    "embed_items",
    "quality_report",
    "read_semantic_ids",
]

"""Recommenders, and a search, without a language model: the floors printed beside every result."""

from llmrec.baselines.bm25 import BM25, document_texts
from llmrec.baselines.fusion import Fusion, fused_name
from llmrec.baselines.item_knn import ItemKNN
from llmrec.baselines.popularity import Popularity

__all__ = ["BM25", "Fusion", "ItemKNN", "Popularity", "document_texts", "fused_name"]

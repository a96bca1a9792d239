"""Recommenders without a language model: the floors printed beside every result."""

from llmrec.baselines.item_knn import ItemKNN
from llmrec.baselines.popularity import Popularity

__all__ = ["ItemKNN", "Popularity"]

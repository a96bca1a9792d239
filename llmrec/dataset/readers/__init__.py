"""Readers: one per form that interactions come in, all ending in RawData."""

from llmrec.dataset.readers.amazon_reviews import read_amazon_reviews
from llmrec.dataset.readers.interactions import read_interactions
from llmrec.dataset.readers.movielens import read_movielens
from llmrec.dataset.readers.recbole import read_recbole
from llmrec.dataset.readers.sequences import read_sequences
from llmrec.dataset.readers.steam import read_steam

__all__ = [
    "read_amazon_reviews",
    "read_interactions",
    "read_movielens",
    "read_recbole",
    "read_sequences",
    "read_steam",
]

"""From raw interactions to a split dataset folder."""

from llmrec.dataset.arguments import add_preparation_arguments, preparation_config, prepare_once
from llmrec.dataset.config import PreparationConfig
from llmrec.dataset.folder import RecDataset
from llmrec.dataset.preparation import prepare_dataset
from llmrec.dataset.published_rows import prepare_published_rows
from llmrec.dataset.queries import QueryDataset
from llmrec.dataset.raw_data import RawData
from llmrec.dataset.readers import (
    read_amazon_reviews,
    read_interactions,
    read_movielens,
    read_recbole,
    read_sequences,
    read_steam,
)

__all__ = [
    "PreparationConfig",
    "QueryDataset",
    "RawData",
    "RecDataset",
    "add_preparation_arguments",
    "preparation_config",
    "prepare_dataset",
    "prepare_once",
    "prepare_published_rows",
    "read_amazon_reviews",
    "read_interactions",
    "read_movielens",
    "read_recbole",
    "read_sequences",
    "read_steam",
]

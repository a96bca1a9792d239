"""The stage from a catalogue to a folder of search queries; done once for the same inputs and options."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from llmrec.baselines import BM25, document_texts
from llmrec.dataset import QueryDataset, RecDataset
from llmrec.dataset.queries import INFO_FILE, QUERY_SPLITS
from llmrec.item_tokenizer.embeddings import BUNDLED_MODEL, embed_items, embed_texts
from llmrec.prompts.made_queries import QueryConfig, make_queries
from llmrec.prompts.paraphrases import GENERAL_BOOK, MOVIELENS_BOOK, ParaphraseBook
from llmrec.prompts.query_items import QueryItems
from llmrec.prompts.query_mining import Relevance, mine_items, relevant_by_cosine, relevant_targets
from llmrec.prompts.query_writer import DeterministicQueryWriter, QueryWriter
from llmrec.recipe.data import DatasetArguments, open_dataset
from llmrec.schema import QUERIES, DataError

logger = logging.getLogger(__name__)

#: Answers of a language model, inside the folder of queries: paid for once.
CACHE_FILE = "writer_answers.jsonl"
#: Of the way in which queries are made: raised with every change that gives other ones for the same inputs.
VERSION = 1
#: Given the catalogue and the deterministic writer: the one that is to write.
MakeWriter = Callable[[QueryItems, QueryWriter], QueryWriter]


@dataclass(frozen=True)
class MiningConfig:
    """Which items of a training query stay.

    Args:
        mining: ``none`` keeps all that a query was made for; ``bm25`` keeps those of the items that BM25 finds with
            "query (keywords)" and not with the query alone that are judged relevant, and drops queries without any.
        relevance: ``targets``: relevant is what the query was made for. ``embedding``: what a text encoder says.
        threshold: least cosine of the embeddings of query and item.
        text_encoder: a sentence-transformers folder or Hub name; ``bundled`` needs no hub.
        k: items of a search.
    """

    mining: Literal["none", "bm25"] = "none"
    relevance: Literal["targets", "embedding"] = "targets"
    threshold: float = 0.4
    text_encoder: str = BUNDLED_MODEL
    k: int = 100

    def __post_init__(self) -> None:
        if self.mining not in ("none", "bm25") or self.relevance not in ("targets", "embedding"):
            raise ValueError(
                f"mining is {self.mining!r} and relevance {self.relevance!r}; allowed are none or bm25, and targets or "
                "embedding."
            )
        if self.k < 1:
            raise ValueError(f"k is {self.k}; a search needs 1 item or more.")


@dataclass
class QueryArguments:
    """Which queries."""

    queries_dir: str = field(
        default="data/ml-100k_queries",
        metadata={"help": "Folder made by data_prep/queries.py; the default is made from MovieLens-100K if missing."},
    )


def open_queries(args: QueryArguments) -> QueryDataset:
    """The queries in a folder; those of MovieLens-100K are made where the recipe's default is missing."""
    folder = Path(args.queries_dir)
    if not (folder / INFO_FILE).exists() and args.queries_dir == type(args).queries_dir:
        return queries_of_dataset(open_dataset(DatasetArguments()), folder)
    return QueryDataset.load(folder)


def queries_of_dataset(
    dataset: RecDataset,
    folder: str | Path,
    config: QueryConfig | None = None,
    mining: MiningConfig | None = None,
    book: ParaphraseBook | None = None,
    make_writer: MakeWriter | None = None,
    prohibited: Sequence[str] = (),
) -> QueryDataset:
    """Queries made from the items of a prepared dataset; ``build_queries`` says what is done, and what may fail.

    How well an item is known, which alternatives ask about, is counted in the training interactions only.
    """
    popularity = Counter(item for sequence in dataset.train_sequences() for item in sequence)
    sources = {"items": dataset.items, "queries": QUERIES.empty_table()}
    name, source = f"{dataset.name} queries", f"the catalogue of {dataset.name}"
    return build_queries(folder, name, source, sources, config, mining, book, make_writer, prohibited, popularity)


def build_queries(
    folder: str | Path,
    name: str,
    source: str,
    sources: dict[str, pa.Table],
    config: QueryConfig | None = None,
    mining: MiningConfig | None = None,
    book: ParaphraseBook | None = None,
    make_writer: MakeWriter | None = None,
    prohibited: Sequence[str] = (),
    popularity: dict[str, int] | None = None,
) -> QueryDataset:
    """Make a folder of queries, or read the one that was made from the same inputs and options.

    Args:
        folder: to write; one made with other inputs or options is made again.
        name: of the query dataset.
        source: where items and queries come from, in words.
        sources: ``items``, the catalogue, and ``queries`` that are there already and stay as they are.
        config: of the queries to make; the splits that ``sources`` has queries of are left as they are.
        mining: of the items of made training queries.
        book: paraphrases; by default MovieLens', for a catalogue that has mostly its genres, or none.
        make_writer: gives the writer; the deterministic one by default.
        prohibited: words that no keyword may hold.
        popularity: item id -> training interactions, where they are known.

    Raises:
        DataError: if the folder holds something else, or no query could be made.
    """
    config, mining, folder = config or QueryConfig(), mining or MiningConfig(), Path(folder)
    items = QueryItems(sources["items"], popularity)
    book = book or fitting_book(items)
    given = sources["queries"]
    config = _missing_splits(config, given)
    writer: QueryWriter | None = None
    if config is not None:
        easy = DeterministicQueryWriter(items, book, config.phrasings)
        writer = make_writer(items, easy) if make_writer else easy
    options = {
        "made": None if config is None else asdict(config),
        "mining": asdict(mining),
        "prohibited": list(prohibited),
    }
    record = {
        "name": name,
        "source": source,
        "writer": writer.name if writer else None,
        "options": json.loads(json.dumps(options)),
        "version": VERSION,
        "inputs": _inputs_hash(sources, popularity, book),
    }
    found = _current(folder, record)
    if found is not None:
        return found
    counts = None
    if config is not None and writer is not None:
        made = make_queries(items, writer, config, prohibited, given["query"].to_pylist())
        made, counts = _mined(made, sources["items"], mining)
        given = pa.concat_tables([made, given])
    return QueryDataset(name, sources["items"], given, {**record, "mined": counts}).save(folder)


def fitting_book(items: QueryItems) -> ParaphraseBook:
    """MovieLens' paraphrases where most of the catalogue's categories are its genres."""
    known = sum(category in MOVIELENS_BOOK.phrases for category in items.by_category)
    return MOVIELENS_BOOK if known > len(items.by_category) / 2 else GENERAL_BOOK


def _missing_splits(config: QueryConfig, given: pa.Table) -> QueryConfig | None:
    """The config without the splits that have queries already; None where the test is not the only one of these."""
    splits = set(given["split"].to_pylist())
    if splits - {"test"}:
        return None
    return replace(config, test=0) if splits else config


def _inputs_hash(sources: dict[str, pa.Table], popularity: dict[str, int] | None, book: ParaphraseBook) -> str:
    """16 hex digits over all that queries are made of."""
    digest = hashlib.sha256(json.dumps([book, sorted((popularity or {}).items())]).encode())
    for table in sources.values():
        for batch in table.to_batches(max_chunksize=10_000):
            digest.update(json.dumps(batch.to_pydict()).encode())
    return digest.hexdigest()[:16]


def _current(folder: Path, record: dict[str, Any]) -> QueryDataset | None:
    """The dataset in ``folder`` if it was made from the same; None if it is to be made.

    Raises:
        DataError: if the folder holds something else, or is damaged.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    own = {INFO_FILE, CACHE_FILE, "items.parquet", "queries.parquet", "README.md"}
    others = [entry.name for entry in folder.iterdir() if entry.name not in own] if folder.is_dir() else [folder.name]
    if others and not (folder / INFO_FILE).exists():
        raise DataError(f"{folder} holds {others[0]!r} and is no folder of queries: name another --output_dir.")
    if not (folder / INFO_FILE).exists():
        logger.info("%s was not finished: it is made again.", folder)
        return None
    dataset = QueryDataset.load(folder)
    changed = sorted(name for name in record if dataset.info.get(name) != record[name])
    if not changed:
        logger.info("%s is up to date: nothing to do.", folder)
        return dataset
    logger.info("%s was made with other inputs or options (%s): it is made again.", folder, ", ".join(changed))
    return None


def _mined(made: pa.Table, items: pa.Table, mining: MiningConfig) -> tuple[pa.Table, dict[str, int] | None]:
    """The made queries with the items that mining keeps, for train and rl; valid and test stay exact."""
    if mining.mining == "none":
        return made, None
    index = {item_id: row for row, item_id in enumerate(items["item_id"].to_pylist())}
    item_ids = list(index)
    rows = made.to_pylist()
    trained = [row for row in rows if row["split"] in ("train", "rl")]
    relevant: Relevance
    if mining.relevance == "targets":
        relevant = relevant_targets([[index[item_id] for item_id in row["item_ids"]] for row in trained])
    else:
        embed = partial(embed_texts, model=mining.text_encoder)
        relevant = relevant_by_cosine(embed, embed_items(items, mining.text_encoder), mining.threshold)
    search = BM25(document_texts(items)).search
    queries, keywords = [row["query"] for row in trained], [row["keywords"] for row in trained]
    mined = mine_items(queries, keywords, search, relevant, mining.k)
    for row, kept in zip(trained, mined.rows, strict=True):
        row["item_ids"], row["grades"] = [item_ids[item] for item in kept], [1] * len(kept)
    logger.info("Mining: %s.", ", ".join(f"{count:,} {name}" for name, count in mined.counts.items()))
    kept_rows = [row for split in QUERY_SPLITS for row in rows if row["split"] == split and row["item_ids"]]
    if not kept_rows:
        raise DataError("Mining dropped every query: lower --relevance_threshold, raise --mining_k, or do not mine.")
    return pa.Table.from_pylist(kept_rows, QUERIES), mined.counts

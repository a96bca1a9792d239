"""A folder of search queries: the artefact between the making of queries and everything that searches."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llmrec.atomic import atomic_path, write_json
from llmrec.dataset.card import query_card
from llmrec.schema import ITEMS, QUERIES, DataError

#: train: for supervised training; rl: for reinforcement learning, kept apart as the paper does.
QUERY_SPLITS = ("train", "rl", "valid", "test")
INFO_FILE = "queries.json"
_CARD_FILE = "README.md"
_TABLES = {"items": ITEMS, "queries": QUERIES}
_ROWS_AT_A_TIME = 10_000


@dataclass(frozen=True)
class QueryDataset:
    """A catalogue and search queries over it, split.

    Args:
        name: of the dataset.
        items: the catalogue, ``schema.ITEMS``; the row order defines the item index.
        table: the queries, ``schema.QUERIES``.
        info: the content of queries.json: name, source, writer, options, counts, mining, fingerprint.
        folder: where it lies; None before it is saved.

    Raises:
        DataError: if a query is empty, has no relevant item, names an unknown one or one twice, has grades of another
            number than items or below 0, is of no known split, repeats an id, or stands in two splits; it names the
            row.
    """

    name: str
    items: pa.Table
    table: pa.Table
    info: dict[str, Any]
    folder: Path | None = None

    def __post_init__(self) -> None:
        item_ids = set(self.items["item_id"].to_pylist())
        if len(item_ids) < self.items.num_rows:
            repeated = Counter(self.items["item_id"].to_pylist()).most_common(1)[0][0]
            raise DataError(f"The items of {self.name} hold {repeated!r} twice: keep one of them.")
        split_of: dict[str, str] = {}
        query_ids: set[str] = set()
        for row, query in _rows(self.table):
            problem = _problem(query, item_ids)
            if problem is None and query["query_id"] in query_ids:
                problem = "repeats a query_id of an earlier row; number them anew"
            if problem is None and split_of.setdefault(same_query(query["query"]), query["split"]) != query["split"]:
                problem = f"stands in the split {split_of[same_query(query['query'])]} too; keep it in one of them"
            if problem:
                raise DataError(
                    f"Query {query['query_id']!r} ({query['query']!r}, row {row} of {self.name}) {problem}."
                )
            query_ids.add(query["query_id"])

    @classmethod
    def load(cls, folder: str | Path) -> "QueryDataset":
        """Open a query folder.

        Raises:
            FileNotFoundError: if it is not one.
            DataError: if a file of it is missing, damaged, or not the one that queries.json was written for.
        """
        folder = Path(folder)
        if not (folder / INFO_FILE).is_file():
            raise FileNotFoundError(
                f"{folder} holds no {INFO_FILE}: it is not a folder of queries, or was not finished. Make one with "
                "data_prep/queries.py."
            )
        try:
            info = json.loads((folder / INFO_FILE).read_text())
            items, table = (pq.read_table(folder / f"{name}.parquet").cast(schema) for name, schema in _TABLES.items())
            dataset = cls(info["name"], items, table, info, folder)
            recorded = info["fingerprint"]
        except (pa.ArrowException, OSError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(
                f"{folder} is damaged ({error}): delete it and make it again with data_prep/queries.py."
            ) from None
        if dataset.fingerprint != recorded:
            raise DataError(
                f"{folder} holds tables with the fingerprint {dataset.fingerprint}, but {INFO_FILE} is of {recorded}: "
                "delete the folder and make it again with data_prep/queries.py."
            )
        return dataset

    def save(self, folder: str | Path) -> "QueryDataset":
        """Write the tables, a card and, last, queries.json; a folder cut short by a kill is refused by ``load``.

        Returns:
            The dataset with ``folder`` set, and counts and fingerprint in its ``info``.
        """
        folder = Path(folder)
        info = {"name": self.name, **self.info, "counts": self.counts, "fingerprint": self.fingerprint}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / INFO_FILE).unlink(missing_ok=True)
        for name, table in (("items", self.items.cast(ITEMS)), ("queries", self.table.cast(QUERIES))):
            with atomic_path(folder / f"{name}.parquet") as temporary:
                pq.write_table(table, temporary)
        with atomic_path(folder / _CARD_FILE) as temporary:
            temporary.write_text(query_card(info))
        write_json(folder / INFO_FILE, info)
        return QueryDataset(self.name, self.items, self.table, info, folder)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over both tables: equal where two numbers were measured on the same queries and items."""
        digest = hashlib.sha256()
        for table, schema in ((self.items, ITEMS), (self.table, QUERIES)):
            for start in range(0, table.num_rows, _ROWS_AT_A_TIME):
                rows = table.slice(start, _ROWS_AT_A_TIME).select(schema.names)
                digest.update(json.dumps(rows.to_pydict()).encode())
        return digest.hexdigest()[:16]

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Split -> kind -> number of queries, and ``all``."""
        pairs = Counter(zip(self.table["split"].to_pylist(), self.table["kind"].to_pylist(), strict=True))
        kinds = list(dict.fromkeys(self.table["kind"].to_pylist()))
        counts = {}
        for split in QUERY_SPLITS:
            by_kind = {kind: pairs[split, kind] for kind in kinds if pairs[split, kind]}
            counts[split] = {"all": sum(by_kind.values()), **by_kind}
        return counts

    def queries(self, split: str) -> pa.Table:
        """The rows of one split, in their order.

        Raises:
            ValueError: if there is no such split.
        """
        if split not in QUERY_SPLITS:
            raise ValueError(f"split is {split!r}; allowed are {', '.join(QUERY_SPLITS)}.")
        return self.table.filter(pc.equal(self.table["split"], split)).combine_chunks()


def same_query(query: str) -> str:
    """What two queries share that differ in case and white space only."""
    return " ".join(query.casefold().split())


def hashed_split(text: str, shares: Mapping[str, float], seed: int) -> str:
    """The split that a text falls into by a hash of it; every text of a group must be the same one.

    Args:
        text: what is kept together.
        shares: split -> its share, in any unit; at least one above 0.
        seed: of the hash.
    """
    place = int.from_bytes(hashlib.blake2b(f"{seed}/{text}".encode(), digest_size=8).digest(), "big") / 2**64
    place *= sum(shares.values())
    chosen = ""
    for split, share in shares.items():
        if share > 0:
            chosen = split
            if place < share:
                break
        place -= share
    return chosen


def _rows(table: pa.Table) -> Iterator[tuple[int, dict[str, Any]]]:
    for start in range(0, table.num_rows, _ROWS_AT_A_TIME):
        yield from enumerate(table.slice(start, _ROWS_AT_A_TIME).to_pylist(), start)


def _problem(query: dict[str, Any], item_ids: set[str]) -> str | None:
    """What is wrong with one row by itself, and what to do."""
    named, grades, split = query["item_ids"], query["grades"], query["split"]
    unknown = [item_id for item_id in named if item_id not in item_ids]
    lowest = min(grades, default=0)
    faults = {
        "is empty; give it a text, or leave it out": not query["query"].strip(),
        f"is of split {split!r}; allowed are {', '.join(QUERY_SPLITS)}": split not in QUERY_SPLITS,
        f"names items {unknown[:3]}, which the catalogue lacks; add them there, or take them out": unknown,
        "names an item twice; keep one of its grades": len(set(named)) < len(named),
        f"has {len(named)} items and {len(grades)} grades; they must be as many": len(named) != len(grades),
        f"has the grade {lowest}; grades are 0 (not relevant) or more": lowest < 0,
        "has no relevant item (a grade above 0); leave it out": not any(grades),
    }
    return next((fault for fault, found in faults.items() if found), None)

"""Queries of others: a table of query-item pairs, or a folder of queries with graded items."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from llmrec.dataset.queries import hashed_split, same_query
from llmrec.dataset.readers.columns import identifiers, items_table, numbers
from llmrec.dataset.readers.interactions import category_list
from llmrec.dataset.readers.json_lines import read_json_lines
from llmrec.dataset.readers.tables import read_table
from llmrec.dataset.readers.text import plain_text
from llmrec.schema import ITEMS, QUERIES, DataError

#: Kinds of queries that nobody made from the catalogue.
OWN_KIND, REAL_KIND = "own", "real"


def read_query_pairs(
    items: str | Path, pairs: str | Path, shares: Mapping[str, float], seed: int
) -> dict[str, pa.Table]:
    """Read your own queries.

    Args:
        items: .csv, .tsv, .jsonl or .parquet (text files also as .gz) with ``item_id`` and ``title``, and perhaps
            ``description``, ``brand`` and ``categories``.
        pairs: the same kinds of file with ``query`` and ``item_id``, one pair a line, and perhaps ``grade`` (a whole
            number; 0 = not relevant; 1 where the column is missing) and ``kind``. Texts are taken as they stand.
        shares: split -> its share of the queries; all pairs of a query lie in one split, drawn by a hash.
        seed: of that hash.

    Returns:
        ``{"items": schema.ITEMS, "queries": schema.QUERIES}``; queries in the order of their first pairs.

    Raises:
        DataError: if a column is missing, a value is empty or no grade, an item is unknown or a pair comes twice; it
            names the file and the line.
    """
    pairs = Path(pairs)
    catalogue, table = read_item_table(items), read_table(pairs)
    for column in ("query", "item_id"):
        if column not in table:
            raise DataError(f"{pairs} has no column {column!r}; it has {', '.join(map(str, table.columns))}.")
    texts = identifiers(pairs, table["query"]).to_pylist()
    item_ids = identifiers(pairs, table["item_id"]).to_pylist()
    grades = _grades(pairs, table)
    kinds = table["kind"].fillna(OWN_KIND).astype(str).tolist() if "kind" in table else [OWN_KIND] * len(texts)
    known = set(catalogue["item_id"].to_pylist())
    queries: dict[str, dict[str, Any]] = {}
    for line, text, item_id, grade, kind in zip(table.index, texts, item_ids, grades, kinds, strict=True):
        if item_id not in known:
            raise DataError(f"{pairs}: line {line} names item {item_id!r}, which {items} has no row for: add it there.")
        query = queries.setdefault(same_query(text), {"query": text, "kind": kind, "judged": {}})
        if item_id in query["judged"]:
            raise DataError(f"{pairs}: line {line} repeats the pair of {text!r} and {item_id!r}: keep one of them.")
        query["judged"][item_id] = grade
    rows = [
        _row(str(number), query["query"], query["kind"], hashed_split(key, shares, seed), query["judged"])
        for number, (key, query) in enumerate(queries.items())
    ]
    return {"items": catalogue, "queries": pa.Table.from_pylist(rows, QUERIES)}


def read_search_folder(folder: str | Path) -> dict[str, pa.Table]:
    """Read a search set: ``items.jsonl`` and ``queries.jsonl``.

    An item has ``item_id``, ``title`` and perhaps ``description`` (whose HTML goes), ``brand``, ``category`` or
    ``categories``; a query has ``query``, ``relevant`` (a list of ``item_id`` and ``label``) and perhaps
    ``judged_irrelevant`` (a list of item ids, which get the grade 0).

    Returns:
        ``{"items": schema.ITEMS, "queries": schema.QUERIES}``; all queries of the split test.

    Raises:
        DataError: if a file or a field is missing, or of another form; it names the line.
    """
    folder = Path(folder)
    rows: list[dict[str, Any]] = []
    for line, row in read_json_lines(folder / "queries.jsonl", required=("query", "relevant")):
        try:
            judged = {str(entry["item_id"]): int(entry["label"]) for entry in row["relevant"]}
            judged |= {str(item_id): 0 for item_id in row.get("judged_irrelevant") or ()}
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{folder / 'queries.jsonl'}: line {line} has judgements of another form ({error!r}): relevant must "
                "list objects with item_id and label, judged_irrelevant item ids."
            ) from None
        rows.append(_row(str(row.get("query_id", len(rows))), str(row["query"]), REAL_KIND, "test", judged))
    return {"items": read_item_table(folder / "items.jsonl", html=True), "queries": pa.Table.from_pylist(rows, QUERIES)}


def read_item_table(path: str | Path, html: bool = False) -> pa.Table:
    """A catalogue from a file, with the columns that ``read_query_pairs`` names, as ``schema.ITEMS``.

    Args:
        path: of the file.
        html: whether descriptions are taken from pages, so that tags go; otherwise all texts stay as they are.

    Raises:
        DataError: as ``read_query_pairs``.
    """
    path = Path(path)
    table = read_table(path)
    for column in ("item_id", "title"):
        if column not in table:
            raise DataError(f"{path} has no column {column!r}; it has {', '.join(map(str, table.columns))}.")
    categories, descriptions = table.get("categories", table.get("category")), table.get("description")
    items = items_table(
        path,
        table["item_id"],
        table["title"],
        descriptions.map(plain_text, na_action="ignore") if html and descriptions is not None else descriptions,
        table.get("brand"),
        None if categories is None else pd.Series(map(category_list, categories), categories.index, dtype=object),
    )
    return items.select(ITEMS.names).cast(ITEMS)


def _grades(path: Path, table: pd.DataFrame) -> list[int]:
    if "grade" not in table:
        return [1] * len(table)
    grades = numbers(path, table["grade"])
    bad = (grades < 0) | (grades != grades.round())
    if bad.any():
        line = table.index[int(bad.to_numpy().argmax())]
        raise DataError(f"{path}: line {line} has the grade {grades[line]}; grades are whole numbers of 0 or more.")
    return grades.astype("int64").tolist()


def _row(query_id: str, query: str, kind: str, split: str, judged: Mapping[str, int]) -> dict[str, Any]:
    return {
        "query_id": query_id,
        "query": query,
        "kind": kind,
        "split": split,
        "keywords": [],
        "item_ids": list(judged),
        "grades": list(judged.values()),
    }

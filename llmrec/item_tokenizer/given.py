"""Semantic IDs that were made elsewhere: read from a table, checked, and made unique."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq

from llmrec.item_tokenizer.collisions import add_disambiguation_level, collision_groups
from llmrec.schema import DataError

_LAST_NUMBER = re.compile(r"(\d+)\D*$")


def read_semantic_ids(
    path: str | Path, item_ids: Sequence[str], column: str = "semantic_id"
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Codes of every item from a table that somebody else's item tokenizer wrote.

    Args:
        path: JSON lines or parquet with ``item_id`` (text or number) and ``column``: a list of codes, numbers or tokens
            whose code is their last number, such as ``<b_70>``. Other items may stand there too.
        item_ids: of the catalogue, in order.
        column: of the semantic IDs.

    Returns:
        int32 (num_items, num_codebooks) with unique rows, and the size of each level: its largest code and one more.
        Where items share an ID a disambiguation level is added, as TIGER does.

    Raises:
        DataError: if the table lacks a column or an item, or an ID is no list of codes as long as the others.
    """
    table = _read(Path(path))
    missing = {"item_id", column} - set(table.column_names)
    if missing:
        raise DataError(f"{path} has no column {sorted(missing)[0]!r}; it has {', '.join(table.column_names)}.")
    found = dict(zip(map(str, table["item_id"].to_pylist()), table[column].to_pylist(), strict=True))
    absent = [item_id for item_id in item_ids if item_id not in found]
    if absent:
        raise DataError(
            f"{path} has no semantic ID of {len(absent)} of the {len(item_ids)} items, such as {absent[0]!r}: give one "
            "for each item of the dataset, under the item ids that the dataset has."
        )
    codes = [[_code(value, path, item_id) for value in found[item_id] or ()] for item_id in item_ids]
    lengths = {len(ids) for ids in codes}
    if len(lengths) > 1 or 0 in lengths:
        raise DataError(f"{path} has semantic IDs of {sorted(lengths)} codes: all need the same number, 1 or more.")
    array = np.array(codes, dtype=np.int32)
    sizes = tuple(int(size) for size in array.max(axis=0) + 1)
    if collision_groups(array):
        array, size = add_disambiguation_level(array, max(sizes))
        sizes = (*sizes, size)
    return array, sizes


def _read(path: Path) -> pa.Table:
    if not path.is_file():
        raise DataError(f"{path} is no file: give a table of semantic IDs, JSON lines or parquet.")
    return pq.read_table(path) if path.suffix == ".parquet" else pyarrow.json.read_json(path)


def _code(value: Any, path: str | Path, item_id: str) -> int:
    number = _LAST_NUMBER.search(str(value))
    if number is None or str(value).startswith("-") or isinstance(value, float):
        raise DataError(
            f"{path} gives item {item_id!r} the code {value!r}; allowed are whole numbers from 0 on, and tokens that "
            "end in one, such as <b_70>."
        )
    return int(number[1])

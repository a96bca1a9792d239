"""Semantic IDs that were made elsewhere: read from a file, checked, and made unique."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmrec.item_tokenizer.collisions import add_disambiguation_level, collision_groups
from llmrec.schema import DataError

_CODE = re.compile(r"\d+|<[A-Za-z]+_(\d+)>")
_LARGEST_CODE = 2**31 - 2
#: Codes of a disambiguation level at least, for items that come later.
_SPARE_CODES = 32


def read_semantic_ids(
    path: str | Path, item_ids: Sequence[str], column: str = "semantic_id"
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Codes of every item from a file that somebody else's item tokenizer wrote.

    Args:
        path: JSON lines or parquet with ``item_id`` (text or whole number) and ``column``; or one JSON object, item ->
            semantic ID, as LC-Rec's code writes (``.json``). A semantic ID is a list of codes: whole numbers, or tokens
            such as ``<b_70>``. Other items may stand there too.
        item_ids: of the catalogue, in order.
        column: of the semantic IDs; an object has none.

    Returns:
        int32 (num_items, num_codebooks) with unique rows, and the size of each level: one more than the largest code in
        the file. Where items of the catalogue share an ID a disambiguation level is added, as TIGER does.

    Raises:
        DataError: if the file is no such table, lacks the column or an item, or has an item twice, or if an ID is no
            list of codes as long as the others.
    """
    path = Path(path)
    ids: dict[str, list[int]] = {}
    for item_id, semantic_id in _read(path, column):
        if not isinstance(item_id, str | int) or isinstance(item_id, bool):
            raise DataError(f"{path} has the item id {item_id!r}; allowed are texts and whole numbers.")
        if str(item_id) in ids:
            raise DataError(f"{path} has item {str(item_id)!r} twice: give one semantic ID for each.")
        ids[str(item_id)] = _codes(semantic_id, path, str(item_id))
    absent = [item_id for item_id in item_ids if item_id not in ids]
    if absent:
        raise DataError(
            f"{path} has no semantic ID of {len(absent)} of the {len(item_ids)} items, such as {absent[0]!r}: give one "
            "for each item of the dataset, under the item ids that the dataset has."
        )
    lengths = {len(codes) for codes in ids.values()}
    if len(lengths) > 1:
        raise DataError(f"{path} has semantic IDs of {sorted(lengths)} codes: all need the same number.")
    sizes = tuple(int(size) for size in np.max(list(ids.values()), axis=0) + 1)
    array = np.array([ids[item_id] for item_id in item_ids], dtype=np.int32)
    if collision_groups(array):
        array, size = add_disambiguation_level(array, _SPARE_CODES)
        sizes = (*sizes, size)
    return array, sizes


def _read(path: Path, column: str) -> Iterable[tuple[Any, Any]]:
    """Item ids and semantic IDs as they stand in the file."""
    if not path.is_file():
        raise DataError(f"{path} is no file: give semantic IDs as JSON lines, parquet, or one JSON object.")
    try:
        if path.suffix == ".parquet":
            rows = pq.read_table(path).to_pylist()
        elif path.suffix == ".json":
            return list(dict(json.loads(path.read_text())).items())
        else:
            rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    except (ValueError, TypeError, pa.ArrowException) as error:
        raise DataError(
            f"{path} can't be read ({error}): give semantic IDs as JSON lines, parquet, or one JSON object (.json)."
        ) from None
    for number, row in enumerate(rows, start=1):
        missing = [name for name in ("item_id", column) if not isinstance(row, dict) or name not in row]
        if missing:
            found = ", ".join(list(row)[:8]) if isinstance(row, dict) else "no columns"
            raise DataError(f"{path} has no {missing[0]!r} in row {number}; it has {found}.")
    return [(row["item_id"], row[column]) for row in rows]


def _codes(semantic_id: Any, path: Path, item_id: str) -> list[int]:
    if not isinstance(semantic_id, list) or not semantic_id:
        raise DataError(f"{path} gives item {item_id!r} the semantic ID {semantic_id!r}; it has to be a list of codes.")
    return [_code(value, path, item_id) for value in semantic_id]


def _code(value: Any, path: Path, item_id: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        code = value
    else:
        token = _CODE.fullmatch(value) if isinstance(value, str) else None
        code = -1 if token is None else int(token[1] or token[0])
    if not 0 <= code <= _LARGEST_CODE:
        raise DataError(
            f"{path} gives item {item_id!r} the code {value!r}; allowed are whole numbers from 0 on, and tokens such "
            "as <b_70>."
        )
    return code

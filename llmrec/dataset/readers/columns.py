"""Columns as read to the project's tables, checked; every error names the file, the column and the line.

The index of every series holds the line number, from 1, that its value stands in; its name is the column's.
"""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from llmrec.schema import INTERACTIONS, ITEMS, DataError

#: The tables here carry the line of each row beside the schema's columns, for errors that are found later.
LINE = pa.field("line", pa.int64())


def interactions_table(
    path: Path,
    user_ids: pd.Series,
    item_ids: pd.Series,
    seconds: pd.Series,
    ratings: pd.Series | None = None,
    reviews: pd.Series | None = None,
) -> pa.Table:
    """A table of ``schema.INTERACTIONS`` and a column ``line``.

    Args:
        path: named in errors.
        user_ids: as text or whole numbers.
        item_ids: as text or whole numbers.
        seconds: int64, Unix time or positions.
        ratings: numbers, missing ones allowed; None where the source has none.
        reviews: texts, missing ones allowed; None where the source has none.

    Raises:
        DataError: if an id is missing or a rating is no number.
    """
    size = len(user_ids)
    columns = [
        identifiers(path, user_ids),
        identifiers(path, item_ids),
        pa.array(seconds, pa.int64()),
        pa.nulls(size, pa.float32()) if ratings is None else _ratings(path, ratings),
        pa.nulls(size, pa.string()) if reviews is None else pa.array(reviews, pa.string(), from_pandas=True),
        pa.array(user_ids.index, pa.int64()),
    ]
    return pa.table(columns, schema=INTERACTIONS.append(LINE))


def items_table(
    path: Path,
    item_ids: pd.Series,
    titles: pd.Series,
    descriptions: pd.Series | None = None,
    brands: pd.Series | None = None,
    categories: pd.Series | None = None,
) -> pa.Table:
    """A table of ``schema.ITEMS`` and a column ``line``; a missing text is the empty string.

    Args:
        path: named in errors.
        item_ids: as text or whole numbers, no two the same.
        titles: texts; their ends are stripped.
        descriptions: texts.
        brands: texts.
        categories: lists of texts.

    Raises:
        DataError: if an id is missing or comes twice.
    """
    ids = identifiers(path, item_ids)
    repeated = pd.Series(ids.to_pylist(), item_ids.index).duplicated()
    if repeated.any():
        line = first_line(repeated)
        raise DataError(
            f"{path}: column {item_ids.name!r} repeats {item_ids[line]!r} in line {line}; each item needs one line. "
            "Keep one of them."
        )
    lists = [[]] * len(ids) if categories is None else [list(names) for names in categories]
    columns = [
        ids,
        *(_texts(values, len(ids)) for values in (titles, descriptions, brands)),
        pa.array(lists, pa.list_(pa.string())),
        pa.array(item_ids.index, pa.int64()),
    ]
    return pa.table(columns, schema=ITEMS.append(LINE))


def identifiers(path: Path, values: pd.Series) -> pa.Array:
    """``values`` as text: none missing, whole numbers without a decimal point."""
    missing = values.isna() | (values.astype(str).str.strip() == "")
    if missing.any():
        of = "all" if missing.all() else f"{int(missing.sum()):,} of {len(values):,}"
        raise DataError(
            f"{path}: column {values.name!r} is empty in {of} rows, the first in line {first_line(missing)}. Fill "
            "them in, or remove those rows."
        )
    if isinstance(values.dtype, pd.StringDtype):
        return pa.array(values.str.strip(), pa.string())
    if pd.api.types.is_integer_dtype(values.dtype):
        return pa.array(values.astype(str), pa.string())
    return pa.array([_identifier(path, str(values.name), line, value) for line, value in values.items()], pa.string())


def numbers(path: Path, values: pd.Series) -> pd.Series:
    """``values`` as finite numbers; int64 where all of them are whole, so that large ones stay exact."""
    parsed = pd.to_numeric(values, errors="coerce")
    bad = parsed.isna() | parsed.isin([float("inf"), float("-inf")])
    if bad.any():
        line = first_line(bad)
        raise DataError(
            f"{path}: column {values.name!r} holds {values[line]!r} in line {line}, which is no number. Correct it, or "
            "remove that row."
        )
    return parsed


def first_line(mask: pd.Series) -> int:
    """The line of the first True."""
    return int(mask.index[int(mask.to_numpy().argmax())])


def _identifier(path: Path, column: str, line: Any, value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int | float) and not isinstance(value, bool) and value == int(value):
        return str(int(value))
    raise DataError(f"{path}: column {column!r} holds {value!r} in line {line}; an id is text or a whole number.")


def _ratings(path: Path, values: pd.Series) -> pa.Array:
    present = values.notna()
    parsed = pd.Series(float("nan"), values.index)
    parsed[present] = numbers(path, values[present]).astype("float64")
    return pa.array(parsed, pa.float32(), from_pandas=True)


def _texts(values: pd.Series | None, size: int) -> pa.Array:
    if values is None:
        return pa.array([""] * size, pa.string())
    return pa.array(values.fillna("").astype(str).str.strip(), pa.string())

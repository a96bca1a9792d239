"""Columns as read to the project's tables, checked; every error names the file, the column and the row."""

from pathlib import Path

import pandas as pd
import pyarrow as pa

from llmrec.schema import INTERACTIONS, ITEMS, DataError

#: Rows before the first data row in a file with a header line.
HEADER_LINES = 1


def interactions_table(
    path: Path,
    user_ids: pd.Series,
    item_ids: pd.Series,
    timestamps: pd.Series,
    ratings: pd.Series | None = None,
    reviews: pd.Series | None = None,
) -> pa.Table:
    """A table of ``schema.INTERACTIONS``.

    Args:
        path: named in errors; line numbers are the series' positions plus the header line.
        user_ids: as text or numbers.
        item_ids: as text or numbers.
        timestamps: whole seconds.
        ratings: numbers, or None where the source has none.
        reviews: texts, or None where the source has none.

    Raises:
        DataError: if an id is missing or a number can't be read.
    """
    size = len(user_ids)
    columns = [
        pa.array(required_text(path, "user_id", user_ids), pa.string()),
        pa.array(required_text(path, "item_id", item_ids), pa.string()),
        pa.array(numbers(path, "timestamp", timestamps).astype("int64"), pa.int64()),
        pa.nulls(size, pa.float32()) if ratings is None else pa.array(numbers(path, "rating", ratings), pa.float32()),
        pa.nulls(size, pa.string()) if reviews is None else pa.array(reviews, pa.string(), from_pandas=True),
    ]
    return pa.table(columns, schema=INTERACTIONS)


def items_table(
    path: Path,
    item_ids: pd.Series,
    titles: pd.Series,
    descriptions: pd.Series | None = None,
    brands: pd.Series | None = None,
    categories: pd.Series | None = None,
) -> pa.Table:
    """A table of ``schema.ITEMS``; a missing text is the empty string."""
    empty = pd.Series([""] * len(item_ids))
    lists = [[]] * len(item_ids) if categories is None else [list(row) if row is not None else [] for row in categories]
    columns = [
        pa.array(required_text(path, "item_id", item_ids), pa.string()),
        pa.array(titles.fillna("").astype(str), pa.string()),
        pa.array((empty if descriptions is None else descriptions).fillna("").astype(str), pa.string()),
        pa.array((empty if brands is None else brands).fillna("").astype(str), pa.string()),
        pa.array(lists, pa.list_(pa.string())),
    ]
    return pa.table(columns, schema=ITEMS)


def required_text(path: Path, name: str, values: pd.Series) -> pd.Series:
    """``values`` as text, none of them missing."""
    missing = values.isna() | (values.astype(str).str.strip() == "")
    if missing.any():
        row = int(missing.to_numpy().argmax())
        raise DataError(
            f"{path}: column {name!r} is empty in {int(missing.sum())} of {len(values)} rows, the first in line "
            f"{row + 1 + HEADER_LINES}. Fill them in, or remove those rows."
        )
    return values.astype(str)


def numbers(path: Path, name: str, values: pd.Series) -> pd.Series:
    """``values`` as numbers, all of them readable."""
    parsed = pd.to_numeric(values, errors="coerce")
    if parsed.isna().any():
        row = int(parsed.isna().to_numpy().argmax())
        raise DataError(
            f"{path}: column {name!r} holds {values.iloc[row]!r} in line {row + 1 + HEADER_LINES}, which is no number."
        )
    return parsed


def with_titles(path: Path, interactions: pa.Table, items: pa.Table, drop_untitled: bool) -> tuple[pa.Table, pa.Table]:
    """Interactions and items, all of which have a title.

    Raises:
        DataError: if an item has none, or an interaction names an item without a row; with ``drop_untitled`` both go.
    """
    frame = items.to_pandas()
    untitled = frame["title"].str.strip() == ""
    known = set(frame.loc[~untitled, "item_id"])
    named = interactions["item_id"].to_pandas()
    lost = ~named.isin(known)
    if not drop_untitled and (untitled.any() or lost.any()):
        example = frame.loc[untitled, "item_id"].iloc[0] if untitled.any() else named[lost].iloc[0]
        raise DataError(
            f"{path}: {int(untitled.sum())} items have no title and {named[lost].nunique()} items with interactions "
            f"are without one or without a row; the first is {example!r}. Add their titles, or drop them and their "
            "interactions with --drop_untitled."
        )
    return interactions.filter(pa.array(~lost)), items.filter(pa.array(~untitled))

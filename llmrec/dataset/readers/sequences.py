"""Histories in one JSON line per user, and items in one JSON line each: ``sequences.jsonl`` and ``items.jsonl``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from llmrec.dataset.raw_data import RawData
from llmrec.dataset.readers.columns import interactions_table, items_table
from llmrec.dataset.readers.interactions import category_list
from llmrec.dataset.readers.json_lines import read_json_lines
from llmrec.dataset.readers.tables import read_table
from llmrec.dataset.readers.text import clean_text, plain_text, unpacked_text
from llmrec.dataset.readers.timestamps import unix_seconds
from llmrec.dataset.readers.titled import FileTable, titled_raw_data
from llmrec.schema import DataError


def read_sequences(
    folder: str | Path,
    name: str | None = None,
    title_columns: Sequence[str] = ("title",),
    drop_untitled: bool = False,
) -> RawData:
    """Read ``sequences.jsonl`` (``user``, ``items`` oldest first, ``timestamps`` and ``ratings`` where there are any)
    and ``items.jsonl`` (``item_id``, title columns, ``description``, ``brand``, ``categories`` or ``category``).

    Without timestamps the position in the sequence stands in their place, so the given order is kept as it is.

    Args:
        folder: that holds both files.
        name: of the dataset; the folder's by default.
        title_columns: an item's title is the first of these that is not empty.
        drop_untitled: drop items without a title or a row, and their interactions, instead of refusing them.

    Raises:
        DataError: if a file, a field or a title is missing, lengths differ, only some users have timestamps, or a line
            is no JSON.
    """
    folder = Path(folder)
    sequences, items = folder / "sequences.jsonl", folder / "items.jsonl"
    event_table, timed = _event_table(sequences)
    return titled_raw_data(
        name or folder.resolve().name,
        FileTable(sequences, event_table),
        FileTable(items, _item_table(items, title_columns)),
        f"sequences.jsonl and items.jsonl of {folder.resolve().name}, titles from {', '.join(title_columns)}",
        drop_untitled,
        has_timestamps=timed,
    )


def _event_table(path: Path) -> tuple[pa.Table, bool]:
    """One row per event, and whether the file has timestamps."""
    lines: list[int] = []
    columns: dict[str, list[Any]] = {"user": [], "items": [], "timestamps": [], "ratings": []}
    first_of_user: dict[str, int] = {}
    timed: bool | None = None
    for line, row in read_json_lines(path, required=("user", "items")):
        size = _checked_length(path, line, row)
        with_times = row.get("timestamps") is not None
        if timed not in (None, with_times):
            raise DataError(
                f"{path}: line {line} has {'' if with_times else 'no '}timestamps, unlike the lines before it. Give "
                "them to every user, or to none."
            )
        timed = with_times
        first = first_of_user.setdefault(str(row["user"]), line)
        if not timed and first != line:
            raise DataError(
                f"{path}: line {line} repeats user {row['user']!r} of line {first}; without timestamps the order of "
                "the two is unknown. Join them into one line."
            )
        lines += [line] * size
        columns["user"] += [row["user"]] * size
        columns["items"] += row["items"]
        columns["timestamps"] += row["timestamps"] if timed else range(size)
        columns["ratings"] += row.get("ratings") or [None] * size
    if not lines:
        raise DataError(f"{path} holds no interactions.")
    # object: a column of text and numbers shows its own values in errors
    users, items, times, ratings = (pd.Series(column, lines, object, name) for name, column in columns.items())
    seconds = unix_seconds(path, times, "auto" if timed else "position")
    return interactions_table(path, users, items, seconds, ratings), bool(timed)


def _checked_length(path: Path, line: int, row: dict[str, Any]) -> int:
    """Number of items of one line, which its other columns must share."""
    for column in ("items", "timestamps", "ratings"):
        values = row.get(column)
        if values is None:
            continue
        if not isinstance(values, list):
            raise DataError(f"{path}: line {line} has {column} {values!r}; a list is needed, oldest first.")
        if len(values) != len(row["items"]):
            raise DataError(
                f"{path}: line {line} has {len(row['items'])} items and {len(values)} {column}; they must be as many."
            )
    return len(row["items"])


def _item_table(path: Path, title_columns: Sequence[str]) -> pa.Table:
    table = read_table(path)
    for column in ("item_id", *title_columns):
        if column not in table:
            raise DataError(f"{path} has no column {column!r}; it has {', '.join(table.columns)}.")
    titles = pd.Series("", table.index, name="title")
    for column in title_columns:
        titles = titles.where(titles != "", _texts(table[column]))
    categories = table.get("categories", table.get("category"))
    return items_table(
        path,
        table["item_id"],
        titles,
        _texts(table["description"], clean_text) if "description" in table else None,
        _texts(table["brand"]) if "brand" in table else None,
        None if categories is None else categories.map(category_list),
    )


def _texts(values: pd.Series, clean: Any = plain_text) -> pd.Series:
    present = values.where(values.notna(), "")
    return pd.Series([clean(unpacked_text(value)) for value in present], values.index, str)

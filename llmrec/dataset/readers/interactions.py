"""Your own tables: CSV, JSON lines or parquet, with a mapping from your column names to the project's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from llmrec.dataset.raw_data import RawData
from llmrec.dataset.readers.columns import interactions_table, items_table
from llmrec.dataset.readers.files import stem
from llmrec.dataset.readers.tables import read_table
from llmrec.dataset.readers.timestamps import TimestampUnit, unix_seconds
from llmrec.dataset.readers.titled import FileTable, titled_raw_data
from llmrec.schema import INTERACTIONS, ITEMS, DataError


def read_interactions(
    interactions: str | Path,
    items: str | Path,
    columns: Mapping[str, str] | None = None,
    name: str | None = None,
    drop_untitled: bool = False,
    timestamp_unit: TimestampUnit = "auto",
) -> RawData:
    """Read an interaction table and an item table.

    Args:
        interactions: .csv, .tsv, .jsonl or .parquet (text files also as .gz) with ``user_id``, ``item_id`` and
            ``timestamp``, and perhaps ``rating`` and ``review``.
        items: the same kinds of file with ``item_id`` and ``title``, and perhaps ``description``, ``brand`` and
            ``categories`` (a list, or text separated by "|").
        columns: the project's column name -> yours, where they differ.
        name: of the dataset; the interaction file's by default.
        drop_untitled: drop items without a title or a row, and their interactions, instead of refusing them.
        timestamp_unit: of numeric timestamps; see ``unix_seconds``. ISO 8601 text and datetimes need none.

    Raises:
        DataError: if a column is missing or a value can't be read; it names the file, the column and the line.
    """
    interactions, items, columns = Path(interactions), Path(items), dict(columns or {})
    _check_mapping(columns)
    events = _Columns(interactions, read_table(interactions), columns)
    catalogue = _Columns(items, read_table(items), columns)
    event_table = interactions_table(
        interactions,
        events.required("user_id"),
        events.required("item_id"),
        unix_seconds(interactions, events.required("timestamp"), timestamp_unit),
        events.optional("rating"),
        events.optional("review"),
    )
    categories = catalogue.optional("categories")
    item_table = items_table(
        items,
        catalogue.required("item_id"),
        catalogue.required("title"),
        catalogue.optional("description"),
        catalogue.optional("brand"),
        None if categories is None else pd.Series(map(category_list, categories), categories.index, dtype=object),
    )
    return titled_raw_data(
        name or stem(interactions),
        FileTable(interactions, event_table),
        FileTable(items, item_table),
        f"{interactions.name} and {items.name}",
        drop_untitled,
        has_timestamps=timestamp_unit != "position",
    )


def category_list(value: Any) -> list[str]:
    """Categories from a list, from text separated by "|", or from nothing."""
    if isinstance(value, str):
        value = value.split("|")
    elif not isinstance(value, Sequence) and not hasattr(value, "tolist"):  # a missing value, in any of its forms
        return []
    return [text for part in value if (text := str(part).strip())]


class _Columns:
    """A file's table, seen under the project's column names."""

    def __init__(self, path: Path, table: pd.DataFrame, columns: Mapping[str, str]) -> None:
        self.path = path
        self.table = table
        self.columns = columns

    def required(self, name: str) -> pd.Series:
        theirs = self.columns.get(name, name)
        if theirs not in self.table:
            raise DataError(
                f"{self.path} has no column {theirs!r} for {name}; it has {', '.join(map(str, self.table.columns))}. "
                f"Map yours with columns ({name} -> yours; --columns {name}=YOURS)."
            )
        return self.table[theirs]

    def optional(self, name: str) -> pd.Series | None:
        """None where neither the mapping nor the file names the column."""
        if name not in self.columns and name not in self.table:
            return None
        return self.required(name)


def _check_mapping(columns: Mapping[str, str]) -> None:
    known = {**dict.fromkeys(INTERACTIONS.names), **dict.fromkeys(ITEMS.names)}
    unknown = [name for name in columns if name not in known]
    if unknown:
        raise DataError(
            f"columns maps {', '.join(map(repr, unknown))}; allowed are {', '.join(known)}, each with your column's "
            "name (--columns OURS=YOURS)."
        )

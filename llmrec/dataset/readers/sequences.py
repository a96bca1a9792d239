"""Histories in one JSON line per user, and items in one JSON line each: ``sequences.jsonl`` and ``items.jsonl``."""

from pathlib import Path

import pandas as pd

from llmrec.dataset.raw_data import RawData
from llmrec.dataset.readers.columns import interactions_table, items_table, with_titles
from llmrec.dataset.readers.json_lines import read_json_lines
from llmrec.schema import DataError


def read_sequences(
    folder: str | Path,
    name: str | None = None,
    title_columns: tuple[str, ...] = ("title",),
    drop_untitled: bool = False,
) -> RawData:
    """Read ``sequences.jsonl`` (``user``, ``items`` oldest first, ``timestamps`` and ``ratings`` where there are any)
    and ``items.jsonl`` (``item_id``, title columns, ``description``, ``brand``, ``categories`` or ``category``).

    Without timestamps the position in the sequence stands in their place, so the given order is kept as it is.

    Args:
        folder: that holds both files.
        name: of the dataset; the folder's by default.
        title_columns: an item's title is the first of these that is not empty.
        drop_untitled: drop items without a title, and their interactions, instead of refusing them.

    Raises:
        DataError: if a file, a field or a title is missing, or a line is no JSON.
    """
    folder = Path(folder)
    users: list[str] = []
    items: list[str | int] = []
    times: list[int] = []
    ratings: list[float | None] = []
    timed = True
    for line, row in read_json_lines(folder / "sequences.jsonl", required=("user", "items")):
        size = len(row["items"])
        users += [row["user"]] * size
        items += row["items"]
        timed = timed and "timestamps" in row
        for column, target, fallback in (("timestamps", times, range(size)), ("ratings", ratings, [None] * size)):
            values = row.get(column, fallback)
            if len(values) != size:
                raise DataError(
                    f"{folder / 'sequences.jsonl'}: line {line} has {size} items and {len(values)} {column}; "
                    "they must be as many."
                )
            target.extend(values)
    table = pd.DataFrame([row for _, row in read_json_lines(folder / "items.jsonl", required=("item_id",))])
    missing = [column for column in title_columns if column not in table]
    if missing:
        raise DataError(f"{folder / 'items.jsonl'} has no column {missing}; it has {list(table.columns)}.")
    titles = table[list(title_columns)].replace("", None).bfill(axis=1).iloc[:, 0]
    path = folder / "sequences.jsonl"
    rated = pd.Series(ratings, dtype="float64")
    interactions = interactions_table(
        path, pd.Series(users), pd.Series(items), pd.Series(times), None if rated.isna().any() else rated
    )
    categories = table.get("categories", table.get("category"))
    if categories is not None:
        categories = categories.map(lambda value: value if isinstance(value, list) else [value] if value else [])
    catalogue = items_table(
        folder / "items.jsonl", table["item_id"], titles, table.get("description"), table.get("brand"), categories
    )
    checked = with_titles(folder / "items.jsonl", interactions, catalogue, drop_untitled)
    source = f"sequences.jsonl and items.jsonl of {folder.name}, titles from {', '.join(title_columns)}"
    return RawData(name or folder.name, *checked, source, has_timestamps=timed)

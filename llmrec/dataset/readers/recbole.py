"""RecBole's atomic files: tab-separated tables whose header names a type after each column (``item_id:token``)."""

from pathlib import Path

import pandas as pd
import pyarrow as pa

from llmrec.dataset.raw_data import RawData
from llmrec.dataset.readers.columns import interactions_table, items_table
from llmrec.dataset.readers.tables import read_delimited
from llmrec.dataset.readers.timestamps import TimestampUnit, unix_seconds
from llmrec.dataset.readers.titled import FileTable, titled_raw_data
from llmrec.schema import DataError


def read_recbole(
    folder: str | Path,
    name: str | None = None,
    drop_untitled: bool = False,
    timestamp_unit: TimestampUnit = "auto",
) -> RawData:
    """Read ``<name>.inter`` and ``<name>.item``.

    Titles come from the first column of the item file whose name holds ``title``, or else ``name``, with
    ``release_year`` in brackets where there is one; categories from ``class``, ``genre`` or ``categories``.

    Args:
        folder: that holds the files.
        name: of the dataset; needed where the folder holds more than one.
        drop_untitled: drop items without a title or a row, and their interactions, instead of refusing them.
        timestamp_unit: see ``unix_seconds``.

    Raises:
        DataError: if a file or a column is missing, or a value can't be read.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*.inter" if name is None else f"{name}.inter"))
    if len(files) != 1:
        wanted = "an .inter file" if name is None else f"{name}.inter"
        found = ", ".join(sorted(path.stem for path in folder.glob("*.inter"))) or "none"
        raise DataError(f"{folder} holds no single {wanted} (there: {found}). Give the name of the dataset to read.")
    inter, item = files[0], files[0].with_suffix(".item")
    events = _read(inter)
    event_table = interactions_table(
        inter,
        events[_column(inter, events, "user_id")],
        events[_column(inter, events, "item_id")],
        unix_seconds(inter, events[_column(inter, events, "timestamp")], timestamp_unit),
        events.get("rating"),
    )
    return titled_raw_data(
        inter.stem,
        FileTable(inter, event_table),
        FileTable(item, _item_table(item)),
        f"RecBole files {inter.name} and {item.name}",
        drop_untitled,
        has_timestamps=timestamp_unit != "position",
    )


def _item_table(path: Path) -> pa.Table:
    items = _read(path)
    titles = items[_column(path, items, "title", "name")]
    if "release_year" in items:
        year = items["release_year"].str.strip()
        titles = titles.where(~year.str.fullmatch(r"\d{4}", na=False), titles.str.strip() + " (" + year + ")")
    categories = next((items[column] for column in ("class", "genre", "categories") if column in items), None)
    return items_table(
        path,
        items[_column(path, items, "item_id")],
        titles,
        categories=None if categories is None else categories.fillna("").map(str.split),  # a token sequence
    )


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise DataError(f"{path} is not there: RecBole's format needs an .inter and an .item file of one name.")
    table = read_delimited(path, "\t", quoted=False)
    return table.rename(columns=lambda column: column.split(":")[0])


def _column(path: Path, table: pd.DataFrame, *words: str) -> str:
    """The first column whose name is, or else holds, one of the words."""
    for word in words:
        for column in sorted(table.columns, key=lambda column: column != word):
            if word in column:
                return column
    raise DataError(f"{path} has no column named like {' or '.join(words)}; it has {', '.join(table.columns)}.")

"""RecBole's atomic files: tab-separated tables whose header names a type after each column (``item_id:token``)."""

import csv
from pathlib import Path

import pandas as pd

from llmrec.dataset.raw_data import RawData
from llmrec.dataset.readers.columns import interactions_table, items_table, with_titles
from llmrec.schema import DataError


def read_recbole(folder: str | Path, name: str | None = None, drop_untitled: bool = False) -> RawData:
    """Read ``<name>.inter`` and ``<name>.item``.

    Titles come from the first column of the item file whose name holds ``title`` or ``name``, with ``release_year`` in
    brackets where there is one; categories from ``class``, ``genre`` or ``categories``.

    Args:
        folder: that holds the files.
        name: of the dataset; needed where the folder holds more than one.
        drop_untitled: drop items without a title, and their interactions, instead of refusing them.

    Raises:
        DataError: if a file or a column is missing, or a value can't be read.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*.inter" if name is None else f"{name}.inter"))
    if len(files) != 1:
        found = [path.stem for path in files] or "none"
        raise DataError(f"{folder} holds {found} as .inter files; give the name of the one to read.")
    events, items = _read(files[0]), _read(files[0].with_suffix(".item"))
    title = _column(items, ("title", "name"), files[0].with_suffix(".item"))
    titles = items[title].str.strip()
    if "release_year" in items:
        year = items["release_year"].str.strip()
        titles = titles.where(~year.str.fullmatch(r"\d{4}", na=False), titles + " (" + year + ")")
    categories = next((items[column] for column in ("class", "genre", "categories") if column in items), None)
    interactions = interactions_table(
        files[0],
        events[_column(events, ("user_id",), files[0])],
        events[_column(events, ("item_id",), files[0])],
        events[_column(events, ("timestamp",), files[0])],
        events.get("rating"),
    )
    catalogue = items_table(
        files[0].with_suffix(".item"),
        items[_column(items, ("item_id",), files[0].with_suffix(".item"))],
        titles,
        categories=None if categories is None else categories.fillna("").str.split(),
    )
    checked = with_titles(files[0].with_suffix(".item"), interactions, catalogue, drop_untitled)
    return RawData(files[0].stem, *checked, f"RecBole files {files[0].name} and {files[0].stem}.item")


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise DataError(f"{path} is not there: RecBole's format needs an .inter and an .item file of one name.")
    table = pd.read_csv(path, sep="\t", dtype=str, quoting=csv.QUOTE_NONE, keep_default_na=False, na_values=[""])
    return table.rename(columns=lambda column: column.split(":")[0])


def _column(table: pd.DataFrame, words: tuple[str, ...], path: Path) -> str:
    for word in words:
        for column in table.columns:
            if word in column:
                return column
    raise DataError(f"{path} has no column named like {' or '.join(words)}; it has {list(table.columns)}.")

"""The last step of every reader: interactions and items that belong together, all items with a title."""

import logging
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from llmrec.dataset.raw_data import RawData
from llmrec.schema import DataError

logger = logging.getLogger(__name__)


class FileTable(NamedTuple):
    """A table and the file that it was read from."""

    path: Path
    table: pa.Table


def titled_raw_data(
    name: str,
    interactions: FileTable,
    items: FileTable,
    source: str,
    drop_untitled: bool,
    has_timestamps: bool = True,
) -> RawData:
    """``RawData`` in which every interaction names an item with a title.

    Items without a title that no interaction names are left out without a word, as preparation leaves out all items
    that nobody touched.

    Args:
        name: of the dataset.
        interactions: with the columns of ``schema.INTERACTIONS`` and ``line``.
        items: with the columns of ``schema.ITEMS`` and ``line``.
        source: what was read; what was dropped is added to it.
        drop_untitled: drop such interactions instead of refusing them.
        has_timestamps: as in ``RawData``.

    Raises:
        DataError: if there are no interactions, or one names an item without a title or without a row.
    """
    events, catalogue = interactions.table, items.table
    if events.num_rows == 0:
        raise DataError(f"{interactions.path} holds no interactions.")
    with_title = catalogue.filter(pc.not_equal(catalogue["title"], ""))
    lost = events.filter(pc.invert(pc.is_in(events["item_id"], with_title["item_id"].combine_chunks())))
    if lost.num_rows:
        if not drop_untitled:
            raise DataError(_complaint(interactions.path, items, lost))
        dropped = pc.count_distinct(lost["item_id"]).as_py()
        note = f"without {dropped:,} items that have no title and their {lost.num_rows:,} interactions"
        logger.info("%s: %s.", name, note)
        source = f"{source}, {note}"
        events = events.filter(pc.is_in(events["item_id"], with_title["item_id"].combine_chunks()))
    return RawData(name, events, with_title, source, has_timestamps)


def _complaint(path: Path, items: FileTable, lost: pa.Table) -> str:
    """What is missing: titles, or else rows of items."""
    ids = pc.unique(lost["item_id"])
    untitled = items.table.filter(pc.is_in(items.table["item_id"], ids))
    remedy = "or leave them and their interactions out with drop_untitled (--drop_untitled)."
    if untitled.num_rows:
        item, line = untitled["item_id"][0].as_py(), untitled["line"][0].as_py()
        return (
            f"{items.path}: {untitled.num_rows:,} items with interactions have no title (column 'title'), the first "
            f"is {item!r} in line {line}. Fill in their titles, {remedy}"
        )
    item, line = lost["item_id"][0].as_py(), lost["line"][0].as_py()
    return (
        f"{path}: {lost.num_rows:,} interactions name {len(ids):,} items that {items.path} has no row for, the first "
        f"is {item!r} in line {line}. Add those items, {remedy}"
    )

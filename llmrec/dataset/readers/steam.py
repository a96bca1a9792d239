"""Steam: the public review and game files as they are distributed, one Python literal a line, gzip or not."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from llmrec.dataset.raw_data import RawData
from llmrec.dataset.readers.columns import interactions_table, items_table
from llmrec.dataset.readers.json_lines import json_or_literal, read_json_lines
from llmrec.dataset.readers.text import clean_text, plain_text
from llmrec.dataset.readers.timestamps import unix_seconds
from llmrec.dataset.readers.titled import FileTable, titled_raw_data
from llmrec.schema import DataError

logger = logging.getLogger(__name__)

_REVIEWS_PER_TABLE = 100_000
_REVIEW_COLUMNS = ["username", "product_id", "date", "text"]


def read_steam(reviews: str | Path, games: str | Path, drop_untitled: bool = False) -> RawData:
    """Read ``steam_reviews.json.gz`` and ``steam_games.json.gz``.

    A user is a ``username``, since most reviews name no other. A date has no time of day, so the order of a user's
    reviews of one day is the split's tie rule. There are no ratings. A game's categories are its genres and then its
    tags, its brand the developer, or else the publisher.

    Args:
        reviews: the review file.
        games: the game file; lines without an ``id`` are left out, of repeated games the first one counts.
        drop_untitled: drop games without a name or a line, and their reviews, instead of refusing them.

    Raises:
        DataError: if a file is missing or damaged, or a value can't be read; it names the line.
    """
    reviews, games = Path(reviews), Path(games)
    tables = list(_review_tables(reviews))
    if not tables:
        raise DataError(f"{reviews} holds no interactions.")
    events = pa.concat_tables(tables)
    items = _game_table(games, set(events["item_id"].unique().to_pylist()))
    source = f"Steam: {reviews.name}, {games.name}"
    return titled_raw_data("steam", FileTable(reviews, events), FileTable(games, items), source, drop_untitled)


def _review_tables(path: Path) -> Iterator[pa.Table]:
    """Tables of many reviews each: as Arrow they take a fraction of the memory of Python objects."""
    lines: list[int] = []
    rows: list[tuple[Any, ...]] = []
    for line, row in read_json_lines(path, _REVIEW_COLUMNS[:3], json_or_literal):
        lines.append(line)
        rows.append((row["username"], row["product_id"], row["date"], plain_text(row.get("text"))))
        if len(rows) == _REVIEWS_PER_TABLE:
            yield _review_table(path, lines, rows)
            lines, rows = [], []
    if rows:
        yield _review_table(path, lines, rows)


def _review_table(path: Path, lines: list[int], rows: list[tuple[Any, ...]]) -> pa.Table:
    table = pd.DataFrame(rows, lines, _REVIEW_COLUMNS, dtype=object)
    seconds = unix_seconds(path, table["date"])
    return interactions_table(path, table["username"], table["product_id"], seconds, reviews=table["text"])


def _game_table(path: Path, wanted: set[str]) -> pa.Table:
    """Games that have a review; the first of repeated ones."""
    found: dict[str, tuple[Any, ...]] = {}
    without_id = 0
    for line, row in read_json_lines(path, parse=json_or_literal):
        game = str(row.get("id") or "").strip()
        without_id += not game
        if game in wanted and game not in found:
            title = clean_text(row.get("title")) or clean_text(row.get("app_name"))
            brand = clean_text(row.get("developer")) or clean_text(row.get("publisher"))
            names = [clean_text(name) for name in [*(row.get("genres") or []), *(row.get("tags") or [])]]
            found[game] = (line, title, brand, list(dict.fromkeys(name for name in names if name)))
    if without_id:
        logger.info("%s: %d games without an id are left out.", path.name, without_id)
    if not found:
        raise DataError(f"{path} has no game with a review: do the two files belong together?")
    lines, titles, brands, categories = zip(*found.values(), strict=True)
    return items_table(
        path,
        pd.Series(list(found), lines, object, name="id"),
        pd.Series(titles, lines, object),
        brands=pd.Series(brands, lines, object),
        categories=pd.Series(categories, lines, object),
    )

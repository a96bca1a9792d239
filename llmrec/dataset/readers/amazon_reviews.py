"""Amazon reviews: the raw 2014, 2018 and 2023 files as they are distributed, gzip or not, or 2023 by its Hub name."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
import pyarrow as pa

from llmrec.dataset.raw_data import RawData
from llmrec.dataset.readers.columns import interactions_table, items_table
from llmrec.dataset.readers.files import stem
from llmrec.dataset.readers.json_lines import json_or_literal, read_json_lines
from llmrec.dataset.readers.text import clean_text, plain_text
from llmrec.dataset.readers.timestamps import TimestampUnit, unix_seconds
from llmrec.dataset.readers.titled import FileTable, titled_raw_data
from llmrec.schema import DataError

Release = Literal["2014", "2018", "2023"]
HUB_DATASET = "McAuley-Lab/Amazon-Reviews-2023"
_REVIEWS_PER_TABLE = 100_000


class _Fields(NamedTuple):
    """Names of one release's fields."""

    user: str
    item: str
    time: str
    unit: TimestampUnit
    rating: str
    review: tuple[str, str]
    brand: str


_CLASSIC = _Fields("reviewerID", "asin", "unixReviewTime", "s", "overall", ("summary", "reviewText"), "brand")
_FIELDS: dict[str, _Fields] = {
    "2014": _CLASSIC,
    "2018": _CLASSIC,
    "2023": _Fields("user_id", "parent_asin", "timestamp", "ms", "rating", ("title", "text"), "store"),
}


def read_amazon_reviews(
    reviews: str | Path, metadata: str | Path, release: Release = "2018", drop_untitled: bool = False
) -> RawData:
    """Read one category; review texts are kept, summary first.

    Args:
        reviews: the review file, such as ``Gift_Cards_5.json.gz``.
        metadata: the product file, such as ``meta_Gift_Cards.json.gz``; of repeated products the first one counts.
        release: whose field names and formats they have.
        drop_untitled: drop products without a title or a line, and their reviews, instead of refusing them.

    Raises:
        DataError: if a file is missing or damaged, or a value can't be read; it names the line.
    """
    if release not in _FIELDS:
        raise DataError(f"release is {release!r}; allowed are {', '.join(_FIELDS)}.")
    fields, reviews, metadata = _FIELDS[release], Path(reviews), Path(metadata)
    tables = list(_review_tables(reviews, fields, release))
    if not tables:
        raise DataError(f"{reviews} holds no interactions.")
    events = pa.concat_tables(tables)
    items = _item_table(metadata, fields, set(events["item_id"].unique().to_pylist()), release)
    return titled_raw_data(
        stem(reviews),
        FileTable(reviews, events),
        FileTable(metadata, items),
        f"Amazon reviews {release}: {reviews.name}, {metadata.name}",
        drop_untitled,
    )


def fetch_amazon_reviews(category: str) -> tuple[Path, Path]:
    """Review and product files of a category of the 2023 release, from the Hub (``All_Beauty``, ``Gift_Cards`` ...).

    Raises:
        DataError: if the Hub can't be reached, or has no such category.
    """
    from huggingface_hub import hf_hub_download  # noqa: PLC0415 - only this reader talks to the Hub
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415

    names = (f"raw/review_categories/{category}.jsonl", f"raw/meta_categories/meta_{category}.jsonl")
    try:
        reviews, metadata = (Path(hf_hub_download(HUB_DATASET, name, repo_type="dataset")) for name in names)
    except LocalEntryNotFoundError as error:
        raise DataError(f"{HUB_DATASET} can't be reached ({error}). Download {' and '.join(names)} yourself.") from None
    except EntryNotFoundError:
        raise DataError(
            f"{HUB_DATASET} has no category {category!r}; names are like All_Beauty or Gift_Cards, as listed there."
        ) from None
    except HfHubHTTPError as error:
        raise DataError(f"{HUB_DATASET} could not be downloaded ({error}).") from None
    return reviews, metadata


def _review_tables(path: Path, fields: _Fields, release: Release) -> Iterator[pa.Table]:
    """Tables of many reviews each: as Arrow they take a fraction of the memory of Python objects."""
    lines: list[int] = []
    rows: list[tuple[Any, ...]] = []
    for line, row in read_json_lines(path, (fields.user, fields.item, fields.time), _parser(release)):
        review = plain_text([row.get(name) for name in fields.review])
        lines.append(line)
        rows.append((row[fields.user], row[fields.item], row[fields.time], row.get(fields.rating), review))
        if len(rows) == _REVIEWS_PER_TABLE:
            yield _review_table(path, fields, lines, rows)
            lines, rows = [], []
    if rows:
        yield _review_table(path, fields, lines, rows)


def _review_table(path: Path, fields: _Fields, lines: list[int], rows: list[tuple[Any, ...]]) -> pa.Table:
    names = [fields.user, fields.item, fields.time, fields.rating, "review"]
    table = pd.DataFrame(rows, lines, names, dtype=object)
    seconds = unix_seconds(path, table[fields.time], fields.unit)
    return interactions_table(
        path, table[fields.user], table[fields.item], seconds, table[fields.rating], table["review"]
    )


def _item_table(path: Path, fields: _Fields, wanted: set[str], release: Release) -> pa.Table:
    """Products that have a review; the first of repeated ones."""
    found: dict[str, tuple[Any, ...]] = {}
    for line, row in read_json_lines(path, required=(fields.item,), parse=_parser(release)):
        item = str(row[fields.item]).strip()
        if item in wanted and item not in found:
            found[item] = (
                line,
                _title(row.get("title")),
                clean_text(row.get("description")),
                clean_text(row.get(fields.brand)),
                _categories(row),
            )
    if not found:
        raise DataError(f"{path} has no product with a review: do the two files belong to one category and release?")
    lines, *columns = zip(*found.values(), strict=True)
    return items_table(
        path,
        pd.Series(list(found), lines, object, name=fields.item),
        *(pd.Series(column, lines, object) for column in columns),
    )


def _parser(release: Release) -> Any:
    return json_or_literal if release == "2014" else json.loads


def _title(value: Any) -> str:
    # some pages of the 2018 release were scraped wrongly: their title is a piece of JavaScript
    return "" if isinstance(value, str) and "getTime" in value else clean_text(value)


def _categories(row: dict[str, Any]) -> list[str]:
    """The product's category path; the first one where there are several."""
    path = row.get("categories") or row.get("category") or []
    if isinstance(path, str):
        path = [path]
    elif path and isinstance(path[0], list):
        path = path[0]
    return list(dict.fromkeys(cleaned for name in path if (cleaned := clean_text(name))))

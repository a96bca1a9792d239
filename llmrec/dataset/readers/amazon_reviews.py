"""Amazon reviews: the raw 2014, 2018 and 2023 files as they are distributed, gzip or not, or 2023 by its Hub name."""

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd

from llmrec.dataset.raw_data import RawData
from llmrec.dataset.readers.columns import interactions_table, items_table, with_titles
from llmrec.dataset.readers.json_lines import read_json_lines
from llmrec.dataset.readers.text import clean_text
from llmrec.schema import DataError

Release = Literal["2014", "2018", "2023"]
HUB_DATASET = "McAuley-Lab/Amazon-Reviews-2023"


class _Fields(NamedTuple):
    """Names of one release's fields."""

    user: str
    item: str
    time: str
    rating: str
    review: tuple[str, ...]
    metadata_item: str
    brand: str
    milliseconds: bool


_CLASSIC = _Fields("reviewerID", "asin", "unixReviewTime", "overall", ("summary", "reviewText"), "asin", "brand", False)
_FIELDS: dict[str, _Fields] = {
    "2014": _CLASSIC,
    "2018": _CLASSIC,
    "2023": _Fields("user_id", "parent_asin", "timestamp", "rating", ("title", "text"), "parent_asin", "store", True),
}


def read_amazon_reviews(
    reviews: str | Path, metadata: str | Path, release: Release = "2018", drop_untitled: bool = False
) -> RawData:
    """Read one category; review texts are kept.

    Args:
        reviews: the review file, such as ``Gift_Cards_5.json.gz``.
        metadata: the product file, such as ``meta_Gift_Cards.json.gz``.
        release: whose field names and formats they have.
        drop_untitled: drop products without a title, and their reviews, instead of refusing them.

    Raises:
        DataError: if a file is missing or damaged, or a line lacks a field; it names the line.
    """
    if release not in _FIELDS:
        raise DataError(f"release is {release!r}; allowed are {', '.join(_FIELDS)}.")
    fields, reviews, metadata = _FIELDS[release], Path(reviews), Path(metadata)
    rows = []
    for line, row in read_json_lines(reviews, required=(fields.user, fields.item, fields.time)):
        rows.append((str(row[fields.user]), str(row[fields.item]), *_numbers(reviews, line, row, fields)))
    if not rows:
        raise DataError(f"{reviews} holds no review.")
    events = pd.DataFrame(rows, columns=["user", "item", "timestamp", "rating", "review"])
    interactions = interactions_table(
        reviews, events["user"], events["item"], events["timestamp"], events["rating"], events["review"]
    )
    items = _items(metadata, fields, set(events["item"]), release)
    checked = with_titles(metadata, interactions, items, drop_untitled)
    return RawData(reviews.name.split(".")[0], *checked, f"Amazon reviews {release}: {reviews.name}, {metadata.name}")


def fetch_amazon_reviews(category: str) -> tuple[Path, Path]:
    """Review and product files of a category of the 2023 release, from the Hub (``All_Beauty``, ``Gift_Cards`` ...)."""
    from huggingface_hub import hf_hub_download  # noqa: PLC0415 - only this reader talks to the Hub

    names = (f"raw/review_categories/{category}.jsonl", f"raw/meta_categories/meta_{category}.jsonl")
    reviews, metadata = (Path(hf_hub_download(HUB_DATASET, name, repo_type="dataset")) for name in names)
    return reviews, metadata


def _numbers(path: Path, line: int, row: dict[str, Any], fields: _Fields) -> tuple[int, float | None, str]:
    """(seconds, rating, review text) of one review."""
    try:
        seconds = int(row[fields.time]) // (1000 if fields.milliseconds else 1)
        rating = None if row.get(fields.rating) is None else float(row[fields.rating])
    except (TypeError, ValueError):
        raise DataError(
            f"{path}: line {line} has {fields.time} {row[fields.time]!r} and {fields.rating} "
            f"{row.get(fields.rating)!r}; both must be numbers."
        ) from None
    return seconds, rating, clean_text([row.get(name) for name in fields.review])


def _items(path: Path, fields: _Fields, wanted: set[str], release: Release) -> Any:
    """Products that have a review; the first of repeated ones."""
    found: dict[str, tuple[str, str, str, list[str]]] = {}
    for _, row in read_json_lines(path, required=(fields.metadata_item,), parse=_parser(release)):
        item = str(row[fields.metadata_item])
        if item in wanted and item not in found:
            found[item] = (
                clean_text(row.get("title")),
                clean_text(row.get("description")),
                clean_text(row.get(fields.brand)),
                _categories(row),
            )
    if not found:
        raise DataError(f"{path} has no product with a review: do the two files belong to one category and release?")
    columns = [pd.Series(column, dtype=object) for column in zip(*found.values(), strict=True)]
    return items_table(path, pd.Series(list(found), dtype=object), *columns)


def _parser(release: Release) -> Callable[[str], Any]:
    # the 2014 product files hold Python literals, which are no JSON
    return ast.literal_eval if release == "2014" else json.loads


def _categories(row: dict[str, Any]) -> list[str]:
    """The product's category path; the first one where there are several."""
    path = row.get("categories") or row.get("category") or []
    if path and isinstance(path[0], list):
        path = path[0]
    return list(dict.fromkeys(cleaned for name in path if (cleaned := clean_text(name))))

"""What a prompt may say about an item: its metadata, tidied."""

import html
from collections import Counter
from typing import NamedTuple

import pyarrow as pa

from llmrec.schema import DataError

#: Longer texts are cut at a word: one description must not push the question out of the context window.
MAX_TEXT_CHARS = 1000
#: A category that a larger share of all items carries ("Beauty" in a beauty shop) tells nothing about one of them.
MAX_CATEGORY_SHARE = 0.5
_TITLE_EDGES = " .!?,;:`"


class ItemText(NamedTuple):
    """One item in words; ``description`` and ``brand`` are "" and ``categories`` is () where the source has none."""

    title: str
    description: str
    brand: str
    categories: tuple[str, ...]


def item_texts(items: pa.Table) -> dict[str, ItemText]:
    """Item id -> tidied text.

    HTML entities become characters, white space single blanks, titles lose punctuation at their ends (as LC-Rec's do,
    arXiv 2311.09049), texts longer than ``MAX_TEXT_CHARS`` are cut, and categories of most items are left out.

    Args:
        items: table with the columns of ``schema.ITEMS``.

    Raises:
        DataError: if an item has no title.
    """
    uninformative = _shared_categories(items)
    texts: dict[str, ItemText] = {}
    for row, item in enumerate(items.to_pylist()):
        title = shortened(item["title"])
        title = title.strip(_TITLE_EDGES) or title
        if not title:
            raise DataError(
                f"Item {item['item_id']!r} (row {row} of the items table) has an empty title. Give it one, or drop the "
                "item before preparing the dataset."
            )
        named = (name for name in item["categories"] if name.strip() and name not in uninformative)
        categories = tuple(shortened(name) for name in named)
        texts[item["item_id"]] = ItemText(title, shortened(item["description"]), shortened(item["brand"]), categories)
    return texts


def shortened(text: str, max_chars: int = MAX_TEXT_CHARS) -> str:
    """``text`` without HTML entities, with single blanks as its only white space, cut after a word at ``max_chars``."""
    text = " ".join(html.unescape(text).split())
    if len(text) <= max_chars:
        return text
    cut = text[: max_chars - 2].rpartition(" ")[0] or text[: max_chars - 2]
    return f"{cut} …"


def _shared_categories(items: pa.Table) -> set[str]:
    counts = Counter(name for names in items["categories"].to_pylist() for name in set(names))
    return {name for name, count in counts.items() if count > MAX_CATEGORY_SHARE * items.num_rows}

"""What queries can say about the items of a catalogue, and which items share it."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from llmrec.prompts.item_text import ItemText, item_texts
from llmrec.prompts.keywords import words_of

_YEAR = re.compile(r"\s*\((1[89]\d\d|20\d\d)\)$")
_ARTICLE = re.compile(r"^(.+), (The|A|An)$")


class QueryItem(NamedTuple):
    """One item as queries see it.

    Attributes:
        item_id: of the catalogue.
        text: its tidied metadata.
        name: its title as people say it: without a trailing year, "The" in front.
        year: at the end of the title in brackets, as films have it; None where there is none.
        title_words: words of the name, in order.
        words: every word of title (year included), brand and categories: what a difficult query must not hold.
    """

    item_id: str
    text: ItemText
    name: str
    year: int | None
    title_words: tuple[str, ...]
    words: frozenset[str]


class QueryItems:
    """The items of a catalogue, with sets of them as bit masks (bit i for row i), so that needs are met exactly.

    Args:
        items: ``schema.ITEMS``.
        popularity: item id -> training interactions; None where nothing is known of it.

    Raises:
        DataError: if an item has no title.
    """

    def __init__(self, items: pa.Table, popularity: Mapping[str, int] | None = None) -> None:
        texts = item_texts(items)
        raw = items.select(["item_id", "title", "brand", "categories"]).to_pylist()
        self.items = [_query_item(item, texts[item["item_id"]]) for item in raw]
        self.popularity = None if popularity is None else [popularity.get(item.item_id, 0) for item in self.items]
        self.rows = {item.item_id: row for row, item in enumerate(self.items)}
        self.everything = (1 << len(self.items)) - 1
        self.by_category = _masks((row, item.text.categories) for row, item in enumerate(self.items))
        self.by_brand = _masks((row, [item.text.brand]) for row, item in enumerate(self.items) if item.text.brand)
        self.by_year = _masks((row, [item.year]) for row, item in enumerate(self.items) if item.year is not None)
        self.by_title_word = _masks((row, item.title_words) for row, item in enumerate(self.items))
        self.by_name = _masks((row, [" ".join(item.title_words)]) for row, item in enumerate(self.items))
        self.title_counts = Counter(word for item in self.items for word in set(item.title_words))
        self.brands = tuple(self.by_brand)
        self._known_to: dict[int, int] = {}

    def of_years(self, first: int, last: int) -> int:
        """The items of years ``first`` to ``last``, both included, as a mask."""
        mask = 0
        for year in range(first, last + 1):
            mask |= self.by_year.get(year, 0)
        return mask

    def known_to(self, count: int) -> int:
        """The items with at most ``count`` training interactions, as a mask; none where popularity is unknown."""
        if count not in self._known_to:
            rows = [row for row, known in enumerate(self.popularity or ()) if known <= count]
            self._known_to[count] = sum(1 << row for row in rows)
        return self._known_to[count]

    def item_ids(self, mask: int) -> tuple[str, ...]:
        """The ids of the items in a mask, in catalogue order."""
        found = []
        while mask:
            lowest = mask & -mask
            found.append(self.items[lowest.bit_length() - 1].item_id)
            mask ^= lowest
        return tuple(found)

    def __getitem__(self, item_id: str) -> QueryItem:
        return self.items[self.rows[item_id]]


def decade_of(year: int) -> str:
    """1995 -> "1990s"."""
    return f"{year // 10 * 10}s"


def _query_item(item: dict[str, Any], text: ItemText) -> QueryItem:
    found = _YEAR.search(text.title)
    name = text.title[: found.start()].strip() if found else text.title
    name = _ARTICLE.sub(r"\2 \1", name) or text.title
    # of the untidied texts: also categories that most items share are words that a search by words would find
    words = frozenset(words_of(" ".join([item["title"], item["brand"], *item["categories"]])))
    return QueryItem(item["item_id"], text, name, int(found[1]) if found else None, tuple(words_of(name)), words)


def _masks(entries: Iterable[tuple[int, Iterable]]) -> dict:
    """Value -> mask of the rows that have it."""
    masks: dict = {}
    for row, values in entries:
        for value in values:
            masks[value] = masks.get(value, 0) | (1 << row)
    return masks

"""Needs: what somebody could look for in a catalogue, with exactly the items that meet it.

A need is a set of constraints; its items are computed from the catalogue, so every query made for it has a complete
answer. Needs of one ``group`` belong in one split: they are answered by the same items.
"""

from collections.abc import Iterator
from itertools import combinations
from typing import Literal, NamedTuple

from llmrec.prompts.keywords import FUNCTION_WORDS
from llmrec.prompts.query_items import QueryItem, QueryItems, decade_of

#: How a query asks. title and attributes use the items' own words; the others, after LREM's four classes of difficult
#: queries (arXiv 2510.14321), share no word with any of their items.
QueryKind = Literal["title", "attributes", "question", "alternative", "negation", "knowledge"]
EASY_KINDS: tuple[QueryKind, ...] = ("title", "attributes")
DIFFICULT_KINDS: tuple[QueryKind, ...] = ("question", "alternative", "negation", "knowledge")
KINDS: tuple[QueryKind, ...] = EASY_KINDS + DIFFICULT_KINDS

_MAX_CATEGORIES = 3
_TITLE_WORDS = 2
_MIN_LETTERS = 3
#: Years before and after the item that an alternative may be away, widest first; the first that is not too wide counts.
_YEARS_AWAY = (5, 3, 1, 0)
#: An alternative that is to be less known has at most this share of the other's interactions.
LESS_KNOWN = 0.5


class Need(NamedTuple):
    """Constraints, all of which an item must meet, and the items that do.

    Attributes:
        kind: how it is to be asked for.
        item_ids: the items that meet it, in catalogue order.
        wanted: categories that an item has.
        unwanted: categories that it has not.
        years: first and last year, both included; None for any.
        brand: that it has; "" for any.
        title_words: words that its name holds.
        like: item id of what it is an alternative to: it has all of that item's categories, shares no word of
            the name, is of another brand or, where there are none, less known (``LESS_KNOWN``). "" for none.
        features: words of the description; where there are some, the items are those named as the item ``about``.
        lacks: words that neither the descriptions nor the other texts of the items hold, but those of others with
            the first feature do.
        about: item id that the need started from, where it did.
    """

    kind: QueryKind
    item_ids: tuple[str, ...]
    wanted: tuple[str, ...] = ()
    unwanted: tuple[str, ...] = ()
    years: tuple[int, int] | None = None
    brand: str = ""
    title_words: tuple[str, ...] = ()
    like: str = ""
    features: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    about: str = ""

    @property
    def group(self) -> str:
        """Equal for needs that one split must hold together: those with the same items, and those from one title."""
        return self.about if self.title_words and self.about else " ".join(self.item_ids)


def catalogue_needs(items: QueryItems, kind: QueryKind, max_items: int) -> Iterator[Need]:
    """The needs of one kind that titles, categories, years and brands give, each once, in no telling order.

    Args:
        items: the catalogue.
        kind: one of ``KINDS``.
        max_items: needs that more items meet are left out.
    """
    if kind == "title":
        return _title_needs(items, max_items)
    if kind == "alternative":
        return _alternative_needs(items, max_items)
    if kind == "negation":
        return _negation_needs(items, max_items)
    return _attribute_needs(items, kind, max_items)


def _title_needs(items: QueryItems, max_items: int) -> Iterator[Need]:
    """By the whole name and by its rarest words, of each item; and by two words that several names share."""
    shared: dict[tuple[str, ...], int] = {}
    for item in items.items:
        rarest = sorted(set(item.title_words), key=lambda word: (len(word) == 1, items.title_counts[word], word))
        telling = tuple(word for word in item.title_words if word in rarest[:_TITLE_WORDS])
        for words in dict.fromkeys([item.title_words, telling]):
            found = _named(items, words)
            if 0 < found.bit_count() <= max_items:
                yield Need("title", items.item_ids(found), title_words=words, about=item.item_id)
        pairs = {pair: _named(items, pair) for pair in combinations(dict.fromkeys(item.title_words), _TITLE_WORDS)}
        fitting = [pair for pair, found in pairs.items() if 1 < found.bit_count() <= max_items and _said(pair)]
        if fitting:
            widest = max(fitting, key=lambda pair: pairs[pair].bit_count())
            shared[widest] = pairs[widest]
    for words, found in shared.items():
        yield Need("title", items.item_ids(found), title_words=words)


def _named(items: QueryItems, words: tuple[str, ...]) -> int:
    """The items whose names hold all the words, as a mask; none for no words."""
    found = items.everything if words else 0
    for word in words:
        found &= items.by_title_word[word]
    return found


def _said(words: tuple[str, ...]) -> bool:
    """Whether all of the words are of the sort that people search for: letters, and not very few of them."""
    return all(word.isalpha() and len(word) >= _MIN_LETTERS and word not in FUNCTION_WORDS for word in words)


def _attribute_needs(items: QueryItems, kind: QueryKind, max_items: int) -> Iterator[Need]:
    for (wanted, years), found in _bases(items).items():
        if 0 < found.bit_count() <= max_items:
            yield Need(kind, items.item_ids(found), wanted, years=years)
    if kind == "attributes":  # a brand has no paraphrase: difficult queries can't ask for one
        pairs = dict.fromkeys((category, item.text.brand) for item in items.items for category in item.text.categories)
        for category, brand in pairs:
            found = items.by_category[category] & items.by_brand.get(brand, 0)
            if 0 < found.bit_count() <= max_items:
                yield Need(kind, items.item_ids(found), (category,), brand=brand)


def _negation_needs(items: QueryItems, max_items: int) -> Iterator[Need]:
    for (wanted, years), base in _bases(items).items():
        for unwanted, having in items.by_category.items():
            found = base & ~having
            if unwanted not in wanted and base & having and 0 < found.bit_count() <= max_items:
                yield Need("negation", items.item_ids(found), wanted, (unwanted,), years)


def _bases(items: QueryItems) -> dict[tuple[tuple[str, ...], tuple[int, int] | None], int]:
    """(some categories of one item, its year, its decade or any) -> the items that have them."""
    bases: dict[tuple[tuple[str, ...], tuple[int, int] | None], int] = {}
    for item in items.items:
        categories = sorted(set(item.text.categories))
        for size in range(1, _MAX_CATEGORIES + 1):
            for wanted in combinations(categories, size):
                for years in _times(item):
                    if (wanted, years) not in bases:
                        found = items.everything if years is None else items.of_years(*years)
                        for category in wanted:
                            found &= items.by_category[category]
                        bases[wanted, years] = found
    return bases


def _times(item: QueryItem) -> list[tuple[int, int] | None]:
    if item.year is None:
        return [None]
    start = int(decade_of(item.year)[:-1])
    return [None, (item.year, item.year), (start, start + 9)]


def _alternative_needs(items: QueryItems, max_items: int) -> Iterator[Need]:
    for item in items.items:
        others = _alternatives(items, item)
        for away in _YEARS_AWAY if item.year is not None else (None,):
            years = None if away is None or item.year is None else (item.year - away, item.year + away)
            found = others if years is None else others & items.of_years(*years)
            if 0 < found.bit_count() <= max_items:
                yield Need("alternative", items.item_ids(found), item.text.categories, years=years, like=item.item_id)
                break


def _alternatives(items: QueryItems, item: QueryItem) -> int:
    """What could stand in for an item, of any year."""
    found = items.everything if item.text.categories else 0
    for category in item.text.categories:
        found &= items.by_category[category]
    for word in item.title_words:
        found &= ~items.by_title_word[word]
    if item.text.brand:
        return found & ~items.by_brand[item.text.brand]
    if items.popularity is None:
        return 0
    return found & items.known_to(int(LESS_KNOWN * items.popularity[items.rows[item.item_id]]))

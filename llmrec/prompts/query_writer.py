"""Who words the queries: any object with the one method of ``QueryWriter``.

``DeterministicQueryWriter`` below needs nothing but the catalogue and a book of paraphrases;
``llmrec.prompts.openai_query_writer`` asks a language model. A writer sees items and needs, never another's queries.
"""

from collections.abc import Iterable, Iterator, Sequence
from random import Random
from typing import NamedTuple, Protocol

from llmrec.prompts.keywords import FUNCTION_WORDS, clean_keywords, words_of
from llmrec.prompts.paraphrases import ParaphraseBook
from llmrec.prompts.query_items import QueryItem, QueryItems, decade_of
from llmrec.prompts.query_needs import DIFFICULT_KINDS, Need
from llmrec.prompts.query_phrasings import (
    DATES,
    FRAMES,
    JOINTS,
    TIMES,
    allowed,
    shuffled,
    spelled_decade,
    spelled_year,
)

#: The chain of thought has 16 tokens in the paper: so many keywords and characters stay below that.
MAX_KEYWORDS = 5
MAX_KEYWORD_CHARS = 48
#: Of the words of titles, those of too many titles tell little, those of too few name one thing.
_MAX_SHARE = 0.1
_MIN_TITLES = 3
_MIN_ITEMS = 3
_TRIES = 4  # draws for each phrasing wanted, since two draws may say the same


class WrittenQuery(NamedTuple):
    """A query, and the keywords that a reasoner should think of: () where there are none."""

    query: str
    keywords: tuple[str, ...]


class QueryWriter(Protocol):
    """Writes queries for needs, in order, as they become ready."""

    @property
    def name(self) -> str:
        """Recorded in the data: who wrote it, and with what."""
        ...

    def queries(self, needs: Iterable[Need]) -> Iterator[tuple[WrittenQuery, ...]]:
        """Different queries for each need; () where none can be worded. Difficult ones share no word with an item."""
        ...


class DeterministicQueryWriter:
    """Words queries from frames and a book of paraphrases, with no language model.

    Which frame and which paraphrase is drawn by a hash of the need, among those whose words none of its items has, so
    that the same data gives the same queries everywhere.

    Args:
        items: the catalogue that the needs are of.
        book: other words for its categories; needs of categories that it lacks stay without difficult queries.
        phrasings: queries of one need at most.
    """

    name = "deterministic"

    def __init__(self, items: QueryItems, book: ParaphraseBook, phrasings: int = 2) -> None:
        if phrasings < 1:
            raise ValueError(f"phrasings is {phrasings}; a need takes 1 query or more.")
        self.items = items
        self.book = book
        self.phrasings = phrasings

    def queries(self, needs: Iterable[Need]) -> Iterator[tuple[WrittenQuery, ...]]:
        for need in needs:
            yield self._write(need)

    def _write(self, need: Need) -> tuple[WrittenQuery, ...]:
        avoided: frozenset[str] = frozenset()
        if need.kind in DIFFICULT_KINDS:
            avoided = avoided.union(*(self.items[item_id].words for item_id in need.item_ids))
        random = Random(repr(need))  # of its text: the same in every process
        texts: dict[str, None] = {}
        for _ in range(_TRIES * self.phrasings):
            text = self._text(need, avoided, random)
            if text and len(texts) < self.phrasings and not avoided.intersection(words_of(text)):
                texts.setdefault(text)
        return tuple(WrittenQuery(text, query_keywords(self.items, need, text)) for text in texts)

    def _text(self, need: Need, avoided: frozenset[str], random: Random) -> str | None:
        """One query drawn for a need; None where nothing can be said without the words to avoid."""
        things = allowed(self.book.things, avoided) or [""]
        if need.kind == "title":
            whole = need.about and need.title_words == self.items[need.about].title_words
            return self.items[need.about].name.lower() if whole else " ".join(need.title_words)
        if need.kind == "attributes":
            return " ".join([*shuffled(_own_words(need), random), random.choice(["", random.choice(things)])]).strip()
        slots = {"things": random.choice(things), "wanted": self._wanted(need, avoided, random)}
        if slots["wanted"] is None and need.kind != "alternative":
            return None
        slots["time"] = self._time(need, avoided, random)
        slots["unwanted"] = self._unwanted(need, avoided, random)
        if slots["time"] is None or slots["unwanted"] is None:
            return None
        if need.like:
            slots["like"] = self.items[need.like].name
            slots["features"] = f", {random.choice(JOINTS).join(need.features)}" if need.features else ""
        frames = allowed(FRAMES[self._frames(need)], avoided)
        frames = frames if slots["things"] else [frame for frame in frames if "{things}" not in frame]
        if not frames:
            return None
        text = random.choice(frames).format(**slots)
        return text[0].upper() + text[1:] if text.endswith("?") else text

    def _frames(self, need: Need) -> str:
        if need.kind == "alternative":
            return "other_brand" if need.features or self.items[need.like].text.brand else "alternative"
        return "described" if need.kind == "knowledge" and need.features else need.kind

    def _wanted(self, need: Need, avoided: frozenset[str], random: Random) -> str | None:
        """The categories, or the description's words, as noun phrases."""
        if need.features:
            return self._joined(shuffled(need.features, random), avoided, random)
        source = self.book.hints if need.kind == "knowledge" else self.book.phrases
        chosen = [_drawn(source.get(category, ()), avoided, random) for category in need.wanted]
        if not chosen or None in chosen:
            return None
        return self._joined([phrase for phrase in chosen if phrase], avoided, random)

    def _joined(self, phrases: Sequence[str], avoided: frozenset[str], random: Random) -> str:
        return random.choice(allowed(JOINTS, avoided)).join(phrases)  # ", " has no word: there is one left

    def _unwanted(self, need: Need, avoided: frozenset[str], random: Random) -> str | None:
        if need.lacks or not need.unwanted:
            return " ".join(need.lacks)
        own_name = need.unwanted[0].lower()
        return _drawn((*self.book.phrases.get(need.unwanted[0], ()), own_name), avoided, random)

    def _time(self, need: Need, avoided: frozenset[str], random: Random) -> str | None:
        """The year or decade in other words; "" where any will do."""
        if need.years is None or need.like:
            return ""
        first, last = need.years
        events = allowed(self.book.hints.get(str(first) if first == last else decade_of(first), ()), avoided)
        frames = allowed(TIMES, avoided)
        told = [frame.format(event=event) for frame in frames for event in events]
        if need.kind != "knowledge" or not told:
            date = spelled_year(first) if first == last else spelled_decade(first)
            dated = [frame.format(date=date) for frame in allowed(DATES, avoided) if allowed([date], avoided)]
            told = dated if need.kind != "knowledge" else []
        return random.choice(told) if told else None


def query_keywords(items: QueryItems, need: Need, query: str) -> tuple[str, ...]:
    """What a query asks for without saying it, in the items' own words, the most telling first.

    That is the need's categories with the rarest first, its year or decade, then what its items share beside: any
    category, year and brand of a need that started from one item, and categories of three items or more (what one or
    two share may be chance). Words of titles come first where a description's words were asked for, otherwise last.
    At most ``MAX_KEYWORDS``, and short enough for 16 tokens.
    """
    found = [items[item_id] for item_id in need.item_ids]
    shared = set.intersection(*(set(item.text.categories) for item in found))
    by_need = bool(need.wanted) and not need.like
    beside = shared if not by_need or len(found) >= _MIN_ITEMS else set()
    rarity = {category: (items.by_category[category].bit_count(), category) for category in {*need.wanted, *beside}}
    ordered = sorted(need.wanted, key=rarity.__getitem__) + sorted(beside - {*need.wanted}, key=rarity.__getitem__)
    first, last = need.years if by_need and need.years else _span(found)
    if first == last and first:
        ordered.insert(len(need.wanted) or len(ordered), str(first))
    elif first and decade_of(first) == decade_of(last):
        ordered.insert(len(need.wanted) or len(ordered), decade_of(first))
    titles = _telling_title_words(items, need) if need.features or need.brand or len(found) > 1 else []
    ordered = [*titles, *ordered] if need.features else [*ordered, *titles]
    brands = {item.text.brand for item in found}
    kept: list[str] = []
    for keyword in clean_keywords(query, [*ordered, *(brands if len(brands) == 1 else ())], brands=items.brands):
        if len(kept) < MAX_KEYWORDS and sum(map(len, kept)) + len(keyword) <= MAX_KEYWORD_CHARS:
            kept.append(keyword)
    return tuple(kept)


def _span(found: Sequence[QueryItem]) -> tuple[int, int]:
    """First and last year of items; (0, 0) where one has none."""
    years = [item.year or 0 for item in found]
    return (min(years), max(years)) if all(years) else (0, 0)


def _telling_title_words(items: QueryItems, need: Need) -> list[str]:
    """Words of all the titles of a need that some other titles have too, the most common first: what a thing is rather
    than what one thing is called; no numbers, and not the brand's."""
    names = [items[item_id].title_words for item_id in need.item_ids]
    counts, most = items.title_counts, _MAX_SHARE * len(items.items)
    shared = [word for word in dict.fromkeys(names[0]) if all(word in name for name in names)]
    brand = words_of(items[need.item_ids[0]].text.brand)
    words = [word for word in shared if word.isalpha() and len(word) > 2 and word not in brand]
    telling = [word for word in words if word not in FUNCTION_WORDS and _MIN_TITLES <= counts[word] <= most]
    return sorted(telling, key=lambda word: -counts[word])


def _own_words(need: Need) -> list[str]:
    words = [*(category.lower() for category in need.wanted), need.brand]
    if need.years is not None:
        words.append(str(need.years[0]) if need.years[0] == need.years[1] else decade_of(need.years[0]))
    return [word for word in words if word]


def _drawn(phrases: Sequence[str], avoided: frozenset[str], random: Random) -> str | None:
    fitting = allowed(phrases, avoided)
    return random.choice(fitting) if fitting else None

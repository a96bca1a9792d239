"""Needs of catalogues whose items have descriptions: asked for by words that their titles do not hold."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from hashlib import blake2b

from llmrec.prompts.keywords import words_of
from llmrec.prompts.query_items import QueryItem, QueryItems
from llmrec.prompts.query_needs import Need, QueryKind

_FEATURES = 3
_MIN_FEATURES = 2
_MIN_LETTERS = 4
#: A word of fewer descriptions is a misprint or a model's name, one of more tells little; in large catalogues shares
#: of all items count.
_MIN_COUNT, _MIN_SHARE = 3, 0.0005
_MAX_COUNT, _MAX_SHARE = 20, 0.02
_TRIES = 20


class DescribedNeeds:
    """Finds the telling words of descriptions: letters only, in some descriptions but not in many, rarest first.

    Args:
        items: the catalogue.
        max_items: needs that more items meet are left out.
    """

    def __init__(self, items: QueryItems, max_items: int) -> None:
        self.items = items
        self.max_items = max_items
        self._words = [list(dict.fromkeys(words_of(item.text.description))) for item in items.items]
        counts = Counter(word for words in self._words for word in words)
        least = max(_MIN_COUNT, _MIN_SHARE * len(items.items))
        most = max(_MAX_COUNT, _MAX_SHARE * len(items.items))
        self._counts = {
            word: count
            for word, count in counts.items()
            if least <= count <= most and len(word) >= _MIN_LETTERS and word.isalpha()
        }
        self._rows_with: dict[str, list[int]] = defaultdict(list)
        for row, words in enumerate(self._words):
            for word in words:
                if word in self._counts:
                    self._rows_with[word].append(row)

    def needs(self, kind: QueryKind) -> Iterator[Need]:
        """One need for each name that has enough telling words; kind is one of the difficult ones."""
        for found in self.items.by_name.values():
            if found.bit_count() > self.max_items:
                continue
            item_ids = self.items.item_ids(found)
            about = self.items[item_ids[0]]
            avoided = frozenset().union(*(self.items[item_id].words for item_id in item_ids))
            features = self._features(about, avoided)
            if len(features) < _MIN_FEATURES:
                continue
            need = Need(kind, item_ids, features=features, about=about.item_id)
            if kind == "negation":
                if lacks := self._lacking(need, avoided):
                    yield need._replace(lacks=(lacks,))
            elif kind == "alternative":
                if like := self._other_brand(need, about, avoided):
                    yield need._replace(like=like)
            else:
                yield need

    def _features(self, item: QueryItem, avoided: frozenset[str]) -> tuple[str, ...]:
        words = self._words[self.items.rows[item.item_id]]
        telling = [word for word in words if word in self._counts and word not in avoided]
        rarest = sorted(telling, key=lambda word: self._counts[word])[:_FEATURES]
        return tuple(word for word in telling if word in rarest)

    def _lacking(self, need: Need, avoided: frozenset[str]) -> str | None:
        """A telling word of another item with the first feature, which none of the need's items has anywhere."""
        own = {word for item_id in need.item_ids for word in self._words[self.items.rows[item_id]]} | avoided
        for row in self._others(need):
            for word in self._words[row]:
                if word in self._counts and word not in own:
                    return word
        return None

    def _other_brand(self, need: Need, about: QueryItem, avoided: frozenset[str]) -> str | None:
        """Another item with the first feature, of another brand and without a word of the need's items in its name."""
        for row in self._others(need):
            other = self.items.items[row]
            if other.text.brand != about.text.brand and not avoided.intersection(other.title_words):
                return other.item_id
        return None

    def _others(self, need: Need) -> Sequence[int]:
        """A few rows with the first feature that are not of the need, picked by a hash of it."""
        own = {self.items.rows[item_id] for item_id in need.item_ids}
        rows = [row for row in self._rows_with[need.features[0]] if row not in own]
        start = int.from_bytes(blake2b(need.group.encode(), digest_size=4).digest(), "big") % max(1, len(rows))
        return (rows[start:] + rows[:start])[:_TRIES]

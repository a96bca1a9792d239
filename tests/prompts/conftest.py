"""A dataset in memory whose validation and test part is marked, so that a leak shows."""

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pytest

from llmrec.dataset import RecDataset
from llmrec.schema import HISTORIES, INTERACTIONS, ITEMS, TRAIN

#: In the title, description and review of everything that only validation or test users' futures hold.
MARKER = "HELDOUT"


@dataclass
class SmallDataset:
    """What ``build_instructions`` asks of a RecDataset, leave-last-out over ``sequences``."""

    items: pa.Table
    sequences: dict[str, list[str]]
    reviews: dict[tuple[str, int], str] = field(default_factory=dict)
    fingerprint: str = "0123456789abcdef"
    protocol: dict[str, Any] = field(default_factory=lambda: {"max_history": 3})

    def train_sequences(self, refit: bool) -> list[list[str]]:
        assert refit
        return [items[:-1] for items in self.sequences.values()]

    @property
    def train(self) -> pa.Table:
        rows = [
            {"user_id": user, "item_ids": items[:-2], "timestamps": list(range(len(items) - 2))}
            for user, items in self.sequences.items()
        ]
        return pa.Table.from_pylist(rows, TRAIN)

    train_reviews = RecDataset.train_reviews

    @property
    def valid(self) -> pa.Table:
        rows = [
            {"user_id": user, "history": items[:-2], "target_item_ids": [items[-2]], "seen_item_ids": items[:-2]}
            for user, items in self.sequences.items()
        ]
        return pa.Table.from_pylist(rows, HISTORIES)

    @property
    def interactions(self) -> pa.Table:
        rows = [
            {
                "user_id": user,
                "item_id": item,
                "timestamp": place,
                "rating": None,
                "review": self.reviews.get((user, place)),
            }
            for user, items in self.sequences.items()
            for place, item in enumerate(items)
        ]
        return pa.Table.from_pylist(rows, INTERACTIONS)


def make_items(titles: dict[str, str], described: set[str] = frozenset()) -> pa.Table:
    rows = [
        {
            "item_id": item_id,
            "title": title,
            "description": f"All about {title}." if item_id in described else "",
            "brand": "Acme" if number % 3 == 0 else "",
            "categories": [["Drama", "Comedy", "Western"][number % 3]],
        }
        for number, (item_id, title) in enumerate(titles.items())
    ]
    return pa.Table.from_pylist(rows, ITEMS)


@pytest.fixture
def small_dataset() -> SmallDataset:
    """4 users with 1, 3, 4 and 6 training items, then two marked ones each; half of the items have a description."""
    titles = {f"i{number}": f"Film {number} of the sea" for number in range(8)}
    titles |= {f"h{number}": f"{MARKER} film {number}" for number in range(8)}
    lengths = {"u0": 1, "u1": 3, "u2": 4, "u3": 6}
    sequences = {
        user: [f"i{(row + place) % 8}" for place in range(length)] + [f"h{2 * row}", f"h{2 * row + 1}"]
        for row, (user, length) in enumerate(lengths.items())
    }
    reviews = {
        (user, place): f"{MARKER} review" if item.startswith("h") else f"Great {item}. Bought it twice."
        for user, items in sequences.items()
        for place, item in enumerate(items)
        if user != "u2"
    }
    return SmallDataset(make_items(titles, {f"i{number}" for number in range(0, 8, 2)}), sequences, reviews)

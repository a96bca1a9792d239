from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pytest

from llmrec.schema import HISTORIES

ITEM_IDS = [f"i{index}" for index in range(10)]


@dataclass
class SmallDataset:
    """What an evaluator asks of a RecDataset, leave-last-out over the given sequences."""

    sequences: list[list[str]]
    name: str = "small"
    fingerprint: str = "0123456789abcdef"
    protocol: dict[str, Any] = field(default_factory=lambda: {"split": "leave_last_out", "max_history": 50})

    def train_sequences(self, refit: bool = False) -> list[list[str]]:
        return [sequence[: -1 if refit else -2] for sequence in self.sequences]

    @property
    def valid(self) -> pa.Table:
        return self._histories(-2)

    @property
    def test(self) -> pa.Table:
        return self._histories(-1)

    def _histories(self, target: int) -> pa.Table:
        rows = [
            {
                "user_id": f"u{user}",
                "history": sequence[:target],
                "target_item_ids": [sequence[target]],
                "seen_item_ids": list(dict.fromkeys(sequence[:target])),
            }
            for user, sequence in enumerate(self.sequences)
        ]
        return pa.Table.from_pylist(rows, HISTORIES)


@pytest.fixture
def small_dataset() -> SmallDataset:
    places = [[0, 1, 2, 3], [0, 1, 4, 5], [0, 2, 3, 0], [1, 0, 5, 6, 7]]
    return SmallDataset([[ITEM_IDS[place] for place in sequence] for sequence in places])


@pytest.fixture
def item_ids() -> list[str]:
    return list(ITEM_IDS)

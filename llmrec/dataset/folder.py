"""A prepared dataset folder: the artefact between data preparation and everything after it."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llmrec.schema import HISTORIES, INTERACTIONS, ITEMS, TRAIN, DataError

INFO_FILE = "dataset.json"
CARD_FILE = "README.md"
#: The split whose validation and test rows were made elsewhere.
PUBLISHED_ROWS = "published_rows"
TABLES = {"interactions": INTERACTIONS, "items": ITEMS, "train": TRAIN, "valid": HISTORIES, "test": HISTORIES}


@dataclass(frozen=True)
class RecDataset:
    """Interactions, items and histories, split. Tables are read when first used.

    Args:
        folder: what ``prepare_dataset`` wrote.
        info: the content of dataset.json: name, source, protocol, counts, split_fingerprint.
    """

    folder: Path
    info: dict[str, Any]

    @classmethod
    def load(cls, folder: str | Path) -> "RecDataset":
        """Open a prepared folder.

        Raises:
            FileNotFoundError: if it is not one.
        """
        folder = Path(folder)
        if not (folder / INFO_FILE).is_file():
            raise FileNotFoundError(
                f"{folder} holds no {INFO_FILE}: it is not a prepared dataset. Make one with a script of data_prep/, "
                "such as python data_prep/interactions.py --help for your own files."
            )
        return cls(folder, json.loads((folder / INFO_FILE).read_text()))

    def _read(self, name: str) -> pa.Table:
        return pq.read_table(self.folder / f"{name}.parquet").cast(TABLES[name])

    @cached_property
    def interactions(self) -> pa.Table:
        """Kept events, by user and then in order; ``schema.INTERACTIONS``."""
        return self._read("interactions")

    @cached_property
    def items(self) -> pa.Table:
        """Kept items; ``schema.ITEMS``. The row order defines the item index."""
        return self._read("items")

    @cached_property
    def train(self) -> pa.Table:
        """Training histories, never truncated; ``schema.TRAIN``."""
        return self._read("train")

    @cached_property
    def valid(self) -> pa.Table:
        """Validation histories and targets; ``schema.HISTORIES``."""
        return self._read("valid")

    @cached_property
    def test(self) -> pa.Table:
        """Test histories and targets; ``schema.HISTORIES``."""
        return self._read("test")

    @property
    def name(self) -> str:
        return self.info["name"]

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the test rows: equal where two numbers were measured on the same test."""
        return self.info["split_fingerprint"]

    @property
    def protocol(self) -> dict[str, Any]:
        """Everything that defines the split."""
        return self.info["protocol"]

    def train_sequences(self, refit: bool = False) -> list[list[str]]:
        """Each user's training item ids, oldest first.

        Args:
            refit: append each user's validation targets; users without training interactions then come last.

        Raises:
            DataError: for ``refit`` over published rows, whose users are not those of the log.
        """
        if refit and self.protocol["split"] == PUBLISHED_ROWS:
            raise DataError(f"{self.folder} has published rows, which belong to no training history: leave out refit.")
        sequences = dict(zip(self.train["user_id"].to_pylist(), self.train["item_ids"].to_pylist(), strict=True))
        if refit:
            for row in self.valid.select(["user_id", "target_item_ids"]).to_pylist():
                sequences.setdefault(row["user_id"], []).extend(row["target_item_ids"])
        return list(sequences.values())

    def train_reviews(self) -> list[list[str]]:
        """What was written about each training interaction, in the order of ``train``; "" where nothing was.

        What was written about a later target is never among it.
        """
        reviews = [[""] * len(items) for items in self.train["item_ids"].to_pylist()]
        if self.interactions["review"].null_count == self.interactions.num_rows:
            return reviews
        # an event may stand there again later: the first ones belong to training
        places: dict[tuple[str, str, int], list[tuple[int, int]]] = {}
        for row, events in enumerate(self.train.to_pylist()):
            for place, (item_id, timestamp) in enumerate(zip(events["item_ids"], events["timestamps"], strict=True)):
                places.setdefault((events["user_id"], item_id, timestamp), []).append((row, place))
        columns = self.interactions.select(["user_id", "item_id", "timestamp", "review"])
        for batch in columns.to_batches():
            for user_id, item_id, timestamp, review in zip(*(column.to_pylist() for column in batch), strict=True):
                left = places.get((user_id, item_id, timestamp))
                if left:
                    row, place = left.pop(0)
                    reviews[row][place] = (review or "").strip()
        return reviews

    def cold_item_ids(self) -> list[str]:
        """Items without a training interaction, in catalogue order; under leave_last_out there are few."""
        warm = {item for sequence in self.train["item_ids"].to_pylist() for item in sequence}
        return [item for item in self.items["item_id"].to_pylist() if item not in warm]


def check_replaceable(folder: str | Path) -> None:
    """Refuse to replace a folder that holds files which data preparation did not write.

    Raises:
        DataError: naming one of them.
    """
    folder = Path(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise DataError(f"{folder} is a file: name another --output_dir.")
    own = {INFO_FILE, CARD_FILE, *(f"{name}.parquet" for name in TABLES)}
    others = sorted(entry.name for entry in folder.iterdir() if entry.name not in own)
    if others:
        raise DataError(
            f"{folder} also holds {', '.join(others[:3])}{' and more' if len(others) > 3 else ''}, which a new "
            "preparation would delete or leave out of date. Name another --output_dir, or remove them yourself."
        )


def find_prepared(
    folder: str | Path, protocol: dict[str, Any], reader: dict[str, Any] | None = None
) -> RecDataset | None:
    """The dataset in ``folder`` if it was prepared under ``protocol``; None if the folder is not there or empty.

    Args:
        folder: to look into.
        protocol: what defines the wanted split.
        reader: the options of reading, compared with the recorded ones; None: not compared.

    Raises:
        DataError: if the folder holds something else.
    """
    folder = Path(folder)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    if not (folder / INFO_FILE).is_file():
        raise DataError(f"{folder} exists and is not a prepared dataset: name another --output_dir.")
    dataset = RecDataset.load(folder)
    wanted = {**protocol, **(reader or {})}
    recorded = {**dataset.info.get("reader", {}), **dataset.protocol}
    changed = sorted(name for name in wanted if recorded.get(name) != wanted[name])
    if changed:
        values = "; ".join(f"{name}: {recorded.get(name)!r} -> {wanted[name]!r}" for name in changed)
        raise DataError(
            f"{folder} was prepared with other options ({values}). Name another --output_dir, or add --overwrite to "
            "replace it."
        )
    return dataset

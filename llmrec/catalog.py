"""The catalog: items, their text and one unique semantic ID each. Every stage and every checkpoint carries it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmrec.atomic import atomic_path, write_json
from llmrec.schema import ITEMS, DataError

CATALOG_FILE = "catalog.parquet"
CATALOG_INFO_FILE = "catalog.json"


@dataclass(frozen=True)
class Catalog:
    """All items that a model can recommend.

    Args:
        items: table with the columns of ``schema.ITEMS``; its row order defines the item index used in arrays.
        semantic_ids: int32 array of shape (num_items, num_codebooks); every row is unique. With no codebooks the
            catalog has items alone, for methods that do without semantic IDs.
        codebook_sizes: number of codes of each level; ``semantic_ids[:, level] < codebook_sizes[level]``.

    Raises:
        DataError: if shapes disagree, an item id is repeated, a code is out of range or two items share a semantic ID.
    """

    items: pa.Table
    semantic_ids: np.ndarray
    codebook_sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", self.items.select(ITEMS.names).cast(ITEMS))
        object.__setattr__(self, "semantic_ids", np.ascontiguousarray(self.semantic_ids, dtype=np.int32))
        object.__setattr__(self, "codebook_sizes", tuple(int(size) for size in self.codebook_sizes))
        self._check()

    def _check(self) -> None:
        expected = (self.items.num_rows, len(self.codebook_sizes))
        if self.semantic_ids.shape != expected:
            raise DataError(
                f"semantic_ids has shape {self.semantic_ids.shape}; {self.items.num_rows} items with "
                f"{len(self.codebook_sizes)} codebooks need {expected}."
            )
        if len(self.item_index) != self.items.num_rows:
            raise DataError(
                f"The catalog repeats item ids: {self.items.num_rows} rows, {len(self.item_index)} distinct."
            )
        if self.items.num_rows == 0:
            raise DataError("The catalog is empty: it needs at least one item.")
        too_large = (self.semantic_ids < 0) | (self.semantic_ids >= np.array(self.codebook_sizes))
        if too_large.any():
            row, level = np.argwhere(too_large)[0]
            raise DataError(
                f"Item {self.item_ids[row]!r} has code {self.semantic_ids[row, level]} at level {level}; "
                f"allowed are 0 to {self.codebook_sizes[level] - 1}."
            )
        if self.num_codebooks == 0:
            return
        _, first, counts = np.unique(self.semantic_ids, axis=0, return_index=True, return_counts=True)
        if counts.max() > 1:
            row = first[counts.argmax()]
            raise DataError(
                f"{counts.max()} items share the semantic ID {self.semantic_ids[row].tolist()} (one is "
                f"{self.item_ids[row]!r}). ItemTokenizer makes every ID unique: use its semantic_ids."
            )

    def __len__(self) -> int:
        return self.items.num_rows

    @property
    def num_codebooks(self) -> int:
        return len(self.codebook_sizes)

    @cached_property
    def item_ids(self) -> list[str]:
        return self.items["item_id"].to_pylist()

    @cached_property
    def titles(self) -> list[str]:
        return self.items["title"].to_pylist()

    @cached_property
    def item_index(self) -> dict[str, int]:
        """Item id -> row."""
        return {item_id: row for row, item_id in enumerate(self.items["item_id"].to_pylist())}

    def rows_of(self, item_ids: Sequence[str]) -> list[int]:
        """Rows of the given items, in order.

        Raises:
            DataError: if an item is not in the catalog.
        """
        try:
            return [self.item_index[item_id] for item_id in item_ids]
        except KeyError as error:
            raise DataError(
                f"Item {error.args[0]!r} is not among the {len(self)} items of the catalog. "
                "Add it with ItemTokenizer.extend, or prepare data and catalog from the same dataset folder."
            ) from None

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over item ids, titles and semantic IDs: equal where a model and a catalog belong together."""
        digest = hashlib.sha256(json.dumps([self.item_ids, self.titles, self.codebook_sizes]).encode())
        digest.update(self.semantic_ids.astype("<i4").tobytes())
        return digest.hexdigest()[:16]

    def save(self, folder: str | Path) -> None:
        """Write ``catalog.parquet`` (items and a ``semantic_id`` column) and ``catalog.json`` into ``folder``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        offsets = pa.array(np.arange(len(self) + 1, dtype=np.int32) * self.num_codebooks)
        ids = pa.ListArray.from_arrays(offsets, pa.array(self.semantic_ids.reshape(-1)))
        table = self.items.append_column("semantic_id", ids)
        with atomic_path(folder / CATALOG_FILE) as temporary:
            pq.write_table(table, temporary)
        info = {
            "num_items": len(self),
            "num_codebooks": self.num_codebooks,
            "codebook_sizes": list(self.codebook_sizes),
            "fingerprint": self.fingerprint,
        }
        write_json(folder / CATALOG_INFO_FILE, info)

    @classmethod
    def load(cls, folder: str | Path) -> "Catalog":
        """Read what ``save`` wrote.

        Raises:
            FileNotFoundError: if ``folder`` holds no catalog.
            DataError: if the table does not match the recorded fingerprint.
        """
        folder = Path(folder)
        if not (folder / CATALOG_FILE).is_file():
            raise FileNotFoundError(
                f"{folder} holds no {CATALOG_FILE}. Make one with data_prep/semantic_ids.py, "
                "or name a checkpoint that carries one."
            )
        table = pq.read_table(folder / CATALOG_FILE)
        info = json.loads((folder / CATALOG_INFO_FILE).read_text())
        ids = table["semantic_id"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        catalog = cls(table, ids.reshape(table.num_rows, info["num_codebooks"]), tuple(info["codebook_sizes"]))
        catalog.check_fingerprint(info["fingerprint"], f"{folder / CATALOG_INFO_FILE}")
        return catalog

    def check_fingerprint(self, expected: str, source: str) -> None:
        """Refuse to go on where a model (or file) was made with another catalog.

        Raises:
            DataError: if ``expected`` is not this catalog's fingerprint.
        """
        if expected != self.fingerprint:
            raise DataError(
                f"{source} belongs to the catalog {expected}, but this catalog is {self.fingerprint}. "
                "A model's item tokens mean something only with the catalog it was trained on: "
                "load the one inside its checkpoint."
            )

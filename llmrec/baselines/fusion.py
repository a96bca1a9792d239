"""What a search mixes into a language model's ranking: item-kNN, and its share."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy import sparse

from llmrec.atomic import atomic_path, write_json
from llmrec.baselines.item_knn import ItemKNN

_CONFIG_FILE = "fusion.json"
_LINKS_FILE = "links.safetensors"
_OPTIONS = ("window", "backward", "query_length", "decay")


def fused_name(method: str) -> str:
    """What a table calls a method whose search has item-kNN mixed in."""
    return f"{method}+item_knn"


@dataclass(frozen=True)
class Fusion:
    """Item-kNN as a prior of the search (``llmrec.decoding.item_prior``).

    Args:
        item_knn: fitted on what the model was trained with.
        weight: its share of the mixture, above 0 and below 1.
    """

    item_knn: ItemKNN
    weight: float

    def for_items(self, item_ids: Sequence[str], new_item_ids: Sequence[str]) -> "Fusion":
        """The same over another catalogue; items that item-kNN was not fitted on have no links.

        Args:
            item_ids: of the catalogue that item-kNN was fitted on, in order.
            new_item_ids: of the other, in order.
        """
        row_of = {item_id: row for row, item_id in enumerate(item_ids)}
        # a row and a column of zeros behind the others, for what is new
        rows = np.array([row_of.get(item_id, len(item_ids)) for item_id in new_item_ids], dtype=np.int64)
        links = self.item_knn.links.copy()
        links.resize((len(item_ids) + 1, len(item_ids) + 1))
        item_knn = ItemKNN(**self._options)
        item_knn.links = sparse.csr_array(links[rows][:, rows])
        return Fusion(item_knn, self.weight)

    def save(self, folder: str | Path) -> None:
        """Write the links and a JSON file into ``folder``, which is made anew."""
        links = self.item_knn.links
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            arrays = {name: np.ascontiguousarray(getattr(links, name)) for name in ("data", "indices", "indptr")}
            save_file(arrays, temporary / _LINKS_FILE)
            content = {"weight": self.weight, "num_items": links.shape[0], "item_knn": self._options}
            write_json(temporary / _CONFIG_FILE, content)

    @classmethod
    def load(cls, folder: str | Path) -> "Fusion":
        """What ``save`` wrote."""
        content = json.loads((Path(folder) / _CONFIG_FILE).read_text())
        arrays = load_file(Path(folder) / _LINKS_FILE)
        item_knn = ItemKNN(**content["item_knn"])
        shape = (content["num_items"], content["num_items"])
        item_knn.links = sparse.csr_array((arrays["data"], arrays["indices"], arrays["indptr"]), shape=shape)
        return cls(item_knn, content["weight"])

    @property
    def _options(self) -> dict[str, Any]:
        return {name: getattr(self.item_knn, name) for name in _OPTIONS}

"""What SETRec knows of every item: frozen embeddings, in catalogue order, beside the weights of a checkpoint."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from llmrec.atomic import atomic_path

FEATURES_FILE = "item_features.safetensors"

#: Items whose neighbours are looked up at a time.
_ITEMS_AT_ONCE = 1024


@dataclass(frozen=True)
class ItemFeatures:
    """Embeddings that items are tokenized from.

    Args:
        cf: of a sequential recommender, float32 of shape (num_items, cf_dim).
        text: of the items' texts, float32 of shape (num_items, text_dim).
        warm: bool of shape (num_items,): whether training interactions hold the item.

    Raises:
        ValueError: if they are of different numbers of items.
    """

    cf: Tensor
    text: Tensor
    warm: Tensor

    def __post_init__(self) -> None:
        if not len(self.cf) == len(self.text) == len(self.warm):
            raise ValueError(
                f"cf, text and warm are of {len(self.cf)}, {len(self.text)} and {len(self.warm)} items: all of them "
                "need a row for every item of the catalogue."
            )

    def __len__(self) -> int:
        return len(self.cf)

    @property
    def fingerprint(self) -> str:
        """16 hex digits over all of it."""
        digest = hashlib.sha256()
        for tensor in (self.cf, self.text, self.warm):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def to(self, device: torch.device) -> "ItemFeatures":
        """On ``device``; itself where it is there already."""
        if self.cf.device == device:
            return self
        return ItemFeatures(self.cf.to(device), self.text.to(device), self.warm.to(device))

    def save(self, folder: str | Path) -> None:
        """Write ``item_features.safetensors`` into ``folder``."""
        tensors = {"cf": self.cf, "text": self.text, "warm": self.warm}
        with atomic_path(Path(folder) / FEATURES_FILE) as temporary:
            save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, temporary)

    @classmethod
    def load(cls, folder: str | Path) -> "ItemFeatures":
        """Read what ``save`` wrote."""
        return cls(**load_file(Path(folder) / FEATURES_FILE))


def cf_from_neighbours(features: ItemFeatures, num_neighbours: int = 10) -> Tensor:
    """CF embeddings in which an item without training interactions has the mean of its nearest warm items by text.

    The rule is ours: the released code leaves such items where the recommender drew them. See docs/methods/setrec.md
    for what it changes.

    Args:
        features: of all items; ``cf`` of those that are not warm is not read.
        num_neighbours: warm items, nearest by cosine of their text embeddings.

    Returns:
        float32 of shape (num_items, cf_dim).

    Raises:
        ValueError: if no item is warm.
    """
    warm = features.warm.nonzero()[:, 0]
    if len(warm) == 0:
        raise ValueError("No item has a training interaction: there is no collaborative embedding to start from.")
    cf = features.cf.clone()
    text = torch.nn.functional.normalize(features.text, dim=1)
    for cold in (~features.warm).nonzero()[:, 0].split(_ITEMS_AT_ONCE):
        nearest = (text[cold] @ text[warm].T).topk(min(num_neighbours, len(warm))).indices
        cf[cold] = features.cf[warm[nearest]].mean(dim=1)
    return cf

"""The item tokenizer: embeddings in, one unique semantic ID for each item out; new items later, old IDs for good."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from llmrec.atomic import atomic_path, write_json
from llmrec.item_tokenizer.collisions import (
    add_disambiguation_level,
    conflict_rounds,
    last_codes_by_distance,
    take_free_codes,
)
from llmrec.item_tokenizer.config import ItemTokenizerConfig
from llmrec.item_tokenizer.quantizer import Quantizer
from llmrec.item_tokenizer.residual_kmeans import ResidualKMeans
from llmrec.item_tokenizer.rqvae import RQVAE
from llmrec.item_tokenizer.rqvae_training import train_rqvae
from llmrec.schema import DataError

WEIGHTS_FILE = "item_tokenizer.safetensors"
INFO_FILE = "item_tokenizer.json"


class ItemTokenizer:
    """Items, their semantic IDs, and the quantizer that made them. Make one with ``fit`` or ``load``.

    Attributes:
        config: the settings of ``fit``.
        quantizer: the fitted quantizer.
        item_ids: all items, in fit order; later ones follow.
        semantic_ids: int32 of shape (num_items, num_codebooks); every row is unique.
        codebook_sizes: number of codes at each level of ``semantic_ids``.
    """

    def __init__(
        self,
        config: ItemTokenizerConfig,
        quantizer: Quantizer,
        item_ids: list[str],
        semantic_ids: np.ndarray,
        codebook_sizes: tuple[int, ...],
    ) -> None:
        self.config = config
        self.quantizer = quantizer.eval()
        self.item_ids = item_ids
        self.semantic_ids = semantic_ids
        self.codebook_sizes = codebook_sizes

    @property
    def num_codebooks(self) -> int:
        """Levels of a semantic ID: the quantizer's, and the disambiguation level where there is one."""
        return len(self.codebook_sizes)

    @property
    def device(self) -> torch.device:
        """Where the quantizer is."""
        return self.quantizer.codebooks.device

    @property
    def has_disambiguation_level(self) -> bool:
        """Whether collisions were left at fit time, so that every ID carries one further level."""
        return self.num_codebooks > self.config.num_codebooks

    @classmethod
    def fit(cls, item_ids: Sequence[str], embeddings: np.ndarray, config: ItemTokenizerConfig) -> "ItemTokenizer":
        """Fit the quantizer and give every item a unique semantic ID.

        Nearest codes first; then LC-Rec's conflict rounds (``config.conflict_rounds``); then the nearest free codes
        for items that still share an ID; or, where there are too few, one further level for all items.

        Args:
            item_ids: distinct item ids.
            embeddings: float32 of shape (num_items, dim), finite; row order as ``item_ids``. A memory map will do.
            config: the settings.

        Raises:
            DataError: if shapes disagree, an item is repeated or an embedding is not finite.
        """
        item_ids = list(item_ids)
        _check(item_ids, embeddings)
        device = _device(config.device)
        quantizer: Quantizer
        if config.quantizer == "rqvae":
            quantizer = train_rqvae(embeddings, config, device)
        else:
            quantizer = ResidualKMeans.fit(embeddings, config, device)
        quantizer.eval()
        codes = conflict_rounds(quantizer, embeddings, quantizer.encode(embeddings), config)
        codes = take_free_codes(quantizer, embeddings, codes, config)
        sizes = (config.codebook_size,) * config.num_codebooks
        if len(np.unique(codes, axis=0)) < len(codes):
            codes, extra_size = add_disambiguation_level(codes, config.codebook_size)
            sizes = (*sizes, extra_size)
        return cls(config, quantizer, item_ids, codes, sizes)

    def encode(self, embeddings: np.ndarray) -> np.ndarray:
        """The nearest code at every level of the quantizer, collisions and all.

        Args:
            embeddings: float32 of shape (n, dim).

        Returns:
            int32 of shape (n, config.num_codebooks).
        """
        return self.quantizer.encode(embeddings)

    def decode(self, semantic_id: Sequence[int]) -> str:
        """The item with this semantic ID.

        Raises:
            DataError: if no item has it.
        """
        key = tuple(int(code) for code in semantic_id)
        if key not in self._item_of:
            raise DataError(
                f"No item has the semantic ID {key}: {len(self.item_ids)} items with {self.num_codebooks} codes each "
                "are known. Constrained decoding over the catalog's trie returns only known IDs."
            )
        return self._item_of[key]

    @cached_property
    def _item_of(self) -> dict[tuple[int, ...], str]:
        return dict(zip(map(tuple, self.semantic_ids.tolist()), self.item_ids, strict=True))

    def extend(self, item_ids: Sequence[str], embeddings: np.ndarray) -> np.ndarray:
        """Give IDs to items that were not there at fit time, in order. No existing ID changes; on an error, nothing.

        With a disambiguation level a new item takes its nearest codes and the next free rank; without one, the
        nearest free code at the last level.

        Args:
            item_ids: new, distinct item ids.
            embeddings: float32 of shape (num_new, dim), made exactly like those of ``fit``.

        Returns:
            int32 of shape (num_new, num_codebooks).

        Raises:
            DataError: if an item is known already, or no ID is left under a new item's prefix.
        """
        item_ids = list(item_ids)
        _check(item_ids, embeddings, known=set(self.item_ids))
        free_under = self.config.num_codebooks if self.has_disambiguation_level else self.config.num_codebooks - 1
        taken: dict[tuple[int, ...], set[int]] = {}
        for row in self.semantic_ids.tolist():
            taken.setdefault(tuple(row[:free_under]), set()).add(row[-1])
        nearest = self.encode(embeddings)
        order = self._last_codes_in_order(embeddings, nearest)
        new = np.empty((len(item_ids), self.num_codebooks), dtype=np.int32)
        for index, item_id in enumerate(item_ids):
            prefix = tuple(nearest[index, :free_under].tolist())
            used = taken.setdefault(prefix, set())
            code = next((code for code in order(index) if code not in used), None)
            if code is None:
                raise DataError(self._no_id_left(item_id, prefix))
            used.add(code)
            new[index] = (*prefix, code)
        self.semantic_ids = np.concatenate([self.semantic_ids, new])
        self.item_ids = self.item_ids + item_ids
        self.__dict__.pop("_item_of", None)
        return new

    def _last_codes_in_order(self, embeddings: np.ndarray, nearest: np.ndarray) -> Any:
        """index -> the codes to try at the level that tells items apart, best first."""
        if self.has_disambiguation_level:
            return lambda _: range(self.codebook_sizes[-1])

        return lambda index: last_codes_by_distance(self.quantizer, embeddings[[index]], nearest[[index]])[0]

    def _no_id_left(self, item_id: str, prefix: tuple[int, ...]) -> str:
        return (
            f"No semantic ID is left for the new item {item_id!r}: all {self.codebook_sizes[-1]} codes under the "
            f"prefix {prefix} are taken, so the catalogue has outgrown this tokenizer. Fit a new ItemTokenizer on all "
            "items with a larger codebook_size or one more codebook, and train the language model on the new IDs. "
            "Nothing was added by this call."
        )

    def save(self, folder: str | Path) -> None:
        """Write ``item_tokenizer.safetensors`` and ``item_tokenizer.json`` into ``folder``."""
        folder = Path(folder)
        tensors = {f"quantizer.{name}": value.contiguous() for name, value in self.quantizer.state_dict().items()}
        tensors["semantic_ids"] = torch.from_numpy(np.ascontiguousarray(self.semantic_ids))
        with atomic_path(folder / WEIGHTS_FILE) as temporary:
            save_file(tensors, temporary)
        info = {
            "config": asdict(replace(self.config, device=None)),  # a saved tokenizer runs anywhere
            "codebook_sizes": list(self.codebook_sizes),
            "dim": self.dim,
            "fingerprint": self.fingerprint,
            "item_ids": self.item_ids,
        }
        write_json(folder / INFO_FILE, info)

    @classmethod
    def load(cls, folder: str | Path, device: str | None = None) -> "ItemTokenizer":
        """Read what ``save`` wrote.

        Args:
            folder: holds the two files.
            device: a torch device; ``None`` takes a GPU where there is one.

        Raises:
            FileNotFoundError: if ``folder`` holds no item tokenizer.
            DataError: if the two files do not belong together.
        """
        folder = Path(folder)
        for name in (WEIGHTS_FILE, INFO_FILE):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder} holds no {name}. Make an item tokenizer with data_prep/semantic_ids.py."
                )
        info = json.loads((folder / INFO_FILE).read_text())
        config = ItemTokenizerConfig(**{**info["config"], "device": device})
        tensors = load_file(folder / WEIGHTS_FILE)
        ids = tensors.pop("semantic_ids").numpy()
        weights = {name.removeprefix("quantizer."): value for name, value in tensors.items()}
        quantizer = _loaded_quantizer(config, info["dim"], weights)
        tokenizer = cls(config, quantizer.to(_device(device)), info["item_ids"], ids, tuple(info["codebook_sizes"]))
        if tokenizer.fingerprint != info["fingerprint"]:
            raise DataError(
                f"{folder / WEIGHTS_FILE} and {INFO_FILE} are not of one item tokenizer: copy both from one place."
            )
        return tokenizer

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        with torch.no_grad():
            return self.quantizer.from_latents(self.quantizer.codebooks[0, :1]).shape[-1]

    @property
    def fingerprint(self) -> str:
        """16 hex digits over item ids, semantic IDs and sizes."""
        digest = hashlib.sha256(json.dumps([self.item_ids, self.codebook_sizes]).encode())
        digest.update(self.semantic_ids.astype("<i4").tobytes())
        return digest.hexdigest()[:16]


def _loaded_quantizer(config: ItemTokenizerConfig, dim: int, weights: dict[str, torch.Tensor]) -> Quantizer:
    with torch.device("meta"):  # no fresh weights: drawing them would move the caller's random state
        quantizer = RQVAE(config, dim) if config.quantizer == "rqvae" else ResidualKMeans(config, dim)
    quantizer.load_state_dict(weights, assign=True)
    return quantizer


def _device(name: str | None) -> torch.device:
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def _check(item_ids: list[str], embeddings: np.ndarray, known: set[str] | None = None) -> None:
    if embeddings.ndim != 2 or len(embeddings) != len(item_ids):
        raise DataError(f"embeddings has shape {embeddings.shape}; {len(item_ids)} items need ({len(item_ids)}, dim).")
    if not item_ids:
        raise DataError("No items: the item tokenizer needs at least one.")
    seen = set(known or ())
    for item_id in item_ids:
        if item_id in seen:
            raise DataError(f"Item {item_id!r} is given twice, or has a semantic ID already: give each item once.")
        seen.add(item_id)
    for start in range(0, len(embeddings), 65536):
        finite = np.isfinite(embeddings[start : start + 65536]).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            raise DataError(
                f"The embedding of item {item_ids[row]!r} (row {row}) holds NaN or infinity: embed it again."
            )

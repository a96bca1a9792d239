"""What served checkpoints of all methods have."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmrec.catalog import Catalog
from llmrec.hub import Checkpoint


@dataclass(frozen=True)
class ServedFiles:
    """A checkpoint and its name.

    Args:
        name: last part of the folder's or the Hub's name.
        checkpoint: its files.
    """

    name: str
    checkpoint: Checkpoint

    @property
    def folder(self) -> Path:
        return self.checkpoint.folder

    @property
    def catalog(self) -> Catalog:
        return self.checkpoint.catalog

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.checkpoint.tokenizer

    @property
    def method(self) -> str:
        return self.checkpoint.method

    def load_model(self, device: str = "cpu", dtype: str = "auto") -> PreTrainedModel:
        """The model.

        Args:
            device: ``auto`` takes a GPU where there is one.
            dtype: one of ``DTYPES``; ``auto`` keeps the precision it was saved in.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return self.checkpoint.model.to(device, None if dtype == "auto" else getattr(torch, dtype))

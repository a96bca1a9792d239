"""SASRec: self-attention over a history (Kang and McAuley, ICDM 2018), trained with a softmax over the whole catalogue.

The loss is not the paper's, which drew one negative: a full softmax is what makes SASRec strong (Klenitskiy and
Vasilev, RecSys 2023). A floor beside the others, and where SETRec takes its collaborative embeddings from.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from llmrec.atomic import atomic_path

WEIGHTS_FILE = "sasrec.safetensors"

_PADDING = -1
_USERS_AT_ONCE = 512


@dataclass(frozen=True)
class SASRecConfig:
    """Size and training.

    Args:
        dim: width of the item embeddings, which are the output layer too.
        num_layers: self-attention blocks.
        num_heads: attention heads.
        dropout: of embeddings, attention and feed-forward layers.
        max_history: latest items of a history that are read, and items of a training window.
        num_epochs: passes over the training histories.
        batch_size: windows of a training step.
        learning_rate: of Adam.
        seed: of weights, order, windows and dropout.
    """

    dim: int = 64
    num_layers: int = 2
    num_heads: int = 4
    dropout: float = 0.2
    max_history: int = 50
    num_epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 1e-3
    seed: int = 42


class SASRec:
    """A self-attentive sequential recommender.

    Attributes:
        item_embeddings: float32 array of shape (num_items, dim), once fitted; rows of items without a training
            interaction are where they were drawn.
    """

    def __init__(self, config: SASRecConfig | None = None, device: str | torch.device = "cpu") -> None:
        self.config = config or SASRecConfig()
        self.device = torch.device(device)

    def fit(self, train_sequences: Sequence[Sequence[int]], num_items: int, progress: bool = True) -> "SASRec":
        """Train on item indices of each user, oldest first.

        Raises:
            ValueError: if no sequence has two items.
        """
        config = self.config
        sequences = [np.asarray(sequence) for sequence in train_sequences if len(sequence) > 1]
        if not sequences:
            raise ValueError("No training sequence has two items: there is nothing for SASRec to predict.")
        with torch.random.fork_rng(devices=[] if self.device.type == "cpu" else [self.device]):
            torch.manual_seed(config.seed)
            self._network = _Network(config, num_items).to(self.device)
            optimizer = torch.optim.Adam(self._network.parameters(), lr=config.learning_rate, betas=(0.9, 0.98))
            self._network.train()
            # items that nobody has are no answers: as negatives, their embeddings would all go one way
            seen = torch.zeros(num_items, dtype=torch.bool)
            seen[np.concatenate(sequences)] = True
            unseen = ~seen.to(self.device)
            generator = np.random.default_rng(config.seed)
            for _ in tqdm(range(config.num_epochs), desc="SASRec", unit="epoch", disable=None if progress else True):
                for windows in self._batches(sequences, generator):
                    batch = torch.from_numpy(windows).to(self.device)
                    real = batch[:, 1:] != _PADDING
                    logits = self._network(batch[:, :-1])[real] @ self._network.items.weight.T
                    logits = logits.masked_fill(unseen, -torch.inf)
                    loss = functional.cross_entropy(logits, batch[:, 1:][real])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
        self._network.eval()
        return self

    def save(self, folder: str | Path) -> None:
        """Write the weights into ``folder``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / WEIGHTS_FILE) as temporary:
            save_file(self._network.state_dict(), temporary)

    @classmethod
    def load(cls, folder: str | Path, config: SASRecConfig, num_items: int) -> "SASRec":
        """Read what ``save`` wrote, on the CPU."""
        sasrec = cls(config)
        sasrec._network = _Network(config, num_items)
        sasrec._network.load_state_dict(load_file(Path(folder) / WEIGHTS_FILE))
        sasrec._network.eval()
        return sasrec

    @property
    def item_embeddings(self) -> np.ndarray:
        return self._network.items.weight.detach().cpu().numpy()

    def _batches(self, sequences: Sequence[np.ndarray], generator: np.random.Generator) -> Iterator[np.ndarray]:
        """Windows of all sequences in random order; a long sequence is cut at random, so that all of it is seen."""
        width = self.config.max_history + 1
        windows = []
        for sequence in sequences:
            # neighbouring windows share an item, so that each but the first is predicted once
            offset = int(generator.integers(width - 1)) if len(sequence) > width else 0
            windows += [
                sequence[max(0, start) : start + width] for start in range(-offset, len(sequence) - 1, width - 1)
            ]
        for rows in np.array_split(generator.permutation(len(windows)), -(-len(windows) // self.config.batch_size)):
            yield _padded([windows[row] for row in rows])

    @torch.no_grad()
    def recommend(
        self,
        histories: Sequence[Sequence[int]],
        k: int,
        exclude: Sequence[Collection[int]] | None = None,
        candidates: np.ndarray | None = None,
    ) -> np.ndarray:
        """The ``k`` items with the highest scores.

        Args:
            histories: item indices of each user, oldest first; one item or more.
            k: list length.
            exclude: item indices that each user must not get.
            candidates: bool array of shape (num_items,): the items that anyone may get; None for all.

        Returns:
            int64 array of shape (num_users, k), best first; -1 where no item is left.
        """
        ranked = np.full((len(histories), k), -1, dtype=np.int64)
        for start in range(0, len(histories), _USERS_AT_ONCE):
            users = histories[start : start + _USERS_AT_ONCE]
            part = [np.asarray(history)[-self.config.max_history :] for history in users]
            batch = torch.from_numpy(_padded(part)).to(self.device)
            last = torch.tensor([len(history) - 1 for history in part], device=self.device)
            states = self._network(batch)[torch.arange(len(part), device=self.device), last]
            scores = states @ self._network.items.weight.T
            if candidates is not None:
                scores[:, torch.from_numpy(~candidates).to(self.device)] = -torch.inf
            for row, items in enumerate(exclude[start : start + len(part)] if exclude is not None else ()):
                scores[row, list(items)] = -torch.inf
            values, best = scores.topk(min(k, scores.shape[1]))
            ranked[start : start + len(part), : best.shape[1]] = best.masked_fill(values == -torch.inf, -1).cpu()
        return ranked


class _Network(nn.Module):
    def __init__(self, config: SASRecConfig, num_items: int) -> None:
        super().__init__()
        self.items = nn.Embedding(num_items, config.dim)
        self.positions = nn.Embedding(config.max_history, config.dim)
        for embedding in (self.items, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)
        self.dropout = nn.Dropout(config.dropout)
        layer = nn.TransformerEncoderLayer(
            config.dim, config.num_heads, config.dim * 4, config.dropout, "gelu", batch_first=True, norm_first=True
        )
        norm = nn.LayerNorm(config.dim)
        self.encoder = nn.TransformerEncoder(layer, config.num_layers, norm, enable_nested_tensor=False)

    def forward(self, histories: Tensor) -> Tensor:
        """Item indices (batch, length), padded at the end with -1, to states (batch, length, dim)."""
        length = histories.shape[1]
        positions = self.positions.weight[:length]
        embedded = self.dropout(self.items(histories.clamp(min=0)) + positions)
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=histories.device)
        return self.encoder(embedded, mask=mask, is_causal=True)


def _padded(rows: Sequence[np.ndarray]) -> np.ndarray:
    padded = np.full((len(rows), max(map(len, rows))), _PADDING, dtype=np.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return padded

"""Training examples of SETRec: histories of item indices, and which items are asked for after which of them."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from llmrec.models.setrec.model import IGNORED_TARGET, PADDING
from llmrec.models.setrec.search import padded_rows
from llmrec.training.examples import ItemWindows


class SetExample(NamedTuple):
    """Item indices: a history, how many of its items each branch comes after, and the item that it asks for."""

    history: list[int]
    items_before: list[int]
    labels: list[int]


class SetExamples(Dataset):
    """Rows of ``SetExample``; ``epoch`` is the one that training is in."""

    epoch = 0

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, row: int) -> SetExample: ...

    def lengths(self) -> np.ndarray:
        """Items of each history in the current epoch."""
        return np.array([len(self[row].history) for row in range(len(self))])


class SetWindows(SetExamples):
    """One pass per user, each item of a window asked for after those before it (``history_loss all``).

    A window holds ``max_history`` items and their last successor. Only where it begins with its user's first item is
    something asked for after an empty history.

    Args:
        sequences: item indices of each user, oldest first.
        max_history: items of the longest history.
        seed: of where windows lie.
    """

    def __init__(self, sequences: Sequence[Sequence[int]], max_history: int, seed: int) -> None:
        self._windows = ItemWindows(sequences, max_history + 1, seed)

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, row: int) -> SetExample:
        start, items = self._windows.window(row, self.epoch)
        first = 0 if start == 0 else 1
        return SetExample([*items[:-1]], [*range(first, len(items))], [*items[first:]])


class SetPrefixes(SetExamples):
    """One example per prefix, the empty one included, as the paper has it (``history_loss prefix``).

    Args:
        sequences: item indices of each user, oldest first.
        max_history: latest items of a prefix that are read.
    """

    def __init__(self, sequences: Sequence[Sequence[int]], max_history: int) -> None:
        self._sequences = [sequence for sequence in sequences if len(sequence) > 1]
        self._max_history = max_history
        self._rows = [(user, place) for user, sequence in enumerate(self._sequences) for place in range(len(sequence))]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> SetExample:
        user, place = self._rows[row]
        history = self._sequences[user][max(0, place - self._max_history) : place]
        return SetExample([*history], [len(history)], [self._sequences[user][place]])


class SetTargets(SetExamples):
    """What came after the histories of a split, for the validation loss.

    Args:
        histories: item indices of each user, oldest first.
        targets: the item that followed each.
    """

    def __init__(self, histories: Sequence[Sequence[int]], targets: Sequence[int]) -> None:
        self._histories = histories
        self._targets = targets

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, row: int) -> SetExample:
        return SetExample([*self._histories[row]], [len(self._histories[row])], [self._targets[row]])


def collate_sets(examples: Sequence[SetExample]) -> dict[str, Tensor]:
    """A batch: ``history``, ``items_before`` and ``labels`` as ``SetRecModel.forward`` takes them."""
    histories, items_before, labels = zip(*examples, strict=True)
    return {
        "history": padded_rows(histories),
        "items_before": padded_rows(items_before, PADDING),
        "labels": padded_rows(labels, IGNORED_TARGET),
    }

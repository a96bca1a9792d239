"""Training examples, drawn anew each epoch from a seed: windows of histories, and instructions with their templates."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from llmrec.prompts.history import history_prompt
from llmrec.prompts.lcrec import TEMPLATES, Example, draw_template, render
from llmrec.prompts.renderer import SegmentRenderer
from llmrec.prompts.segments import Segment

IGNORED_LABEL = -100

Item = TypeVar("Item")


class TokenizedExample(NamedTuple):
    """Token ids; the loss is on ``completion_ids`` only."""

    prompt_ids: list[int]
    completion_ids: list[int]


class ExampleSource(ABC):
    """Examples of one kind. ``example(row, epoch)`` depends on its arguments and the seed only.

    ``content`` holds everything that decides what the examples are: tokenized ones are cached under its hash.
    """

    @property
    @abstractmethod
    def content(self) -> list[Any]: ...

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def example(self, row: int, epoch: int) -> TokenizedExample: ...


class ItemWindows(Generic[Item]):
    """Parts of histories, others in every epoch.

    A history longer than ``size`` items gives ceil(length / size) windows an epoch, spread evenly and then shifted
    at random by up to half a window, so that over the epochs every item is predicted from contexts of many lengths.

    Args:
        sequences: each user's items, oldest first; those of one item have no window.
        size: items in a window, at least 2.
        seed: of the shifts.
    """

    def __init__(self, sequences: Sequence[Sequence[Item]], size: int, seed: int) -> None:
        if size < 2:
            raise ValueError(f"window is {size}; it needs 2 items or more, since an item is predicted from another.")
        self.sequences = [sequence for sequence in sequences if len(sequence) > 1]
        self.size = size
        self.seed = seed
        self._counts = [-(-len(sequence) // size) for sequence in self.sequences]
        self.rows = [(user, number) for user, count in enumerate(self._counts) for number in range(count)]

    def __len__(self) -> int:
        return len(self.rows)

    def window(self, row: int, epoch: int) -> tuple[int, Sequence[Item]]:
        """(start, items) of a window: where it begins in its user's history, and what it holds."""
        user, number = self.rows[row]
        sequence = self.sequences[user]
        start = self._start(len(sequence), number, self._counts[user], (self.seed, epoch, row))
        return start, sequence[start : start + self.size]

    def _start(self, length: int, number: int, count: int, seed: tuple[int, ...]) -> int:
        last = length - self.size
        if last <= 0:
            return 0
        shift = np.random.default_rng(seed).integers(-(self.size // 2), self.size // 2 + 1)
        return int(np.clip(round(number * last / max(1, count - 1)) + shift, 0, last))


class HistoryWindows(ExampleSource):
    """One pass per user with the loss on every item (``history_loss all``).

    Args:
        sequences: each user's items, oldest first.
        renderer: turns items into tokens.
        window: items in a window, at least 2.
        seed: of where windows lie.
        fronts: what stands before each user's history; nothing by default.
    """

    def __init__(
        self,
        sequences: Sequence[Sequence[str]],
        renderer: SegmentRenderer,
        window: int,
        seed: int,
        fronts: Sequence[Sequence[Segment]] | None = None,
    ) -> None:
        self.windows = ItemWindows(sequences, window, seed)
        self.renderer = renderer
        fronts = [()] * len(sequences) if fronts is None else fronts
        # users without a window have no opening either
        self._openings = [
            renderer([*front, *history_prompt([])])
            for front, sequence in zip(fronts, sequences, strict=True)
            if len(sequence) > 1
        ]

    @property
    def content(self) -> list[Any]:
        windows = self.windows
        name = type(self).__name__
        return [name, self.renderer.content, windows.sequences, self._openings, windows.size, windows.seed]

    def __len__(self) -> int:
        return len(self.windows)

    def example(self, row: int, epoch: int) -> TokenizedExample:
        _, items = self.windows.window(row, epoch)
        user, _ = self.windows.rows[row]
        completion = [token for item in items for token in self.renderer.item_tokens(item)]
        return TokenizedExample(self._openings[user], completion)


class PairExamples(ExampleSource):
    """Prompts and completions as they are, the same in every epoch.

    Args:
        pairs: segments of a prompt, and of what is to be learnt after it.
        renderer: turns segments into tokens.
    """

    def __init__(self, pairs: Sequence[tuple[Sequence[Segment], Sequence[Segment]]], renderer: SegmentRenderer) -> None:
        self.pairs = pairs
        self.renderer = renderer

    @property
    def content(self) -> list[Any]:
        return [type(self).__name__, self.renderer.content, self.pairs]

    def __len__(self) -> int:
        return len(self.pairs)

    def example(self, row: int, epoch: int) -> TokenizedExample:  # noqa: ARG002
        prompt, completion = self.pairs[row]
        return TokenizedExample(self.renderer(prompt), [*self.renderer(completion), self.renderer.eos_token_id])


class InstructionExamples(ExampleSource):
    """Rows of one task's instruction table, each worded by a template drawn for the epoch (LC-Rec, section III-C).

    Args:
        table: what ``build_instructions`` made for the task.
        renderer: turns segments into tokens.
        seed: of the templates drawn.
    """

    def __init__(self, table: pa.Table, renderer: SegmentRenderer, seed: int) -> None:
        self.table = table
        self.renderer = renderer
        self.seed = seed

    @property
    def content(self) -> list[Any]:
        return [type(self).__name__, self.renderer.content, self.table.to_pydict(), TEMPLATES, self.seed]

    def __len__(self) -> int:
        return self.table.num_rows

    def example(self, row: int, epoch: int) -> TokenizedExample:
        example = Example.from_row(self.table.slice(row, 1).to_pylist()[0])
        prompt, completion = render(example, draw_template(example, self.seed, epoch, row))
        return TokenizedExample(self.renderer(prompt), [*self.renderer(completion), self.renderer.eos_token_id])


class TargetExamples(ExampleSource):
    """One example per history: the prompt that evaluation uses, and the item that came next. For validation losses.

    Args:
        histories: item ids of each user, oldest first.
        targets: item id that followed each history.
        prompt: segments that ask for the item after a history.
        renderer: turns segments into tokens.
        ends: whether the end token follows the item, as it does in instruction data.
        fronts: what stands before each prompt; nothing by default.
    """

    def __init__(
        self,
        histories: Sequence[Sequence[str]],
        targets: Sequence[str],
        prompt: Callable[[Sequence[str]], list[Segment]],
        renderer: SegmentRenderer,
        ends: bool,
        fronts: Sequence[Sequence[Segment]] | None = None,
    ) -> None:
        self.histories = histories
        self.fronts = [()] * len(histories) if fronts is None else fronts
        self.targets = targets
        self.prompt = prompt
        self.renderer = renderer
        self.ends = ends

    @property
    def content(self) -> list[Any]:
        # one prompt says how all are worded
        wording = self.prompt(self.histories[0]) if len(self) else None
        return [
            type(self).__name__,
            self.renderer.content,
            self.histories,
            self.targets,
            wording,
            self.ends,
            self.fronts,
        ]

    def __len__(self) -> int:
        return len(self.targets)

    def example(self, row: int, epoch: int) -> TokenizedExample:  # noqa: ARG002
        completion = self.renderer.item_tokens(self.targets[row])
        end = [self.renderer.eos_token_id] if self.ends else []
        prompt = [*self.fronts[row], *self.prompt(self.histories[row])]
        return TokenizedExample(self.renderer(prompt), completion + end)

"""Training examples, drawn anew each epoch from a seed: windows of histories, and instructions with their templates."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmrec.prompts.history import history_prompt
from llmrec.prompts.lcrec import Example, draw_template, render
from llmrec.prompts.renderer import SegmentRenderer
from llmrec.prompts.segments import Segment

IGNORED_LABEL = -100


class TokenizedExample(NamedTuple):
    """Token ids; the loss is on ``completion_ids`` only."""

    prompt_ids: list[int]
    completion_ids: list[int]


class ExampleSource(ABC):
    """Examples of one kind. ``example(row, epoch)`` depends on its arguments and the seed only."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def example(self, row: int, epoch: int) -> TokenizedExample: ...


class HistoryWindows(ExampleSource):
    """One pass per user with the loss on every item (``history_loss all``).

    A history longer than ``window`` items gives ceil(length / window) windows an epoch, spread evenly and then shifted
    at random by up to half a window, so that over the epochs every item is predicted from contexts of many lengths.

    Args:
        sequences: each user's items, oldest first.
        renderer: turns items into tokens.
        window: items in a window, at least 2.
        seed: of the shifts.
    """

    def __init__(self, sequences: Sequence[Sequence[str]], renderer: SegmentRenderer, window: int, seed: int) -> None:
        if window < 2:
            raise ValueError(f"window is {window}; it needs 2 items or more, since an item is predicted from another.")
        self.sequences = [sequence for sequence in sequences if len(sequence) > 1]
        self.renderer = renderer
        self.window = window
        self.seed = seed
        counts = [-(-len(sequence) // window) for sequence in self.sequences]
        self.rows = [(user, number) for user, count in enumerate(counts) for number in range(count)]
        self._counts = counts
        self._opening = renderer(history_prompt([]))

    def __len__(self) -> int:
        return len(self.rows)

    def example(self, row: int, epoch: int) -> TokenizedExample:
        user, number = self.rows[row]
        sequence = self.sequences[user]
        start = self._start(len(sequence), number, self._counts[user], (self.seed, epoch, row))
        items = sequence[start : start + self.window]
        return TokenizedExample(self._opening, [token for item in items for token in self.renderer.item_tokens(item)])

    def _start(self, length: int, number: int, count: int, seed: tuple[int, ...]) -> int:
        last = length - self.window
        if last <= 0:
            return 0
        shift = np.random.default_rng(seed).integers(-(self.window // 2), self.window // 2 + 1)
        return int(np.clip(round(number * last / max(1, count - 1)) + shift, 0, last))


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
    """

    def __init__(
        self,
        histories: Sequence[Sequence[str]],
        targets: Sequence[str],
        prompt: Callable[[Sequence[str]], list[Segment]],
        renderer: SegmentRenderer,
        ends: bool,
    ) -> None:
        self.histories = histories
        self.targets = targets
        self.prompt = prompt
        self.renderer = renderer
        self.ends = ends

    def __len__(self) -> int:
        return len(self.targets)

    def example(self, row: int, epoch: int) -> TokenizedExample:  # noqa: ARG002
        completion = self.renderer.item_tokens(self.targets[row])
        end = [self.renderer.eos_token_id] if self.ends else []
        return TokenizedExample(self.renderer(self.prompt(self.histories[row])), completion + end)


class EpochExamples:
    """The training set of one epoch as a ``datasets.Dataset`` whose rows are drawn when they are read.

    Args:
        sources: concatenated in order.
        eos_token_id: appended to each prompt of an encoder-decoder.
        is_encoder_decoder: prompt and completion go to the encoder and the decoder instead of one sequence.
        max_length: longest sequence in tokens; a longer prompt loses its beginning.
    """

    def __init__(
        self, sources: Sequence[ExampleSource], eos_token_id: int, is_encoder_decoder: bool, max_length: int
    ) -> None:
        self.sources = sources
        self.eos_token_id = eos_token_id
        self.is_encoder_decoder = is_encoder_decoder
        self.max_length = max_length
        self.epoch = 0
        self._starts = np.cumsum([0, *map(len, sources)])
        if self._starts[-1] == 0:
            raise ValueError("There is no training example: every history has fewer than two items.")

    def dataset(self) -> Dataset:
        """Rows ``input_ids`` and ``labels`` (with -100 where there is no loss)."""
        return Dataset.from_dict({"row": list(range(int(self._starts[-1])))}).with_transform(self._read)

    def _read(self, batch: dict[str, list[int]]) -> dict[str, list[list[int]]]:
        examples = [self.tokenized(row) for row in batch["row"]]
        return {"input_ids": [ids for ids, _ in examples], "labels": [labels for _, labels in examples]}

    def tokenized(self, row: int) -> tuple[list[int], list[int]]:
        """(input_ids, labels) of one row in the current epoch."""
        source = int(np.searchsorted(self._starts, row, side="right")) - 1
        prompt, completion = self.sources[source].example(row - int(self._starts[source]), self.epoch)
        if self.is_encoder_decoder:
            return [*prompt[-(self.max_length - 1) :], self.eos_token_id], completion
        room = self.max_length - len(completion)
        if room < 0:
            raise ValueError(
                f"A completion of {len(completion)} tokens is longer than max_length {self.max_length}: raise it."
            )
        prompt = prompt[len(prompt) - room :] if len(prompt) > room else prompt
        return prompt + completion, [IGNORED_LABEL] * len(prompt) + completion


class EpochCallback(TrainerCallback):
    """Tells the examples which epoch they are drawn for; on a resumed run, too."""

    def __init__(self, examples: EpochExamples) -> None:
        self.examples = examples

    def on_epoch_begin(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: object,  # noqa: ARG002
    ) -> None:
        self.examples.epoch = int(state.epoch or 0)

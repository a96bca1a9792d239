"""The training set, epoch by epoch: tokenized once, cached by content, memory-mapped, and packed where asked for."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from datasets import Dataset, Features, List, Value
from datasets.fingerprint import Hasher
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

import llmrec
from llmrec.training.examples import IGNORED_LABEL, ExampleSource
from llmrec.training.packing import pack_lengths, split_packs

logger = logging.getLogger(__name__)

#: Examples that make another tokenizing process worth its start.
_EXAMPLES_PER_PROCESS = 20_000
_COLUMNS = Features({"input_ids": List(Value("int32")), "labels": List(Value("int32")), "length": Value("int32")})


class EpochExamples:
    """The examples of each epoch as one ``datasets.Dataset``, whose rows follow the epoch that training is in.

    Args:
        sources: concatenated in order.
        eos_token_id: appended to each prompt of an encoder-decoder.
        is_encoder_decoder: prompt and completion go to the encoder and the decoder instead of one sequence.
        max_length: longest sequence in tokens; a longer prompt loses its beginning.
        cache_folder: keeps tokenized examples under the hash of their content; None keeps them in memory.
    """

    def __init__(
        self,
        sources: Sequence[ExampleSource],
        eos_token_id: int,
        is_encoder_decoder: bool,
        max_length: int,
        cache_folder: str | Path | None = None,
    ) -> None:
        self.sources = sources
        self.eos_token_id = eos_token_id
        self.is_encoder_decoder = is_encoder_decoder
        self.max_length = max_length
        self.cache_folder = None if cache_folder is None else Path(cache_folder)
        self.epoch = 0
        self._starts = np.cumsum([0, *map(len, sources)])
        self._content = ""
        self._tokenized: dict[int, Dataset] = {}
        if self._starts[-1] == 0:
            raise ValueError("There is no training example: every history has fewer than two items.")

    def __len__(self) -> int:
        return int(self._starts[-1])

    def dataset(self) -> Dataset:
        """Rows ``input_ids`` and ``labels`` (with -100 where there is no loss)."""
        return self._follow(len(self), self._read)

    def lengths(self) -> np.ndarray:
        """Tokens of each example in the current epoch: int array of shape (num_examples,)."""
        return self._lengths(self.epoch)

    def _lengths(self, epoch: int) -> np.ndarray:
        return self.tokenized(epoch).data.column("length").to_numpy()

    def packed_dataset(self, num_epochs: int) -> Dataset:
        """The same with several examples in a row, and their lengths in ``seq_lengths``; equally many rows each epoch.

        Args:
            num_epochs: epochs that will be trained, which are planned together.
        """
        lengths = [self._lengths(epoch) for epoch in range(num_epochs)]
        plans = [pack_lengths(lengths[epoch], self.max_length, (epoch,)) for epoch in range(num_epochs)]
        count = max(map(len, plans))
        plans = [split_packs(plan, count) for plan in plans]
        full = 100 * lengths[0].sum() / (count * self.max_length)
        logger.info("Packed %d examples into %d sequences, %.0f %% full.", len(self), count, full)
        return self._follow(count, lambda rows: self._read_packs(plans[self.epoch], rows))

    def _follow(self, num_rows: int, read: Callable[[list[int]], dict[str, list]]) -> Dataset:
        return Dataset.from_dict({"row": range(num_rows)}).with_transform(lambda batch: read(batch["row"]))

    def _read(self, rows: list[int]) -> dict[str, list]:
        batch = self.tokenized(self.epoch)[rows]
        return {"input_ids": batch["input_ids"], "labels": batch["labels"]}

    def _read_packs(self, packs: Sequence[np.ndarray], rows: list[int]) -> dict[str, list]:
        result: dict[str, list] = {"input_ids": [], "labels": [], "seq_lengths": []}
        for row in rows:
            examples = self._read(packs[row].tolist())
            for name, lists in examples.items():
                result[name].append([token for tokens in lists for token in tokens])
            result["seq_lengths"].append([len(ids) for ids in examples["input_ids"]])
        return result

    def tokenized(self, epoch: int) -> Dataset:
        """``input_ids``, ``labels`` and ``length`` of every example of an epoch, from the cache if they are there."""
        if epoch not in self._tokenized:
            content = Hasher.hash([self._hash(), epoch])
            file = None if self.cache_folder is None else self.cache_folder / f"{content}.arrow"
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
            processes = min(os.cpu_count() or 1, len(self) // _EXAMPLES_PER_PROCESS)
            self._tokenized[epoch] = Dataset.from_dict({"row": range(len(self))}).map(
                self._tokenize,
                batched=True,
                fn_kwargs={"epoch": epoch},
                remove_columns=["row"],
                features=_COLUMNS,
                num_proc=processes if processes > 1 else None,
                cache_file_name=None if file is None else str(file),
                new_fingerprint=content,
                desc=f"Tokenizing epoch {epoch + 1}",
            )
        return self._tokenized[epoch]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_tokenized": {}}  # what tokenizing processes get

    def _hash(self) -> str:
        if not self._content:
            options = [llmrec.__version__, self.eos_token_id, self.is_encoder_decoder, self.max_length]
            self._content = Hasher.hash([options, *(source.content for source in self.sources)])
        return self._content

    def _tokenize(self, batch: dict[str, list[int]], epoch: int) -> dict[str, list]:
        examples = [self.example(row, epoch) for row in batch["row"]]
        return {
            "input_ids": [ids for ids, _ in examples],
            "labels": [labels for _, labels in examples],
            "length": [len(ids) for ids, _ in examples],
        }

    def example(self, row: int, epoch: int) -> tuple[list[int], list[int]]:
        """(input_ids, labels) of one example in an epoch."""
        source = int(np.searchsorted(self._starts, row, side="right")) - 1
        prompt, completion = self.sources[source].example(row - int(self._starts[source]), epoch)
        if self.is_encoder_decoder:
            return [*prompt[-(self.max_length - 1) :], self.eos_token_id], completion
        room = self.max_length - len(completion)
        if room < 0:
            raise ValueError(
                f"A completion of {len(completion)} tokens is longer than max_length {self.max_length}: raise it."
            )
        prompt = prompt[len(prompt) - room :] if len(prompt) > room else prompt
        return prompt + completion, [IGNORED_LABEL] * len(prompt) + completion


class DrawnByEpoch(Protocol):
    """What is another in every epoch."""

    epoch: int


class GroupedExamples(DrawnByEpoch, Protocol):
    """Examples whose lengths are known for the current epoch."""

    def lengths(self) -> np.ndarray: ...


class GroupedSampler(LengthGroupedSampler):
    """Batches of examples of about the same length, in an order that depends on the seed and the epoch only.

    Args:
        batch_size: examples of one step on one process.
        examples: whose lengths count.
        seed: of the order.
    """

    def __init__(self, batch_size: int, examples: GroupedExamples, seed: int) -> None:
        super().__init__(batch_size, lengths=examples.lengths().tolist())
        self.examples = examples
        self.seed = seed

    def __iter__(self) -> Iterator[int]:
        self.lengths = self.examples.lengths().tolist()
        self.generator = torch.Generator().manual_seed(self.seed + self.examples.epoch)
        return super().__iter__()


class EpochCallback(TrainerCallback):
    """Tells the examples which epoch training is in; on a resumed run, too."""

    def __init__(self, examples: DrawnByEpoch) -> None:
        self.examples = examples

    def on_epoch_begin(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: object,  # noqa: ARG002
    ) -> None:
        self.examples.epoch = int(state.epoch or 0)

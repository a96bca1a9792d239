"""The training set of an epoch: labels, draws that follow the epoch, the cache, and packs."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from llmrec.training.epochs import EpochExamples, GroupedSampler
from llmrec.training.examples import IGNORED_LABEL, ExampleSource, TokenizedExample


class _Fixed(ExampleSource):
    def __init__(self, prompt: int, completion: int, rows: int = 3) -> None:
        self.lengths = prompt, completion
        self.rows = rows

    @property
    def content(self) -> list:
        return [self.lengths, self.rows]

    def __len__(self) -> int:
        return self.rows

    def example(self, row: int, epoch: int) -> TokenizedExample:
        prompt, completion = self.lengths
        return TokenizedExample(list(range(prompt)), [100 + row + epoch] * completion)


def test_the_loss_is_on_the_completion_only_and_a_long_prompt_loses_its_beginning() -> None:
    examples = EpochExamples([_Fixed(10, 3)], eos_token_id=0, is_encoder_decoder=False, max_length=8)
    ids, labels = examples.example(1, 0)
    assert ids == [5, 6, 7, 8, 9, 101, 101, 101]
    assert labels == [IGNORED_LABEL] * 5 + [101] * 3


def test_a_completion_that_fills_max_length_keeps_no_prompt_and_a_longer_one_is_refused() -> None:
    ids, _ = EpochExamples([_Fixed(10, 3)], 0, False, max_length=3).example(0, 0)
    assert ids == [100] * 3
    with pytest.raises(ValueError, match="longer than max_length 2"):
        EpochExamples([_Fixed(10, 3)], 0, False, max_length=2).example(0, 0)


def test_an_encoder_gets_the_prompt_and_the_end_token_and_the_decoder_the_completion() -> None:
    ids, labels = EpochExamples([_Fixed(10, 3)], eos_token_id=7, is_encoder_decoder=True, max_length=5).example(2, 0)
    assert ids == [6, 7, 8, 9, 7]
    assert labels == [102] * 3


def test_rows_are_drawn_for_the_current_epoch_and_sources_follow_each_other() -> None:
    examples = EpochExamples([_Fixed(2, 1), _Fixed(4, 2, rows=2)], 0, False, max_length=50)
    dataset = examples.dataset()
    assert len(dataset) == 5
    assert [len(ids) for ids in dataset[:]["input_ids"]] == [3, 3, 3, 6, 6]
    assert dataset[4]["labels"][-1] == 101
    examples.epoch = 7
    assert dataset[4]["labels"][-1] == 108


class _Varying(_Fixed):
    """Examples whose length depends on row and epoch."""

    def example(self, row: int, epoch: int) -> TokenizedExample:
        return TokenizedExample([1] * (1 + (row * 7 + epoch * 3) % 5), [100 + row] * 2)


class _Counting(_Fixed):
    calls = 0

    def example(self, row: int, epoch: int) -> TokenizedExample:
        _Counting.calls += 1
        return super().example(row, epoch)


def test_examples_are_tokenized_once_and_read_from_a_memory_map_later(tmp_path) -> None:
    def epoch(rows: int) -> Dataset:
        return EpochExamples([_Counting(4, 2, rows)], 0, False, 50, cache_folder=tmp_path).tokenized(1)

    first = epoch(3)
    assert _Counting.calls == 3
    again = epoch(3)
    assert _Counting.calls == 3
    assert again[:] == first[:]
    assert again.cache_files[0]["filename"].startswith(str(tmp_path))
    epoch(4)
    assert _Counting.calls == 7, "other content is other examples"


def test_several_processes_tokenize_the_same(monkeypatch, tmp_path) -> None:
    sources = [_Varying(0, 0, rows=40)]
    alone = EpochExamples(sources, 0, False, 50).tokenized(0)[:]
    monkeypatch.setattr("llmrec.training.epochs._EXAMPLES_PER_PROCESS", 20)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    together = EpochExamples(sources, 0, False, 50, cache_folder=tmp_path).tokenized(0)
    assert together[:] == alone
    assert len(together.cache_files) == 2


def test_grouped_batches_follow_seed_and_epoch_only_and_hold_examples_of_like_lengths() -> None:
    examples = EpochExamples([_Varying(0, 0, rows=40)], 0, False, 50)
    first = list(GroupedSampler(8, examples, seed=1))
    assert sorted(first) == list(range(40))
    lengths = examples.lengths()
    spread = [np.ptp(lengths[first[start : start + 8]]) for start in range(0, 40, 8)]
    assert np.mean(spread) < np.ptp(lengths)
    torch.manual_seed(5)
    assert list(GroupedSampler(8, examples, seed=1)) == first
    examples.epoch = 1
    assert list(GroupedSampler(8, examples, seed=1)) != first


def test_packs_hold_every_example_of_the_epoch_and_are_equally_many_in_each() -> None:
    examples = EpochExamples([_Varying(0, 0, rows=23)], 0, False, max_length=12)
    packed = examples.packed_dataset(num_epochs=4)
    for epoch in range(4):
        examples.epoch = epoch
        rows = packed[:]
        assert all(len(ids) <= 12 for ids in rows["input_ids"])
        assert [sum(lengths) for lengths in rows["seq_lengths"]] == [len(ids) for ids in rows["input_ids"]]
        targets = sorted(label for labels in rows["labels"] for label in labels if label != IGNORED_LABEL)
        assert targets == sorted([100 + row for row in range(23)] * 2)
    assert len(packed) < 23

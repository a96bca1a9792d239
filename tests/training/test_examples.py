"""What the model is trained on: windows, labels, and draws that depend on the seed and the epoch only."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.prompts.renderer import SegmentRenderer
from llmrec.training.examples import (
    IGNORED_LABEL,
    EpochExamples,
    ExampleSource,
    HistoryWindows,
    TokenizedExample,
)
from tests.tiny import make_catalog, make_model

CATALOG = make_catalog(num_items=30)
_, TOKENIZER, VOCABULARY = make_model(CATALOG)
RENDERER = SegmentRenderer(CATALOG, VOCABULARY)


class _Fixed(ExampleSource):
    def __init__(self, prompt: int, completion: int, rows: int = 3) -> None:
        self.lengths = prompt, completion
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def example(self, row: int, epoch: int) -> TokenizedExample:
        prompt, completion = self.lengths
        return TokenizedExample(list(range(prompt)), [100 + row + epoch] * completion)


def _items_of(example: TokenizedExample) -> list[str]:
    known = {tuple(RENDERER.item_tokens(item)): item for item in CATALOG.item_ids}
    codes = len(CATALOG.codebook_sizes)
    tokens = example.completion_ids
    return [known[tuple(tokens[start : start + codes])] for start in range(0, len(tokens), codes)]


@given(length=st.integers(2, 30), window=st.integers(2, 12), seed=st.integers(0, 5), epoch=st.integers(0, 3))
def test_windows_are_stretches_of_the_history_and_the_loss_is_on_all_their_items(length, window, seed, epoch) -> None:
    history = [str(item) for item in np.random.default_rng(seed).permutation(30)[:length]]
    windows = HistoryWindows([history], RENDERER, window, seed)
    assert len(windows) == -(-length // window)
    for row in range(len(windows)):
        items = _items_of(windows.example(row, epoch))
        start = history.index(items[0])
        assert items == history[start : start + len(items)]
        assert len(items) == min(window, length)
        assert windows.example(row, epoch) == windows.example(row, epoch)


def test_over_the_epochs_every_item_is_a_target_and_the_windows_move() -> None:
    history = [str(item) for item in range(30)]
    windows = HistoryWindows([history], RENDERER, 8, seed=1)
    starts = {_items_of(windows.example(row, epoch))[0] for row in range(len(windows)) for epoch in range(6)}
    seen = {
        item for row in range(len(windows)) for epoch in range(6) for item in _items_of(windows.example(row, epoch))
    }
    assert seen == set(history)
    assert len(starts) > len(windows)


def test_a_history_of_one_item_gives_no_example() -> None:
    assert len(HistoryWindows([["1"], ["1", "2"]], RENDERER, 5, 0)) == 1
    with pytest.raises(ValueError, match="fewer than two items"):
        EpochExamples([HistoryWindows([["1"]], RENDERER, 5, 0)], 0, False, 100)


def test_the_loss_is_on_the_completion_only_and_a_long_prompt_loses_its_beginning() -> None:
    examples = EpochExamples([_Fixed(10, 3)], eos_token_id=0, is_encoder_decoder=False, max_length=8)
    ids, labels = examples.tokenized(1)
    assert ids == [5, 6, 7, 8, 9, 101, 101, 101]
    assert labels == [IGNORED_LABEL] * 5 + [101] * 3


def test_a_completion_that_fills_max_length_keeps_no_prompt_and_a_longer_one_is_refused() -> None:
    ids, _ = EpochExamples([_Fixed(10, 3)], 0, False, max_length=3).tokenized(0)
    assert ids == [100] * 3
    with pytest.raises(ValueError, match="longer than max_length 2"):
        EpochExamples([_Fixed(10, 3)], 0, False, max_length=2).tokenized(0)


def test_an_encoder_gets_the_prompt_and_the_end_token_and_the_decoder_the_completion() -> None:
    ids, labels = EpochExamples([_Fixed(10, 3)], eos_token_id=7, is_encoder_decoder=True, max_length=5).tokenized(2)
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

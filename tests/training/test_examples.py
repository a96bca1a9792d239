"""What the model is trained on: windows, labels, and draws that depend on the seed and the epoch only."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.prompts.renderer import SegmentRenderer
from llmrec.training.epochs import EpochExamples
from llmrec.training.examples import HistoryWindows, TokenizedExample
from tests.tiny import make_catalog, make_model

CATALOG = make_catalog(num_items=30)
_, TOKENIZER, VOCABULARY = make_model(CATALOG)
RENDERER = SegmentRenderer(CATALOG, VOCABULARY)


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

"""Packs hold everything once and waste little, and an example in a pack is trained on as if it were alone."""

import functools
import operator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmrec.training.examples import IGNORED_LABEL
from llmrec.training.packing import PackedCollator, pack_lengths, split_packs
from tests.tiny import make_architecture

LENGTHS = st.lists(st.integers(1, 20), min_size=1, max_size=60)


@given(lengths=LENGTHS, seed=st.integers(0, 3))
def test_every_example_is_in_one_pack_and_no_pack_is_too_long(lengths, seed) -> None:
    lengths = np.array(lengths)
    packs = pack_lengths(lengths, 20, (seed,))
    assert sorted(np.concatenate(packs).tolist()) == list(range(len(lengths)))
    assert all(0 < lengths[pack].sum() <= 20 for pack in packs)
    # first-fit and best-fit decreasing stay within 11/9 of the optimum plus 6/9 (Dósa 2007)
    assert len(packs) <= 11 / 9 * -(-lengths.sum() // 20) + 6 / 9 or len(packs) <= (lengths > 6).sum() + 1


def test_packs_fill_up_where_they_can() -> None:
    assert len(pack_lengths(np.array([10, 9, 8, 12, 11, 10]), 20, (0,))) == 3


def test_an_example_longer_than_a_sequence_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"21 tokens does not fit .* 20"):
        pack_lengths(np.array([3, 21]), 20)


@given(lengths=LENGTHS, extra=st.integers(0, 10))
def test_packs_can_be_split_to_any_number_up_to_one_each(lengths, extra) -> None:
    packs = pack_lengths(np.array(lengths), 20)
    count = min(len(lengths), len(packs) + extra)
    split = split_packs(packs, count)
    assert len(split) == count
    assert all(len(pack) for pack in split)
    assert sorted(np.concatenate(split).tolist()) == list(range(len(lengths)))
    with pytest.raises(ValueError, match="cannot become"):
        split_packs(packs, len(lengths) + 1)


@pytest.mark.parametrize("architecture", ["qwen3", "qwen3_untied", "llama", "gemma2", "mistral_window", "gpt2"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_an_example_in_a_pack_has_the_loss_and_the_gradient_it_has_alone(architecture, implementation) -> None:
    model, _ = make_architecture(architecture)
    model.set_attn_implementation(implementation)
    rng = np.random.default_rng(0)
    examples = [rng.integers(2, 300, size).tolist() for size in (5, 9, 3, 7, 6)]
    labels = [[IGNORED_LABEL] * 2 + ids[2:] for ids in examples]
    packs = ([0, 1], [2, 3, 4], [2])
    rows = [
        {
            "input_ids": functools.reduce(operator.iadd, (examples[i] for i in pack), []),
            "labels": functools.reduce(operator.iadd, (labels[i] for i in pack), []),
            "seq_lengths": [len(examples[i]) for i in pack],
        }
        for pack in packs
    ]
    packed = _losses(model, PackedCollator(pad_token_id=0)(rows))
    alone = [
        _losses(model, {"input_ids": torch.tensor([examples[i]]), "labels": torch.tensor([labels[i]])})
        for pack in packs
        for i in pack
    ]
    expected = torch.cat(alone)
    torch.testing.assert_close(packed, expected, rtol=1e-4, atol=1e-4)
    weight = model.get_input_embeddings().weight
    packed_gradient, expected_gradient = (torch.autograd.grad(loss.sum(), weight)[0] for loss in (packed, expected))
    torch.testing.assert_close(packed_gradient, expected_gradient, rtol=1e-3, atol=1e-3)


def _losses(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Loss of each target token, in order."""
    labels = batch.pop("labels")
    logits = model(**batch, use_cache=False).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="none")
    return losses[labels[:, 1:] != IGNORED_LABEL]


def test_the_first_token_of_an_example_is_no_target_of_the_one_before() -> None:
    batch = PackedCollator(0)([{"input_ids": [5, 6, 7, 8], "labels": [5, 6, 7, 8], "seq_lengths": [2, 2]}])
    assert batch["labels"].tolist() == [[IGNORED_LABEL, 6, IGNORED_LABEL, 8]]
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1]]


def test_rows_are_padded_to_the_longest_and_to_a_multiple() -> None:
    rows = [{"input_ids": [5, 6, 7], "labels": [5, 6, 7]}, {"input_ids": [5], "labels": [5]}]
    batch = PackedCollator(pad_token_id=9, pad_to_multiple_of=4)(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 9], [5, 9, 9, 9]]
    assert (batch["labels"] != IGNORED_LABEL).sum() == 2

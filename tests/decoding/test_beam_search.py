"""Shared-prefix beams against scoring every item one by one, and against ``generate``."""

import numpy as np
import pytest
import torch

from llmrec.decoding.beam_search import beam_search
from llmrec.decoding.generate import generate_items
from tests.tiny import make_catalog, make_device_trie, make_model

PROMPT_LENGTHS = (3, 9, 5)


def _prompts(lengths=PROMPT_LENGTHS) -> list[list[int]]:
    rng = np.random.default_rng(3)
    return [rng.integers(2, 250, length).tolist() for length in lengths]


def _score_every_item(model, prompt: list[int], item_tokens: np.ndarray) -> torch.Tensor:
    """Sum of log-probabilities of each item's tokens after the prompt: the exhaustive oracle, one sequence per item."""
    sequences = torch.tensor([prompt + row.tolist() for row in item_tokens])
    with torch.no_grad():
        log_probs = model(input_ids=sequences).logits.log_softmax(-1)
    depth = item_tokens.shape[1]
    steps = log_probs[:, len(prompt) - 1 : len(prompt) - 1 + depth]
    return steps.gather(-1, sequences[:, len(prompt) :].unsqueeze(-1)).squeeze(-1).sum(1)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_wide_beams_rank_the_whole_catalogue_as_the_exhaustive_oracle_does(attention: str) -> None:
    catalog = make_catalog()
    model, _, vocabulary = make_model(catalog)
    model.set_attn_implementation(attention)
    prompts = _prompts()
    ranked = beam_search(model, prompts, make_device_trie(catalog, vocabulary), num_beams=30, k=30)
    for row, prompt in enumerate(prompts):
        oracle = _score_every_item(model, prompt, vocabulary.item_token_ids(catalog.semantic_ids))
        assert ranked.items[row].tolist() == oracle.argsort(descending=True).tolist()
        torch.testing.assert_close(ranked.scores[row], oracle.sort(descending=True).values, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("num_beams", [2, 5, 12])
@pytest.mark.parametrize("with_exclusion", [False, True])
def test_narrow_beams_equal_generate(num_beams: int, with_exclusion: bool) -> None:
    catalog = make_catalog(num_items=40)
    model, _, vocabulary = make_model(catalog)
    trie = make_device_trie(catalog, vocabulary)
    exclude = [[0, 1, 2], [], list(range(20))] if with_exclusion else None
    prompts = _prompts()
    ours = beam_search(model, prompts, trie, num_beams, k=num_beams, exclude=exclude)
    reference = generate_items(model, prompts, trie, num_beams, k=num_beams, exclude=exclude)
    assert ours.items.tolist() == reference.items.tolist()
    torch.testing.assert_close(ours.scores, reference.scores, atol=1e-4, rtol=1e-4)


def test_more_beams_than_items_return_every_item_once_and_then_nothing() -> None:
    catalog = make_catalog(num_items=7)
    model, _, vocabulary = make_model(catalog)
    trie = make_device_trie(catalog, vocabulary)
    for search in (beam_search, generate_items):
        ranked = search(model, _prompts(), trie, num_beams=20, k=20)
        for items, scores in zip(ranked.items, ranked.scores, strict=True):
            assert sorted(items[items >= 0].tolist()) == list(range(7))
            assert (items[7:] == -1).all()
            assert torch.isinf(scores[7:]).all()


def test_excluded_items_never_appear_and_the_others_keep_their_order() -> None:
    catalog = make_catalog()
    model, _, vocabulary = make_model(catalog)
    trie = make_device_trie(catalog, vocabulary)
    prompts = _prompts()
    exclude = [[5, 6, 7], list(range(29)), []]
    everything = beam_search(model, prompts, trie, num_beams=30, k=30).items.tolist()
    allowed = beam_search(model, prompts, trie, num_beams=30, k=30, exclude=exclude).items.tolist()
    for full, kept, removed in zip(everything, allowed, exclude, strict=True):
        assert [item for item in kept if item >= 0] == [item for item in full if item not in removed]


def test_a_user_may_have_everything_excluded() -> None:
    catalog = make_catalog()
    model, _, vocabulary = make_model(catalog)
    trie = make_device_trie(catalog, vocabulary)
    ranked = beam_search(model, _prompts((4,)), trie, 5, 5, exclude=[list(range(30))])
    assert (ranked.items == -1).all()


def test_batching_does_not_change_a_users_list() -> None:
    catalog = make_catalog()
    model, _, vocabulary = make_model(catalog)
    trie = make_device_trie(catalog, vocabulary)
    prompts = _prompts()
    together = beam_search(model, prompts, trie, 10, 10).items
    for row, prompt in enumerate(prompts):
        assert beam_search(model, [prompt], trie, 10, 10).items[0].tolist() == together[row].tolist()


def test_bad_arguments_are_refused() -> None:
    catalog = make_catalog()
    model, _, vocabulary = make_model(catalog)
    trie = make_device_trie(catalog, vocabulary)
    with pytest.raises(ValueError, match="k is 6"):
        beam_search(model, [[1]], trie, num_beams=5, k=6)
    with pytest.raises(ValueError, match="prompt is empty"):
        beam_search(model, [[]], trie, num_beams=5, k=5)

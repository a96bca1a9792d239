"""Beams against scoring every item one by one, and against ``generate``."""

import numpy as np
import pytest
import torch

from llmrec.catalog import DataError
from llmrec.decoding.beam_search import BeamSearch
from llmrec.decoding.device_trie import DeviceTrie
from llmrec.decoding.generate import generate_items
from llmrec.decoding.rules import ItemSubsets, Rules, batch_rules
from llmrec.trie import Trie
from tests.decoding.oracle import oracle_ranking, oracle_scores, random_prompts
from tests.tiny import ARCHITECTURES, make_architecture, make_catalog, make_device_trie, make_model

PROMPTS = random_prompts((3, 9, 5))


def assert_equals_oracle(ranked, row: int, order: list[int], scores: torch.Tensor) -> None:
    found = len(order)
    assert ranked.items[row, :found].tolist() == order
    torch.testing.assert_close(ranked.scores[row, :found], scores, atol=1e-4, rtol=1e-4)
    assert (ranked.items[row, found:] == -1).all()
    assert torch.isinf(ranked.scores[row, found:]).all()


@pytest.mark.parametrize("scores", ["vocabulary", "catalog"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_wide_beams_rank_the_whole_catalogue_as_the_oracle_does(architecture: str, scores: str) -> None:
    model, trie = make_architecture(architecture)
    rules = [None, Rules(exclude=[0, 3, 5, 8]), Rules(allow=[1, 2, 3, 9, 20], exclude=[2])]
    allowed = [range(30), [item for item in range(30) if item not in (0, 3, 5, 8)], [1, 3, 9, 20]]
    ranked = BeamSearch(model, trie, scores)(PROMPTS, num_beams=30, rules=rules)
    for row, prompt in enumerate(PROMPTS):
        expected = oracle_ranking(oracle_scores(model, prompt, trie, scores), allowed[row], 30)
        assert_equals_oracle(ranked, row, *expected)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ["qwen3", "t5", "gemma2"])
def test_every_attention_that_takes_the_mask_gives_the_same(architecture: str, attention: str) -> None:
    model, trie = make_architecture(architecture)
    model.set_attn_implementation(attention)
    search = BeamSearch(model, trie, "vocabulary")
    assert search.way.state.__name__ == "SharedPrefix"
    for row, prompt in enumerate(PROMPTS):
        expected = oracle_ranking(oracle_scores(model, prompt, trie, "vocabulary"), range(30), 30)
        assert_equals_oracle(search(PROMPTS, 30), row, *expected)


@pytest.mark.parametrize("num_beams", [1, 2, 5, 12])
@pytest.mark.parametrize("with_rules", [False, True])
@pytest.mark.parametrize("architecture", ["qwen3", "llama", "t5"])
def test_narrow_beams_equal_generate(architecture: str, num_beams: int, with_rules: bool) -> None:
    model, trie = make_architecture(architecture)
    rules = [Rules(exclude=[0, 1, 2]), None, Rules(exclude=range(20))] if with_rules else None
    ours = BeamSearch(model, trie, "vocabulary")(PROMPTS, num_beams, rules=rules)
    limits = batch_rules(trie, rules, ItemSubsets(trie, {}), len(PROMPTS))
    reference = generate_items(model, PROMPTS, trie, num_beams, limits=limits)
    assert ours.items.tolist() == reference.items.tolist()
    torch.testing.assert_close(ours.scores, reference.scores, atol=1e-4, rtol=1e-4)


def test_more_beams_than_items_return_every_item_once_and_then_nothing() -> None:
    catalog = make_catalog(num_items=7)
    model, _, vocabulary = make_model(catalog)
    trie = make_device_trie(catalog, vocabulary)
    for ranked in (BeamSearch(model, trie)(PROMPTS, 20), generate_items(model, PROMPTS, trie, 20)):
        for items, scores in zip(ranked.items, ranked.scores, strict=True):
            assert sorted(items[items >= 0].tolist()) == list(range(7))
            assert (items[7:] == -1).all()
            assert torch.isinf(scores[7:]).all()


def test_a_user_may_have_everything_excluded() -> None:
    model, trie = make_architecture("qwen3")
    ranked = BeamSearch(model, trie)(PROMPTS[:2], 5, rules=[Rules(exclude=range(30)), None])
    assert (ranked.items[0] == -1).all()
    assert (ranked.items[1] >= 0).all()


def test_a_narrow_beam_is_not_spent_on_prefixes_whose_items_are_all_ruled_out() -> None:
    model, trie = make_architecture("qwen3")
    for allowed in ([4], [11, 17], [0, 29]):
        ranked = BeamSearch(model, trie)(PROMPTS, 2, rules=[Rules(allow=allowed)] * len(PROMPTS))
        for items in ranked.items.tolist():
            assert sorted(item for item in items if item >= 0) == allowed


def test_a_users_list_does_not_depend_on_who_else_is_in_the_batch() -> None:
    model, trie = make_architecture("qwen3")
    search = BeamSearch(model, trie, subsets={"few": [1, 4, 9, 16]})
    rules = [None, Rules(allow="few"), Rules(exclude=[1, 2, 3])]
    together = search(PROMPTS, 10, rules=rules)
    for row, prompt in enumerate(PROMPTS):
        alone = search([prompt], 10, rules=[rules[row]])
        assert alone.items[0].tolist() == together.items[row].tolist()
        torch.testing.assert_close(alone.scores[0], together.scores[row], atol=1e-5, rtol=1e-5)


def test_ids_of_mixed_depth_and_shared_ids_rank_as_the_oracle_does() -> None:
    catalog = make_catalog(num_items=30)
    model, _, vocabulary = make_model(catalog)
    ids = np.array([[0, 1, -1], [2, 0, 1], [0, 2, 0], [2, 0, 1], [3, -1, -1], [0, 2, 3], [2, 0, 1], [1, 1, -1]])
    trie = DeviceTrie(Trie.from_semantic_ids(ids), vocabulary.code_token_ids)
    for scores in ("vocabulary", "catalog"):
        ranked = BeamSearch(model, trie, scores)(PROMPTS, 8, rules=[None, Rules(exclude=[3, 4]), None])
        for row, prompt in enumerate(PROMPTS):
            allowed = [0, 1, 2, 5, 6, 7] if row == 1 else range(8)
            expected = oracle_ranking(oracle_scores(model, prompt, trie, scores), allowed, 8)
            assert_equals_oracle(ranked, row, *expected)
    ours, reference = BeamSearch(model, trie, "vocabulary")(PROMPTS, 8), generate_items(model, PROMPTS, trie, 8)
    assert ours.items.tolist() == reference.items.tolist()


@pytest.mark.parametrize("per_code", [1, 2, 5])
def test_at_most_n_items_of_each_first_code(per_code: int) -> None:
    model, trie = make_architecture("qwen3")
    first_codes = trie.trie.semantic_ids[:, 0]
    ranked = BeamSearch(model, trie, "vocabulary")(PROMPTS, num_beams=300, k=8, max_per_first_code=per_code)
    for row, prompt in enumerate(PROMPTS):
        everything, _ = oracle_ranking(oracle_scores(model, prompt, trie, "vocabulary"), range(30), 30)
        expected: list[int] = []
        for item in everything:
            if sum(first_codes[other] == first_codes[item] for other in expected) < per_code:
                expected.append(item)
        found = [item for item in ranked.items[row].tolist() if item >= 0]
        assert found == expected[:8]


def test_the_model_keeps_its_mode() -> None:
    model, trie = make_architecture("qwen3")
    model.train()
    BeamSearch(model, trie)(PROMPTS, 2)
    assert model.training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_beams": 0}, "num_beams is 0"),
        ({"num_beams": 5, "k": 6}, "k is 6"),
        ({"prompts": [[1], []]}, "Prompt 1 is empty"),
        ({"prompts": []}, "prompts is empty"),
        ({"prompts": [[1], [5] * 4095]}, "Prompt 1 has 4095 tokens; the model has 4096 positions"),
        ({"rules": [None]}, "1 rules for 2 prompts"),
        ({"rules": [None, Rules(allow=[])]}, "allow is empty"),
        ({"rules": [None, Rules(allow="films")]}, r"subset 'films'; this search knows \['few'\]"),
        ({"rules": [None, Rules(exclude=[30])]}, "item index 30; allowed are 0 to 29"),
        ({"rules": [None, Rules(require_prefix=[9])]}, "no item's semantic ID starts with"),
        ({"max_per_first_code": 0}, "max_per_first_code is 0"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict, message: str) -> None:
    model, trie = make_architecture("qwen3")
    search = BeamSearch(model, trie, subsets={"few": [1, 2]})
    with pytest.raises(ValueError, match=message):
        search(**{"prompts": [[1], [2]], "num_beams": 5, **arguments})


def test_what_does_not_belong_together_is_refused() -> None:
    catalog = make_catalog()
    model, _, vocabulary = make_model(catalog)
    trie = make_device_trie(catalog, vocabulary)
    with pytest.raises(ValueError, match="scores is 'prefix'"):
        BeamSearch(model, trie, "prefix")
    with pytest.raises(ValueError, match="'empty' is empty"):
        BeamSearch(model, trie, subsets={"empty": []})
    with pytest.raises(ValueError, match="vocabulary has tokens for the codes 0 to 3"):
        DeviceTrie(Trie.from_semantic_ids(np.array([[0, 0, 4]])), vocabulary.code_token_ids)
    with pytest.raises(ValueError, match="as many rows"):
        DeviceTrie(trie.trie, vocabulary.code_token_ids[:2])
    model.config.catalog_fingerprint = catalog.fingerprint
    BeamSearch.from_catalog(model, catalog, vocabulary)
    with pytest.raises(DataError, match="belongs to the catalog"):
        BeamSearch.from_catalog(model, make_catalog(seed=1), vocabulary)
    model.resize_token_embeddings(int(vocabulary.code_token_ids.max()))
    with pytest.raises(ValueError, match="the model's vocabulary ends at"):
        BeamSearch(model, trie)


def test_a_narrow_node_before_a_level_of_larger_codes_reads_none_of_them() -> None:
    model, _ = make_architecture("qwen3")
    tokens = np.arange(308, 320).reshape(3, 4)
    for ids in ([[0, 0, 3], [0, 1, 3], [1, 0, 3]], [[0, 0, -1], [0, 1, -1], [3, 3, 3]]):
        trie = DeviceTrie(Trie.from_semantic_ids(np.array(ids)), tokens)
        for ranked in (BeamSearch(model, trie)([[5, 6]], 3), generate_items(model, [[5, 6]], trie, 3)):
            assert sorted(ranked.items[0].tolist()) == [0, 1, 2]


def test_samples_are_different_semantic_ids() -> None:
    model, _ = make_architecture("qwen3")
    trie = DeviceTrie(
        Trie.from_semantic_ids(np.array([[0, 0], [0, 0], [0, 0], [1, 0]])), np.arange(308, 316).reshape(2, 4)
    )
    drawn = BeamSearch(model, trie).sample([[5, 6]] * 20, 2, rules=[None, Rules(exclude=[0])] * 10)
    assert [sorted(items) for items in drawn.items.tolist()] == [[0, 3], [1, 3]] * 10

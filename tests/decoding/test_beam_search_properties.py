"""Beams over random catalogues and random rules against scoring every item, and in other precisions."""

import copy
from collections import Counter
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

from llmrec.decoding.beam_search import BeamSearch
from llmrec.decoding.device_trie import DeviceTrie
from llmrec.decoding.ranked_items import RankedItems
from llmrec.decoding.rules import Rules
from llmrec.decoding.shared_prefix import SharedPrefix
from llmrec.trie import Trie
from tests.decoding.oracle import code_logits, oracle_ranking, oracle_scores, random_prompts, score_item
from tests.strategies import id_sets, rule_sets, satisfies
from tests.tiny import make_architecture

PROMPTS = random_prompts((3, 9, 5))
TOKENS = np.arange(304, 320).reshape(4, 4)

Request = tuple[np.ndarray, dict[str, list[int]], list[Rules | None]]


@cache
def make_model() -> PreTrainedModel:
    return make_architecture("qwen3")[0]


def make_trie(ids: np.ndarray) -> DeviceTrie:
    return DeviceTrie(Trie.from_semantic_ids(ids), TOKENS[: ids.shape[1]])


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """A catalogue, its named subsets, and the rules of two or three users."""
    ids = draw(id_sets(depths=(2, 4), codes=4, max_items=25))
    items = st.lists(st.integers(0, len(ids) - 1), min_size=1, max_size=len(ids))
    subsets = draw(st.dictionaries(st.sampled_from(["films", "books"]), items, max_size=2))
    return ids, subsets, draw(st.lists(st.none() | rule_sets(ids, subsets), min_size=2, max_size=3))


@cache
def logits_after(user: int, path: tuple[int, ...]) -> Tensor:
    """Logits of one position: paths are few, so that every catalogue scores from the same ones."""
    return code_logits(make_model(), PROMPTS[user], [*path, 0])[-1]


def true_scores(user: int, ids: np.ndarray, kind: str) -> Tensor:
    """The oracle's scores: log-probabilities of all items."""
    trie, scores = make_trie(ids), []
    for semantic_id in ids:
        tokens = [int(TOKENS[level, code]) for level, code in enumerate(semantic_id) if code >= 0]
        logits = torch.stack([logits_after(user, tuple(tokens[:level])) for level in range(len(tokens))])
        scores.append(score_item(logits, semantic_id, trie, kind))
    return torch.stack(scores)


def allowed_items(ids: np.ndarray, rule: Rules | None, subsets: dict[str, list[int]]) -> list[int]:
    return np.flatnonzero(satisfies(ids, rule, subsets)).tolist()


def found_items(ranked: RankedItems, user: int) -> list[int]:
    """The items of a list, after what holds for any list: nothing after the first -1, none twice, best first."""
    items, scores = ranked.items[user], ranked.scores[user]
    count = int((items >= 0).sum())
    assert (items[count:] == -1).all()
    assert (scores[count:] == -torch.inf).all()
    assert scores[:count].isfinite().all()
    assert (scores[: max(count - 1, 0)] >= scores[1:count]).all()
    found = items[:count].tolist()
    assert len(set(found)) == count
    return found


@settings(deadline=None, max_examples=60)
@given(requests(), st.sampled_from(["vocabulary", "catalog"]), st.integers(0, 5))
def test_with_a_beam_for_every_item_the_list_is_that_of_the_oracle(request: Request, kind: str, more: int) -> None:
    ids, subsets, rules = request
    num_beams = len(ids) + more
    search = BeamSearch(make_model(), make_trie(ids), kind, subsets)
    ranked = search(PROMPTS[: len(rules)], num_beams, rules=rules)
    assert ranked.items.shape == ranked.scores.shape == (len(rules), num_beams)
    for user, rule in enumerate(rules):
        found = found_items(ranked, user)
        allowed = allowed_items(ids, rule, subsets)
        assert sorted(found) == allowed
        # ties may stand in any order, but for items of one ID, whose order is that of the catalogue
        scores = true_scores(user, ids, kind)
        torch.testing.assert_close(ranked.scores[user, : len(found)], scores[found], atol=1e-4, rtol=1e-4)
        _, expected = oracle_ranking(scores, allowed, len(ids))
        torch.testing.assert_close(ranked.scores[user, : len(found)], expected, atol=1e-4, rtol=1e-4)
        for semantic_id in ids:
            same = [item for item in found if (ids[item] == semantic_id).all()]
            assert same == sorted(same)


@settings(deadline=None, max_examples=60)
@given(requests(), st.sampled_from(["vocabulary", "catalog"]), st.integers(2, 4), st.integers(0, 2))
def test_narrow_beams_return_allowed_items_with_their_own_scores(
    request: Request, kind: str, num_beams: int, fewer: int
) -> None:
    ids, subsets, rules = request
    k = max(1, num_beams - fewer)
    ranked = BeamSearch(make_model(), make_trie(ids), kind, subsets)(PROMPTS[: len(rules)], num_beams, k, rules)
    assert ranked.items.shape == ranked.scores.shape == (len(rules), k)
    for user, rule in enumerate(rules):
        found = found_items(ranked, user)
        allowed = allowed_items(ids, rule, subsets)
        assert set(found) <= set(allowed)
        # a beam always leads to an item, so none is lost on the way
        assert len(found) >= min(k, len({ids[item, 0] for item in allowed}))
        scores = true_scores(user, ids, kind)
        torch.testing.assert_close(ranked.scores[user, : len(found)], scores[found], atol=1e-4, rtol=1e-4)


@settings(deadline=None, max_examples=40)
@given(requests(), st.integers(1, 3), st.integers(1, 8))
def test_a_wide_search_with_few_of_each_first_code_takes_the_best_of_each(
    request: Request, per_code: int, k: int
) -> None:
    ids, subsets, rules = request
    ranked = BeamSearch(make_model(), make_trie(ids), "catalog", subsets)(
        PROMPTS[: len(rules)], num_beams=25 * 8, k=k, rules=rules, max_per_first_code=per_code
    )
    for user, rule in enumerate(rules):
        found = found_items(ranked, user)
        assert set(found) <= set(allowed_items(ids, rule, subsets))
        scores, taken, expected = true_scores(user, ids, "catalog"), Counter(), []
        for item in oracle_ranking(scores, allowed_items(ids, rule, subsets), len(ids))[0]:
            taken[ids[item, 0]] += 1
            if taken[ids[item, 0]] <= per_code:
                expected.append(item)
        assert max(Counter(ids[found, 0].tolist()).values(), default=0) <= per_code
        assert len(found) == len(expected[:k])
        torch.testing.assert_close(ranked.scores[user, : len(found)], scores[expected[:k]], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("per_code", [1, 2, 3, 4])
def test_few_of_each_first_code_still_fill_the_list_of_a_narrow_search(per_code: int) -> None:
    # two first codes with 16 items each
    ids = np.stack(np.unravel_index(np.arange(32), (2, 4, 4)), axis=1)
    search = BeamSearch(make_model(), make_trie(ids))
    for num_beams in (5, 6, 8):
        ranked = search(PROMPTS, num_beams, 5, max_per_first_code=per_code)
        for user in range(len(PROMPTS)):
            found = found_items(ranked, user)
            assert len(found) == min(5, 2 * per_code)
            assert max(Counter(ids[found, 0].tolist()).values()) <= per_code


@settings(deadline=None, max_examples=40)
@given(requests(), st.integers(0, 2**31))
def test_a_sample_of_everything_has_the_probabilities_of_the_allowed_catalogue(request: Request, seed: int) -> None:
    ids, subsets, rules = request
    search = BeamSearch(make_model(), make_trie(ids), subsets=subsets)
    drawn = search.sample(PROMPTS[: len(rules)], len(ids), rules, generator=torch.Generator().manual_seed(seed))
    for user, rule in enumerate(rules):
        allowed = allowed_items(ids, rule, subsets)
        # one item stands for each semantic ID: the first that is allowed
        firsts = [
            item
            for item in allowed
            if not (ids[[other for other in allowed if other < item]] == ids[item]).all(1).any()
        ]
        count = len(firsts)
        assert sorted(drawn.items[user, :count].tolist()) == firsts
        assert (drawn.items[user, count:] == -1).all()
        if firsts:
            left = ids[firsts]
            scores = true_scores(user, left[:, (left >= 0).any(axis=0)], "catalog")
            order = [firsts.index(item) for item in drawn.items[user, :count].tolist()]
            torch.testing.assert_close(drawn.scores[user, :count], scores[order], atol=1e-4, rtol=1e-4)


MANY_PROMPTS = random_prompts([3 + row % 9 for row in range(24)], seed=5)


@pytest.mark.parametrize("kind", ["vocabulary", "catalog"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_ranks_nearly_as_full_precision(dtype: torch.dtype, kind: str) -> None:
    model, trie = make_architecture("qwen3")
    full = BeamSearch(model, trie, kind)(MANY_PROMPTS, 10)
    search = BeamSearch(copy.deepcopy(model).to(dtype), trie, kind)
    assert search.way.state is SharedPrefix
    rules = [Rules(exclude=[user]) if user % 3 == 0 else None for user in range(len(MANY_PROMPTS))]
    halved = search(MANY_PROMPTS, 10, rules=rules)
    assert halved.scores.dtype == torch.float32
    common = []
    for user, rule in enumerate(rules):
        found = found_items(halved, user)
        assert len(found) == 10
        assert rule is None or user not in found
        common.append(len({*found, *([user] if rule else [])} & set(full.items[user].tolist())))
    assert sum(common) / len(common) >= 6


@pytest.mark.parametrize("architecture", ["qwen3", "t5", "gemma3"])
@pytest.mark.parametrize("kind", ["vocabulary", "catalog"])
def test_double_precision_is_exact(architecture: str, kind: str) -> None:
    model, trie = make_architecture(architecture)
    model = model.double()
    search = BeamSearch(model, trie, kind)
    assert search.way.state is SharedPrefix
    ranked = search(PROMPTS, 30)
    for user, prompt in enumerate(PROMPTS):
        items, scores = oracle_ranking(oracle_scores(model, prompt, trie, kind), range(30), 30)
        assert ranked.items[user].tolist() == items
        torch.testing.assert_close(ranked.scores[user], scores, atol=1e-5, rtol=1e-6)

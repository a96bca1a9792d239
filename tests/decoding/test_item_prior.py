"""A prior inside the search against mixing the two distributions item by item."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from llmrec.decoding.beam_search import BeamSearch
from llmrec.decoding.item_prior import ItemPrior, PriorScores
from tests.decoding.oracle import random_prompts
from tests.decoding.test_beam_search_properties import (
    PROMPTS,
    Request,
    allowed_items,
    found_items,
    make_model,
    make_trie,
    requests,
    true_scores,
)

WEIGHTS = st.sampled_from([0.01, 0.3, 0.5, 0.99])


def mixture(ids: np.ndarray, model: np.ndarray, prior: np.ndarray, allowed: list[int], weight: float) -> np.ndarray:
    """Log of the mixture of each item's semantic ID, with the prior's mass of the allowed items that share it."""
    if not prior.sum():
        return model
    left = np.zeros(len(ids))
    left[allowed] = prior[allowed] / prior.sum()
    same_id = (ids[:, None] == ids[None]).all(-1)
    mass = same_id @ left
    return np.log((1 - weight) * np.exp(model) + weight * mass)


@settings(deadline=None, max_examples=60)
@given(requests(), st.sampled_from(["vocabulary", "catalog"]), WEIGHTS, st.integers(0, 2**32 - 1))
def test_with_a_beam_for_every_item_the_list_is_that_of_the_mixture(
    request: Request, kind: str, weight: float, seed: int
) -> None:
    ids, subsets, rules = request
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0, 9, (len(rules), len(ids))) * rng.integers(0, 2, (len(rules), len(ids)))
    prior = sparse.csr_array(scores)
    search = BeamSearch(make_model(), make_trie(ids), kind, subsets)
    ranked = search(PROMPTS[: len(rules)], len(ids), rules=rules, prior=PriorScores(prior, weight))
    for user, rule in enumerate(rules):
        found, allowed = found_items(ranked, user), allowed_items(ids, rule, subsets)
        assert sorted(found) == allowed
        expected = mixture(ids, true_scores(user, ids, kind).double().numpy(), scores[user], allowed, weight)
        np.testing.assert_allclose(ranked.scores[user, : len(found)], expected[found], atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(expected[found], -np.sort(-expected[allowed]), atol=1e-4, rtol=1e-4)


def test_items_that_only_the_prior_believes_in_are_found_with_few_beams() -> None:
    ids = np.stack(np.unravel_index(np.arange(64), (4, 4, 4)), axis=1).astype(np.int32)
    search = BeamSearch(make_model(), make_trie(ids))
    least = int(search(PROMPTS[:1], 64).items[0, -1])
    prior = sparse.csr_array(([1.0], ([0], [least])), shape=(1, 64))
    assert search(PROMPTS[:1], 1, prior=PriorScores(prior, 0.9)).items.tolist() == [[least]]


def test_a_prior_without_scores_leaves_the_models_ranking() -> None:
    ids = np.stack(np.unravel_index(np.arange(16), (4, 4)), axis=1).astype(np.int32)
    search = BeamSearch(make_model(), make_trie(ids))
    alone, mixed = search(PROMPTS, 9), search(PROMPTS, 9, prior=PriorScores(sparse.csr_array((3, 16)), 0.5))
    assert torch.equal(alone.items, mixed.items)
    assert torch.equal(alone.scores, mixed.scores)


def test_a_node_is_worth_what_its_children_are_worth_together() -> None:
    ids = np.stack(np.unravel_index(np.arange(16), (4, 4)), axis=1).astype(np.int32)
    trie = make_trie(ids)
    rng = np.random.default_rng(0)
    model = rng.dirichlet(np.ones(16)).reshape(4, 4)
    prior = ItemPrior(trie, PriorScores(sparse.csr_array(rng.uniform(0, 1, (1, 16))), 0.3))
    parents, _, _ = trie.children(torch.zeros(1, 1, dtype=torch.long), 0)
    children, _, _ = trie.children(parents.flatten(1), 1)
    above = prior.mix(parents, torch.as_tensor(model.sum(1)).log().view(parents.shape))
    below = prior.mix(children, torch.as_tensor(model).log().view(children.shape))
    torch.testing.assert_close(below.exp().sum(-1).flatten(), above.exp().flatten())


@pytest.mark.parametrize(
    ("scores", "weight", "message"),
    [
        (sparse.csr_array((1, 16)), 1.0, "weight is 1.0; allowed is above 0"),
        (sparse.csr_array((1, 15)), 0.5, "scores 15 items; the trie has 16"),
        (sparse.csr_array(-np.eye(1, 16)), 0.5, "holds the score -1.0"),
        (sparse.csr_array(np.eye(1, 16) * np.nan), 0.5, "holds the score nan"),
        (sparse.csr_array(([np.inf], ([0], [3])), shape=(1, 16)), 0.5, "holds the score inf"),
        (sparse.csr_array((2, 16)), 0.5, "2 rows for 1 prompts"),
    ],
)
def test_what_is_no_prior_is_refused(scores: sparse.csr_array, weight: float, message: str) -> None:
    ids = np.stack(np.unravel_index(np.arange(16), (4, 4)), axis=1).astype(np.int32)
    search = BeamSearch(make_model(), make_trie(ids))
    with pytest.raises(ValueError, match=message):
        search(random_prompts((3,)), 4, prior=PriorScores(scores, weight))

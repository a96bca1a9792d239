"""Candidates behind letters: the paper's re-weighted metric, and a letter's own weight."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.baselines import Popularity
from llmrec.evaluation.candidates import CandidateRecommender, candidate_report
from llmrec.metrics import rank_metrics
from llmrec.prompts.titles import TitleRenderer
from llmrec.vocabulary import ItemVocabulary
from tests.tiny import make_catalog, make_model

KS = (1, 5, 10)


def lists(num_users: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ranked, shown, targets): 10 of 60 items, lettered at random and ranked at random; one target each."""
    rng = np.random.default_rng(seed)
    shown = np.stack([rng.choice(60, 10, replace=False) for _ in range(num_users)])
    ranked = np.stack([rng.permutation(row) for row in shown])
    return ranked, shown, rng.integers(60, size=(num_users, 1))


@given(st.integers(0, 10_000))
def test_overall_is_subset_times_the_retrievers_hit_rate_and_the_mean_over_all_users(seed) -> None:
    """The consistency of the published numbers: .5436 * .1316 = .0715."""
    ranked, shown, targets = lists(40, seed)
    report = candidate_report(ranked, shown, targets, KS)
    honest = rank_metrics(ranked, targets, KS)
    assert report["num_subset"] == round(report["retriever_hit_rate"] * 40)
    for metric, value in report["overall"].items():
        assert value == pytest.approx(report["subset"][metric] * report["retriever_hit_rate"])
        assert value == pytest.approx(honest[metric].mean())
    if report["num_subset"]:
        assert set(report["overall"]) == set(honest)


def test_a_model_that_always_says_a_has_all_the_bias_there_can_be() -> None:
    _, shown, targets = lists(2000, 0)
    assert candidate_report(shown, shown, targets, KS)["position_bias"] == pytest.approx(0.9)
    assert candidate_report(shown, shown, targets, KS)["first_by_letter"] == pytest.approx([1] + [0] * 9)
    fair = candidate_report(lists(2000, 0)[0], shown, targets, KS)
    assert fair["position_bias"] < 0.05


def make_recommender(seed: int = 0, num_candidates: int = 6) -> tuple[CandidateRecommender, object]:
    catalog = make_catalog(codebook_sizes=(4, 4, 4))
    model, tokenizer, _ = make_model(catalog)
    renderer = TitleRenderer(catalog, ItemVocabulary(tokenizer, catalog.codebook_sizes))
    popularity = Popularity().fit([[item] * (40 - item) for item in range(30)], 30)
    return CandidateRecommender(renderer, popularity, 5, 4, seed, num_candidates=num_candidates), model


def test_lists_hold_the_retrievers_items_and_empty_places_behind_them() -> None:
    recommender, model = make_recommender()
    histories, exclude = [[1, 2], [3], [9, 8, 7]], [[1, 2], [3], list(range(27))]
    ranked = recommender.recommend(model, histories, 10, exclude, progress=False)
    found = recommender.retriever.recommend(histories, 6, exclude)
    for row in range(3):
        assert set(ranked[row, :6]) == set(found[row])
        assert (ranked[row, 6:] == -1).all()
    assert (ranked[2] >= 0).sum() == 3, "three items are left"
    together = recommender.recommend(model, histories[:1], 10, exclude[:1], progress=False)
    assert together[0].tolist() == ranked[0].tolist(), "the same alone and in a batch"


def test_letters_are_drawn_from_the_seed_and_the_history() -> None:
    histories = [[1, 2], [3]]
    orders = [make_recommender(seed)[0].lettered(histories) for seed in (0, 0, 1)]
    assert orders[0].tolist() == orders[1].tolist()
    assert orders[0].tolist() != orders[2].tolist()
    assert [sorted(row) for row in orders[0].tolist()] == [sorted(row) for row in orders[2].tolist()]
    one_by_one = [make_recommender()[0].lettered([history])[0].tolist() for history in histories]
    assert one_by_one == orders[0].tolist()

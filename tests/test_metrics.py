import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.metrics import (
    bootstrap_interval,
    bootstrap_intervals,
    coverage,
    paired_bootstrap,
    rank_metrics,
    valid_rate,
)

NUM_ITEMS = 12
LENGTH = 6


def naive_metrics(ranked: list[int], targets: list[int], k: int) -> dict[str, float]:
    """One user, straight from the definitions: a list without repeats, a set of targets."""
    wanted = {item for item in targets if item >= 0}
    found, dcg, first = set(), 0.0, 0.0
    for place, item in enumerate(ranked[:k], start=1):
        if item in wanted and item not in found:
            found.add(item)
            dcg += 1 / math.log2(1 + place)
            first = first or 1 / place
    ideal = sum(1 / math.log2(1 + place) for place in range(1, min(k, len(wanted)) + 1))
    return {
        "hit_rate": float(bool(found)),
        "recall": len(found) / len(wanted),
        "ndcg": dcg / ideal,
        "mrr": first,
    }


lists = st.lists(st.integers(-2, NUM_ITEMS - 1), min_size=LENGTH, max_size=LENGTH)
target_rows = st.tuples(st.integers(0, NUM_ITEMS - 1), st.lists(st.integers(-1, NUM_ITEMS - 1), min_size=3, max_size=3))


@settings(deadline=None)
@given(st.lists(st.tuples(lists, target_rows), min_size=1, max_size=8))
def test_equals_the_definitions_user_by_user(users):
    ranked = [row for row, _ in users]
    targets = [[first, *rest] for _, (first, rest) in users]
    values = rank_metrics(np.array(ranked), np.array(targets), ks=(1, 3, 6))
    for user, (row, wanted) in enumerate(zip(ranked, targets, strict=True)):
        for k in (1, 3, 6):
            for metric, expected in naive_metrics(row, wanted, k).items():
                assert values[f"{metric}@{k}"][user] == pytest.approx(expected), (metric, k)


def test_one_target_at_place_three():
    values = rank_metrics(np.array([[4, 5, 6, 7, 8]]), np.array([[6]]), ks=(1, 5))
    assert {name: value.item() for name, value in values.items()} == {
        "hit_rate@1": 0, "recall@1": 0, "ndcg@1": 0, "mrr@1": 0,
        "hit_rate@5": 1, "recall@5": 1, "ndcg@5": 0.5, "mrr@5": pytest.approx(1 / 3),
    }  # fmt: skip


def test_a_repeated_hit_counts_once_and_empty_slots_match_no_padding():
    values = rank_metrics(np.array([[3, 3, -1], [-1, -1, -1]]), np.array([[3, -1], [2, -1]]), ks=(3,))
    assert values["ndcg@3"].tolist() == [1.0, 0.0]
    assert values["recall@3"].tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("ranked", "targets", "ks", "message"),
    [
        ([[1, 2]], [[1]], (5,), "too few for a cut-off of 5"),
        ([[1, 2]], [[1], [2]], (1,), "same users"),
        ([[1, 2], [1, 2]], [[1], [-1]], (1,), "Row 1 of targets holds no target"),
        ([[1, 2]], [[1]], (), "at least one cut-off"),
    ],
)
def test_says_what_does_not_fit(ranked, targets, ks, message):
    with pytest.raises(ValueError, match=message):
        rank_metrics(np.array(ranked), np.array(targets), ks)


def test_coverage_counts_distinct_catalogue_items_within_k():
    ranked = np.array([[0, 1, 2], [0, -1, 3], [-2, 99, 1]])
    assert coverage(ranked, num_items=4, k=1) == 1 / 4
    assert coverage(ranked, num_items=4, k=3) == 1.0


@pytest.mark.parametrize(
    ("ranked", "expected"),
    [
        ([[0, 1, 2], [2, 1, 0]], 1.0),
        ([[0, 1, -1], [2, -1, -1]], 1.0),  # empty slots were not returned
        ([[0, 0, 1]], 2 / 3),
        ([[0, -2, 7]], 1 / 3),
        ([[-1, -1, -1]], 0.0),
    ],
)
def test_valid_rate(ranked, expected):
    assert valid_rate(np.array(ranked), num_items=3) == pytest.approx(expected)


def test_bootstrap_interval_agrees_with_the_normal_one_and_with_its_seed():
    values = np.random.default_rng(0).normal(size=2000)
    low, high = bootstrap_interval(values, seed=1)
    half_width = 1.96 * values.std() / math.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half_width, abs=0.006)
    assert high == pytest.approx(values.mean() + half_width, abs=0.006)
    assert (low, high) == bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)
    assert bootstrap_intervals({"a": values, "b": -values}, seed=1)["a"] == pytest.approx((low, high))


def test_bootstrap_interval_holds_the_true_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    inside = 0
    for trial in range(200):
        low, high = bootstrap_interval(generator.random(200) < 0.3, seed=trial, num_samples=300)
        inside += low <= 0.3 <= high
    assert 0.89 <= inside / 200 <= 0.99


def test_paired_bootstrap_sees_a_small_steady_difference_that_the_intervals_hide():
    generator = np.random.default_rng(0)
    b = generator.random(300)
    a = b + 0.01 + generator.normal(scale=0.02, size=300)
    assert bootstrap_interval(a, seed=0)[0] < bootstrap_interval(b, seed=0)[1]
    difference = paired_bootstrap(a, b, seed=0)
    assert 0 < difference.low < difference.difference < difference.high
    assert difference.p_value < 0.01
    assert paired_bootstrap(b, b, seed=0) == (0.0, 0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="same users"):
        paired_bootstrap(a, b[:-1], seed=0)

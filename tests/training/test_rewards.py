"""Rewards of lists by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.metrics import rank_metrics
from llmrec.training.rewards import hit_reward, ndcg_reward, without_hit

ITEMS = np.array([[7, 3, 5, 9], [1, 2, 3, 4]])
TARGETS = np.array([3, 8])


def test_a_hit_is_worth_one_and_a_list_without_the_target_nothing() -> None:
    assert hit_reward(ITEMS, TARGETS).tolist() == [[0, 1, 0, 0], [0, 0, 0, 0]]
    assert without_hit(ITEMS, TARGETS).tolist() == [False, True]


def test_ndcg_rewards_of_a_group_by_hand() -> None:
    second, third, fourth = 1 / np.log2(3), 1 / 2, 1 / np.log2(5)
    costs = [1 - second, second - third, second - fourth]
    expected = [-costs[0], sum(costs), -costs[1], -costs[2]]
    assert ndcg_reward(ITEMS, TARGETS)[0] == pytest.approx(expected)
    assert ndcg_reward(ITEMS, TARGETS)[1].tolist() == [0, 0, 0, 0]


@given(length=st.integers(2, 12), target=st.integers(0, 14), seed=st.integers(0, 5))
def test_an_items_ndcg_reward_is_what_swapping_it_with_the_target_changes(length, target, seed) -> None:
    items = np.random.default_rng(seed).permutation(15)[None, :length]
    targets = np.array([target])
    rewards = ndcg_reward(items, targets)[0]
    assert rewards.sum() == pytest.approx(0)
    if without_hit(items, targets)[0]:
        assert not rewards.any()
        return
    place = items[0].tolist().index(target)

    def ndcg(ranked: np.ndarray) -> float:
        return float(rank_metrics(ranked, targets[:, None], [length])[f"ndcg@{length}"][0])

    for other in set(range(length)) - {place}:
        swapped = items.copy()
        swapped[0, [place, other]] = swapped[0, [other, place]]
        assert rewards[other] == pytest.approx(-abs(ndcg(swapped) - ndcg(items)))

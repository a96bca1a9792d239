"""LREM's rewards on hand-made outputs."""

import numpy as np
import pytest

from llmrec.models.lrem import ReasoningTokens
from llmrec.training.reasoning_rewards import format_reward, length_reward, rank_reward, target_ranks

TOKENS = ReasoningTokens(think=1, end_think=2, embed=3)


@pytest.mark.parametrize(
    ("completion", "formed"),
    [
        ([1, 9, 9, 2, 3], 1),
        ([1, 9, 2, 3], 1),
        ([1, 2, 3], 1),  # nothing to add
        ([2, 3], 0),
        ([9, 2, 3], 0),  # never opened
        ([1, 9, 3], 0),  # never closed
        ([1, 9, 2], 0),  # never embedded
        ([1, 9, 2, 3, 9], 0),  # goes on
        ([1, 9, 2, 9, 3], 0),  # says something in between
        ([1, 1, 9, 2, 3], 0),  # opened twice
        ([1, 9, 2, 2, 3], 0),
        ([3], 0),
        ([], 0),
    ],
)
def test_format(completion, formed) -> None:
    assert format_reward(completion, TOKENS) == formed


@pytest.mark.parametrize(
    ("completion", "short"),
    [
        ([1, *[9] * 16, 2, 3], 1),
        ([1, *[9] * 17, 2, 3], 0),
        ([*[9] * 16, 2, 3], 1),  # its form is another reward's
        ([1, *[9] * 16], 1),  # ends at the cap, cut off
        ([1, *[9] * 17], 0),
        ([1, 9, 2, *[9] * 30], 1),  # what follows the thought is no part of it
        ([], 1),
    ],
)
def test_length(completion, short) -> None:
    assert length_reward(completion, TOKENS, 16) == short


def test_rank_reward_falls_with_the_logarithm_of_the_rank() -> None:
    assert np.allclose(rank_reward(np.array([1, 16, 256]), 256), [1, 0.5, 0])
    assert np.allclose(rank_reward(np.array([2, 2]), np.array([2, 4])), [0, 0.5])


def test_ranks_that_say_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="1 candidates; a rank among fewer than 2"):
        rank_reward(np.array([1]), 1)
    for rank in (0, 5):
        with pytest.raises(ValueError, match=f"Ranks go from {rank} to {rank}; allowed"):
            rank_reward(np.array([rank]), 4)


def test_ranks_by_brute_force_without_the_excluded() -> None:
    generator = np.random.default_rng(0)
    queries, items = generator.normal(size=(6, 3)), generator.normal(size=(9, 3))
    own, excluded = generator.integers(9, size=6), generator.random((6, 9)) < 0.3
    excluded[np.arange(6), own] = False
    ranks = target_ranks(queries, items, own, excluded)
    for row in range(6):
        scores = [queries[row] @ items[item] for item in range(9) if not excluded[row, item]]
        assert ranks[row] == sum(score >= queries[row] @ items[own[row]] for score in scores)
    assert target_ranks(np.ones((1, 3)), np.ones((4, 3)), np.array([2]), np.zeros((1, 4), dtype=bool)) == [4]

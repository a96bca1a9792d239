"""The uniform mapping against a plain transcription of its definition."""

import numpy as np
import pytest
import torch

from llmrec.item_tokenizer.sinkhorn import sinkhorn_codes


def oracle(distances: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    """The definition on the whole matrix: each item has mass 1 / batch, then each code 1 / codes; ties: the nearest."""
    middle = (distances.max() + distances.min()) / 2
    scaled = (distances - middle) / (distances.max() - middle + 1e-5)
    mass = np.exp(-scaled.astype(np.float64) / epsilon)
    mass /= mass.sum()
    for _ in range(iterations):
        mass /= mass.sum(axis=1, keepdims=True) * len(mass)
        mass /= mass.sum(axis=0, keepdims=True) * mass.shape[1]
    return np.where(mass >= (1 - 1e-9) * mass.max(axis=1, keepdims=True), distances, np.inf).argmin(axis=1)


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
@pytest.mark.parametrize("epsilon", [0.003, 0.1])
def test_equals_the_definition(batch, epsilon):
    distances = np.random.default_rng(batch).random((batch, 16)).astype(np.float32) * 5
    codes = sinkhorn_codes(torch.from_numpy(distances), epsilon, 50)
    assert codes.tolist() == oracle(distances, epsilon, 50).tolist()


def test_leading_dimensions_are_separate_batches():
    distances = torch.from_numpy(np.random.default_rng(0).random((5, 6, 16)).astype(np.float32))
    distances[2] *= 100
    together = sinkhorn_codes(distances, 0.003, 50)
    assert together.tolist() == [sinkhorn_codes(one, 0.003, 50).tolist() for one in distances]


def test_spreads_a_batch_over_all_codes():
    """Where one code is nearest to everything, argmin uses one code and Sinkhorn uses nearly all."""
    distances = torch.from_numpy(np.random.default_rng(0).random((64, 16)))
    distances[:, 3] = 0
    assert len(distances.argmin(dim=1).unique()) == 1
    assert len(sinkhorn_codes(distances, 0.05, 50).unique()) >= 14


def test_equal_items_get_equal_codes():
    row = torch.from_numpy(np.random.default_rng(0).random((1, 16)))
    assert len(sinkhorn_codes(row.expand(5, 16), 0.003, 50).unique()) == 1


@pytest.mark.parametrize("size", [2, 5, 20])
def test_near_duplicates_get_codes_of_their_own(size):
    rng = np.random.default_rng(size)
    codes = torch.from_numpy(rng.standard_normal((256, 32)))
    points = torch.from_numpy(rng.standard_normal(32) + 1e-3 * rng.standard_normal((size, 32)))
    chosen = sinkhorn_codes(torch.cdist(points, codes).square(), 0.003, 50)
    assert len(chosen.unique()) == size


def test_an_item_takes_the_nearest_of_the_codes_it_owns():
    """Two items far apart: each keeps its nearest code, which rounding alone would miss."""
    distances = torch.tensor([[0.1, 0.2, 0.3, 5.0, 5.1, 5.2], [5.0, 5.1, 5.2, 0.3, 0.2, 0.1]])
    assert sinkhorn_codes(distances, 0.003, 50).tolist() == [0, 5]


def test_distances_without_spread_stay_finite():
    assert sinkhorn_codes(torch.ones(4, 8), 0.003, 50).tolist() == [0, 0, 0, 0]

"""k-means against scikit-learn, and its rule for dead codes."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

import llmrec.item_tokenizer.kmeans as kmeans_module
from llmrec.item_tokenizer.kmeans import kmeans
from llmrec.item_tokenizer.quantizer import squared_distances


def inertia(points: torch.Tensor, centres: torch.Tensor) -> float:
    return float(squared_distances(points, centres).amin(dim=1).sum())


@pytest.fixture
def points(embeddings):
    return torch.from_numpy(embeddings)


def test_is_as_good_as_scikit_learn(embeddings, points):
    ours = inertia(points, kmeans(points, 16, 100, seed=0))
    theirs = KMeans(16, n_init=1, random_state=0).fit(embeddings).inertia_
    assert ours <= 1.1 * theirs


def test_chunks_do_not_change_the_result(points, monkeypatch):
    whole = kmeans(points, 16, 10, seed=0)
    monkeypatch.setattr(kmeans_module, "CHUNK_ROWS", 37)
    torch.testing.assert_close(kmeans(points, 16, 10, seed=0), whole)


def test_is_deterministic_and_leaves_the_random_state(points):
    state = torch.get_rng_state()
    first = kmeans(points, 16, 10, seed=3)
    assert torch.equal(first, kmeans(points, 16, 10, seed=3))
    assert not torch.equal(first, kmeans(points, 16, 10, seed=4))
    assert torch.equal(state, torch.get_rng_state())


def test_dead_codes_restart_until_all_are_used(points, monkeypatch):
    """All first centres in one place: without the restarts, one code would take every point."""
    monkeypatch.setattr(kmeans_module, "_kmeans_plus_plus", lambda points, codes, _: points[:1].repeat(codes, 1))
    centres = kmeans(points, 16, 30, seed=0)
    assert len(squared_distances(points, centres).argmin(dim=1).unique()) == 16


def test_fewer_distinct_points_than_codes():
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    centres = kmeans(points, 8, 10, seed=0)
    assert centres.shape == (8, 2)
    assert inertia(points, centres) == pytest.approx(0, abs=1e-6)


def test_centres_are_the_means_of_their_points(points):
    centres = kmeans(points, 8, 200, seed=0)
    codes = squared_distances(points, centres).argmin(dim=1)
    means = torch.from_numpy(np.stack([points[codes == code].mean(dim=0).numpy() for code in range(8)]))
    torch.testing.assert_close(means, centres, atol=0.05, rtol=0)

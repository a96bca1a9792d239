import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.vector_index import VectorIndex


def clustered(num_vectors, dim=16, num_clusters=40, seed=0):
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(num_clusters, dim))
    spread = 0.5 * generator.normal(size=(num_vectors, dim))
    return (centres[generator.integers(num_clusters, size=num_vectors)] + spread).astype(np.float32)


@given(
    num_vectors=st.integers(1, 30),
    k=st.integers(1, 40),
    banned=st.lists(st.sets(st.integers(0, 29)), min_size=3, max_size=3),
)
def test_exact_search_is_the_sorted_products(num_vectors, k, banned):
    vectors, queries = clustered(num_vectors), clustered(3, seed=1)
    exclude = [[number for number in numbers if number < num_vectors] for numbers in banned]
    numbers, products = VectorIndex(vectors).search(queries, k, exclude)
    assert numbers.shape == products.shape == (3, k)
    for row in range(3):
        expected = queries[row] @ vectors.T
        expected[exclude[row]] = -np.inf
        order = np.argsort(-expected, kind="stable")[:k]
        count = min(k, num_vectors - len(exclude[row]))
        np.testing.assert_allclose(products[row, :count], expected[order[:count]], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(expected[numbers[row, :count]], products[row, :count], rtol=1e-4, atol=1e-5)
        assert (numbers[row, count:] == -1).all()
        assert np.isneginf(products[row, count:]).all()


def test_approximate_search_finds_nearly_all_in_part_of_the_vectors():
    vectors, queries = clustered(6000), clustered(50, seed=2)
    exclude = [[row, row + 1] for row in range(50)]
    exact, _ = VectorIndex(vectors).search(queries, 10, exclude)
    index = VectorIndex(vectors, "approximate")
    faiss.cvar.indexIVF_stats.reset()
    found, products = index.search(queries, 10, exclude)
    assert faiss.cvar.indexIVF_stats.ndis < 0.7 * 50 * 6000
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, found, strict=True)]) > 0.9
    np.testing.assert_allclose(products, np.take_along_axis(queries @ vectors.T, found, 1), rtol=1e-4, atol=1e-4)
    assert not any(set(banned) & set(numbers) for banned, numbers in zip(exclude, found, strict=True))


def test_few_vectors_are_searched_exactly_whatever_is_asked_for():
    vectors, queries = clustered(100), clustered(5, seed=3)
    for kind in ("exact", "approximate"):
        np.testing.assert_array_equal(
            VectorIndex(vectors, kind).search(queries, 7)[0], np.argsort(-(queries @ vectors.T))[:, :7]
        )


@pytest.mark.parametrize("kind", ["exact", "approximate"])
def test_what_is_saved_answers_the_same(tmp_path, kind):
    index = VectorIndex(clustered(2000), kind)
    index.save(tmp_path / "items.index")
    loaded = VectorIndex.load(tmp_path / "items.index")
    assert (len(loaded), loaded.dim) == (2000, 16)
    for before, after in zip(index.search(clustered(9), 5), loaded.search(clustered(9), 5), strict=True):
        np.testing.assert_array_equal(before, after)
    assert [path.name for path in tmp_path.iterdir()] == ["items.index"]


def test_a_missing_index_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="build one"):
        VectorIndex.load(tmp_path / "none.index")

"""Co-occurrence embeddings against a plain count, and the ways to mix them with text."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.item_tokenizer import collaborative_embeddings, combine_embeddings
from llmrec.item_tokenizer.collaborative import shrunk_weights
from llmrec.schema import DataError

ITEMS = list("abcdefgh")


def oracle(sequences, window):
    """The cosine-normalised co-occurrence matrix, pair by pair."""
    counts = np.zeros((len(ITEMS), len(ITEMS)))
    for sequence in sequences:
        for i, first in enumerate(sequence):
            for j in range(i + 1, min(i + window + 1, len(sequence))):
                if sequence[j] != first:
                    rows = ITEMS.index(first), ITEMS.index(sequence[j])
                    counts[rows] += 1 / (j - i)
                    counts[rows[::-1]] += 1 / (j - i)
    scale = 1 / np.sqrt(np.where(counts.sum(axis=1) > 0, counts.sum(axis=1), 1))
    return counts * scale[:, None] * scale[None, :]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.sampled_from(ITEMS), max_size=7), min_size=1, max_size=8), st.integers(1, 6))
def test_full_rank_embeddings_hold_the_cooccurrence(sequences, window):
    """U sqrt(S) has U S U^T as its Gram matrix, and that is the square root of M M^T."""
    expected = oracle(sequences, window)
    if not expected.any():
        with pytest.raises(DataError, match="combine='text'"):
            collaborative_embeddings(sequences, ITEMS, dim=8, window=window)
        return
    vectors = collaborative_embeddings(sequences, ITEMS, dim=8, window=window).astype(np.float64)
    gram = vectors @ vectors.T
    np.testing.assert_allclose(gram @ gram, expected @ expected.T, atol=1e-5)


@pytest.fixture
def sequences():
    """Two groups of forty items, and one user who knows both: unconnected ones would share a singular value."""
    rng = np.random.default_rng(0)
    users = [[str(item) for item in rng.integers(40 * (user % 2), 40 * (user % 2) + 40, size=9)] for user in range(60)]
    return [*users, ["1", "2", "41", "42"]]


def test_neighbours_are_close_and_strangers_are_not(sequences):
    ids = [str(number) for number in range(80)]
    vectors = combine_embeddings(None, collaborative_embeddings(sequences, ids, dim=8), "collaborative")
    similarity = vectors @ vectors.T
    assert similarity[:40, :40].mean() > 0.1 + similarity[:40, 40:].mean()


def test_is_deterministic_in_sign_and_all(sequences):
    ids = [str(number) for number in range(80)]
    first, second = (collaborative_embeddings(sequences, ids, dim=8, seed=seed) for seed in (1, 2))
    np.testing.assert_allclose(first, second, atol=1e-5)
    assert (first == collaborative_embeddings(sequences, ids, dim=8, seed=1)).all()
    assert (np.take_along_axis(first, np.abs(first).argmax(axis=0)[None], axis=0) > 0).all()


def test_items_never_seen_are_zero(sequences):
    ids = [str(number) for number in range(90)]
    vectors = collaborative_embeddings(sequences, ids, dim=8)
    assert vectors.shape == (90, 8)
    assert vectors.dtype == np.float32
    assert not vectors[80:].any()
    assert vectors[:80].any(axis=1).all()


def test_fewer_items_than_dimensions():
    vectors = collaborative_embeddings([["a", "b", "c"]], ["a", "b", "c"], dim=64)
    assert vectors.shape == (3, 64)
    assert not vectors[:, 3:].any()


def test_unknown_item_is_named():
    with pytest.raises(DataError, match="'x', which is not among the 8 items"):
        collaborative_embeddings([["a", "x"]], ITEMS)


@pytest.fixture
def parts():
    rng = np.random.default_rng(0)
    text, collaborative = rng.standard_normal((30, 12)), rng.standard_normal((30, 5)) * 100
    collaborative[3] = 0
    return text.astype(np.float32), collaborative.astype(np.float32)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_concat_weighs_squared_distances(parts, weight):
    text, collaborative = (combine_embeddings(*parts, mode) for mode in ("text", "collaborative"))
    both = combine_embeddings(*parts, "concat", weight)
    expected = (1 - weight) * np.square(text[0] - text[1]).sum() + weight * np.square(
        collaborative[0] - collaborative[1]
    ).sum()
    assert both.shape == (30, 17)
    assert np.square(both[0] - both[1]).sum() == pytest.approx(expected, rel=1e-4)


def test_rows_are_normalised_and_zeros_stay(parts):
    collaborative = combine_embeddings(*parts, "collaborative")
    assert not collaborative[3].any()
    norms = np.linalg.norm(np.delete(collaborative, 3, axis=0), axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-6)


def test_average_projects_the_wider_on_its_components(parts):
    text, collaborative = parts
    mean = combine_embeddings(text, collaborative, "average", 0.25)
    centred = text - text.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    components = left[:, :5] * values[:5]
    components /= np.linalg.norm(components, axis=1, keepdims=True)
    rest = (mean - 0.25 * combine_embeddings(text, collaborative, "collaborative")) / 0.75
    np.testing.assert_allclose(np.abs(rest), np.abs(components), atol=1e-4)


def test_average_of_equal_widths_projects_nothing(parts):
    text = parts[0]
    mean = combine_embeddings(text, text, "average", 0.5)
    np.testing.assert_allclose(mean, combine_embeddings(text, None, "text"), atol=1e-6)


@pytest.mark.parametrize("mode", ["concat", "average"])
def test_each_item_may_have_a_weight_of_its_own(parts, mode):
    weights = np.linspace(0, 1, 30)
    both = combine_embeddings(*parts, mode, weights)
    for row in (0, 7, 29):
        np.testing.assert_allclose(both[row], combine_embeddings(*parts, mode, weights[row])[row], atol=1e-6)


def test_weights_follow_what_training_says_of_an_item():
    weights = shrunk_weights(0.8, 10, [["a", "b"], ["b", "a"], ["a", "a", "b"]], ["a", "b", "unseen"])
    np.testing.assert_allclose(weights, [0.8 * 4 / 14, 0.8 * 3 / 13, 0], rtol=1e-6)


def test_an_item_without_training_interactions_is_its_text():
    rng = np.random.default_rng(0)
    sequences, ids = [["a", "b", "c"]], ["a", "b", "c", "unseen"]
    text = rng.standard_normal((4, 6)).astype(np.float32)
    collaborative = collaborative_embeddings(sequences, ids, dim=2)
    both = combine_embeddings(text, collaborative, "concat", shrunk_weights(1, 10, sequences, ids))
    np.testing.assert_allclose(both[3, :6], text[3] / np.linalg.norm(text[3]), rtol=1e-6)
    assert not both[3, 6:].any()
    np.testing.assert_allclose(np.linalg.norm(both, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("mode", "weight", "message"),
    [
        ("concat", 1.5, "0 .text only. to 1"),
        ("concat", np.linspace(-0.1, 1, 30), "0 .text only. to 1"),
        ("average", None, "needs a collaborative_weight"),
        ("sum", 0.5, "choose 'text'"),
        ("average", 0.5, "needs embeddings"),
    ],
)
def test_refuses(parts, mode, weight, message):
    with pytest.raises(ValueError, match=message):
        combine_embeddings(parts[0], None if message == "needs embeddings" else parts[1], mode, weight)

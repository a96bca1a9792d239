import numpy as np
import pytest

from llmrec.item_tokenizer.config import ItemTokenizerConfig
from llmrec.item_tokenizer.user_index import UserEmbedder, UserIndex
from llmrec.schema import DataError

NUM_ITEMS, NUM_USERS = 40, 60
CONFIG = ItemTokenizerConfig(num_codebooks=2, codebook_size=8, num_components=4, device="cpu")


@pytest.fixture(scope="module")
def embedder() -> UserEmbedder:
    rng = np.random.default_rng(0)
    texts = rng.normal(size=(NUM_ITEMS, 12)).astype(np.float32)
    embeddings = texts @ rng.normal(size=(12, 6)).astype(np.float32)
    return UserEmbedder.fit(texts, embeddings)


def users(count: int = NUM_USERS, seed: int = 0) -> tuple[list[str], list[list[int]], list[np.ndarray | None]]:
    """Every third wrote something."""
    rng = np.random.default_rng(seed)
    histories = [rng.integers(NUM_ITEMS, size=rng.integers(1, 9)).tolist() for _ in range(count)]
    reviews = [rng.normal(size=(2, 12)).astype(np.float32) if user % 3 == 0 else None for user in range(count)]
    return [f"u{seed}-{user}" for user in range(count)], histories, reviews


def test_the_fusion_is_attention_with_the_reviews_as_query(embedder) -> None:
    history, review = [3, 8, 5], np.ones((1, 12), dtype=np.float32)
    query = review[0] / np.sqrt(12) @ embedder.to_collaborative
    query /= np.linalg.norm(query)
    keys = embedder.item_embeddings[history]
    weights = np.exp([key @ query / 0.1 for key in keys])
    attended = sum(weight * key for weight, key in zip(weights / weights.sum(), keys, strict=True))
    half = query + attended
    half = (half - half.mean()) / np.linalg.norm(half - half.mean())
    (embedding,) = embedder([history], [review])
    np.testing.assert_allclose(embedding[12:], half, atol=1e-5)
    assert embedding.shape == (18,)


def test_a_user_without_reviews_is_embedded_from_the_texts_of_the_history(embedder) -> None:
    written = embedder.item_texts[[1, 4]]
    np.testing.assert_allclose(embedder([[1, 4]]), embedder([[1, 4]], [written]), atol=1e-6)
    assert not np.allclose(embedder([[1, 4]])[0], embedder([[1, 4]], [embedder.item_texts[[9]]])[0])
    with pytest.raises(DataError, match="nothing to be embedded from"):
        embedder([[]])


def test_the_way_to_collaborative_space_is_found(embedder) -> None:
    found = embedder.item_texts @ embedder.to_collaborative
    cosines = (found * embedder.item_embeddings).sum(1) / np.linalg.norm(found, axis=1)
    assert cosines.mean() > 0.95, "the embeddings are a linear map of the texts"


@pytest.mark.parametrize("quantizer", ["residual_kmeans", "rqvae"])
def test_every_user_has_an_index_of_its_own_and_new_ones_change_none(embedder, quantizer, tmp_path) -> None:
    config = ItemTokenizerConfig(
        quantizer=quantizer, num_codebooks=2, codebook_size=8, latent_dim=4, epochs=30, hidden_sizes=(8,), device="cpu"
    )
    index = UserIndex.fit(*users(), embedder, config)
    codes = {user_id: index.codes(user_id) for user_id in index.user_ids}
    assert len(set(codes.values())) == NUM_USERS
    new_ids, histories, reviews = users(10, seed=1)
    index.extend(new_ids, histories, reviews)
    assert {user_id: index.codes(user_id) for user_id in codes} == codes
    assert len({index.codes(user_id) for user_id in index.user_ids}) == NUM_USERS + 10
    with pytest.raises(DataError, match="u1-3"):
        index.extend(new_ids[3:4], histories[3:4])
    index.save(tmp_path)
    loaded = UserIndex.load(tmp_path)
    assert loaded.fingerprint == index.fingerprint
    assert loaded.codes("u1-3") == index.codes("u1-3")
    np.testing.assert_array_equal(loaded.nearest(histories, reviews), index.nearest(histories, reviews))


def test_somebody_passing_through_gets_the_codes_of_a_user_who_is_alike(embedder) -> None:
    user_ids, histories, reviews = users()
    index = UserIndex.fit(user_ids, histories, reviews, embedder, CONFIG)
    nearest = index.nearest(histories, reviews)
    assert nearest.shape == (NUM_USERS, len(index.codebook_sizes))
    same = [tuple(codes)[:2] == index.codes(user)[:2] for codes, user in zip(nearest.tolist(), user_ids, strict=True)]
    assert np.mean(same) > 0.5, "collisions move some users, not most"
    with pytest.raises(DataError, match="'nobody' has no index"):
        index.codes("nobody")
    assert "nobody" not in index


def test_a_folder_without_one_says_what_makes_one(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="ulmrec"):
        UserIndex.load(tmp_path)

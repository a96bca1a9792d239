"""The item tokenizer: unique IDs, new items, save and load."""

import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from llmrec.item_tokenizer import ItemTokenizer, ItemTokenizerConfig
from llmrec.item_tokenizer.tokenizer import INFO_FILE, WEIGHTS_FILE
from llmrec.schema import DataError
from tests.item_tokenizer.conftest import item_ids

#: Few distinct values, so that duplicates and ties are the rule.
EMBEDDINGS = arrays(
    np.float32,
    st.tuples(st.integers(1, 40), st.integers(1, 5)),
    elements=st.sampled_from([0.0, 1.0, -1.0, 0.5]),
)


def is_unique(semantic_ids: np.ndarray) -> bool:
    return len(np.unique(semantic_ids, axis=0)) == len(semantic_ids)


@settings(max_examples=40, deadline=None)
@given(EMBEDDINGS, st.integers(1, 3), st.integers(2, 5), st.sampled_from([0, 20]))
def test_ids_are_unique_whatever_the_embeddings(embeddings, num_codebooks, codebook_size, conflict_rounds):
    config = ItemTokenizerConfig(
        num_codebooks=num_codebooks, codebook_size=codebook_size, conflict_rounds=conflict_rounds, kmeans_iterations=5
    )
    tokenizer = ItemTokenizer.fit(item_ids(len(embeddings)), embeddings, config)
    assert is_unique(tokenizer.semantic_ids)
    assert tokenizer.semantic_ids.dtype == np.int32
    assert (tokenizer.semantic_ids < np.array(tokenizer.codebook_sizes)).all()
    assert tokenizer.semantic_ids.shape == (len(embeddings), tokenizer.num_codebooks)
    assert tokenizer.num_codebooks in (num_codebooks, num_codebooks + 1)


def test_exact_duplicates_share_all_codes_but_the_last(small, embeddings):
    doubled = np.concatenate([embeddings[:40], embeddings[:2], embeddings[:1]])
    tokenizer = ItemTokenizer.fit(item_ids(43), doubled, small)
    assert tokenizer.codebook_sizes == (8, 8, 8)
    for rows in ([0, 40, 42], [1, 41]):
        assert len(np.unique(tokenizer.semantic_ids[rows, :-1], axis=0)) == 1


def test_more_duplicates_than_codes_are_separated_by_the_extra_level(small, embeddings):
    repeated = np.concatenate([embeddings[:40], np.repeat(embeddings[:1], 8, axis=0), embeddings[1:2]])
    tokenizer = ItemTokenizer.fit(item_ids(49), repeated, small)
    assert tokenizer.has_disambiguation_level
    assert tokenizer.codebook_sizes == (8, 8, 8, 16)
    for rows in ([0, *range(40, 48)], [1, 48]):
        assert len(np.unique(tokenizer.semantic_ids[rows, :-1], axis=0)) == 1
        assert tokenizer.semantic_ids[rows, -1].tolist() == list(range(len(rows)))


def test_no_extra_level_where_nothing_is_left(small, embeddings):
    tokenizer = ItemTokenizer.fit(item_ids(30), embeddings[:30], small)
    assert not tokenizer.has_disambiguation_level
    assert tokenizer.codebook_sizes == (8, 8, 8)
    assert tokenizer.num_codebooks == 3


def test_without_rounds_the_nearest_codes_stay(small, embeddings):
    tokenizer = ItemTokenizer.fit(item_ids(200), embeddings, replace(small, conflict_rounds=0))
    assert (tokenizer.semantic_ids[:, :3] == tokenizer.encode(embeddings)).all()


def test_encode_takes_the_nearest_code_level_by_level(small, embeddings):
    tokenizer = ItemTokenizer.fit(item_ids(200), embeddings, replace(small, num_components=12))
    books = tokenizer.quantizer.codebooks.numpy()
    latents = tokenizer.quantizer.to_latents(torch.from_numpy(embeddings)).numpy()
    for row, residual in enumerate(latents):
        for level, code in enumerate(tokenizer.encode(embeddings)[row]):
            distances = np.square(residual - books[level]).sum(axis=1)
            assert distances[code] == pytest.approx(distances.min(), abs=1e-5)
            residual = residual - books[level][code]  # noqa: PLW2901
    assert tokenizer.encode(embeddings[:0]).shape == (0, 3)


def test_components_that_keep_everything_reconstruct_the_embeddings(small, embeddings):
    quantizer = ItemTokenizer.fit(item_ids(200), embeddings, replace(small, num_components=12)).quantizer
    x = torch.from_numpy(embeddings)
    torch.testing.assert_close(quantizer.from_latents(quantizer.to_latents(x)), x, atol=1e-4, rtol=0)


def test_decode_is_the_inverse(small, embeddings):
    tokenizer = ItemTokenizer.fit(item_ids(200), embeddings, small)
    assert [tokenizer.decode(row) for row in tokenizer.semantic_ids] == item_ids(200)
    with pytest.raises(DataError, match="No item has the semantic ID"):
        tokenizer.decode((7, 7, 7, 7, 7))


def test_two_fits_are_equal(small, embeddings):
    first, second = (ItemTokenizer.fit(item_ids(200), embeddings, small) for _ in range(2))
    assert (first.semantic_ids == second.semantic_ids).all()
    assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize("quantizer", ["residual_kmeans", "rqvae"])
def test_load_equals_save(small, embeddings, tmp_path, quantizer):
    config = replace(small, quantizer=quantizer, epochs=2, hidden_sizes=(16,), latent_dim=5, num_components=5)
    tokenizer = ItemTokenizer.fit(item_ids(200), embeddings, config)
    tokenizer.save(tmp_path)
    state = torch.get_rng_state()
    loaded = ItemTokenizer.load(tmp_path, device="cpu")
    assert torch.equal(state, torch.get_rng_state())
    assert loaded.item_ids == tokenizer.item_ids
    assert (loaded.semantic_ids == tokenizer.semantic_ids).all()
    assert loaded.codebook_sizes == tokenizer.codebook_sizes
    assert loaded.config == tokenizer.config
    new = np.random.default_rng(1).standard_normal((50, 12)).astype(np.float32)
    assert (loaded.encode(new) == tokenizer.encode(new)).all()
    assert (loaded.extend(item_ids(5, "new"), new[:5]) == tokenizer.extend(item_ids(5, "new"), new[:5])).all()


def test_files_of_two_tokenizers_are_noticed(small, embeddings, tmp_path):
    for name, rows in (("a", slice(0, 30)), ("b", slice(30, 60))):
        ItemTokenizer.fit(item_ids(30), embeddings[rows], small).save(tmp_path / name)
    shutil.copy(tmp_path / "b" / WEIGHTS_FILE, tmp_path / "a")
    with pytest.raises(DataError, match="not of one item tokenizer"):
        ItemTokenizer.load(tmp_path / "a")
    (tmp_path / "a" / INFO_FILE).unlink()
    with pytest.raises(FileNotFoundError, match=r"semantic_ids\.py"):
        ItemTokenizer.load(tmp_path / "a")


@settings(max_examples=25, deadline=None)
@given(EMBEDDINGS, st.integers(0, 20), st.booleans())
def test_extend_changes_no_existing_id(embeddings, num_new, duplicated):
    config = ItemTokenizerConfig(num_codebooks=2, codebook_size=64, kmeans_iterations=5)
    rng = np.random.default_rng(0)
    old = rng.standard_normal((30, embeddings.shape[1])).astype(np.float32)
    if duplicated:
        old[1] = old[0]
    tokenizer = ItemTokenizer.fit(item_ids(30), old, config)
    before, sizes = tokenizer.semantic_ids.copy(), tokenizer.codebook_sizes
    new = np.concatenate([embeddings, old[:1]])[:num_new]
    if len(new) == 0:
        return
    added = tokenizer.extend(item_ids(len(new), "new"), new)
    assert (tokenizer.semantic_ids[:30] == before).all()
    assert (tokenizer.semantic_ids[30:] == added).all()
    assert tokenizer.codebook_sizes == sizes
    assert is_unique(tokenizer.semantic_ids)
    assert (added < np.array(sizes)).all()
    assert tokenizer.decode(added[-1]) == tokenizer.item_ids[-1] == f"new {len(new) - 1}"


def test_a_new_item_takes_its_nearest_free_code(small, embeddings):
    tokenizer = ItemTokenizer.fit(item_ids(30), embeddings[:30], small)
    (added,) = tokenizer.extend(["twin"], embeddings[:1])
    twin = tokenizer.encode(embeddings[:1])
    assert (added[:-1] == twin[0, :-1]).all()
    distances = tokenizer.quantizer.last_level_distances(
        torch.from_numpy(embeddings[:1]), torch.from_numpy(twin).long()
    )[0]
    taken = {row[-1] for row in tokenizer.semantic_ids[:30].tolist() if row[:-1] == added[:-1].tolist()}
    nearer = [code for code in range(8) if distances[code] < distances[added[-1]]]
    assert set(nearer) <= taken


def test_with_an_extra_level_a_new_item_takes_the_next_rank(small, embeddings):
    doubled = np.concatenate([embeddings[:30], embeddings[:1]])
    tokenizer = ItemTokenizer.fit(item_ids(31), doubled, replace(small, conflict_rounds=0))
    (added,) = tokenizer.extend(["triplet"], embeddings[:1])
    same = (tokenizer.semantic_ids[:31, :-1] == added[:-1]).all(axis=1)
    assert added[-1] == same.sum() >= 2


@pytest.mark.parametrize("duplicated", [False, True])
def test_an_exhausted_prefix_says_what_to_do_and_adds_nothing(embeddings, duplicated):
    config = ItemTokenizerConfig(num_codebooks=2, codebook_size=4)
    old = embeddings[[0, 0, 50] if duplicated else [0, 50]]
    tokenizer = ItemTokenizer.fit(item_ids(len(old)), old, config)
    before = tokenizer.semantic_ids.copy()
    with pytest.raises(DataError, match="larger codebook_size"):
        tokenizer.extend(item_ids(10, "new"), np.repeat(embeddings[:1], 10, axis=0))
    assert (tokenizer.semantic_ids == before).all()
    assert tokenizer.item_ids == item_ids(len(old))


def test_bad_input_is_named(small, embeddings):
    with pytest.raises(DataError, match=r"\(200, 12\); 3 items"):
        ItemTokenizer.fit(item_ids(3), embeddings, small)
    with pytest.raises(DataError, match="'item 0' is given twice"):
        ItemTokenizer.fit(["item 0"] * 200, embeddings, small)
    with pytest.raises(DataError, match="at least one"):
        ItemTokenizer.fit([], embeddings[:0], small)
    broken = embeddings.copy()
    broken[7, 3] = np.nan
    with pytest.raises(DataError, match=r"'item 7' \(row 7\)"):
        ItemTokenizer.fit(item_ids(200), broken, small)
    tokenizer = ItemTokenizer.fit(item_ids(30), embeddings[:30], small)
    with pytest.raises(DataError, match="has a semantic ID already"):
        tokenizer.extend(["item 3"], embeddings[:1])


@pytest.mark.parametrize(
    ("name", "value"),
    [("quantizer", "pq"), ("codebook_size", 1), ("num_codebooks", 0), ("conflict_rounds", -1), ("sinkhorn_epsilon", 0)],
)
def test_config_refuses(name, value):
    with pytest.raises(ValueError, match=name):
        ItemTokenizerConfig(**{name: value})


@pytest.mark.parametrize("num_items", [5_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_large_catalogue_is_tokenized_in_time(num_items):
    """100,000 random 384-d embeddings, 4 x 256 codes: under ten minutes on two cores, every ID unique."""
    embeddings = np.random.default_rng(0).standard_normal((num_items, 384), dtype=np.float32)
    start = time.monotonic()
    tokenizer = ItemTokenizer.fit(item_ids(num_items), embeddings, ItemTokenizerConfig(device="cpu"))
    assert time.monotonic() - start < 600
    assert is_unique(tokenizer.semantic_ids)
    assert all(len(np.unique(tokenizer.semantic_ids[:, level])) == 256 for level in range(4))

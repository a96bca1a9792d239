"""What the conflict rounds may change, and what they can't separate."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from llmrec.item_tokenizer.collisions import (
    add_disambiguation_level,
    collision_groups,
    collision_rate,
    conflict_rounds,
    take_free_codes,
)
from llmrec.item_tokenizer.config import ItemTokenizerConfig
from llmrec.item_tokenizer.residual_kmeans import ResidualKMeans
from llmrec.item_tokenizer.rqvae import RQVAE
from llmrec.item_tokenizer.sinkhorn import sinkhorn_codes

CODES = arrays(np.int32, st.tuples(st.integers(1, 60), st.just(2)), elements=st.integers(0, 3))


@pytest.fixture
def quantizer(small, embeddings):
    return ResidualKMeans.fit(embeddings, small, torch.device("cpu"))


def test_rounds_change_only_the_last_level(quantizer, small, embeddings):
    nearest = quantizer.encode(embeddings)
    after = conflict_rounds(quantizer, embeddings, nearest, small)
    assert collision_rate(nearest) > 0
    assert collision_rate(after) < collision_rate(nearest)
    assert (after[:, :-1] == nearest[:, :-1]).all()
    assert (after[:, -1] != nearest[:, -1]).any()


def test_rounds_change_only_the_last_level_of_an_rqvae(small, embeddings):
    torch.manual_seed(0)
    model = RQVAE(small, embeddings.shape[1])
    torch.nn.init.normal_(model.codebooks, std=0.1)
    nearest = model.encode(embeddings)
    after = conflict_rounds(model, embeddings, nearest, small)
    assert (after[:, :-1] == nearest[:, :-1]).all()
    assert collision_rate(after) < collision_rate(nearest)


def test_one_round_is_one_sinkhorn_per_group(quantizer, small, embeddings):
    """Groups are found once, at the start of the round, and each is a batch of its own."""
    nearest = quantizer.encode(embeddings)
    expected = nearest.copy()
    for group in collision_groups(nearest):
        distances = quantizer.last_level_distances(
            torch.from_numpy(embeddings[group]), torch.from_numpy(nearest[group]).long()
        )
        expected[group, -1] = sinkhorn_codes(distances, small.sinkhorn_epsilon, small.sinkhorn_iterations).numpy()
    one_round = conflict_rounds(quantizer, embeddings, nearest, replace(small, conflict_rounds=1))
    assert (one_round == expected).all()


def test_no_rounds_leave_the_nearest_codes(quantizer, small, embeddings):
    nearest = quantizer.encode(embeddings)
    assert (conflict_rounds(quantizer, embeddings, nearest, replace(small, conflict_rounds=0)) == nearest).all()


def test_rounds_do_not_touch_their_input(quantizer, small, embeddings):
    nearest = quantizer.encode(embeddings)
    before = nearest.copy()
    conflict_rounds(quantizer, embeddings, nearest, small)
    assert (nearest == before).all()


def test_exact_duplicates_stay_together(quantizer, small, embeddings):
    doubled = np.concatenate([embeddings, embeddings[:3]])
    after = conflict_rounds(quantizer, doubled, quantizer.encode(doubled), small)
    assert (after[:3] == after[200:]).all()


def test_what_the_rounds_leave_moves_to_the_nearest_free_code(quantizer, small, embeddings):
    doubled = np.concatenate([embeddings[:40], embeddings[:3], embeddings[:1]])
    rounds = conflict_rounds(quantizer, doubled, quantizer.encode(doubled), small)
    after = take_free_codes(quantizer, doubled, rounds, small)
    moved = np.flatnonzero((after != rounds).any(axis=1))
    assert collision_rate(rounds) > 0 == collision_rate(after)
    assert (after[:, :-1] == rounds[:, :-1]).all()
    assert set(moved) == {row for group in collision_groups(rounds) for row in group[1:]}
    distances = quantizer.last_level_distances(torch.from_numpy(doubled), torch.from_numpy(rounds).long())
    for row in moved:
        others = (after[:, :-1] == after[row, :-1]).all(axis=1) & (np.arange(len(after)) != row)
        held = {*after[others, -1], *rounds[others, -1], rounds[row, -1]}
        nearer = np.flatnonzero(distances[row].numpy() < distances[row, after[row, -1]].item())
        assert set(nearer) <= held


@given(CODES, st.integers(0, 1))
def test_free_codes_are_taken_where_each_prefix_has_enough(codes, rounds):
    config = ItemTokenizerConfig(num_codebooks=2, codebook_size=4, conflict_rounds=rounds, device="cpu")
    rng = np.random.default_rng(0)
    quantizer = ResidualKMeans(config, 3)
    quantizer.components.copy_(torch.eye(3))
    quantizer.codebooks.copy_(torch.from_numpy(rng.standard_normal((2, 4, 3))))
    after = take_free_codes(quantizer, rng.standard_normal((len(codes), 3)).astype(np.float32), codes, config)
    enough = np.unique(codes[:, 0], return_counts=True)[1].max() <= 4
    if rounds and enough:
        assert collision_rate(after) == 0
        assert (after[:, 0] == codes[:, 0]).all()
    else:
        assert (after == codes).all()


@given(CODES)
def test_disambiguation_makes_every_row_unique(codes):
    extended, size = add_disambiguation_level(codes, 4)
    assert len(np.unique(extended, axis=0)) == len(codes)
    assert (extended[:, :-1] == codes).all()
    assert extended[:, -1].max() < size
    assert size >= 4


@given(CODES)
def test_disambiguation_is_the_rank_in_row_order(codes):
    extended, _ = add_disambiguation_level(codes, 4)
    for row in range(len(codes)):
        assert extended[row, -1] == (codes[:row] == codes[row]).all(axis=1).sum()


@given(CODES)
def test_groups_are_exactly_the_shared_ids(codes):
    groups = collision_groups(codes)
    grouped = np.concatenate([*groups, np.empty(0, int)])
    assert len(set(grouped)) == len(grouped)
    for group in groups:
        assert len(np.unique(codes[group], axis=0)) == 1
        assert (np.diff(group) > 0).all()
    alone = np.setdiff1d(np.arange(len(codes)), grouped)
    assert len(np.unique(codes[alone], axis=0)) == len(alone)


def test_collision_rate_is_items_without_an_id_of_their_own():
    assert collision_rate(np.array([[0, 0], [0, 0], [0, 1], [0, 0]])) == pytest.approx(0.5)


def test_the_level_grows_with_the_largest_group():
    _, size = add_disambiguation_level(np.zeros((300, 2), np.int32), 256)
    assert size == 512

"""The quality numbers against their definitions."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from llmrec.item_tokenizer import ItemTokenizer, quality_report
from llmrec.item_tokenizer.quality import (
    PLOT_FILE,
    REPORT_FILE,
    embedding_hit_rate,
    gini,
    level_usage,
    quality_warnings,
    semantic_cohesion,
    write_quality_report,
)
from llmrec.schema import HISTORIES, DataError
from tests.item_tokenizer.conftest import item_ids

CPU = torch.device("cpu")


def histories(rows) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {"user_id": str(user), "history": history, "target_item_ids": targets, "seen_item_ids": history}
            for user, (history, targets) in enumerate(rows)
        ],
        schema=HISTORIES,
    )


@pytest.mark.parametrize(
    ("items_per_id", "expected"), [([1, 1, 1, 1], 0), ([1, 2, 3, 4], 0.25), ([4, 1, 3, 2], 0.25), ([1, 1, 1, 97], 0.72)]
)
def test_gini_anchors(items_per_id, expected):
    assert gini(np.array(items_per_id)) == pytest.approx(expected)


def test_gini_of_one_id_for_everything_is_zero_too():
    """The trap: degenerate IDs look perfectly even, which is why the collision rate stands beside it."""
    assert gini(np.array([1000])) == pytest.approx(0)


def test_perplexity():
    assert level_usage(np.arange(8), 8) == {"codebook_size": 8, "codes_used": 8, "perplexity": pytest.approx(8)}
    assert level_usage(np.zeros(8, int), 8)["perplexity"] == pytest.approx(1)
    assert level_usage(np.array([0, 0, 5, 5]), 8) == {
        "codebook_size": 8,
        "codes_used": 2,
        "perplexity": pytest.approx(2),
    }


def test_semantic_cohesion_is_the_mean_over_pairs_then_clusters():
    rng = np.random.default_rng(0)
    vectors, clusters = rng.standard_normal((20, 4)).astype(np.float32), rng.integers(0, 5, 20)
    clusters[0] = 7  # alone: does not count
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    means = []
    for cluster in set(clusters):
        rows = np.flatnonzero(clusters == cluster)
        pairs = [unit[a] @ unit[b] for a in rows for b in rows if a != b]
        means += [np.mean(pairs)] if pairs else []
    assert semantic_cohesion(vectors, clusters) == pytest.approx(np.mean(means), abs=1e-6)
    assert semantic_cohesion(vectors, np.arange(20)) is None


def test_embedding_hit_rate_against_a_plain_ranking():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((40, 5)).astype(np.float32)
    vectors[7] = vectors[9]  # a tie
    users = [(rng.choice(40, 3, replace=False), rng.choice(40, 2, replace=False)) for _ in range(30)]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = {5: [], 10: []}
    for history, targets in users:
        scores = (unit @ unit[history].T).max(axis=1)
        ranking = [item for item in np.argsort(-scores, kind="stable") if item not in history]
        for k, hits in expected.items():
            hits.append(np.mean([target in ranking[:k] for target in targets]))
    measured = embedding_hit_rate(vectors, users, (5, 10), CPU)
    assert measured == {f"hit_rate@{k}": pytest.approx(np.mean(hits)) for k, hits in expected.items()}


def test_k_is_capped_at_the_catalogue():
    users = [(np.array([0]), np.array([1])), (np.array([2]), np.array([2]))]  # the second can't be hit
    assert embedding_hit_rate(np.eye(3, dtype=np.float32), users, (20, 100), CPU) == {"hit_rate@3": 0.5}


@pytest.fixture
def tokenizer(small, embeddings):
    return ItemTokenizer.fit(item_ids(200), embeddings, small)


def test_report_counts_before_and_after(tokenizer, small, embeddings):
    report = quality_report(tokenizer, embeddings)
    rates = report["collision_rate"]
    assert rates["nearest_codes"] > rates["after_conflict_rounds"] > rates["semantic_ids"] == 0
    assert rates["after_conflict_rounds"] == pytest.approx(
        1 - len(np.unique(tokenizer.semantic_ids[:, :3], axis=0)) / 200
    )
    assert len(report["levels"]) == 3
    assert "embedding_hit_rate" not in report
    unspread = ItemTokenizer.fit(item_ids(200), embeddings, replace(small, conflict_rounds=0))
    rates = quality_report(unspread, embeddings)["collision_rate"]
    assert rates["nearest_codes"] == rates["after_conflict_rounds"]


def test_reconstruction_error_falls_with_more_codes(small, embeddings):
    errors = []
    for size in (2, 8, 32):
        config = replace(small, codebook_size=size, conflict_rounds=0)
        report = quality_report(ItemTokenizer.fit(item_ids(200), embeddings, config), embeddings)
        errors.append(report["reconstruction_error"]["share_of_variance"])
    assert 1 > errors[0] > errors[1] > errors[2]


def test_report_is_written_with_a_picture(tokenizer, embeddings, tmp_path):
    ids = item_ids(200)
    report = write_quality_report(tokenizer, embeddings, histories([(ids[:3], ids[5:6]), ([], ids[:1])]), tmp_path)
    assert report["embedding_hit_rate"]["users"] == 1  # an empty history says nothing
    assert (tmp_path / REPORT_FILE).is_file()
    assert (tmp_path / PLOT_FILE).read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} == {REPORT_FILE, PLOT_FILE}


def test_histories_of_another_dataset_are_noticed(tokenizer, embeddings):
    with pytest.raises(DataError, match="'stranger', which has no semantic ID"):
        quality_report(tokenizer, embeddings, histories([(["stranger"], ["item 0"])]))
    with pytest.raises(DataError, match="3 embeddings for 200 items"):
        quality_report(tokenizer, embeddings[:3])


def test_a_collapsed_level_is_said_in_plain_words(small, embeddings):
    tokenizer = ItemTokenizer.fit(item_ids(50), embeddings[:50], small)
    report = quality_report(tokenizer, embeddings[:50])
    assert report["warnings"] == []
    report["levels"][1] = {"codebook_size": 32, "codes_used": 3, "perplexity": 2.5}
    (warning,) = quality_warnings(report)
    assert warning.startswith("Level 1 has collapsed: 3 of 32 codes are used")
    report["levels"][1] = {"codebook_size": 32, "codes_used": 32, "perplexity": 2.0}  # all used, by next to nobody
    assert "Level 1 has collapsed" in quality_warnings(report)[0]


def test_identical_embeddings_are_said_in_plain_words(small):
    embeddings = np.ones((50, 4), dtype=np.float32)
    report = quality_report(ItemTokenizer.fit(item_ids(50), embeddings, small), embeddings)
    assert report["duplicate_embeddings"] == pytest.approx(0.98)
    assert report["largest_collision"] == 50
    assert any("same embedding" in warning for warning in report["warnings"])
    assert any("disambiguation" in warning for warning in report["warnings"])

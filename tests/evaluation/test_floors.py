"""The floors that docs/evaluation.md states, from raw files through the same door as every run."""

import pytest

from llmrec.dataset import PreparationConfig, prepare_dataset, read_movielens, read_sequences
from llmrec.evaluation import Evaluator
from llmrec.schema import DataError


def floors(dataset, refit):
    evaluator = Evaluator(dataset, dataset.items["item_id"].to_pylist(), ks=(5, 10), refit=refit)
    return {result.name: result.metrics for result in evaluator.floors()}


@pytest.mark.slow
def test_amazon_beauty(llmrec_data, tmp_path):
    raw = read_sequences(llmrec_data / "amazon2014_beauty")
    results = floors(prepare_dataset(raw, tmp_path / "beauty", PreparationConfig()), refit=False)
    assert results["popularity"]["ndcg@10"] == pytest.approx(0.0055, abs=0.0005)
    assert results["item_knn"]["ndcg@10"] == pytest.approx(0.0489, abs=0.0005)
    assert results["item_knn"]["hit_rate@10"] == pytest.approx(0.0779, abs=0.0005)
    assert results["item_knn"]["hit_rate@5"] == pytest.approx(0.0563, abs=0.0005)


@pytest.mark.slow
def test_movielens(tmp_path):
    try:
        raw = read_movielens(cache_dir=tmp_path)
    except DataError as error:
        pytest.skip(str(error))
    dataset = prepare_dataset(raw, tmp_path / "prepared", PreparationConfig())
    results = floors(dataset, refit=True)
    assert results["popularity"]["ndcg@10"] == pytest.approx(0.0254, abs=0.0005)
    assert results["item_knn"]["ndcg@10"] == pytest.approx(0.1016, abs=0.0005)
    assert results["item_knn"]["hit_rate@10"] == pytest.approx(0.1813, abs=0.0005)
    assert results["item_knn_refit"]["ndcg@10"] == pytest.approx(0.1037, abs=0.0005)

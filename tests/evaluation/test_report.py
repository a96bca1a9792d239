import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from llmrec.evaluation import (
    Evaluator,
    plot_comparison,
    print_recommendations,
    print_table,
    write_metrics_json,
    write_per_user,
)


@pytest.fixture
def evaluator(small_dataset, item_ids):
    return Evaluator(small_dataset, item_ids, ks=(1, 5, 10))


@pytest.fixture
def oracle(evaluator):
    return evaluator.evaluate("lcrec", np.pad(evaluator.targets, ((0, 0), (0, 9)), constant_values=-1))


@pytest.fixture
def blind(evaluator):
    return evaluator.evaluate("lcrec", np.full((4, 10), -1))


def test_table_names_the_protocol_the_rows_and_the_interval(evaluator, oracle, capsys):
    print_table([oracle, *evaluator.floors()], {**evaluator.protocol, "tuning": "lora"})
    text = capsys.readouterr().out
    for part in ("small", "0123456789abcdef", "seen items excluded", "strict", "tuning lora", "4 users, 10 items"):
        assert part in text.splitlines()[0]
    header, *rows = (line.split() for line in text.splitlines()[2:6])
    assert [row[0] for row in rows] == ["lcrec", "popularity", "item_knn"]
    low, high = oracle.intervals["ndcg@10"]
    assert f" {oracle.metrics['ndcg@10']:.4f} {low:.4f}-{high:.4f} " in " ".join(rows[0])
    for column in ("hit_rate@5", "ndcg@10", "coverage@10", "valid_rate"):
        assert column in header


def test_table_says_plainly_when_a_floor_is_higher(evaluator, blind, capsys):
    best = evaluator.evaluate("item_knn", np.pad(evaluator.targets, ((0, 0), (0, 9)), constant_values=-1))
    print_table([blind, best], evaluator.protocol)
    assert "The floor item_knn is HIGHER than lcrec: ndcg@10 0.0000" in capsys.readouterr().out


def test_table_does_not_claim_what_the_users_cannot_show(evaluator, capsys):
    few_hits = np.full((4, 10), -1)
    few_hits[0, 0] = evaluator.targets[0, 0]
    print_table([evaluator.evaluate("lcrec", few_hits), *evaluator.floors()[:1]], evaluator.protocol)
    assert "do not separate the two" in capsys.readouterr().out


def test_metrics_json_keeps_its_contract(evaluator, oracle, tmp_path):
    path = tmp_path / "run" / "metrics.json"
    protocol = {**evaluator.protocol, "tuning": "full"}
    write_metrics_json(path, protocol, "0123456789abcdef", [oracle, *evaluator.floors()], {"train": 1.5})
    content = json.loads(path.read_text())
    assert content.keys() == {"protocol", "split_fingerprint", "results", "seconds", "less_floor"}
    assert content["split_fingerprint"] == "0123456789abcdef"
    assert content["seconds"] == {"train": 1.5}
    needed = {"dataset", "split", "exclude_seen", "max_history", "tuning", "refit", "num_items", "num_users", "seed"}
    assert needed <= content["protocol"].keys()
    assert content["results"].keys() == {"lcrec", "popularity", "item_knn"}
    for result in content["results"].values():
        assert {"ndcg@10", "hit_rate@10", "recall@10", "mrr@10", "coverage@10", "valid_rate"} <= result.keys()
        low, high = result["intervals"]["ndcg@10"]
        assert low <= result["ndcg@10"] <= high
        assert result["buckets"].keys() == {"head", "tail"}


def test_every_users_ndcg_is_kept(evaluator, oracle, tmp_path):
    write_per_user(tmp_path / "per_user.parquet", evaluator.user_ids, [oracle, *evaluator.floors()])
    table = pq.read_table(tmp_path / "per_user.parquet")
    assert table.column_names == ["user_id", "lcrec", "popularity", "item_knn"]
    assert table["user_id"].to_pylist() == evaluator.user_ids
    assert table["lcrec"].to_pylist() == oracle.per_user["ndcg@10"].tolist()


def test_plot_is_a_png_of_readable_size(evaluator, oracle, tmp_path):
    plot_comparison([oracle, *evaluator.floors()], tmp_path / "comparison.png")
    with Image.open(tmp_path / "comparison.png") as image:
        assert image.format == "PNG"
        assert image.width > 800
    assert [path.name for path in tmp_path.iterdir()] == ["comparison.png"]


def test_plot_needs_metrics_at_ten(small_dataset, item_ids, tmp_path):
    floors = Evaluator(small_dataset, item_ids, ks=(1,)).floors()
    with pytest.raises(ValueError, match="10 among the ks"):
        plot_comparison(floors, tmp_path / "comparison.png")


def test_recommendations_read_as_titles(evaluator, capsys):
    titles = [f"Film {index}" for index in range(10)]
    ranked = np.array([[9, 3, -1], [-1, -1, -1], [1, 2, 4], [8, 7, 9]])
    print_recommendations(titles, evaluator.histories, ranked, evaluator.targets, num_users=2, k=2, last=2)
    text = capsys.readouterr().out
    assert "... 1 earlier, Film 1; Film 2" in text
    assert "1. Film 9\n" in text
    assert "2. Film 3   <- came next" in text
    assert text.count("history:") == 2

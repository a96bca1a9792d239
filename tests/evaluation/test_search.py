"""Search metrics, computed by hand."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from llmrec.dataset import QueryDataset
from llmrec.evaluation import SearchEvaluator, format_search
from llmrec.metrics import graded_metrics
from llmrec.schema import ITEMS, QUERIES, DataError

ITEM_IDS = [f"i{row}" for row in range(12)]


@pytest.fixture
def dataset() -> QueryDataset:
    items = [{"item_id": i, "title": i, "description": "", "brand": "", "categories": []} for i in ITEM_IDS]
    shared: dict[str, Any] = {"split": "test", "keywords": []}
    queries = [
        shared | {"query_id": "1", "query": "one", "kind": "question", "item_ids": ["i3"], "grades": [1]},
        shared | {"query_id": "2", "query": "two", "kind": "real", "item_ids": ["i5", "i0", "i7"], "grades": [3, 0, 1]},
        shared | {"query_id": "3", "query": "three", "kind": "real", "item_ids": ["i1", "i2"], "grades": [2, 2]},
    ]
    return QueryDataset("small", pa.Table.from_pylist(items, ITEMS), pa.Table.from_pylist(queries, QUERIES), {})


RANKED = np.array([[3, 0, -1, -1], [0, 5, 9, 7], [9, 10, 2, 1]])


def test_numbers_by_hand(dataset: QueryDataset) -> None:
    evaluator = SearchEvaluator(dataset, ks=(2, 4))
    assert evaluator.queries == ["one", "two", "three"]
    values = evaluator.per_query(RANKED)
    assert values["hit_rate@2"].tolist() == [1, 1, 0]
    assert values["recall@2"].tolist() == [1, 0.5, 0]
    assert values["recall@4"].tolist() == [1, 1, 1]
    assert values["precision@4"].tolist() == [0.25, 0.5, 0.5]
    assert values["judged@2"].tolist() == [0.5, 1, 0]
    assert values["judged@4"].tolist() == [0.25, 0.75, 0.5]
    second = (7 / math.log2(3) + 1 / math.log2(5)) / (7 + 1 / math.log2(3))
    third = (1 / math.log2(4) + 1 / math.log2(5)) / (1 + 1 / math.log2(3))
    assert values["ndcg@4"] == pytest.approx([1, second, third])
    assert values["ndcg@2"] == pytest.approx([1, (7 / math.log2(3)) / (7 + 1 / math.log2(3)), 0])


def test_a_report_has_all_queries_and_each_kind_with_intervals(dataset: QueryDataset) -> None:
    report = SearchEvaluator(dataset, ks=(2, 4)).report(RANKED)
    assert list(report) == ["all", "question", "real"]
    assert [part["num_queries"] for part in report.values()] == [3, 1, 2]
    assert report["all"]["hit_rate@2"] == pytest.approx(2 / 3)
    assert report["real"]["recall@2"] == 0.25
    for part in report.values():
        for metric, (low, high) in part["intervals"].items():
            assert low <= part[metric] + 1e-9
            assert part[metric] <= high + 1e-9


def test_an_item_named_twice_counts_once() -> None:
    metrics = graded_metrics(np.array([[4, 4, 5]]), np.array([[4, 5, -1]]), np.array([[2, 1, 0]]), (3,))
    assert metrics["precision@3"].tolist() == metrics["judged@3"].tolist() == [pytest.approx(2 / 3)]
    assert metrics["ndcg@3"] == pytest.approx((3 + 1 / math.log2(4)) / (3 + 1 / math.log2(3)))


def test_with_grades_of_one_ndcg_is_the_binary_one() -> None:
    from llmrec.metrics import rank_metrics  # noqa: PLC0415

    random = np.random.default_rng(0)
    ranked = np.array([random.permutation(20)[:10] for _ in range(30)])
    judged = np.array([random.permutation(20)[:4] for _ in range(30)])
    graded = graded_metrics(ranked, judged, np.ones_like(judged), (5, 10))
    binary = rank_metrics(ranked, judged, (5, 10))
    for k in (5, 10):
        assert graded[f"ndcg@{k}"] == pytest.approx(binary[f"ndcg@{k}"])
        assert graded[f"precision@{k}"] == pytest.approx(binary[f"recall@{k}"] * 4 / k)


def test_the_tables_show_every_system_and_kind(dataset: QueryDataset) -> None:
    evaluator = SearchEvaluator(dataset)
    wide = np.pad(RANKED, ((0, 0), (0, 96)), constant_values=-1)
    shown = format_search({"bm25": evaluator.report(wide), "mine": evaluator.report(wide[:, ::-1])})
    lines = shown.splitlines()
    assert lines[0] == "3 queries"
    assert lines[2].split("  ")[-1].strip() == "judged@10"
    assert "95 % interval" in lines[2]
    assert [line.split()[0] for line in lines[3:5]] == ["bm25", "mine"]
    assert "hit_rate@10  question (1)  real (2)" in shown
    assert shown.count("bm25") == 4
    assert max(map(len, lines)) <= 100


def test_what_does_not_fit_is_refused(dataset: QueryDataset) -> None:
    evaluator = SearchEvaluator(dataset, ks=(2, 4))
    with pytest.raises(ValueError, match="one row for each of the 3 queries"):
        evaluator.report(RANKED[:2])
    with pytest.raises(ValueError, match="too few for a cut-off of 4"):
        evaluator.report(RANKED[:, :3])
    with pytest.raises(DataError, match="train split of small has no queries"):
        SearchEvaluator(dataset, "train")
    with pytest.raises(ValueError, match="results is empty"):
        format_search({})
    with pytest.raises(ValueError, match="Row 0 of grades holds no relevant item"):
        graded_metrics(np.array([[1]]), np.array([[1]]), np.array([[0]]), (1,))
    with pytest.raises(ValueError, match="each judged item needs a grade"):
        graded_metrics(np.array([[1]]), np.array([[1]]), np.array([[1, 1]]), (1,))

"""Rows that somebody published stay as they are; the log ends where it is told to."""

import json
from pathlib import Path

import pytest

from llmrec.baselines import ItemKNN
from llmrec.dataset import RecDataset, prepare_published_rows, read_sequences
from llmrec.evaluation import Evaluator
from llmrec.schema import DataError

ITEMS = [{"item_id": number, "title": f"Tool {number}"} for number in range(6)]
START = 1_500_000_000
LOG = [
    {"user": "a", "items": [3, 1, 2], "timestamps": [START + 30, START + 10, START + 20]},
    {"user": "b", "items": [4, 1], "timestamps": [START + 5, START + 100]},
    {"user": "c", "items": [5], "timestamps": [START + 200]},
]
VALID = [{"user": "A1", "history": [1, 1, 2], "target": 3}]
TEST = [
    {"user": "A1", "history": [1, 1, 2, 3], "target": 0},
    {"user": "A1", "history": [1, 1, 2, 3, 0], "target": 5},
    {"user": "A7", "history": [4], "target": 4},
]


def write(folder: Path, **files: list[dict]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in {"items": ITEMS, "sequences": LOG, "valid": VALID, "test": TEST, **files}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def prepare(folder: Path, train_before: int = START + 100) -> RecDataset:
    rows = {name: folder / f"{name}.jsonl" for name in ("valid", "test")}
    return prepare_published_rows(read_sequences(folder), rows, folder / "out", train_before)


def test_rows_are_those_of_the_files_and_training_ends_where_told(tmp_path: Path) -> None:
    dataset = prepare(write(tmp_path / "tools"))
    assert dataset.items["item_id"].to_pylist() == ["0", "1", "2", "3", "4", "5"]
    assert dataset.train_sequences() == [["1", "2", "3"], ["4"]]
    assert dataset.train["timestamps"].to_pylist() == [[START + 10, START + 20, START + 30], [START + 5]]
    assert dataset.test["user_id"].to_pylist() == ["test:1:A1", "test:2:A1", "test:3:A7"]
    assert dataset.test["history"].to_pylist() == [["1", "1", "2", "3"], ["1", "1", "2", "3", "0"], ["4"]]
    assert dataset.test["target_item_ids"].to_pylist() == [["0"], ["5"], ["4"]]
    assert dataset.test["seen_item_ids"].to_pylist() == [["1", "2", "3"], ["1", "2", "3", "0"], ["4"]]
    assert dataset.valid["target_item_ids"].to_pylist() == [["3"]]
    counts = {name: dataset.info["counts"][name] for name in ("items", "train_users", "test_users", "cold_items")}
    assert counts == {"items": 6, "train_users": 2, "test_users": 3, "cold_items": 2}
    assert dataset.protocol == {"split": "published_rows", "train_before": START + 100, "max_history": 5}
    evaluator = Evaluator(dataset, dataset.items["item_id"].to_pylist(), exclude_seen=False)
    assert evaluator.protocol["targets_seen_before"] == pytest.approx(1 / 3)
    with pytest.raises(DataError, match="leave out refit"):
        dataset.train_sequences(refit=True)


@pytest.mark.parametrize(
    ("files", "train_before", "message"),
    [
        (
            {"test": [{"user": "A", "history": [1], "target": 99}]},
            START + 100,
            r"test.jsonl: line 1 names the item '99'",
        ),
        ({"valid": [{"user": "A", "history": [], "target": 1}]}, START + 100, r"valid.jsonl: line 1 has no history"),
        ({"test": []}, START + 100, "test.jsonl holds no rows"),
        ({}, START + 5, f"nothing before second {START + 5}"),
        ({"sequences": [{"user": "a", "items": [1, 2]}]}, START + 100, "no timestamps"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_written(
    tmp_path: Path, files: dict, train_before: int, message: str
) -> None:
    folder = write(tmp_path / "tools", **files)
    with pytest.raises(DataError, match=message):
        prepare(folder, train_before)
    assert not (folder / "out").exists()


@pytest.mark.slow
def test_the_industrial_rows_and_what_item_knn_finds_of_them(llmrec_data: Path, tmp_path: Path) -> None:
    source = llmrec_data / "amazon2018_industrial"
    rows = {name: source / f"{name}.jsonl" for name in ("valid", "test")}
    dataset = prepare_published_rows(read_sequences(source), rows, tmp_path / "out", 1495152000)
    assert (dataset.items.num_rows, dataset.valid.num_rows, dataset.test.num_rows) == (3686, 4532, 4533)
    evaluator = Evaluator(dataset, dataset.items["item_id"].to_pylist(), exclude_seen=False)
    item_knn = ItemKNN().fit(evaluator._train, evaluator.num_items)
    ranked = item_knn.recommend(evaluator.histories, max(evaluator.ks))
    assert evaluator.evaluate("item_knn", ranked).metrics["hit_rate@10"] == pytest.approx(0.0781, abs=5e-5)

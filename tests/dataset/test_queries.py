"""The folder of queries: what it refuses, and that nothing half-written is read."""

from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmrec.dataset import QueryDataset
from llmrec.dataset.queries import QUERY_SPLITS, hashed_split
from llmrec.schema import ITEMS, QUERIES, DataError

ITEM_IDS = ["a", "b", "c"]


def make_items() -> pa.Table:
    rows = [{"item_id": i, "title": f"<emb> {i}", "description": "", "brand": "", "categories": []} for i in ITEM_IDS]
    return pa.Table.from_pylist(rows, ITEMS)


def make_row(query_id: str, **changes: Any) -> dict[str, Any]:
    row = {
        "query_id": query_id,
        "query": f"query <emb> {query_id}",
        "kind": "title",
        "split": "train",
        "keywords": ["<emb>"],
        "item_ids": ["a", "c"],
        "grades": [3, 0],
    }
    return row | changes


def make_dataset(*rows: dict[str, Any]) -> QueryDataset:
    return QueryDataset(
        "small", make_items(), pa.Table.from_pylist(list(rows), QUERIES), {"source": "a test", "writer": None}
    )


ROWS = (make_row("1"), make_row("2", split="test", kind="real"), make_row("3", split="test"))


def test_what_is_saved_is_loaded_texts_untouched(tmp_path: Path) -> None:
    saved = make_dataset(*ROWS).save(tmp_path / "q")
    loaded = QueryDataset.load(tmp_path / "q")
    assert loaded.table.equals(saved.table)
    assert loaded.items.equals(saved.items)
    assert loaded.fingerprint == saved.fingerprint == loaded.info["fingerprint"]
    assert loaded.queries("test")["query"].to_pylist() == ["query <emb> 2", "query <emb> 3"]
    assert loaded.queries("rl").num_rows == 0
    assert loaded.counts == {
        "train": {"all": 1, "title": 1},
        "rl": {"all": 0},
        "valid": {"all": 0},
        "test": {"all": 2, "title": 1, "real": 1},
    }
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_card_lets_the_datasets_library_read_the_folder(tmp_path: Path) -> None:
    make_dataset(*ROWS).save(tmp_path / "q")
    read = datasets.load_dataset(str(tmp_path / "q"), "queries", cache_dir=str(tmp_path / "cache"), split="train")
    assert read["query_id"][:] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"query": " \n"}, r"row 1 of small\) is empty"),
        ({"item_ids": ["a", "z"]}, r"row 1 .*names items \['z'\], which the catalogue lacks"),
        ({"item_ids": ["a", "a"]}, "names an item twice"),
        ({"grades": [1]}, "has 2 items and 1 grades"),
        ({"grades": [1, -1]}, "has the grade -1"),
        ({"grades": [0, 0]}, "no relevant item"),
        ({"item_ids": [], "grades": []}, "no relevant item"),
        ({"split": "dev"}, "of split 'dev'; allowed are train, rl, valid, test"),
        ({"query_id": "1"}, "repeats a query_id"),
        ({"query": "Query  <EMB> 1", "split": "test"}, "stands in the split train too"),
    ],
)
def test_a_bad_row_is_named_with_what_to_do(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        make_dataset(make_row("1"), make_row("2") | changes)


def test_items_must_differ_and_splits_have_names() -> None:
    items = pa.concat_tables([make_items(), make_items()])
    with pytest.raises(DataError, match="hold 'a' twice"):
        QueryDataset("small", items, QUERIES.empty_table(), {})
    with pytest.raises(ValueError, match="split is 'dev'"):
        make_dataset(*ROWS).queries("dev")


def test_a_folder_that_is_none_unfinished_or_damaged_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="not a folder of queries"):
        QueryDataset.load(tmp_path)
    folder = tmp_path / "q"
    make_dataset(*ROWS).save(folder)
    content = (folder / "queries.parquet").read_bytes()
    (folder / "queries.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="is damaged"):
        QueryDataset.load(folder)
    pq.write_table(make_dataset(make_row("9")).table, folder / "queries.parquet")
    with pytest.raises(DataError, match=r"but queries\.json is of"):
        QueryDataset.load(folder)
    (folder / "queries.json").write_text("{}")
    with pytest.raises(DataError, match="is damaged"):
        QueryDataset.load(folder)
    (folder / "queries.json").unlink()
    with pytest.raises(FileNotFoundError, match="was not finished"):
        QueryDataset.load(folder)


def test_the_fingerprint_follows_content_and_order() -> None:
    first = make_dataset(*ROWS).fingerprint
    assert make_dataset(*ROWS).fingerprint == first
    others = [make_dataset(*ROWS[::-1]), make_dataset(ROWS[0]), make_dataset(make_row("1", grades=[2, 0]), *ROWS[1:])]
    assert len({first, *(other.fingerprint for other in others)}) == 4


def test_hashed_splits_have_their_shares_and_empty_ones_get_nothing() -> None:
    shares = {"train": 70, "rl": 0, "valid": 10, "test": 20}
    drawn = [hashed_split(f"text {number}", shares, 1) for number in range(4000)]
    for split, share in shares.items():
        assert drawn.count(split) / 4000 == pytest.approx(share / 100, abs=0.03)
    assert "rl" not in drawn
    assert {hashed_split(str(number), {"train": 0, "test": 5}, 0) for number in range(50)} == {"test"}
    assert set(shares) == set(QUERY_SPLITS)

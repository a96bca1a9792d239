"""Semantic IDs from elsewhere: what is read is what stands there, and nothing is guessed."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmrec.item_tokenizer import read_semantic_ids
from llmrec.schema import DataError


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_tokens_and_numbers_say_the_same_and_rows_follow_the_catalogue(tmp_path):
    tokens = write(
        tmp_path / "ids.jsonl",
        [
            {"item_id": 7, "sid": ["<a_3>", "<b_70>"]},
            {"item_id": 8, "sid": ["<a_0>", "<b_1>"]},
            {"item_id": 9, "sid": ["<a_5>", "<b_2>"]},
        ],
    )
    codes, sizes = read_semantic_ids(tokens, ["8", "7"], "sid")
    assert codes.tolist() == [[0, 1], [3, 70]]
    assert codes.dtype == np.int32
    # the third item is not in the catalogue, but its codes may come with a later one
    assert sizes == (6, 71)
    table = pa.table({"item_id": ["7", "8"], "semantic_id": [[3, 70], [0, 1]]})
    pq.write_table(table, tmp_path / "ids.parquet")
    same, _ = read_semantic_ids(tmp_path / "ids.parquet", ["8", "7"])
    assert (same == codes).all()
    (tmp_path / "ids.json").write_text(json.dumps({"8": ["<a_0>", "<b_1>"], "7": ["<a_3>", "<b_70>"]}))
    assert (read_semantic_ids(tmp_path / "ids.json", ["8", "7"])[0] == codes).all()


def test_shared_ids_get_a_further_level(tmp_path):
    rows = [{"item_id": str(n), "semantic_id": [n // 2, 3]} for n in range(6)]
    codes, sizes = read_semantic_ids(write(tmp_path / "ids.jsonl", rows), [str(n) for n in range(6)])
    assert codes[:, :2].tolist() == [[n // 2, 3] for n in range(6)]
    assert codes[:, 2].tolist() == [0, 1] * 3
    assert sizes == (3, 4, 32)
    assert len(np.unique(codes, axis=0)) == 6


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"item_id": "a", "other": [1]}], "has no 'semantic_id' in row 1; it has item_id, other"),
        ([{"item_id": "b", "semantic_id": [1]}], "has no semantic ID of 1 of the 1 items, such as 'a'"),
        ([{"item_id": "a", "semantic_id": [1]}] * 2, "has item 'a' twice"),
        ([{"item_id": 0.5, "semantic_id": [1]}], "has the item id 0.5"),
        ([{"item_id": "a", "semantic_id": ["<a>"]}], "gives item 'a' the code '<a>'; allowed are whole numbers"),
        ([{"item_id": "a", "semantic_id": [-1]}], "the code -1"),
        ([{"item_id": "a", "semantic_id": [0.5]}], "the code 0.5"),
        ([{"item_id": "a", "semantic_id": ["1.5"]}], "the code '1.5'"),
        ([{"item_id": "a", "semantic_id": ["<b_-5>"]}], "the code '<b_-5>'"),
        ([{"item_id": "a", "semantic_id": [[1, 2]]}], r"the code \[1, 2\]"),
        ([{"item_id": "a", "semantic_id": [2**31]}], "the code 2147483648"),
        ([{"item_id": "a", "semantic_id": []}], "it has to be a list of codes"),
        ([{"item_id": "a", "semantic_id": None}], "the semantic ID None"),
        ([{"item_id": "a", "semantic_id": "10"}], "the semantic ID '10'"),
        ([{"item_id": "a", "semantic_id": {"c_1": 0}}], "it has to be a list of codes"),
    ],
)
def test_what_is_no_semantic_id_is_named(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        read_semantic_ids(write(tmp_path / "ids.jsonl", rows), ["a"])


@pytest.mark.parametrize(
    ("name", "content"), [("ids.csv", "item_id,semantic_id"), ("ids.json", "[1]"), ("x.parquet", "")]
)
def test_other_files_are_refused_by_name(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=f"{name} can't be read"):
        read_semantic_ids(tmp_path / name, ["a"])


def test_ids_of_different_lengths_are_refused(tmp_path):
    rows = [{"item_id": "a", "semantic_id": [1, 2]}, {"item_id": "b", "semantic_id": [1]}]
    with pytest.raises(DataError, match=r"\[1, 2\] codes: all need the same number"):
        read_semantic_ids(write(tmp_path / "ids.jsonl", rows), ["a", "b"])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="is no file: give semantic IDs"):
        read_semantic_ids(tmp_path / "none.jsonl", ["a"])

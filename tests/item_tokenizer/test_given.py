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
    assert sizes == (4, 71)  # the third item is not in the catalogue
    table = pa.table({"item_id": ["7", "8"], "semantic_id": [[3, 70], [0, 1]]})
    pq.write_table(table, tmp_path / "ids.parquet")
    same, _ = read_semantic_ids(tmp_path / "ids.parquet", ["8", "7"])
    assert (same == codes).all()


def test_shared_ids_get_a_further_level(tmp_path):
    rows = [{"item_id": str(n), "semantic_id": [n // 2, 3]} for n in range(6)]
    codes, sizes = read_semantic_ids(write(tmp_path / "ids.jsonl", rows), [str(n) for n in range(6)])
    assert codes[:, :2].tolist() == [[n // 2, 3] for n in range(6)]
    assert codes[:, 2].tolist() == [0, 1] * 3
    assert len(sizes) == 3
    assert len(np.unique(codes, axis=0)) == 6


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"item_id": "a", "other": [1]}], "has no column 'semantic_id'; it has item_id, other"),
        ([{"item_id": "b", "semantic_id": [1]}], "has no semantic ID of 1 of the 1 items, such as 'a'"),
        ([{"item_id": "a", "semantic_id": ["<a>"]}], "gives item 'a' the code '<a>'; allowed are whole numbers"),
        ([{"item_id": "a", "semantic_id": [-1]}], "the code -1"),
        ([{"item_id": "a", "semantic_id": [0.5]}], "the code 0.5"),
        ([{"item_id": "a", "semantic_id": []}], r"semantic IDs of \[0\] codes"),
        ([{"item_id": "a", "semantic_id": None}], r"semantic IDs of \[0\] codes"),
    ],
)
def test_what_is_no_semantic_id_is_named(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        read_semantic_ids(write(tmp_path / "ids.jsonl", rows), ["a"])


def test_ids_of_different_lengths_are_refused(tmp_path):
    rows = [{"item_id": "a", "semantic_id": [1, 2]}, {"item_id": "b", "semantic_id": [1]}]
    with pytest.raises(DataError, match=r"\[1, 2\] codes: all need the same number"):
        read_semantic_ids(write(tmp_path / "ids.jsonl", rows), ["a", "b"])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="is no file: give a table"):
        read_semantic_ids(tmp_path / "none.jsonl", ["a"])

"""Histories in JSON lines."""

import json
from pathlib import Path

import pytest

from llmrec.dataset import PreparationConfig, prepare_dataset, read_sequences
from llmrec.schema import DataError

ITEMS = [
    {"item_id": 1, "title": "One"},
    {"item_id": 2, "title": "", "other": "Two &amp; a half"},
    {"item_id": 3, "other": "Three", "description": "['A.', 'B.']", "category": "Toys"},
]


def write(folder: Path, users: list[dict], items: list[dict] = ITEMS) -> Path:
    (folder / "sequences.jsonl").write_text("".join(json.dumps(user) + "\n\n" for user in users))
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return folder


def test_the_given_order_stays_and_the_first_title_there_is_counts(tmp_path: Path) -> None:
    raw = read_sequences(write(tmp_path, [{"user": "u", "items": [2, 1, 3]}]), title_columns=("title", "other"))
    assert raw.items["title"].to_pylist() == ["One", "Two & a half", "Three"]
    assert raw.items["description"].to_pylist() == ["", "", "A. B."]
    assert raw.items["categories"].to_pylist() == [[], [], ["Toys"]]
    assert not raw.has_timestamps
    assert raw.source.endswith("titles from title, other")
    dataset = prepare_dataset(raw, tmp_path / "out", PreparationConfig(k_core=1))
    assert dataset.train["item_ids"].to_pylist() == [["2"]]
    assert dataset.test["target_item_ids"].to_pylist() == [["3"]]
    with pytest.raises(DataError, match="only the order"):
        prepare_dataset(raw, tmp_path / "temporal", PreparationConfig(k_core=1, split="global_temporal"))


def test_timestamps_and_ratings_are_kept_where_there_are_any(tmp_path: Path) -> None:
    users = [
        {"user": "u", "items": [1], "timestamps": [1_700_000_000], "ratings": [4.5]},
        {"user": "u", "items": [1], "timestamps": [1_700_000_009]},
    ]
    raw = read_sequences(write(tmp_path, users))
    assert raw.has_timestamps
    assert raw.interactions["timestamp"].to_pylist() == [1_700_000_000, 1_700_000_009]
    assert raw.interactions["rating"].to_pylist() == [4.5, None]


@pytest.mark.parametrize(
    ("users", "message"),
    [
        ([{"user": "u", "items": [2]}], r"items.jsonl: 1 items .* no title .* '2' in line 2.*--drop_untitled"),
        ([{"user": "u", "items": [1]}, {"user": "v", "items": [1, 9]}], r"no row for, the first is '9' in line 3"),
        ([{"user": "u", "items": [1, 1], "timestamps": [5]}], "line 1 has 2 items and 1 timestamps"),
        ([{"user": "u", "items": [1]}, {"user": "u", "items": [1]}], "line 3 repeats user 'u' of line 1"),
        ([{"user": "u", "items": [1], "timestamps": [5]}, {"user": "v", "items": [1]}], "line 3 has no timestamps, un"),
        ([{"user": "u", "items": 5}], "line 1 has items 5; a list is needed"),
        ([{"user": "u"}], "line 1 has no items; it has user"),
        ([{"user": "u", "items": [1.5]}], "column 'items' holds 1.5 in line 1; an id is text or a whole number"),
        ([{"user": "u", "items": [1], "ratings": ["good"]}], "column 'ratings' holds 'good' in line 1"),
        ([], "sequences.jsonl holds no interactions"),
    ],
)
def test_bad_histories_are_refused_with_their_line(tmp_path: Path, users: list[dict], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_sequences(write(tmp_path, users))


def test_broken_lines_and_missing_columns_are_refused(tmp_path: Path) -> None:
    write(tmp_path, [{"user": "u", "items": [1]}])
    with pytest.raises(DataError, match=r"items\.jsonl has no column 'name'; it has item_id, title, other"):
        read_sequences(tmp_path, title_columns=("name",))
    (tmp_path / "sequences.jsonl").write_text('{"user": "u"\n')
    with pytest.raises(DataError, match=r"line 1 can't be parsed .*Each line must hold one object"):
        read_sequences(tmp_path)
    (tmp_path / "sequences.jsonl").write_text('["u", [1]]\n')
    with pytest.raises(DataError, match="line 1 holds a list"):
        read_sequences(tmp_path)
    (tmp_path / "sequences.jsonl").write_bytes(b'{"user": "\xff", "items": [1]}\n')
    with pytest.raises(DataError, match="is no UTF-8 text"):
        read_sequences(tmp_path)
    (tmp_path / "sequences.jsonl").unlink()
    with pytest.raises(DataError, match=r"sequences\.jsonl is not there"):
        read_sequences(tmp_path)


def test_beauty_has_the_published_counts(llmrec_data: Path) -> None:
    raw = read_sequences(llmrec_data / "amazon2014_beauty", title_columns=("title", "idgenrec_text"))
    assert len(set(raw.interactions["user_id"].to_pylist())) == 22_363
    assert (raw.items.num_rows, raw.interactions.num_rows) == (12_101, 198_502)

"""A user's own tables: every kind gives the same data, and what can't be read is refused with its place."""

import gzip
import logging
import re
from pathlib import Path

import pandas as pd
import pytest

from llmrec.dataset import read_interactions
from llmrec.schema import DataError

EVENTS = pd.DataFrame(
    {
        "user_id": ["u1", "u1", "u2"],
        "item_id": ["7", "08", "7"],
        "timestamp": [1_700_000_000, 1_700_000_100, 1_700_000_200],
        "rating": [4.0, 5.0, 3.5],
    }
)
ITEMS = pd.DataFrame({"item_id": ["7", "08"], "title": ["Seven", "Eight"], "categories": ["a|b", ""]})


def write(folder: Path, kind: str, events: pd.DataFrame = EVENTS, items: pd.DataFrame = ITEMS) -> tuple[Path, Path]:
    paths = folder / f"events.{kind}", folder / f"items.{kind}"
    for path, table in zip(paths, (events, items), strict=True):
        if kind == "parquet":
            table.to_parquet(path)
        elif kind.startswith("jsonl"):
            table.to_json(path, orient="records", lines=True)
        else:
            table.to_csv(path, index=False, sep="\t" if kind.startswith("tsv") else ",")
    return paths


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "tsv", "jsonl", "jsonl.gz", "parquet"])
def test_every_kind_of_table_gives_the_same_data(tmp_path: Path, kind: str) -> None:
    raw = read_interactions(*write(tmp_path, kind))
    assert raw.interactions.select(list(EVENTS)).to_pylist() == EVENTS.to_dict("records")
    assert raw.items["title"].to_pylist() == ["Seven", "Eight"]
    assert raw.items["categories"].to_pylist() == [["a", "b"], []]
    assert (raw.name, raw.source) == ("events", f"events.{kind} and items.{kind}")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_missing_values_of_optional_columns_and_lists_are_read(tmp_path: Path, kind: str) -> None:
    events = EVENTS.assign(rating=[4.0, None, 3.0], review=['Good, "very"\nso', None, "0"])
    items = ITEMS.assign(description=[None, "Long"], brand=["B", None])
    if kind != "csv":
        items = items.assign(categories=[["a", " b "], None])
    raw = read_interactions(*write(tmp_path, kind, events, items))
    assert raw.interactions["rating"].to_pylist() == [4.0, None, 3.0]
    assert raw.interactions["review"].to_pylist() == ['Good, "very"\nso', None, "0"]
    assert raw.items["description"].to_pylist() == ["", "Long"]
    assert raw.items["brand"].to_pylist() == ["B", ""]
    assert raw.items["categories"].to_pylist() == [["a", "b"], []]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_numeric_ids_never_gain_a_decimal_point(tmp_path: Path, kind: str) -> None:
    big = 2**60 + 1  # no float holds it
    events = EVENTS.assign(user_id=[1.0, 1.0, 2.0], item_id=[big, 3, big])
    raw = read_interactions(*write(tmp_path, kind, events, ITEMS.assign(item_id=[big, 3])))
    assert raw.interactions["user_id"].to_pylist() == ["1", "1", "2"]
    assert raw.items["item_id"].to_pylist() == [str(big), "3"]


def test_a_column_mapping_is_followed_and_a_wrong_one_refused(tmp_path: Path) -> None:
    events, items = EVENTS.rename(columns={"item_id": "sku"}), ITEMS.rename(columns={"item_id": "sku", "title": "name"})
    paths = write(tmp_path, "csv", events, items)
    raw = read_interactions(*paths, columns={"item_id": "sku", "title": "name"}, name="mine")
    assert raw.interactions["item_id"].to_pylist() == ["7", "08", "7"]
    assert raw.name == "mine"
    with pytest.raises(DataError, match="columns maps 'sku'; allowed are user_id, item_id"):
        read_interactions(*paths, columns={"sku": "item_id"})
    with pytest.raises(DataError, match=r"items\.csv has no column 'maker' for brand"):
        read_interactions(*paths, columns={"item_id": "sku", "title": "name", "brand": "maker"})


@pytest.mark.parametrize(
    ("timestamps", "unit"),
    [
        (["2023-11-14T22:13:20Z", "2023-11-14T22:15:00", "2023-11-14T23:16:40+01:00"], None),
        ([1_700_000_000_000, 1_700_000_100_000, 1_700_000_200_000], "ms"),
        ([1_700_000_000, 1_700_000_100, 1_700_000_200], "s"),
    ],
)
def test_every_notation_gives_the_same_times_and_a_detected_unit_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, timestamps: list, unit: str | None
) -> None:
    with caplog.at_level(logging.INFO):
        raw = read_interactions(*write(tmp_path, "csv", EVENTS.assign(timestamp=timestamps)))
    assert raw.interactions["timestamp"].to_pylist() == EVENTS["timestamp"].tolist()
    assert raw.has_timestamps
    assert ("holds times in" in caplog.text) == (unit is not None)
    assert f"column 'timestamp' holds times in {unit}." in caplog.text or unit is None


def test_positions_are_taken_for_an_order_only_when_asked(tmp_path: Path) -> None:
    paths = write(tmp_path, "csv", EVENTS.assign(timestamp=[0, 1, 0]))
    with pytest.raises(DataError, match=r"events\.csv: column 'timestamp' runs from 0 .*position"):
        read_interactions(*paths)
    raw = read_interactions(*paths, timestamp_unit="position")
    assert raw.interactions["timestamp"].to_pylist() == [0, 1, 0]
    assert not raw.has_timestamps


@pytest.mark.parametrize(
    ("events", "items", "message"),
    [
        (EVENTS.drop(columns="timestamp"), ITEMS, "events.csv has no column 'timestamp' .* it has user_id, item_id, "),
        (EVENTS.assign(timestamp=["2023-11-14", "then", "2023-11-14"]), ITEMS, "'timestamp' holds 'then' in line 3"),
        (EVENTS.assign(timestamp=[1.7e9, 1.7e12, 1.7e9]), ITEMS, r"\(line 3\), which is in no one unit"),
        (EVENTS.assign(user_id=[None, None, None]), ITEMS, "'user_id' is empty in all rows, the first in line 2"),
        (EVENTS.assign(user_id=["u1", " ", "u2"]), ITEMS, "'user_id' is empty in 1 of 3 rows, the first in line 3"),
        (EVENTS.assign(rating=["4", "five", "3"]), ITEMS, "'rating' holds 'five' in line 3"),
        (EVENTS, ITEMS.assign(title=["Seven", " "]), "items.csv: 1 items .*no title .*'08' in line 3.*drop_untitled"),
        (EVENTS, ITEMS.iloc[:1], "events.csv: 1 interactions name 1 items .* no row for, the first is '08' in line 3"),
        (EVENTS, ITEMS.drop(columns="title"), "items.csv has no column 'title'"),
        (EVENTS, ITEMS.assign(item_id=["7", "7"]), "items.csv: column 'item_id' repeats '7' in line 3"),
        (EVENTS.iloc[:0], ITEMS, "events.csv holds no interactions"),
    ],
)  # fmt: skip
def test_bad_tables_are_refused_with_their_place(tmp_path: Path, events, items, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_interactions(*write(tmp_path, "csv", events, items))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('user_id,item_id,timestamp,review\nu,7,1700000000,"one\ntwo\nthree"\n\nu,7,soon,\n', "'soon' in line 6"),
        ("\ufeffuser_id,item_id,timestamp\r\nu,7,1700000000\r\nu,,1700000000\r\n", "'item_id' is empty .* line 3"),
        ("user_id,item_id,timestamp\nu,7,1700000000,9\n", "can't be read as values separated by ','"),
        ("user_id,item_id,timestamp\nu,7,1700000000\nu,7,1,9\n", "Expected 3 fields in line 3, saw 4"),
        ('user_id,item_id,timestamp\nu,7,"1700000000\n', "EOF inside string"),
        ("", "is empty"),
    ],
)
def test_lines_of_a_csv_file_are_counted_where_they_stand(tmp_path: Path, text: str, message: str) -> None:
    events, items = write(tmp_path, "csv")
    events.write_text(text, newline="")
    with pytest.raises(DataError, match=f"events.csv.*{message}"):
        read_interactions(events, items)


def test_lines_of_json_and_rows_of_parquet_are_counted_from_one(tmp_path: Path) -> None:
    for kind in ("jsonl", "parquet"):
        paths = write(tmp_path, kind, EVENTS.assign(user_id=["u1", None, "u2"]))
        with pytest.raises(DataError, match=rf"events\.{kind}: column 'user_id' is empty in 1 of 3 rows.* line 2"):
            read_interactions(*paths)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_truncated_and_damaged_files_are_named(tmp_path: Path, kind: str) -> None:
    many = pd.concat([EVENTS.assign(user_id=[f"u{n}", f"v{n}", f"w{n}"]) for n in range(3000)])
    events, items = write(tmp_path, f"{kind}.gz", many)
    whole = events.read_bytes()
    events.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=re.escape(f"events.{kind}.gz is damaged or cut short")):
        read_interactions(events, items)
    events.write_bytes(whole[:200] + b"\0" * 100 + whole[300:])
    with pytest.raises(DataError, match=re.escape(f"events.{kind}.gz")):
        read_interactions(events, items)


def test_gzip_is_recognised_by_content_and_not_by_name(tmp_path: Path) -> None:
    events, items = write(tmp_path, "csv")
    events.write_bytes(gzip.compress(events.read_bytes()))
    assert read_interactions(events, items).interactions.num_rows == 3


def test_other_kinds_missing_files_and_text_in_other_encodings_are_refused(tmp_path: Path) -> None:
    events, items = write(tmp_path, "csv")
    with pytest.raises(DataError, match=r"must end in \.csv, \.tsv"):
        read_interactions(tmp_path / "events.xlsx", items)
    with pytest.raises(DataError, match=r"nothing\.csv is not there"):
        read_interactions(tmp_path / "nothing.csv", items)
    items.write_bytes("item_id,title\n7,Café\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"items\.csv is no UTF-8 text"):
        read_interactions(events, items)
    (tmp_path / "events.jsonl.gz").write_bytes(gzip.compress(b"\n"))
    with pytest.raises(DataError, match=r"events\.jsonl\.gz is empty"):
        read_interactions(tmp_path / "events.jsonl.gz", events)
    (tmp_path / "events.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match=r"events\.parquet is no parquet file"):
        read_interactions(tmp_path / "events.parquet", items)


def test_untitled_items_go_with_their_interactions_where_asked(tmp_path: Path) -> None:
    raw = read_interactions(*write(tmp_path, "csv", EVENTS, ITEMS.assign(title=["Seven", ""])), drop_untitled=True)
    assert raw.items["item_id"].to_pylist() == ["7"]
    assert raw.interactions["user_id"].to_pylist() == ["u1", "u2"]
    assert raw.source.endswith("without 1 items that have no title and their 1 interactions")


def test_untitled_items_that_nobody_touched_are_no_error(tmp_path: Path) -> None:
    untouched = pd.concat([ITEMS, ITEMS.iloc[:1].assign(item_id="9", title="")])
    assert read_interactions(*write(tmp_path, "csv", EVENTS, untouched)).items.num_rows == 2

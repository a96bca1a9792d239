"""Readers: what they read, and errors that name the file, the column and the line and leave nothing behind."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from llmrec.dataset import (
    PreparationConfig,
    prepare_dataset,
    read_amazon_reviews,
    read_interactions,
    read_movielens,
    read_recbole,
    read_sequences,
)
from llmrec.dataset.readers.text import clean_text
from llmrec.schema import DataError

ROOT = Path(__file__).resolve().parents[2]

EVENTS = pd.DataFrame(
    {
        "user_id": ["u1", "u1", "u2"],
        "item_id": ["7", "08", "7"],
        "timestamp": [1_700_000_000, 1_700_000_100, 1_700_000_200],
        "rating": [4.0, 5.0, 3.5],
    }
)
ITEMS = pd.DataFrame({"item_id": ["7", "08"], "title": ["Seven", "Eight"], "categories": ["a|b", ""]})


def _write(folder: Path, kind: str, events: pd.DataFrame = EVENTS, items: pd.DataFrame = ITEMS) -> tuple[Path, Path]:
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
    raw = read_interactions(*_write(tmp_path, kind))
    assert raw.interactions.select(list(EVENTS)).to_pylist() == EVENTS.to_dict("records")
    assert raw.items["title"].to_pylist() == ["Seven", "Eight"]
    assert raw.items["categories"].to_pylist() == [["a", "b"], []]


def test_a_column_mapping_is_followed(tmp_path: Path) -> None:
    events, items = EVENTS.rename(columns={"item_id": "sku"}), ITEMS.rename(columns={"item_id": "sku", "title": "name"})
    raw = read_interactions(*_write(tmp_path, "csv", events, items), columns={"item_id": "sku", "title": "name"})
    assert raw.interactions["item_id"].to_pylist() == ["7", "08", "7"]


@pytest.mark.parametrize(
    "timestamps",
    [
        ["2023-11-14T22:13:20Z", "2023-11-14T22:15:00Z", "2023-11-14T22:16:40+00:00"],
        [1_700_000_000_000, 1_700_000_100_000, 1_700_000_200_000],
        [1_700_000_000, 1_700_000_100, 1_700_000_200],
    ],
)
def test_iso_milliseconds_and_seconds_are_the_same_times(tmp_path: Path, timestamps: list) -> None:
    raw = read_interactions(*_write(tmp_path, "csv", EVENTS.assign(timestamp=timestamps)))
    assert raw.interactions["timestamp"].to_pylist() == EVENTS["timestamp"].tolist()


@pytest.mark.parametrize(
    ("events", "items", "message"),
    [
        (EVENTS.drop(columns="timestamp"), ITEMS, "events.csv has no column 'timestamp' .* it has user_id, item"),
        (EVENTS.assign(timestamp=["2023-11-14", "yesterday", "2023-11-14"]), ITEMS, "holds 'yesterday' in line 3"),
        (EVENTS.assign(timestamp=[1_700_000_000, 1_700_000_000_000, 1_700_000_000]), ITEMS, "line 3.* no one unit"),
        (EVENTS.assign(user_id=[None, None, None]), ITEMS, r"'user_id' is empty in all rows, the first in line 2"),
        (EVENTS.assign(rating=["4", "five", "3"]), ITEMS, "'rating' holds 'five' in line 3"),
        (EVENTS, ITEMS.assign(title=["Seven", ""]), "items.csv: 1 items .*no title .*'08' in line 3.*--drop_untitled"),
        (EVENTS, ITEMS.iloc[:1], "events.csv: 1 .* no row for, the first is '08' in line 3"),
        (EVENTS, ITEMS.drop(columns="title"), "items.csv has no column 'title'"),
    ],
)  # fmt: skip
def test_bad_tables_are_refused_with_their_place(tmp_path: Path, events, items, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_interactions(*_write(tmp_path, "csv", events, items))


def test_untitled_items_go_with_their_interactions_where_asked(tmp_path: Path) -> None:
    raw = read_interactions(*_write(tmp_path, "csv", EVENTS, ITEMS.assign(title=["Seven", ""])), drop_untitled=True)
    assert raw.items["item_id"].to_pylist() == ["7"]
    assert raw.interactions["user_id"].to_pylist() == ["u1", "u2"]


def test_unknown_kinds_columns_and_missing_files_are_refused(tmp_path: Path) -> None:
    events, items = _write(tmp_path, "csv")
    with pytest.raises(DataError, match="must end in"):
        read_interactions(tmp_path / "events.xlsx", items)
    with pytest.raises(DataError, match="is not there"):
        read_interactions(tmp_path / "nothing.csv", items)
    with pytest.raises(DataError, match="'sku'"):
        read_interactions(events, items, columns={"sku": "item_id"})


def _reviews(folder: Path, rows: list[dict], products: list[dict], literal: bool = False) -> tuple[Path, Path]:
    reviews, metadata = folder / "reviews.json.gz", folder / "meta.json.gz"
    with gzip.open(reviews, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    with gzip.open(metadata, "wt") as file:
        file.writelines((repr(row) if literal else json.dumps(row)) + "\n" for row in products)
    return reviews, metadata


REVIEW = {
    "reviewerID": "A",
    "asin": "B1",
    "unixReviewTime": 9,
    "overall": 5.0,
    "summary": "Nice",
    "reviewText": "<b>So</b>",
}
PRODUCT = {"asin": "B1", "title": "A &amp; B", "brand": "C", "description": ["One.", "Two."], "category": ["X", "Y"]}


def test_amazon_2018_keeps_reviews_and_cleans_texts(tmp_path: Path) -> None:
    raw = read_amazon_reviews(*_reviews(tmp_path, [REVIEW], [PRODUCT, {**PRODUCT, "asin": "unreviewed", "title": ""}]))
    assert raw.interactions.to_pylist() == [
        {"user_id": "A", "item_id": "B1", "timestamp": 9, "rating": 5.0, "review": "Nice So"}
    ]
    assert raw.items.to_pylist() == [
        {"item_id": "B1", "title": "A & B", "description": "One. Two.", "brand": "C", "categories": ["X", "Y"]}
    ]


def test_amazon_2014_products_are_python_literals_and_never_run(tmp_path: Path) -> None:
    product = {**PRODUCT, "categories": [["X", "Y"], ["Z"]], "description": "One's."}
    raw = read_amazon_reviews(*_reviews(tmp_path, [REVIEW], [product], literal=True), release="2014")
    assert raw.items["categories"].to_pylist() == [["X", "Y"]]
    hostile = tmp_path / "meta.json.gz"
    with gzip.open(hostile, "wt") as file:
        file.write("__import__('os').system('true')\n")
    with pytest.raises(DataError, match="line 1 can't be parsed"):
        read_amazon_reviews(tmp_path / "reviews.json.gz", hostile, release="2014")


def test_amazon_2023_has_names_of_its_own_and_milliseconds(tmp_path: Path) -> None:
    row = {"user_id": "A", "parent_asin": "B1", "asin": "b", "timestamp": 9_500, "rating": 4, "title": "T", "text": "x"}
    product = {"parent_asin": "B1", "title": "Thing", "store": "S", "categories": ["X"], "description": []}
    raw = read_amazon_reviews(*_reviews(tmp_path, [row], [product]), release="2023")
    assert raw.interactions["timestamp"].to_pylist() == [9]
    assert raw.items["brand"].to_pylist() == ["S"]


def test_damaged_review_files_are_refused_with_the_line(tmp_path: Path) -> None:
    reviews, metadata = _reviews(tmp_path, [REVIEW] * 5000, [PRODUCT])
    reviews.write_bytes(reviews.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"reviews\.json\.gz is damaged or cut short"):
        read_amazon_reviews(reviews, metadata)
    _reviews(tmp_path, [REVIEW, {"asin": "B1"}], [PRODUCT])
    with pytest.raises(DataError, match="line 2 has no reviewerID, unixReviewTime"):
        read_amazon_reviews(reviews, metadata)
    _reviews(tmp_path, [{**REVIEW, "unixReviewTime": "soon"}], [PRODUCT])
    with pytest.raises(DataError, match="'unixReviewTime' holds 'soon' in line 1"):
        read_amazon_reviews(reviews, metadata)
    with pytest.raises(DataError, match="allowed are 2014"):
        read_amazon_reviews(reviews, metadata, release="2020")


def test_sequences_keep_their_order_and_take_the_first_title_there_is(tmp_path: Path) -> None:
    (tmp_path / "sequences.jsonl").write_text('{"user": "u", "items": [2, 1, 3]}\n')
    (tmp_path / "items.jsonl").write_text(
        '{"item_id": 1, "title": "One"}\n{"item_id": 2, "title": "", "other": "Two"}\n{"item_id": 3, "other": "Tre"}\n'
    )
    raw = read_sequences(tmp_path, title_columns=("title", "other"))
    assert raw.items["title"].to_pylist() == ["One", "Two", "Tre"]
    dataset = prepare_dataset(raw, tmp_path / "out", PreparationConfig(k_core=1))
    assert dataset.train["item_ids"].to_pylist() == [["2"]]
    assert dataset.test["target_item_ids"].to_pylist() == [["3"]]
    with pytest.raises(DataError, match="'2' in line 2"):
        read_sequences(tmp_path)
    (tmp_path / "sequences.jsonl").write_text('{"user": "u", "items": [2, 1], "timestamps": [5]}\n')
    with pytest.raises(DataError, match="line 1 has 2 items and 1 timestamps"):
        read_sequences(tmp_path, title_columns=("title", "other"))
    (tmp_path / "sequences.jsonl").write_text('{"user": "u"\n')
    with pytest.raises(DataError, match="line 1 can't be parsed"):
        read_sequences(tmp_path)


def _movielens(folder: Path) -> None:
    (folder / "u.data").write_text("1\t10\t3\t100\n2\t10\t4\t50\n")
    flags = "|".join("001" + "0" * 16)
    (folder / "u.item").write_bytes(f"10|Café (1994)|01-Jan-1994||http|{flags}\n".encode("latin-1"))


def test_movielens_reads_both_forms_alike(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    _movielens(tmp_path / "a")
    (tmp_path / "b" / "ml-100k.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t10\t3\t100\n2\t10\t4\t50\n"
    )
    (tmp_path / "b" / "ml-100k.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n10\tCafé\t1994\tAdventure\n"
    )
    first, second = read_movielens(tmp_path / "a"), read_movielens(tmp_path / "b")
    assert first.interactions.equals(second.interactions)
    assert first.items.equals(second.items)
    assert first.source != second.source
    assert read_recbole(tmp_path / "b", timestamp_unit="s").name == "ml-100k"
    with pytest.raises(DataError, match=r"neither u\.data nor"):
        read_movielens(tmp_path)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a&lt;b&gt; <br/>c\n\"d\"", "a c d"),
        (["x", None, "y"], "x y"),
        (None, ""),
        ("z" * 2000, ""),
        ("z" * 1999, "z" * 1999),
    ],
)  # fmt: skip
def test_text_is_cleaned_as_lc_rec_does(given, expected: str) -> None:
    assert clean_text(given) == expected


@pytest.mark.slow
def test_the_door_prepares_once_and_says_what_is_wrong(tmp_path: Path) -> None:
    events, items = _write(tmp_path, "csv", pd.concat([EVENTS, EVENTS.assign(user_id="u3", timestamp=5)]))
    command = [sys.executable, "data_prep/interactions.py", "--interactions", str(events), "--items", str(items)]
    command += ["--output_dir", str(tmp_path / "out"), "--k_core", "1", "--split", "global_temporal"]
    command += ["--valid_fraction", "0.2", "--test_fraction", "0.4", "--timestamp_unit", "s"]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "nothing to do" in again.stdout
    assert pq.read_table(tmp_path / "out" / "items.parquet").num_rows == 2
    events.write_text("user_id,item_id\nu,7\n")
    command[command.index(str(tmp_path / "out"))] = str(tmp_path / "other")
    broken = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert broken.returncode != 0
    assert "no column timestamp" in broken.stderr
    assert "Traceback" not in broken.stderr
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_real_datasets_have_the_published_counts(tmp_path: Path, llmrec_data: Path) -> None:
    raw = read_sequences(llmrec_data / "amazon2014_beauty", title_columns=("title", "idgenrec_text"))
    counts = prepare_dataset(raw, tmp_path / "beauty", PreparationConfig()).info["counts"]
    assert (counts["users"], counts["items"], counts["interactions"]) == (22_363, 12_101, 198_502)
    folder = llmrec_data / "amazon2018_giftcards_raw"
    raw = read_amazon_reviews(folder / "Gift_Cards_5.json.gz", folder / "meta_Gift_Cards.json.gz")
    assert raw.interactions.num_rows == 2_972
    assert len(set(raw.interactions["user_id"].to_pylist())) == 458
    assert raw.items.num_rows == 148
    assert any(review for review in raw.interactions["review"].to_pylist())
    assert prepare_dataset(raw, tmp_path / "gift", PreparationConfig()).info["counts"]["users"] > 400

"""Amazon's releases, as they are distributed."""

import gzip
import json
from pathlib import Path

import pytest

from llmrec.dataset import PreparationConfig, prepare_dataset, read_amazon_reviews
from llmrec.dataset.readers import amazon_reviews
from llmrec.schema import DataError

REVIEW = {
    "reviewerID": "A", "asin": "B1", "unixReviewTime": 9, "overall": 5.0, "summary": "Nice", "reviewText": "<b>So</b>"
}  # fmt: skip
PRODUCT = {"asin": "B1", "title": "A &amp; B", "brand": "C", "description": ["One.", "Two."], "category": ["X", "Y"]}


def write(folder: Path, rows: list[dict], products: list[dict], literal: bool = False) -> tuple[Path, Path]:
    reviews, metadata = folder / "reviews.json.gz", folder / "meta.json.gz"
    with gzip.open(reviews, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    with gzip.open(metadata, "wt") as file:
        file.writelines((repr(row) if literal else json.dumps(row)) + "\n" for row in products)
    return reviews, metadata


def test_2018_keeps_reviews_and_cleans_texts(tmp_path: Path) -> None:
    products = [{**PRODUCT, "asin": "unreviewed", "title": ""}, PRODUCT, {**PRODUCT, "title": "Again"}]
    raw = read_amazon_reviews(*write(tmp_path, [REVIEW, {**REVIEW, "reviewText": None}], products))
    assert raw.interactions.to_pylist() == [
        {"user_id": "A", "item_id": "B1", "timestamp": 9, "rating": 5.0, "review": "Nice So"},
        {"user_id": "A", "item_id": "B1", "timestamp": 9, "rating": 5.0, "review": "Nice"},
    ]
    assert raw.items.to_pylist() == [
        {"item_id": "B1", "title": "A & B", "description": "One. Two.", "brand": "C", "categories": ["X", "Y"]}
    ]
    assert raw.source == "Amazon reviews 2018: reviews.json.gz, meta.json.gz"


def test_2014_products_are_python_literals_and_never_run(tmp_path: Path) -> None:
    product = {**PRODUCT, "categories": [["X", "Y"], ["Z"]], "description": "One's."}
    raw = read_amazon_reviews(*write(tmp_path, [REVIEW], [product], literal=True), release="2014")
    assert raw.items["categories"].to_pylist() == [["X", "Y"]]
    assert raw.items["description"].to_pylist() == ["One's."]
    hostile = tmp_path / "meta.json.gz"
    hostile.write_text(f"__import__('pathlib').Path({str(tmp_path / 'ran')!r}).touch()\n")
    with pytest.raises(DataError, match=r"meta\.json\.gz: line 1 can't be parsed"):
        read_amazon_reviews(tmp_path / "reviews.json.gz", hostile, release="2014")
    assert not (tmp_path / "ran").exists()


def test_2023_has_names_of_its_own_and_milliseconds(tmp_path: Path) -> None:
    row = {"user_id": "A", "parent_asin": "B1", "asin": "b", "timestamp": 9_500, "rating": 4, "title": "T", "text": "x"}
    product = {"parent_asin": "B1", "title": "Thing", "store": "S", "categories": ["X"], "description": []}
    raw = read_amazon_reviews(*write(tmp_path, [row], [product]), release="2023")
    assert raw.interactions.to_pylist() == [
        {"user_id": "A", "item_id": "B1", "timestamp": 9, "rating": 4.0, "review": "T x"}
    ]
    assert raw.items["brand"].to_pylist() == ["S"]


def test_large_files_are_read_in_parts_with_their_own_line_numbers(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(amazon_reviews, "_REVIEWS_PER_TABLE", 3)
    rows = [{**REVIEW, "reviewerID": f"A{row}"} for row in range(8)]
    raw = read_amazon_reviews(*write(tmp_path, rows, [PRODUCT]))
    assert raw.interactions["user_id"].to_pylist() == [f"A{row}" for row in range(8)]
    rows[6]["overall"] = "five"
    with pytest.raises(DataError, match="column 'overall' holds 'five' in line 7"):
        read_amazon_reviews(*write(tmp_path, rows, [PRODUCT]))


@pytest.mark.parametrize("title", ["", None, "<br>", "var aPageStart = (new Date()).getTime();"])
def test_products_without_a_title_are_refused_or_dropped(tmp_path: Path, title: str | None) -> None:
    rows = [REVIEW, {**REVIEW, "asin": "B2"}, {**REVIEW, "asin": "B3"}]
    paths = write(tmp_path, rows, [PRODUCT, {**PRODUCT, "asin": "B2", "title": title}])
    with pytest.raises(DataError, match=r"meta\.json\.gz: 1 items .* no title .* 'B2' in line 2.*drop_untitled"):
        read_amazon_reviews(*paths)
    raw = read_amazon_reviews(*paths, drop_untitled=True)
    assert raw.items["item_id"].to_pylist() == ["B1"]
    assert raw.interactions["item_id"].to_pylist() == ["B1"]
    assert "without 2 items" in raw.source


def test_damaged_review_files_are_refused_with_the_line(tmp_path: Path) -> None:
    reviews, metadata = write(tmp_path, [REVIEW] * 5000, [PRODUCT])
    reviews.write_bytes(reviews.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"reviews\.json\.gz is damaged or cut short"):
        read_amazon_reviews(reviews, metadata)
    write(tmp_path, [REVIEW, {"asin": "B1"}], [PRODUCT])
    with pytest.raises(DataError, match="line 2 has no reviewerID, unixReviewTime; it has asin"):
        read_amazon_reviews(reviews, metadata)
    write(tmp_path, [{**REVIEW, "unixReviewTime": "soon"}], [PRODUCT])
    with pytest.raises(DataError, match="'unixReviewTime' holds 'soon' in line 1"):
        read_amazon_reviews(reviews, metadata)
    write(tmp_path, [REVIEW], [{**PRODUCT, "asin": "B2"}])
    with pytest.raises(DataError, match="no product with a review"):
        read_amazon_reviews(reviews, metadata)
    write(tmp_path, [], [PRODUCT])
    with pytest.raises(DataError, match="holds no interactions"):
        read_amazon_reviews(reviews, metadata)
    with pytest.raises(DataError, match="allowed are 2014, 2018, 2023"):
        read_amazon_reviews(reviews, metadata, release="2020")


def test_gift_cards_go_through_as_they_are(tmp_path: Path, llmrec_data: Path) -> None:
    folder = llmrec_data / "amazon2018_giftcards_raw"
    raw = read_amazon_reviews(folder / "Gift_Cards_5.json.gz", folder / "meta_Gift_Cards.json.gz")
    assert len(set(raw.interactions["user_id"].to_pylist())) == 458
    assert (raw.items.num_rows, raw.interactions.num_rows) == (148, 2_972)
    assert sum(bool(review) for review in raw.interactions["review"].to_pylist()) > 2_900
    assert not any("<" in text or "&amp;" in text for text in raw.items["description"].to_pylist())
    counts = prepare_dataset(raw, tmp_path / "gift", PreparationConfig()).info["counts"]
    assert (counts["users"], counts["items"], counts["interactions"]) == (453, 147, 2_941)

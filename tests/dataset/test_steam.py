"""Steam's files, as they are distributed: Python literals with their u'' strings."""

import gzip
from pathlib import Path

import pytest

from llmrec.dataset import PreparationConfig, prepare_dataset, read_steam
from llmrec.dataset.readers import steam
from llmrec.schema import DataError

REVIEWS = (
    "{u'username': u'Ann', u'hours': 3.5, u'product_id': u'10', u'page_order': 0, u'date': u'2017-12-17', "
    "u'text': u'So\\n good', u'page': 1}\n"
    "{u'username': u'Ann', u'product_id': u'20', u'date': u'2017-12-18', u'text': u'', u'user_id': u'7656'}\n"
    "{u'username': u\"Bob's\", u'product_id': u'10', u'date': u'2018-01-01', u'text': u'\\u2661', u'page': 2}\n"
)
GAMES = (
    "{u'app_name': u'No id', u'title': u'No id'}\n"
    "{u'genres': [u'Action', u'Indie'], u'tags': [u'Indie', u'Strategy'], u'title': u'Lost &amp; Found', "
    "u'id': u'10', u'developer': u'Dev', u'publisher': u'Pub'}\n"
    "{u'app_name': u'Second', u'id': u'20', u'publisher': u'Pub', u'price': 4.99}\n"
    "{u'app_name': u'Again', u'id': u'20'}\n"
    "{u'app_name': u'Unreviewed', u'id': u'30'}\n"
)


def write(folder: Path, reviews: str = REVIEWS, games: str = GAMES) -> tuple[Path, Path]:
    paths = folder / "steam_reviews.json.gz", folder / "steam_games.json.gz"
    for path, text in zip(paths, (reviews, games), strict=True):
        with gzip.open(path, "wt") as file:
            file.write(text)
    return paths


def test_files_are_read_as_distributed(tmp_path: Path) -> None:
    raw = read_steam(*write(tmp_path))
    assert raw.interactions.to_pylist() == [
        {"user_id": "Ann", "item_id": "10", "timestamp": 1_513_468_800, "rating": None, "review": "So good"},
        {"user_id": "Ann", "item_id": "20", "timestamp": 1_513_555_200, "rating": None, "review": ""},
        {"user_id": "Bob's", "item_id": "10", "timestamp": 1_514_764_800, "rating": None, "review": "\u2661"},
    ]
    assert raw.items.to_pylist() == [
        {
            "item_id": "10",
            "title": "Lost & Found",
            "description": "",
            "brand": "Dev",
            "categories": ["Action", "Indie", "Strategy"],
        },
        {"item_id": "20", "title": "Second", "description": "", "brand": "Pub", "categories": []},
    ]


def test_lines_are_never_run(tmp_path: Path) -> None:
    hostile = f"__import__('pathlib').Path({str(tmp_path / 'ran')!r}).touch()\n"
    with pytest.raises(DataError, match=r"steam_reviews\.json\.gz: line 1 can't be parsed"):
        read_steam(*write(tmp_path, reviews=hostile))
    assert not (tmp_path / "ran").exists()


def test_games_without_a_line_are_refused_or_dropped(tmp_path: Path) -> None:
    paths = write(tmp_path, games=GAMES.replace("u'20'", "u'21'"))
    with pytest.raises(DataError, match=r"1 interactions name 1 items that .*drop_untitled"):
        read_steam(*paths)
    assert read_steam(*paths, drop_untitled=True).items["item_id"].to_pylist() == ["10"]


def test_large_files_are_read_in_parts_with_their_own_line_numbers(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(steam, "_REVIEWS_PER_TABLE", 2)
    assert read_steam(*write(tmp_path)).interactions.num_rows == 3
    with pytest.raises(DataError, match="column 'date' holds 'yesterday' in line 3"):
        read_steam(*write(tmp_path, reviews=REVIEWS.replace("2018-01-01", "yesterday")))


def test_the_split_by_time_gives_hand_computed_counts(tmp_path: Path) -> None:
    """SETRec's split: ten reviews of ten days, the last two for test and the one before for validation."""
    days = [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("c", 3), ("a", 3), ("c", 1), ("b", 3), ("a", 4), ("c", 5)]
    reviews = "".join(
        f"{{u'username': u'{user}', u'product_id': u'{game}', u'date': u'2017-01-{day:02d}'}}\n"
        for day, (user, game) in enumerate(days, start=1)
    )
    games = "".join(f"{{u'id': u'{game}', u'title': u'Game {game}'}}\n" for game in range(1, 6))
    config = PreparationConfig(k_core=1, split="global_temporal", test_fraction=0.2, valid_fraction=0.1)
    dataset = prepare_dataset(read_steam(*write(tmp_path, reviews, games)), tmp_path / "out", config)
    counts = dataset.info["counts"]
    assert {name: counts[name] for name in ("users", "items", "interactions")} == {
        "users": 3, "items": 5, "interactions": 10,
    }  # fmt: skip
    assert (counts["train_users"], counts["valid_users"], counts["test_users"]) == (3, 1, 2)
    assert (counts["warm_items"], counts["cold_items"]) == (3, 2)
    assert dataset.cold_item_ids() == ["4", "5"]
    assert dataset.test["target_item_ids"].to_pylist() == [["4"], ["5"]]
    assert dataset.test["history"].to_pylist() == [["1", "2", "3"], ["3", "1"]]

"""Preparation against a plain-Python oracle, on both engines, and the folder it leaves."""

import json
import shutil
from collections import Counter
from dataclasses import replace

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.dataset import PreparationConfig, RawData, RecDataset, prepare_dataset
from llmrec.dataset.folder import find_prepared
from llmrec.dataset.preparation import protocol
from llmrec.schema import INTERACTIONS, ITEMS, DataError

Event = tuple[str, str, int, float | None]


def make_raw(events: list[Event], item_ids: list[str] | None = None) -> RawData:
    columns = [list(column) for column in zip(*events, strict=True)]
    interactions = pa.table([*columns, [f"review {row}" for row in range(len(events))]], schema=INTERACTIONS)
    item_ids = sorted({event[1] for event in events}) if item_ids is None else item_ids
    size = len(item_ids)
    titles = [f"Title {item}" for item in item_ids]
    items = pa.table([item_ids, titles, [""] * size, [""] * size, [[]] * size], schema=ITEMS)
    return RawData("test", interactions, items, "a test")


def random_events(seed: int, size: int = 400) -> list[Event]:
    """Few users, items and timestamps, so that duplicates and ties abound; ids 1 to 30 sort differently as text."""
    rng = np.random.default_rng(seed)
    return [
        (f"u{rng.integers(30)}", str(rng.integers(1, 31)), int(rng.integers(20)), float(rng.integers(1, 6)))
        for _ in range(size)
    ]


def oracle_histories(events: list[Event], config: PreparationConfig) -> dict[str, list[str]]:
    """Each user's kept items in order, by the definitions and nothing else."""
    rows = [(*event, row) for row, event in enumerate(events)]
    if config.min_rating is not None:
        rows = [row for row in rows if row[3] is not None and row[3] >= config.min_rating]
    if config.duplicates != "keep":
        rows.sort(key=lambda row: (row[2], row[4]), reverse=config.duplicates == "last")
        first = {}
        for row in rows:
            first.setdefault((row[0], row[1]), row)
        rows = list(first.values())
    while True:
        users, items = Counter(row[0] for row in rows), Counter(row[1] for row in rows)
        kept = [row for row in rows if users[row[0]] >= config.k_core and items[row[1]] >= config.k_core]
        if len(kept) == len(rows):
            break
        rows = kept
    rows.sort(key=lambda row: (len(row[0]), row[0], row[2], len(row[1]), row[1], row[4]))
    histories: dict[str, list[str]] = {}
    for row in rows:
        histories.setdefault(row[0], []).append(row[1])
    return histories


@given(
    seed=st.integers(0, 10_000),
    k_core=st.integers(1, 6),
    duplicates=st.sampled_from(["first", "last", "keep"]),
    min_rating=st.sampled_from([None, 3.0]),
    max_history=st.integers(1, 8),
)
@settings(max_examples=25, deadline=None)
def test_leave_last_out_is_as_defined(tmp_path_factory, seed, k_core, duplicates, min_rating, max_history) -> None:
    config = PreparationConfig(k_core=k_core, duplicates=duplicates, min_rating=min_rating, max_history=max_history)
    events = random_events(seed)
    expected = oracle_histories(events, config)
    folder = tmp_path_factory.mktemp("dataset") / "out"
    if not any(len(items) > 2 for items in expected.values()):
        with pytest.raises(DataError):
            prepare_dataset(make_raw(events), folder, config)
        return
    dataset = prepare_dataset(make_raw(events), folder, config)
    long = {user: items for user, items in expected.items() if len(items) > 2}
    train = {user: items[:-2] if user in long else items for user, items in expected.items()}
    assert dict(zip(dataset.train["user_id"].to_pylist(), dataset.train["item_ids"].to_pylist(), strict=True)) == train
    for split, cut in (("valid", -2), ("test", -1)):
        rows = getattr(dataset, split).to_pylist()
        assert [row["user_id"] for row in rows] == list(long)
        for row in rows:
            items = long[row["user_id"]]
            assert row["history"] == items[:cut][-max_history:]
            assert row["target_item_ids"] == [items[cut]]
            assert row["seen_item_ids"] == list(dict.fromkeys(items[:cut]))
    assert dataset.interactions.num_rows == sum(map(len, expected.values()))
    refit = dict(zip(dataset.train["user_id"].to_pylist(), dataset.train_sequences(refit=True), strict=True))
    assert refit == {user: items[:-1] if user in long else items for user, items in expected.items()}


def test_global_temporal_cuts_all_users_at_the_same_times(tmp_path) -> None:
    events = random_events(3, 600)
    config = PreparationConfig(k_core=2, split="global_temporal", valid_fraction=0.2, test_fraction=0.2)
    dataset = prepare_dataset(make_raw(events), tmp_path / "out", config)
    times = dict(zip(dataset.interactions.select(["user_id", "item_id"]).to_pandas().itertuples(index=False, name=None),
                     dataset.interactions["timestamp"].to_pylist(), strict=True))  # fmt: skip
    train = [times[user, item] for user, items in _lists(dataset.train, "item_ids") for item in items]
    valid = [times[user, item] for user, items in _lists(dataset.valid, "target_item_ids") for item in items]
    test = [times[user, item] for user, items in _lists(dataset.test, "target_item_ids") for item in items]
    assert max(train) < min(valid) <= max(valid) < min(test)
    assert any(len(items) > 1 for _, items in _lists(dataset.test, "target_item_ids"))
    warm = {item for _, items in _lists(dataset.train, "item_ids") for item in items}
    assert set(dataset.cold_item_ids()) == set(dataset.items["item_id"].to_pylist()) - warm
    assert dataset.info["counts"]["warm_items"] == len(warm)
    for split in (dataset.valid, dataset.test):
        for row in split.to_pylist():
            assert row["history"], "a row without a history cannot be asked about"
            assert not set(row["history"]) & set(row["target_item_ids"])


def _lists(table: pa.Table, column: str) -> list[tuple[str, list[str]]]:
    return list(zip(table["user_id"].to_pylist(), table[column].to_pylist(), strict=True))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="PySpark needs Java on PATH")
@pytest.mark.parametrize("split", ["leave_last_out", "global_temporal"])
def test_duckdb_and_pyspark_give_the_same_rows(tmp_path, split) -> None:
    pytest.importorskip("pyspark", reason="needs the spark extra")
    prepared = []
    for engine in ("duckdb", "pyspark"):
        config = PreparationConfig(k_core=3, split=split, engine=engine)
        prepared.append(prepare_dataset(make_raw(random_events(7, 800)), tmp_path / engine, config))
    for name in ("interactions", "items", "train", "valid", "test"):
        assert getattr(prepared[0], name).equals(getattr(prepared[1], name)), name
    assert {**prepared[0].info, "engine": "pyspark"} == prepared[1].info


def test_items_are_in_the_order_of_the_tie_rule_and_unused_ones_are_dropped(tmp_path) -> None:
    events = [("u", item, 0, None) for item in ("10", "9", "a", "2")]
    raw = make_raw(events, ["2", "9", "10", "a", "77"])
    dataset = prepare_dataset(raw, tmp_path / "out", PreparationConfig(k_core=1))
    assert dataset.items["item_id"].to_pylist() == ["2", "9", "a", "10"]
    assert dataset.test["target_item_ids"].to_pylist() == [["10"]]


def test_the_fingerprint_follows_the_test_rows_and_not_the_order_of_input(tmp_path) -> None:
    events = [(f"u{user}", str(item), item, None) for user in range(3) for item in range(5)]
    config = PreparationConfig(k_core=1)
    first = prepare_dataset(make_raw(events), tmp_path / "a", config)
    shuffled = prepare_dataset(make_raw(events[::-1]), tmp_path / "b", config)
    other = prepare_dataset(make_raw([*events[:-1], ("u2", "9", 9, None)]), tmp_path / "c", config)
    assert first.fingerprint == shuffled.fingerprint != other.fingerprint


def test_an_empty_result_says_what_to_do_and_leaves_nothing_behind(tmp_path) -> None:
    with pytest.raises(DataError, match="Lower k_core"):
        prepare_dataset(make_raw([("u", "1", 0, None)]), tmp_path / "out", PreparationConfig(k_core=5))
    with pytest.raises(DataError, match="No user has a test target"):
        prepare_dataset(make_raw([("u", "1", 0, None)]), tmp_path / "out", PreparationConfig(k_core=1))
    assert list(tmp_path.iterdir()) == []


def test_the_folder_reads_back_loads_with_datasets_and_is_found_again(tmp_path) -> None:
    config = PreparationConfig(k_core=1)
    prepared = prepare_dataset(make_raw(random_events(1)), tmp_path / "out", config)
    loaded = RecDataset.load(tmp_path / "out")
    assert loaded.test.equals(prepared.test)
    assert loaded.info == prepared.info
    for name in ("interactions", "items", "train", "valid", "test"):
        path = str(tmp_path / "out" / f"{name}.parquet")
        rows = datasets.load_dataset("parquet", data_files=path, split="train", cache_dir=str(tmp_path / "hf"))
        assert rows.num_rows == getattr(loaded, name).num_rows
    assert find_prepared(tmp_path / "out", protocol(config)).fingerprint == prepared.fingerprint
    assert find_prepared(tmp_path / "nothing", protocol(config)) is None
    with pytest.raises(DataError, match="k_core: 1 -> 2"):
        find_prepared(tmp_path / "out", protocol(PreparationConfig(k_core=2)))
    with pytest.raises(DataError, match=r"reviews: None -> 'other\.json'"):
        find_prepared(tmp_path / "out", protocol(config), {"reviews": "other.json"})
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["protocol"]["k_core"] == 1


def test_a_folder_of_something_else_is_not_taken_over(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="not a prepared dataset"):
        find_prepared(tmp_path, {})
    with pytest.raises(FileNotFoundError, match="data_prep"):
        RecDataset.load(tmp_path)
    with pytest.raises(DataError, match=r"also holds notes\.txt"):
        prepare_dataset(make_raw(random_events(1)), tmp_path, PreparationConfig(k_core=1))
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]


def test_positions_are_not_taken_for_times(tmp_path) -> None:
    raw = replace(make_raw(random_events(1)), has_timestamps=False)
    with pytest.raises(DataError, match="leave_last_out"):
        prepare_dataset(raw, tmp_path / "out", PreparationConfig(k_core=1, split="global_temporal"))
    assert list(tmp_path.iterdir()) == []


def test_nulls_and_repeated_items_are_refused_with_their_row() -> None:
    raw = make_raw([("u", "1", 0, None), ("u", "2", 1, None)])
    users = pa.array(["u", None], pa.string())
    broken = raw.interactions.set_column(0, pa.field("user_id", pa.string()), users)
    with pytest.raises(DataError, match=r"'user_id'.*row 2"):
        RawData("test", broken, raw.items, "a test")
    with pytest.raises(DataError, match="repeat the item id '1'"):
        RawData("test", raw.interactions, pa.concat_tables([raw.items, raw.items.slice(0, 1)]), "a test")
    with pytest.raises(DataError, match="lack the columns"):
        RawData("test", raw.interactions.drop(["user_id"]), raw.items, "a test")


@pytest.mark.parametrize("options", [{"k_core": 0}, {"max_history": 0}, {"test_fraction": 1.0}, {"duplicates": "some"}])
def test_options_out_of_range_are_refused(options) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        PreparationConfig(**options)


@pytest.mark.parametrize("split", ["leave_last_out", "global_temporal"])
def test_reviews_of_training_are_those_of_training_events_and_no_later_one(tmp_path, split) -> None:
    """Repeats are kept, within one second even: an event may be in training and, word for word again, in test."""
    events = [(f"u{user}", str(place // 2), place // 4, 1.0) for user in range(4) for place in range(4 + 3 * user)]
    config = PreparationConfig(k_core=1, split=split, duplicates="keep", test_fraction=0.3, valid_fraction=0.2)
    dataset = prepare_dataset(make_raw(events), tmp_path / "data", config)
    kept = dataset.interactions.to_pylist()
    found = dataset.train_reviews()
    for row, events_of_user, reviews in zip(range(len(found)), dataset.train.to_pylist(), found, strict=True):
        mine = [event for event in kept if event["user_id"] == events_of_user["user_id"]]
        assert len(reviews) == len(events_of_user["item_ids"]), row
        # interactions stand in order, so the training part of a user is where they begin
        assert reviews == [event["review"] for event in mine[: len(reviews)]]

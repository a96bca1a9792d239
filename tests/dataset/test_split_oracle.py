"""Both splits against their definition in plain Python: repeats, null ratings, ids that sort differently as text."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmrec.dataset import PreparationConfig, RawData, RecDataset, prepare_dataset
from llmrec.schema import INTERACTIONS, ITEMS, DataError

#: Ids whose numeric, alphabetical and length order all differ, and one outside ASCII.
USERS = ["1", "10", "2", "b", "ä"]
ITEM_IDS = ["1", "2", "9", "10", "11", "100", "x", "Z", "é"]


class Event(NamedTuple):
    user_id: str
    item_id: str
    timestamp: int
    rating: float | None
    review: str | None


class Split(NamedTuple):
    """What the definition says a dataset folder holds; histories are (user, history, targets, seen)."""

    kept: list[Event]
    train: list[tuple[str, list[str], list[int]]]
    valid: list[tuple[str, list[str], list[str], list[str]]]
    test: list[tuple[str, list[str], list[str], list[str]]]


def raw_data(events: list[Event]) -> RawData:
    columns = list(zip(*events, strict=True)) if events else [[] for _ in INTERACTIONS.names]
    items = [
        {"item_id": item_id, "title": f"Item {item_id}", "description": "", "brand": "", "categories": []}
        for item_id in ITEM_IDS
    ]
    return RawData(
        "drawn",
        pa.table(dict(zip(INTERACTIONS.names, columns, strict=True)), schema=INTERACTIONS),
        pa.Table.from_pylist(items, ITEMS),
        "drawn by a test",
    )


def id_order(identifier: str) -> tuple[int, str]:
    return len(identifier), identifier


def defined(events: list[Event], config: PreparationConfig) -> Split:
    """The split, from its definition, one user at a time."""
    rows = list(enumerate(events))
    if config.min_rating is not None:
        rows = [(row, event) for row, event in rows if event.rating is not None and event.rating >= config.min_rating]
    if config.duplicates != "keep":
        by_time = sorted(rows, key=lambda entry: (entry[1].timestamp, entry[0]), reverse=config.duplicates == "last")
        chosen: dict[tuple[str, str], int] = {}
        for row, event in by_time:
            chosen.setdefault((event.user_id, event.item_id), row)
        rows = [(row, event) for row, event in rows if row in set(chosen.values())]
    while True:
        users, items = (Counter(event[column] for _, event in rows) for column in (0, 1))
        inside = [entry for entry in rows if min(users[entry[1][0]], items[entry[1][1]]) >= config.k_core]
        if len(inside) == len(rows):
            break
        rows = inside
    rows.sort(key=lambda e: (id_order(e[1].user_id), e[1].timestamp, id_order(e[1].item_id), e[0]))
    kept = [event for _, event in rows]
    return Split(kept, *_parts(kept, config))


def _parts(kept: list[Event], config: PreparationConfig) -> tuple[list[Any], list[Any], list[Any]]:
    sequences: dict[str, list[Event]] = {}
    for event in kept:
        sequences.setdefault(event.user_id, []).append(event)
    times = sorted(event.timestamp for event in kept)
    train, valid, test = [], [], []
    for user, sequence in sequences.items():
        if config.split == "leave_last_out":
            ends = [len(sequence) - 2, len(sequence) - 1] if len(sequence) >= 3 else [len(sequence)] * 2
        else:
            test_at = round(len(times) * (1 - config.test_fraction))
            valid_at = round(len(times) * (1 - config.test_fraction - config.valid_fraction))
            starts = [times[min(at, len(times) - 1)] for at in (valid_at, test_at)]
            ends = [sum(event.timestamp < start for event in sequence) for start in starts]
        items = [event.item_id for event in sequence]
        if ends[0]:
            train.append((user, items[: ends[0]], [event.timestamp for event in sequence[: ends[0]]]))
        for part, end, stop in ((valid, ends[0], ends[1]), (test, ends[1], len(items))):
            if end and stop > end:
                history, targets = items[:end], list(dict.fromkeys(items[end:stop]))
                part.append((user, history[-config.max_history :], targets, list(dict.fromkeys(history))))
    return train, valid, test


def written(dataset: RecDataset) -> Split:
    """What a dataset folder holds, in the definition's form; ``seen`` is a set, so its order is not compared."""
    kept = [Event(*row.values()) for row in dataset.interactions.to_pylist()]
    train = [tuple(row.values()) for row in dataset.train.to_pylist()]
    valid, test = ([tuple(row.values()) for row in part.to_pylist()] for part in (dataset.valid, dataset.test))
    return Split(kept, train, valid, test)


def comparable(split: Split) -> tuple[Any, ...]:
    parts = [
        [(user, history, targets, sorted(seen)) for user, history, targets, seen in part]
        for part in (split.valid, split.test)
    ]
    return split.kept, split.train, *parts


events_drawn = st.lists(
    st.builds(
        Event,
        st.sampled_from(USERS),
        st.sampled_from(ITEM_IDS),
        st.integers(0, 6),
        st.sampled_from([None, 1.0, 3.0, 5.0]),
        st.sampled_from([None, "Fine."]),
    ),
    min_size=8,
    max_size=70,
)
configs_drawn = st.builds(
    PreparationConfig,
    k_core=st.integers(1, 3),
    min_rating=st.sampled_from([None, None, 3.0]),
    duplicates=st.sampled_from(["first", "last", "keep"]),
    split=st.sampled_from(["leave_last_out", "global_temporal"]),
    valid_fraction=st.sampled_from([0.1, 0.3]),
    test_fraction=st.sampled_from([0.1, 0.3]),
    max_history=st.integers(1, 4),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=events_drawn, config=configs_drawn)
def test_folder_holds_what_the_definition_says(tmp_path: Path, events: list[Event], config: PreparationConfig) -> None:
    expected = defined(events, config)
    folder = tmp_path / "data"
    shutil.rmtree(folder, ignore_errors=True)
    if not (expected.train and expected.valid and expected.test):
        try:
            prepare_dataset(raw_data(events), folder, config)
        except DataError:
            assert not folder.exists()
            assert not list(tmp_path.iterdir())
        return
    dataset = prepare_dataset(raw_data(events), folder, config)
    assert comparable(written(dataset)) == comparable(expected)
    assert comparable(written(RecDataset.load(folder))) == comparable(expected)
    assert dataset.items["item_id"].to_pylist() == sorted({event.item_id for event in expected.kept}, key=id_order)


def test_repeats_are_one_target_and_stay_in_the_history(tmp_path: Path) -> None:
    places = [("1", 0), ("2", 1), ("1", 2), ("9", 3), ("2", 4), ("2", 5)]
    events = [Event("u", item_id, time, None, None) for item_id, time in places]
    config = PreparationConfig(
        k_core=1, duplicates="keep", split="global_temporal", valid_fraction=0.17, test_fraction=0.34
    )
    dataset = prepare_dataset(raw_data(events), tmp_path / "data", config)
    assert dataset.valid.to_pylist() == [
        {"user_id": "u", "history": ["1", "2", "1"], "target_item_ids": ["9"], "seen_item_ids": ["1", "2"]}
    ]
    assert dataset.test["history"].to_pylist() == [["1", "2", "1", "9"]]
    assert dataset.test["target_item_ids"].to_pylist() == [["2"]]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="PySpark needs Java on PATH")
def test_spark_keeps_nulls_repeats_and_the_order_of_unicode_ids(tmp_path: Path) -> None:
    pytest.importorskip("pyspark", reason="needs the spark extra")
    state, ratings, events = 12345, [None, 1.0, 3.0, 5.0], []
    for place in range(400):
        state = (1103515245 * state + 12345) % 2**31  # a fixed pseudo-random walk, the same everywhere
        user, item_id = USERS[state // 7 % 5], ITEM_IDS[state // 64 % 9]
        review = f"Review {place}." if place % 3 else None
        events.append(Event(user, item_id, state // 4096 % 60, ratings[state // 512 % 4], review))
    config = PreparationConfig(k_core=2, duplicates="keep", split="global_temporal")
    duckdb, spark = (
        prepare_dataset(raw_data(events), tmp_path / engine, replace(config, engine=engine))
        for engine in ("duckdb", "pyspark")
    )
    for part in ("interactions", "items", "train", "valid", "test"):
        assert getattr(spark, part).equals(getattr(duckdb, part)), part
        assert getattr(spark, part).num_rows > 0
    assert comparable(written(spark)) == comparable(defined(events, config))

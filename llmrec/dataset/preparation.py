"""Raw data to a prepared dataset folder: relational work on an engine, then histories as Arrow lists."""

import hashlib
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llmrec.atomic import atomic_path, write_json
from llmrec.dataset.card import dataset_card
from llmrec.dataset.config import PreparationConfig
from llmrec.dataset.engines import open_engine
from llmrec.dataset.folder import CARD_FILE, INFO_FILE, TABLES, RecDataset, check_replaceable
from llmrec.dataset.raw_data import RawData
from llmrec.dataset.relations import TIE_RULE, kept_events, split_events
from llmrec.schema import HISTORIES, INTERACTIONS, ITEMS, TRAIN, DataError

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1


def prepare_dataset(
    raw: RawData, output_dir: str | Path, config: PreparationConfig, reader: dict[str, Any] | None = None
) -> RecDataset:
    """Filter, order and split ``raw`` and write the dataset folder, whole or not at all.

    The folder holds interactions, items, train, valid and test as parquet (docs/data.md), dataset.json and a dataset
    card. A dataset folder at ``output_dir`` is replaced; a folder that holds anything else is refused.

    Args:
        raw: what a reader returned.
        output_dir: the folder to write.
        config: what defines the split.
        reader: the options that ``raw`` was read with, recorded so that ``find_prepared`` can compare them.

    Raises:
        DataError: if nothing is left after filtering, no user has a test target, the split needs times that ``raw``
            lacks, or ``output_dir`` holds other files.
    """
    check_replaceable(output_dir)
    if config.split == "global_temporal" and not raw.has_timestamps:
        raise DataError(
            f"global_temporal needs times that compare between users, and {raw.source} has only the order of each "
            "user's events. Use leave_last_out, or read data with timestamps."
        )
    logger.info("%s: %d interactions, %d items read.", raw.name, raw.interactions.num_rows, raw.items.num_rows)
    events = _ordered_events(raw, config)
    tables, skipped = _tables(events, raw.items, config)
    return write_dataset(output_dir, raw, tables, protocol(config), reader, config.engine, skipped)


def write_dataset(
    output_dir: str | Path,
    raw: RawData,
    tables: dict[str, pa.Table],
    split: dict[str, Any],
    reader: dict[str, Any] | None = None,
    engine: str | None = None,
    skipped: dict[str, int] | None = None,
) -> RecDataset:
    """Write a dataset folder, whole or not at all.

    Args:
        output_dir: the folder; checked by ``check_replaceable``.
        raw: what the tables were made of.
        tables: the five of them.
        split: what defines them, recorded as the protocol.
        reader: the options of reading, recorded.
        engine: what they were made with.
        skipped: counts that the tables do not tell.
    """
    info = {
        "format_version": FORMAT_VERSION,
        "name": raw.name,
        "source": raw.source,
        "reader": reader or {},
        "engine": engine,
        "protocol": split,
        "counts": {**_counts(tables), **(skipped or {})},
        "split_fingerprint": _fingerprint(tables["test"]),
    }
    with atomic_path(output_dir) as temporary:
        temporary.mkdir()
        for name, table in tables.items():
            pq.write_table(table, temporary / f"{name}.parquet")
        write_json(temporary / INFO_FILE, info)
        (temporary / CARD_FILE).write_text(dataset_card(info))
    logger.info("%s: split %s, %s.", output_dir, info["split_fingerprint"], info["counts"])
    return RecDataset(Path(output_dir), info)


def protocol(config: PreparationConfig) -> dict[str, Any]:
    """What defines a split, for dataset.json; the engine does not, and fractions only where they are used."""
    options = {**asdict(config), "tie_rule": TIE_RULE}
    unused = ["engine"] + (["valid_fraction", "test_fraction"] if config.split == "leave_last_out" else [])
    return {name: value for name, value in options.items() if name not in unused}


def _ordered_events(raw: RawData, config: PreparationConfig) -> pa.Table:
    # reviews stay here: text is most of the bytes, and no filter or order needs it
    numbered = raw.interactions.drop_columns("review")
    numbered = numbered.append_column("input_row", pa.array(np.arange(raw.interactions.num_rows)))
    with open_engine(config.engine) as engine:
        events = engine.table("events", numbered)
        kept = kept_events(engine, events, engine.table("items", raw.items.select(["item_id"])), config)
        if kept.count().execute() == 0:
            raise DataError(
                f"Nothing is left of {raw.interactions.num_rows} interactions of {raw.source} after the filters "
                f"(k_core {config.k_core}, min_rating {config.min_rating}, items with a row in the item table). "
                "Lower k_core, or check that interactions and items use the same item ids."
            )
        ordered = split_events(kept, config).to_pyarrow()
    return ordered.append_column("review", raw.interactions["review"].take(ordered["input_row"]))


def _tables(events: pa.Table, items: pa.Table, config: PreparationConfig) -> tuple[dict[str, pa.Table], dict[str, int]]:
    """The five tables, and how many users could not be evaluated for want of a history."""
    users = events["user_id"].combine_chunks()
    starts = np.flatnonzero(
        np.concatenate([[True], pc.not_equal(users[1:], users[:-1]).to_numpy(zero_copy_only=False)])
    )
    user_of = np.repeat(np.arange(len(starts)), np.diff([*starts, len(users)]))
    splits = events["split"].combine_chunks()
    ends = {}  # a user's training events come first, then validation, then test
    end = starts.copy()
    for split in ("train", "valid", "test"):
        of_split = pc.equal(splits, split).to_numpy(zero_copy_only=False)
        end = end + np.bincount(user_of[of_split], minlength=len(starts))
        ends[split] = end
    item_ids = events["item_id"].combine_chunks()
    user_ids = users.take(pa.array(starts))
    trained = np.flatnonzero(ends["train"] > starts)
    train = [user_ids.take(pa.array(trained))]
    for column in (item_ids, events["timestamp"].combine_chunks()):
        train.append(_lists(column, starts[trained], ends["train"][trained]))
    tables = {
        "interactions": events.select(INTERACTIONS.names).cast(INTERACTIONS),
        "items": _kept_items(items, item_ids),
        "train": pa.table(train, schema=TRAIN),
    }
    skipped = {}
    for split, before in (("valid", "train"), ("test", "valid")):
        has_target = ends[split] > ends[before]
        rows = np.flatnonzero(has_target & (ends[before] > starts))
        skipped[f"{split}_users_without_history"] = int(has_target.sum()) - len(rows)
        begin, cut, stop = starts[rows], ends[before][rows], ends[split][rows]
        columns = [
            user_ids.take(pa.array(rows)),
            _lists(item_ids, np.maximum(begin, cut - config.max_history), cut),
            _lists(item_ids, cut, stop, distinct=config.duplicates == "keep"),
            _lists(item_ids, begin, cut, distinct=config.duplicates == "keep"),
        ]
        tables[split] = pa.table(columns, schema=HISTORIES)
    if tables["test"].num_rows == 0:
        raise DataError(
            "No user has a test target: leave_last_out needs users with 3 interactions or more, global_temporal users "
            "with interactions before and in the test period. Lower the filters or change the split."
        )
    return {name: tables[name] for name in TABLES}, skipped


def _lists(values: pa.Array, starts: np.ndarray, stops: np.ndarray, distinct: bool = False) -> pa.Array:
    """``[values[start:stop] ...]`` as one Arrow list array."""
    lengths = stops - starts
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    positions = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values.take(pa.array(positions)))
    if distinct:
        return pa.array([list(dict.fromkeys(row)) for row in lists.to_pylist()], lists.type)
    return lists


def _kept_items(items: pa.Table, item_ids: pa.Array) -> pa.Table:
    """Rows of the items that have an event, in the order of the tie rule."""
    kept = items.filter(pc.is_in(items["item_id"], pc.unique(item_ids)))
    kept = kept.append_column("length", pc.utf8_length(kept["item_id"]))
    return kept.sort_by([("length", "ascending"), ("item_id", "ascending")]).select(ITEMS.names).cast(ITEMS)


def _counts(tables: dict[str, pa.Table]) -> dict[str, int]:
    warm = pc.count_distinct(tables["train"]["item_ids"].combine_chunks().flatten()).as_py()
    return {
        "users": pc.count_distinct(tables["interactions"]["user_id"]).as_py(),
        "items": tables["items"].num_rows,
        "interactions": tables["interactions"].num_rows,
        "train_users": tables["train"].num_rows,
        "valid_users": tables["valid"].num_rows,
        "test_users": tables["test"].num_rows,
        "warm_items": warm,
        "cold_items": tables["items"].num_rows - warm,
    }


def _fingerprint(test: pa.Table) -> str:
    """16 hex digits over users, histories and targets of the test rows, in their order."""
    digest = hashlib.sha256()
    for row in test.select(["user_id", "history", "target_item_ids"]).to_pylist():
        digest.update(json.dumps(list(row.values())).encode() + b"\n")
    return digest.hexdigest()[:16]

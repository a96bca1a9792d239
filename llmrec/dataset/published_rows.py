"""Validation and test rows exactly as somebody published them, beside a log to train on."""

import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llmrec.dataset.folder import PUBLISHED_ROWS, RecDataset, check_replaceable
from llmrec.dataset.preparation import write_dataset
from llmrec.dataset.raw_data import RawData
from llmrec.dataset.readers.json_lines import read_json_lines
from llmrec.schema import HISTORIES, INTERACTIONS, ITEMS, TRAIN, DataError

logger = logging.getLogger(__name__)


def prepare_published_rows(
    raw: RawData,
    rows: dict[str, str | Path],
    output_dir: str | Path,
    train_before: int,
    reader: dict[str, Any] | None = None,
) -> RecDataset:
    """Write a dataset folder whose validation and test are the rows of two files, to compare with published numbers.

    Nothing is filtered: the catalogue is all of ``raw.items``, histories may repeat items, one user may have several
    rows, and events of one second stay in the log's order. The rows' users need not be those of the log, so their ids
    are ``split:row:user``, which no user of the log has.

    Args:
        raw: the catalogue, and the log to train on, with timestamps.
        rows: path of ``valid`` and ``test``: JSON lines of user, history (item ids, oldest first) and target.
        output_dir: the folder to write, as for ``prepare_dataset``.
        train_before: what the log holds from this second on is not trained on.
        reader: the options of reading, recorded.

    Raises:
        DataError: if a row names an item that the catalogue lacks, the log has no timestamps or nothing before
            ``train_before``, or ``output_dir`` holds other files.
    """
    check_replaceable(output_dir)
    if not raw.has_timestamps:
        raise DataError(f"{raw.source} has no timestamps, so nothing tells what came before {train_before}.")
    order = pc.sort_indices(raw.interactions, [("user_id", "ascending"), ("timestamp", "ascending")])
    events = raw.interactions.take(order)
    kept = events.filter(pc.less(events["timestamp"], train_before))
    if kept.num_rows == 0:
        raise DataError(f"{raw.source} has nothing before second {train_before}: there is nothing to train on.")
    lists = kept.group_by("user_id", use_threads=False).aggregate([("item_id", "list"), ("timestamp", "list")])
    tables = {
        "interactions": kept.select(INTERACTIONS.names).cast(INTERACTIONS),
        "items": raw.items.select(ITEMS.names).cast(ITEMS),
        "train": pa.table([lists["user_id"], lists["item_id_list"], lists["timestamp_list"]], schema=TRAIN),
    }
    known = set(raw.items["item_id"].to_pylist())
    for split in ("valid", "test"):
        tables[split] = _rows(split, Path(rows[split]), known)
    lengths = [len(history) for split in ("valid", "test") for history in tables[split]["history"].to_pylist()]
    protocol = {"split": PUBLISHED_ROWS, "train_before": train_before, "max_history": max(lengths, default=0)}
    logger.info("%s: %d of %d interactions are before %d.", raw.name, kept.num_rows, events.num_rows, train_before)
    return write_dataset(output_dir, raw, tables, protocol, reader)


def _rows(split: str, path: Path, known: set[str]) -> pa.Table:
    """``schema.HISTORIES`` of one file."""
    found: list[dict[str, Any]] = []
    for line, row in read_json_lines(path, required=("user", "history", "target")):
        history, target = [str(item) for item in row["history"]], str(row["target"])
        unknown = [item for item in (*history, target) if item not in known]
        if unknown or not history:
            what = f"names the item {unknown[0]!r}, which the catalogue lacks" if unknown else "has no history"
            raise DataError(f"{path}: line {line} {what}.")
        found.append(
            {
                "user_id": f"{split}:{len(found) + 1}:{row['user']}",
                "history": history,
                "target_item_ids": [target],
                "seen_item_ids": list(dict.fromkeys(history)),
            }
        )
    if not found:
        raise DataError(f"{path} holds no rows.")
    return pa.Table.from_pylist(found, schema=HISTORIES)

"""Instruction tables: one parquet file per alignment task, free of wording, from a dataset folder's training part.

A row holds the fields of one example as typed segments; which template words it is drawn when the row is read
(``lcrec.draw_template``), so one table serves every epoch. docs/methods/lcrec.md describes the columns.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from llmrec.atomic import atomic_path, one_at_a_time, write_json
from llmrec.prompts import lcrec_rows
from llmrec.prompts.item_text import ItemText, item_texts
from llmrec.prompts.lcrec import TASKS, TEMPLATES
from llmrec.prompts.lcrec_rows import FIELDS, ITEM_FIELDS, WRITER_TASKS, Row, Sequences
from llmrec.prompts.segments import SEGMENTS_TYPE
from llmrec.prompts.writer import DeterministicWriter, Writer

if TYPE_CHECKING:
    from llmrec.dataset import RecDataset

logger = logging.getLogger(__name__)

INFO_FILE = "instructions.json"
_CARD_FILE = "README.md"
_RECORD_KEY = b"llmrec"
_ROWS_AT_A_TIME = 10_000


def build_instructions(
    dataset: "RecDataset",
    output_dir: str | Path,
    tasks: Sequence[str] = TASKS,
    writer: Writer | None = None,
    *,
    max_history: int | None = None,
    fusion_samples: int | None = None,
    seed: int = 42,
    refit: bool = False,
) -> dict[str, pa.Table]:
    """Make the tables of ``tasks`` that are missing or were made from other data or options; read the others.

    Args:
        dataset: a prepared dataset. Only its training part and its items are read, and with ``refit`` the validation
            items; a writer never sees more than the training part.
        output_dir: for ``<task>.parquet``, ``instructions.json`` (options, counts, writer) and a dataset card.
        tasks: some of ``TASKS``.
        writer: of the texts of itemsearch and preferenceobtain. None keeps the texts that are there, whoever wrote
            them, and has ``DeterministicWriter`` write them where there are none.
        max_history: items of a history, the latest; None takes what the dataset's evaluation histories have.
        fusion_samples: rows of fusionseqrec to keep; None keeps all.
        seed: of that choice.
        refit: seqrec and fusionseqrec also cover each user's validation items.

    Returns:
        Task -> table with the columns of ``instruction_schema(task)``.

    Raises:
        ValueError: if a task is unknown, an option is out of range, or ``writer`` is None where texts of a language
            model would be replaced.
        DataError: if an item has no title, or a training item has no row among the items.
    """
    max_history = dataset.protocol["max_history"] if max_history is None else max_history
    _check_options(tasks, max_history, fusion_samples)
    output_dir = Path(output_dir)
    builder = _Builder(dataset, max_history, fusion_samples, seed, refit, writer)
    with one_at_a_time(output_dir):
        for task in tasks:
            path, record = output_dir / f"{task}.parquet", builder.record(task)
            if _is_current(path, record, any_writer=writer is None):
                logger.info("%s is up to date.", path)
                continue
            _write_table(path, task, builder.rows(task), builder.num_rows(task), record)
            _write_info(output_dir, dataset.fingerprint)
        return {task: pq.read_table(output_dir / f"{task}.parquet").combine_chunks() for task in tasks}


def instruction_schema(task: str) -> pa.Schema:
    """Columns of a task's table: task, user_id (null for tasks about items), the task's fields, writer.

    A field is a list of segments, null where the example lacks it; ``writer`` names who wrote the texts, null for the
    tasks that need none.
    """
    fields = [pa.field(name, SEGMENTS_TYPE) for name in FIELDS[task]]
    task_field = pa.field("task", pa.string(), nullable=False)
    return pa.schema([task_field, pa.field("user_id", pa.string()), *fields, pa.field("writer", pa.string())])


class _Builder:
    """Rows of each task of one dataset, with what they depend on."""

    def __init__(
        self,
        dataset: "RecDataset",
        max_history: int,
        fusion_samples: int | None,
        seed: int,
        refit: bool,
        writer: Writer | None,
    ) -> None:
        self.dataset = dataset
        self.max_history = max_history
        self.fusion_samples = fusion_samples
        self.seed = seed
        self.refit = refit
        self.writer = writer or DeterministicWriter()
        self.texts: dict[str, ItemText] = item_texts(dataset.items)
        self.train = lcrec_rows.training_sequences(dataset, self.texts)
        self.sequences: Sequences = lcrec_rows.with_validation(self.train, dataset) if refit else self.train
        self._inputs = _content_hash(dataset)

    def record(self, task: str) -> dict[str, Any]:
        """Everything that a task's table depends on, as JSON values."""
        record: dict[str, Any] = {"inputs": self._inputs, "writer": None}
        if "history" in FIELDS[task]:
            record["max_history"] = self.max_history
        if task in WRITER_TASKS:
            record["writer"] = self.writer.name
        elif "history" in FIELDS[task]:
            record["refit"] = self.refit
        if task == "fusionseqrec":
            record |= {"fusion_samples": self.fusion_samples, "seed": self.seed}
        return record

    def rows(self, task: str) -> Iterator[Row]:
        if task == "seqrec":
            return lcrec_rows.seqrec_rows(self.sequences, self.max_history)
        if task == "fusionseqrec":
            return lcrec_rows.fusion_rows(self.sequences, self.texts, self.max_history, self.fusion_samples, self.seed)
        if task in WRITER_TASKS:
            reviews = lcrec_rows.last_reviews(self.dataset)
            rows = lcrec_rows.search_rows if task == "itemsearch" else lcrec_rows.preference_rows
            return rows(self.train, self.texts, reviews, self.writer, self.max_history)
        return lcrec_rows.item_rows(self.texts)

    def num_rows(self, task: str) -> int:
        """Rows that ``rows`` gives."""
        if task == "seqrec":
            return self.sequences.num_prefixes
        if task == "fusionseqrec":
            total = self.sequences.num_prefixes
            return total if self.fusion_samples is None else min(total, self.fusion_samples)
        return sum(len(items) > 1 for items in self.train.item_ids) if task in WRITER_TASKS else len(self.texts)


def _check_options(tasks: Sequence[str], max_history: int, fusion_samples: int | None) -> None:
    unknown = sorted(set(tasks) - set(TASKS))
    if unknown or not tasks:
        raise ValueError(f"tasks holds {', '.join(unknown) or 'nothing'}; allowed are {', '.join(TASKS)}.")
    if max_history < 1:
        raise ValueError(f"max_history is {max_history}; a history needs 1 item or more.")
    if fusion_samples is not None and fusion_samples < 1:
        raise ValueError(f"fusion_samples is {fusion_samples}; keep 1 or more, or leave fusionseqrec out of the tasks.")


def _read_record(path: Path) -> dict[str, Any] | None:
    """What the table at ``path`` was made from; it lies in the file itself, so the two can't part."""
    content = (pq.read_schema(path).metadata or {}).get(_RECORD_KEY) if path.is_file() else None
    return None if content is None else json.loads(content)


def _is_current(path: Path, record: dict[str, Any], any_writer: bool) -> bool:
    """Whether the table at ``path`` is what ``record`` asks for.

    Raises:
        ValueError: if it has to be made anew, but somebody else wrote its texts and no writer is named.
    """
    found = _read_record(path)
    if found is None:
        return False
    compared = record.keys() - {"writer"} if any_writer else record.keys()
    changed = sorted(name for name in compared if found.get(name) != record[name])
    if changed and any_writer and found["writer"] != record["writer"]:
        values = "; ".join(f"{name}: {found.get(name)!r} -> {record[name]!r}" for name in changed)
        raise ValueError(
            f"{path} was written by {found['writer']} for other data or options ({values}). Run "
            "data_prep/instructions.py with that writer and the new options (answers it gave before are kept and cost "
            "nothing), or delete the file to have the texts built without a language model."
        )
    return not changed


def _content_hash(dataset: "RecDataset") -> str:
    """16 hex digits over all that rows are made of."""
    digest = hashlib.sha256(dataset.fingerprint.encode())
    for table in (dataset.items, dataset.train, dataset.valid, dataset.interactions.select(["review"])):
        for start in range(0, table.num_rows, _ROWS_AT_A_TIME):
            digest.update(json.dumps(table.slice(start, _ROWS_AT_A_TIME).to_pydict()).encode())
    return digest.hexdigest()[:16]


def _write_table(path: Path, task: str, rows: Iterable[Row], total: int, record: dict[str, Any]) -> None:
    schema = instruction_schema(task).with_metadata({_RECORD_KEY: json.dumps(record)})
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, schema) as file,
        tqdm(total=total, desc=task, unit="examples", disable=None) as progress,
    ):
        remaining = iter(rows)
        while chunk := list(islice(_counted(remaining, progress), _ROWS_AT_A_TIME)):
            file.write_table(_table_of(chunk, task, schema, record["writer"]))


def _counted(rows: Iterator[Row], progress: tqdm) -> Iterator[Row]:
    for row in rows:
        progress.update()
        yield row


def _table_of(rows: Sequence[Row], task: str, schema: pa.Schema, writer: str | None) -> pa.Table:
    columns = [_segments_column([row.fields.get(name) for row in rows], name in ITEM_FIELDS) for name in FIELDS[task]]
    user_ids = pa.array([row.user_id for row in rows], pa.string())
    tasks, writers = pa.array([task] * len(rows)), pa.array([writer] * len(rows), pa.string())
    return pa.Table.from_arrays([tasks, user_ids, *columns, writers], schema=schema)


def _segments_column(values: Sequence[Sequence[str] | None], is_item: bool) -> pa.Array:
    flat = [value for entry in values if entry is not None for value in entry]
    ends = np.cumsum([0, *(len(entry or ()) for entry in values)], dtype=np.int32)
    kinds = pa.repeat(pa.scalar("item" if is_item else "text"), len(flat))
    segments = pa.StructArray.from_arrays([kinds, pa.array(flat, pa.string())], fields=list(SEGMENTS_TYPE.value_type))
    missing = pa.array([entry is None for entry in values])
    return pa.ListArray.from_arrays(pa.array(ends), segments, type=SEGMENTS_TYPE, mask=missing)


def _write_info(output_dir: Path, fingerprint: str) -> None:
    """The records of all tables, and a dataset card that makes the tasks configurations of ``load_dataset``."""
    info = {}
    for task in TASKS:
        path = output_dir / f"{task}.parquet"
        record = _read_record(path)
        if record is not None:
            num_rows = pq.read_metadata(path).num_rows
            info[task] = {**record, "examples": num_rows, "templates": len(TEMPLATES[task])}
    write_json(output_dir / INFO_FILE, {"dataset_fingerprint": fingerprint, "tasks": info})
    configs = "".join(f"- config_name: {task}\n  data_files: {task}.parquet\n" for task in info)
    counts = "".join(
        f"| {task} | {entry['examples']:,} | {entry['templates']} | {entry['writer'] or '-'} |\n"
        for task, entry in info.items()
    )
    with atomic_path(output_dir / _CARD_FILE) as temporary:
        temporary.write_text(
            f"---\nconfigs:\n{configs}---\n\n# Instructions for LC-Rec\n\nMade by `data_prep/instructions.py` from the "
            f"dataset with the split fingerprint `{fingerprint}`.\n\n"
            f"| task | examples | templates | writer |\n| --- | --- | --- | --- |\n{counts}"
        )

"""The output of a long job: finished blocks as parts beside it, joined to one file at the end."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llmrec.atomic import atomic_path, write_json
from llmrec.schema import DataError
from llmrec.serving.batch.block import RECOMMENDATIONS

JOB_FILE = "job.json"
_LOCK_FILE = "lock"
_JOB_KEY = b"llmrec_recommend"
_ROW_GROUP = 65_536  # rows of the output; one for each part would make many small ones


class Output:
    """One parquet file that is made in blocks of ``block_size`` rows.

    Args:
        path: of the file. Parts lie in a folder of its name and ``.parts``.
        job: everything that the rows depend on, as JSON values. The parts and the file itself carry it.
        num_rows: of the whole file.
        block_size: rows of each part but the last.
    """

    def __init__(self, path: Path, job: Mapping[str, Any], num_rows: int, block_size: int) -> None:
        self.path = path
        self.parts = path.with_name(f"{path.name}.parts")
        self.job = dict(job)
        self.num_rows = num_rows
        self._block_size = block_size

    @property
    def num_blocks(self) -> int:
        return -(-self.num_rows // self._block_size)

    def start(self, block: int) -> int:
        """First row of a block."""
        return block * self._block_size

    def size(self, block: int) -> int:
        """Rows of a block."""
        return min(self._block_size, self.num_rows - self.start(block))

    def is_finished(self, overwrite: bool) -> bool:
        """Whether the file is there already, made by the same job.

        Raises:
            DataError: if another file is there and may not be replaced.
        """
        if overwrite or not self.path.exists():
            return False
        difference = job_difference(_job_of(self.path), self.job)
        if difference:
            raise DataError(
                f"{self.path} is there already, {difference}. Name another output, or give --overwrite to replace it."
            )
        shutil.rmtree(self.parts, ignore_errors=True)  # an earlier call may have ended between joining and removing
        return True

    @contextmanager
    def working(self, overwrite: bool) -> Iterator[list[int]]:
        """Hold the folder of parts for this process, and yield the blocks that are missing.

        Raises:
            DataError: if the folder can't be made, another process works in it, or its parts are of another job and
                may not be removed.
        """
        try:
            self.parts.mkdir(parents=True, exist_ok=True)
            lock = (self.parts / _LOCK_FILE).open("a")
        except OSError as error:
            raise DataError(f"{self.parts} can't be written: {error}. Name an output that can.") from None
        with lock:
            lock_folder(lock.fileno(), self.parts)
            self._take_over(overwrite)
            yield [block for block in range(self.num_blocks) if not self._is_done(block)]

    def write(self, block: int, table: pa.Table) -> None:
        """Save a finished block."""
        if table.num_rows != self.size(block):
            raise ValueError(f"Block {block} has {table.num_rows} rows; it needs {self.size(block)}.")
        with atomic_path(self._part(block)) as temporary:
            pq.write_table(table.cast(RECOMMENDATIONS), temporary)

    def join(self) -> None:
        """Make the file from all parts, in order, and remove them."""
        schema = RECOMMENDATIONS.with_metadata({_JOB_KEY: json.dumps(self.job, sort_keys=True).encode()})
        with atomic_path(self.path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
            waiting: list[pa.Table] = []
            for block in range(self.num_blocks):
                waiting.append(pq.read_table(self._part(block), schema=RECOMMENDATIONS))
                if sum(table.num_rows for table in waiting) >= _ROW_GROUP or block + 1 == self.num_blocks:
                    writer.write_table(pa.concat_tables(waiting).cast(schema), _ROW_GROUP + self._block_size)
                    waiting = []
        shutil.rmtree(self.parts)

    def count_short_lists(self, k: int) -> int:
        """Rows of the finished file with fewer than ``k`` items."""
        with pq.ParquetFile(self.path) as opened:
            lists = (batch.column("item_ids") for batch in opened.iter_batches(_ROW_GROUP, columns=["item_ids"]))
            return sum(pc.sum(pc.less(pc.list_value_length(items), k)).as_py() or 0 for items in lists)

    def _part(self, block: int) -> Path:
        return self.parts / f"part-{block:08}.parquet"

    def _is_done(self, block: int) -> bool:
        try:
            return pq.read_metadata(self._part(block)).num_rows == self.size(block)
        except (FileNotFoundError, pa.ArrowInvalid):  # a machine that lost power may leave an empty file
            return False

    def _take_over(self, overwrite: bool) -> None:
        """Go on with parts of the same job; write down whose parts these are before the first one."""
        job_file = self.parts / JOB_FILE
        if job_file.is_file():
            difference = job_difference(json.loads(job_file.read_text()), self.job)
            if not difference:
                return
            if not overwrite:
                raise DataError(
                    f"{self.parts} holds the beginning of another job, {difference}. Give the same arguments again to "
                    "go on with it, name another output, or give --overwrite to start afresh."
                )
        for path in self.parts.glob("part-*.parquet"):
            path.unlink()
        write_json(job_file, self.job)


def _job_of(path: Path) -> dict[str, Any] | None:
    """What a finished file says it was made with; None where it says nothing."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowInvalid, OSError):
        return None
    return json.loads(metadata[_JOB_KEY]) if _JOB_KEY in metadata else None


def job_difference(earlier: dict[str, Any] | None, now: dict[str, Any], command: str = "recommend") -> str:
    """In words; empty where the two are equal."""
    if earlier is None:
        return f"and was not made by llmrec {command}"
    there, here = _flat(earlier), _flat(json.loads(json.dumps(now)))
    changed = [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]
    told = [f"{name} {there.get(name)!r} (now {here.get(name)!r})" for name in changed]
    return f"made with {', '.join(told)}" if told else ""


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def lock_folder(descriptor: int, folder: Path) -> None:
    """Keep a second process out until this one ends, however it ends."""
    try:
        import fcntl  # noqa: PLC0415 -- not on Windows, which goes without
    except ImportError:
        return
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DataError(f"Another process works in {folder}. Wait for it, or name another output.") from None

"""Files of histories: what is in them, checked as a whole before a long job, and read block by block during it."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llmrec.catalog import Catalog
from llmrec.schema import DataError

_ITEM_LIST = pa.list_(pa.string())
_CHECKED_ROWS = 16_384  # at a time
_TOLD = 5  # unknown items named in one error
_READ_BUFFER = 1 << 20  # bytes of a column in memory: a row group may be larger than that


@dataclass(frozen=True)
class HistoryFile:
    """One parquet file.

    Args:
        path: where it lies.
        num_bytes: its size.
        num_rows: its users.
        sha256: of its content.
    """

    path: Path
    num_bytes: int
    num_rows: int
    sha256: str

    def open(self) -> pq.ParquetFile:
        """The file, as long as it is the one that was checked.

        Raises:
            DataError: if it has changed since, or is gone.
        """
        if not self.path.is_file() or self.path.stat().st_size != self.num_bytes:
            raise DataError(f"{self.path} has changed or gone since it was checked. Restore it and start again.")
        return pq.ParquetFile(self.path, buffer_size=_READ_BUFFER)


@dataclass(frozen=True)
class Histories:
    """A table of users in one or more files.

    Args:
        files: in the order of their names.
        columns: what a column means -> its name in the files. ``history`` is there; ``user_id``, ``seen_item_ids`` and
            ``exclude`` may be.
    """

    files: tuple[HistoryFile, ...]
    columns: Mapping[str, str]

    @property
    def num_rows(self) -> int:
        return sum(file.num_rows for file in self.files)

    @property
    def identity(self) -> dict[str, int | str]:
        """Equal for equal content, wherever the files lie."""
        digest = hashlib.sha256("".join(file.sha256 for file in self.files).encode()).hexdigest()
        return {"num_files": len(self.files), "num_rows": self.num_rows, "sha256": digest}

    def batches(self, file: HistoryFile, num_rows: int, first_row_group: int = 0) -> Iterator[pa.Table]:
        """Tables of at most ``num_rows`` users, with columns named by what they mean."""
        with file.open() as opened:
            row_groups = range(first_row_group, opened.num_row_groups)
            for batch in opened.iter_batches(num_rows, row_groups, list(dict.fromkeys(self.columns.values()))):
                yield pa.table({name: _plain(batch.column(column)) for name, column in self.columns.items()})


def open_histories(path: Path, exclude_column: str | None = None) -> Histories:
    """Look at a parquet file, or at all parquet files under a folder, in the order of their names.

    Args:
        path: file or folder.
        exclude_column: column that must be there; None takes ``exclude`` where there is one.

    Raises:
        DataError: if there is nothing to read, or a column is missing or of another type.
    """
    paths = [path]
    if path.is_dir():
        paths = sorted(
            found
            for found in path.rglob("*.parquet")
            if found.is_file() and not any(part[0] in "._" for part in found.relative_to(path).parts)
        )
    if not paths or not paths[0].is_file():
        what = "holds no parquet files" if path.is_dir() else "is neither a file nor a folder"
        raise DataError(f"{path} {what}. Name a parquet file, or a folder of them, with a column history.")
    files, columns = [], _columns(paths[0], exclude_column)
    for each in paths:
        if (others := _columns(each, exclude_column)) != columns:
            raise DataError(
                f"{each} has the columns {sorted(others.values())} and {paths[0]} has {sorted(columns.values())}: "
                "all files need the same."
            )
        with each.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        # workers on other machines start in other folders
        files.append(HistoryFile(each.absolute(), each.stat().st_size, pq.read_metadata(each).num_rows, digest))
    return Histories(tuple(files), columns)


@dataclass(frozen=True)
class InputFacts:
    """What a look at every row found.

    Attributes:
        num_unknown: item ids that the catalog lacks, all columns and repeats counted.
        longest: known items of the longest history.
        has_empty: whether a history has no known item: a new user.
    """

    num_unknown: int
    longest: int
    has_empty: bool


def check_rows(histories: Histories, catalog: Catalog, skip_unknown: bool) -> InputFacts:
    """Look at every row.

    Args:
        histories: to check.
        catalog: that the item ids should be of.
        skip_unknown: whether unknown items may be there.

    Raises:
        DataError: if a value is missing, or an item is unknown and may not be; rows are counted from 0 in each file.
    """
    known_ids = pa.array(catalog.item_ids, pa.string())
    unknown: list[str] = []
    num_unknown, longest, has_empty = 0, 0, False
    for file, first, table in _all_rows(histories):
        for name, column in histories.columns.items():
            values = table[name].combine_chunks()
            _check_nulls(values, column, file.path, first)
            if name == "user_id":
                continue
            items, rows = values.flatten(), _rows(values)
            known = pc.is_in(items, value_set=known_ids).to_numpy(zero_copy_only=False)
            places = np.flatnonzero(~known)
            num_unknown += len(places)
            for place in places[: max(_TOLD - len(unknown), 0)]:
                unknown.append(f"{items[place].as_py()!r} ({file.path.name}, {column}, row {first + rows[place]})")
            if name == "history":
                lengths = np.bincount(rows[known], minlength=len(values))
                longest = max(longest, int(lengths.max(initial=0)))
                has_empty = has_empty or bool((lengths == 0).any())
    if num_unknown and not skip_unknown:
        raise DataError(
            f"{num_unknown:,} item ids are not among the {len(catalog):,} items of the catalog: {', '.join(unknown)}"
            f"{', ...' if num_unknown > len(unknown) else ''}. Rows are counted from 0. Correct them, or give "
            "--unknown_items skip to go on without them."
        )
    return InputFacts(num_unknown, longest, has_empty)


class HistoryReader:
    """Reads runs of rows. Going forward costs one pass over the files, less the row groups that nothing is read of."""

    def __init__(self, histories: Histories) -> None:
        self._histories = histories
        self._group_starts: dict[int, np.ndarray] = {}
        self._file = -1
        self._row = 0  # of the file, where the next table starts
        self._batches: Iterator[pa.Table] = iter(())
        self._rest: pa.Table | None = None

    def read(self, start: int, num_rows: int) -> pa.Table:
        """Rows ``start`` to ``start + num_rows`` of all files together, which have as many."""
        pieces, first = [], 0
        for index, file in enumerate(self._histories.files):
            low, high = max(start - first, 0), min(start + num_rows - first, file.num_rows)
            if low < high:
                self._seek(index, low, num_rows)
                pieces += self._take(low, high)
            first += file.num_rows
        return pa.concat_tables(pieces)

    def _take(self, low: int, high: int) -> list[pa.Table]:
        pieces: list[pa.Table] = []
        while self._row < high:
            table = next(self._batches) if self._rest is None else self._rest
            begin, end = self._row, self._row + table.num_rows
            if low < end:
                pieces.append(table.slice(max(low - begin, 0), min(high, end) - max(low, begin)))
            self._row = min(high, end)
            self._rest = table.slice(high - begin) if high < end else None
        return pieces

    def _seek(self, index: int, low: int, batch_rows: int) -> None:
        """Open the row group that holds row ``low``, unless reading on comes there as soon."""
        file = self._histories.files[index]
        if index not in self._group_starts:
            with file.open() as opened:
                sizes = [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]
            self._group_starts[index] = np.concatenate([[0], np.cumsum(sizes[:-1], dtype=np.int64)])
        starts = self._group_starts[index]
        group = int(np.searchsorted(starts, low, side="right")) - 1
        if index == self._file and starts[group] <= self._row <= low:
            return
        self._file, self._row, self._rest = index, int(starts[group]), None
        self._batches = self._histories.batches(file, batch_rows, group)


def _columns(path: Path, exclude_column: str | None) -> dict[str, str]:
    """What a column means -> its name."""
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} can't be read as parquet: {error}") from None
    wanted = {name: name for name in ("history", "user_id", "seen_item_ids")} | {"exclude": exclude_column or "exclude"}
    required = ["history", *([exclude_column] if exclude_column else [])]
    for column in required:
        if column not in schema.names:
            raise DataError(f"{path} has no column {column!r}; its columns are {', '.join(schema.names) or 'none'}.")
    columns = {name: column for name, column in wanted.items() if column in schema.names}
    for name, column in columns.items():
        found = schema.field(column).type
        if not (_is_string(found) if name == "user_id" else _is_item_list(found)):
            expected = "string" if name == "user_id" else "list<string> of item ids"
            raise DataError(f"{path}: the column {column!r} is {found}; it must be {expected}. Cast it.")
    return columns


def _is_string(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_string(kind.value_type)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_item_list(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    # a writer that met only empty lists knew no type for what is in them
    return is_list and (_is_string(kind.value_type) or pa.types.is_null(kind.value_type))


def _plain(array: pa.Array) -> pa.Array:
    return array.cast(pa.string() if _is_string(array.type) else _ITEM_LIST)


def _rows(lists: pa.ListArray) -> np.ndarray:
    """Row of each flattened value: int64."""
    return np.repeat(np.arange(len(lists)), pc.list_value_length(lists).to_numpy(zero_copy_only=False))


def _check_nulls(values: pa.Array, column: str, path: Path, first: int) -> None:
    if values.null_count:
        row = first + pc.index(values.is_null(), True).as_py()
        raise DataError(
            f"{path}: {column} is null in row {row}, counted from 0 ({values.null_count} in this part of the file). "
            "Leave the row out; a user without a history has an empty list."
        )
    if pa.types.is_list(values.type) and values.flatten().null_count:
        row = first + _rows(values)[pc.index(values.flatten().is_null(), True).as_py()]
        raise DataError(f"{path}: {column} holds a null item id in row {row}, counted from 0. Leave it out.")


def _all_rows(histories: Histories) -> Iterator[tuple[HistoryFile, int, pa.Table]]:
    """Every row: its file, the row of the file that a table starts at, and the table."""
    for file in histories.files:
        first = 0
        try:
            for table in histories.batches(file, _CHECKED_ROWS):
                yield file, first, table
                first += table.num_rows
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file.path} can't be read to its end: {error}") from None

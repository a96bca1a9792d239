"""CSV, JSON lines and parquet as data frames whose index holds the line that each row starts in."""

import csv
import warnings
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from llmrec.dataset.readers.files import damage_named, decompressed, existing_file
from llmrec.dataset.readers.json_lines import read_json_lines
from llmrec.schema import DataError

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_KINDS = (*_SEPARATORS, ".jsonl", ".json", ".parquet")


def read_table(path: str | Path) -> pd.DataFrame:
    """A table of a kind that its name tells: .csv, .tsv, .jsonl, .json (one object a line) or .parquet.

    Text files may be gzip. Values of .csv and .tsv files are text, so ids such as ``007`` stay as they are; an empty
    one is missing.

    Returns:
        All columns. The index holds line numbers from 1; of parquet, row numbers from 1.

    Raises:
        DataError: if the kind is unknown, or the file is missing, damaged or not of its kind.
    """
    path = Path(path)
    kind = next((suffix for suffix in reversed(path.suffixes) if suffix in _KINDS), None)
    if kind is None:
        raise DataError(f"{path} is of no known kind: its name must end in {', '.join(_KINDS)} (text also in .gz).")
    existing_file(path)
    if kind in _SEPARATORS:
        return read_delimited(path, _SEPARATORS[kind])
    if kind == ".parquet":
        return _read_parquet(path)
    return _read_json(path)


def read_delimited(
    path: Path,
    separator: str,
    names: Sequence[str] | None = None,
    encoding: str = "utf-8-sig",
    quoted: bool = True,
) -> pd.DataFrame:
    """A table with one row a line, all values text.

    Args:
        path: gzip or not.
        separator: between values.
        names: of the columns, where the file has no header.
        encoding: of the file.
        quoted: whether double quotes hold values together.

    Raises:
        DataError: if the file is missing, damaged, or a row has more values than there are columns.
    """
    existing_file(path)
    with path.open("rb") as raw, damage_named(path), warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # of a first row that is too long
        bar = {"total": path.stat().st_size, "desc": path.name, "leave": False, "delay": 1, "mininterval": 1}
        with tqdm.wrapattr(raw, "read", **bar) as measured:
            try:
                table = pd.read_csv(
                    decompressed(measured),
                    sep=separator,
                    dtype=str,
                    names=None if names is None else list(names),
                    encoding=encoding,
                    quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
                    keep_default_na=False,
                    na_values=[""],
                    skip_blank_lines=False,  # they count as lines
                    index_col=False,
                )
            except pd.errors.EmptyDataError:
                raise DataError(f"{path} is empty.") from None
            except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
                reason = str(error).removeprefix("Error tokenizing data. C error: ").strip()
                raise DataError(
                    f"{path} can't be read as values separated by {separator!r} ({reason}). Correct or quote that row."
                ) from None
    table.index = _first_lines(table, header=names is None)
    return table.dropna(how="all")


def _first_lines(table: pd.DataFrame, header: bool) -> pd.Index:
    """Line numbers from 1 of rows; quoted values may run over several lines."""
    breaks = sum((table[column].str.count("\n").fillna(0) for column in table), pd.Series(0, table.index))
    before = breaks.cumsum().shift(fill_value=0).astype("int64")
    return pd.Index(before.to_numpy() + range(1 + header, len(table) + 1 + header))


def _read_json(path: Path) -> pd.DataFrame:
    rows = dict(read_json_lines(path))
    if not rows:
        raise DataError(f"{path} is empty.")
    # object: whole numbers stay whole where others are missing
    return pd.DataFrame(list(rows.values()), index=list(rows), dtype=object)


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is no parquet file, or damaged ({error}).") from None
    frame = table.to_pandas(integer_object_nulls=True)
    frame.index = pd.RangeIndex(1, len(frame) + 1)
    return frame

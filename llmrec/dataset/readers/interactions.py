"""Your own tables: CSV, JSON lines or parquet, with a mapping from your column names to the project's."""

import csv
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from llmrec.dataset.raw_data import RawData
from llmrec.dataset.readers.columns import HEADER_LINES, interactions_table, items_table, with_titles
from llmrec.dataset.readers.json_lines import read_json_lines
from llmrec.schema import INTERACTIONS, ITEMS, DataError

#: Seconds since 1970 of the year 2200, and the same in milliseconds: whole numbers between are one or the other.
_LATEST_SECONDS = 7_258_118_400


def read_interactions(
    interactions: str | Path,
    items: str | Path,
    columns: Mapping[str, str] | None = None,
    name: str | None = None,
    drop_untitled: bool = False,
) -> RawData:
    """Read an interaction table and an item table.

    Args:
        interactions: .csv, .tsv, .jsonl or .parquet (text files also as .gz) with ``user_id``, ``item_id`` and
            ``timestamp`` (ISO 8601, or whole seconds or milliseconds since 1970), and perhaps ``rating``, ``review``.
        items: the same kinds of file with ``item_id`` and ``title``, and perhaps ``description``, ``brand``,
            ``categories`` (a list, or text separated by "|").
        columns: the project's column name -> yours, where they differ.
        name: of the dataset; the interaction file's by default.
        drop_untitled: drop items without a title, and their interactions, instead of refusing them.

    Raises:
        DataError: if a column is missing or a value can't be read; it names the file, the column and the line.
    """
    interactions, items = Path(interactions), Path(items)
    columns = dict(columns or {})
    unknown = sorted(set(columns) - {*INTERACTIONS.names, *ITEMS.names})
    if unknown:
        raise DataError(
            f"Columns {unknown} are not the project's; it has {sorted({*INTERACTIONS.names, *ITEMS.names})}."
        )
    events = _read(interactions, columns, INTERACTIONS.names, ("user_id", "item_id", "timestamp"))
    table = _read(items, columns, ITEMS.names, ("item_id", "title"))
    parsed = interactions_table(
        interactions,
        events["user_id"],
        events["item_id"],
        _seconds(interactions, events["timestamp"]),
        events.get("rating"),
        events.get("review"),
    )
    categories = table.get("categories")
    catalogue = items_table(
        items,
        table["item_id"],
        table["title"],
        table.get("description"),
        table.get("brand"),
        None if categories is None else categories.map(_category_list),
    )
    checked = with_titles(items, parsed, catalogue, drop_untitled)
    return RawData(name or interactions.name.split(".")[0], *checked, f"{interactions.name} and {items.name}")


def _read(path: Path, columns: Mapping[str, str], names: list[str], required: tuple[str, ...]) -> pd.DataFrame:
    """The table under the project's column names, values as text where the file has text."""
    kind = next((suffix for suffix in path.suffixes if suffix in (".csv", ".tsv", ".jsonl", ".json", ".parquet")), None)
    if kind is None:
        raise DataError(f"{path}: the name must end in .csv, .tsv, .jsonl, .json or .parquet (text also in .gz).")
    if not path.is_file():
        raise DataError(f"{path} is not there.")
    if kind == ".parquet":
        table = pq.read_table(path).to_pandas()
    elif kind in (".csv", ".tsv"):
        table = _read_csv(path, "," if kind == ".csv" else "\t")
    else:
        table = pd.DataFrame([row for _, row in read_json_lines(path)])
    given = {name: columns.get(name, name) for name in names}
    missing = [given[name] for name in required if given[name] not in table]
    if missing:
        raise DataError(
            f"{path} has no column {', '.join(missing)}; it has {list(table.columns)}. Map yours with "
            "--columns item_id=..., or rename them."
        )
    present = {yours: name for name, yours in given.items() if yours in table}
    return table[list(present)].rename(columns=present)


def _read_csv(path: Path, separator: str) -> pd.DataFrame:
    try:
        return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, na_values=[""])
    except (pd.errors.ParserError, EOFError, UnicodeDecodeError, csv.Error, OSError) as error:
        raise DataError(f"{path} can't be read to its end ({error}). Is it cut short, or of another format?") from None


def _seconds(path: Path, values: pd.Series) -> pd.Series:
    """Whole seconds since 1970 from numbers (all seconds or all milliseconds) or ISO 8601 texts."""
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.notna().all():
        milliseconds = numbers.abs() > _LATEST_SECONDS
        if milliseconds.any() and not milliseconds.all():
            row = int(milliseconds.to_numpy().argmax())
            raise DataError(
                f"{path}: column 'timestamp' mixes seconds and milliseconds; line {row + 1 + HEADER_LINES} holds "
                f"{values.iloc[row]}. Use one of them."
            )
        return numbers // 1000 if milliseconds.any() else numbers
    times = pd.to_datetime(values.astype(str), errors="coerce", utc=True, format="ISO8601")
    if times.isna().any():
        row = int(times.isna().to_numpy().argmax())
        raise DataError(
            f"{path}: column 'timestamp' holds {values.iloc[row]!r} in line {row + 1 + HEADER_LINES}; it takes "
            "ISO 8601 (2024-05-01T12:00:00Z), or whole seconds or milliseconds since 1970."
        )
    return times.astype("int64") // (10**9 if times.dtype.unit == "ns" else 10**6 if times.dtype.unit == "us" else 1)


def _category_list(value: object) -> list[str]:
    if value is None or (isinstance(value, float) and value != value):  # noqa: PLR0124 - NaN
        return []
    if isinstance(value, str):
        return [part.strip() for part in value.split("|") if part.strip()]
    return [str(part) for part in value]  # type: ignore[attr-defined]

"""Times as files hold them to Unix seconds; a unit is never guessed where two are possible."""

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from llmrec.dataset.readers.columns import first_line, numbers
from llmrec.schema import DataError

logger = logging.getLogger(__name__)

TimestampUnit = Literal["auto", "s", "ms", "us", "ns", "position"]
TIMESTAMP_UNITS: tuple[str, ...] = get_args(TimestampUnit)
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9, "position": 1}
#: Unix seconds from 1973 to 2286; the ranges of the four units do not overlap.
_PLAUSIBLE = (10**8, 10**10)


def unix_seconds(path: Path, values: pd.Series, unit: TimestampUnit = "auto") -> pd.Series:
    """``values`` as whole Unix seconds, rounded down.

    Args:
        path: named in errors, with ``values.name`` and the line numbers in ``values.index``.
        values: numbers, ISO 8601 text (UTC where it names no zone) or datetimes.
        unit: of numbers. ``auto`` takes the one unit in which all of them lie between 1973 and 2286. ``position``:
            numbers that order a user's events and are no times.

    Raises:
        DataError: if a value is missing or unreadable, or ``auto`` finds no unit.
        ValueError: if the unit is unknown.
    """
    if unit not in TIMESTAMP_UNITS:
        raise ValueError(f"timestamp_unit is {unit!r}; allowed are {', '.join(TIMESTAMP_UNITS)}.")
    if values.isna().any():
        raise DataError(f"{path}: column {values.name!r} has no time in line {first_line(values.isna())}.")
    if values.empty:
        return values.astype("int64")
    if pd.api.types.is_datetime64_any_dtype(values):
        return pd.Series(values.to_numpy("datetime64[s]").astype("int64"), values.index, name=values.name)
    if isinstance(values.iloc[0], datetime) or not _is_number(values.iloc[0]):
        return _from_iso(path, values)
    parsed = numbers(path, values)
    if unit == "auto":
        unit = _detected(path, parsed)
    return np.floor_divide(parsed, _PER_SECOND[unit]).astype("int64")


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _detected(path: Path, values: pd.Series) -> TimestampUnit:
    low, high = values.min(), values.max()
    for unit in ("s", "ms", "us", "ns"):
        if _PLAUSIBLE[0] * _PER_SECOND[unit] <= low and high < _PLAUSIBLE[1] * _PER_SECOND[unit]:
            logger.info("%s: column %r holds times in %s.", path.name, values.name, unit)
            return unit  # type: ignore[return-value]
    raise DataError(
        f"{path}: column {values.name!r} runs from {low:g} (line {first_line(values == low)}) to {high:g} (line "
        f"{first_line(values == high)}), which is in no one unit between 1973 and 2286. Say what it is with "
        f"timestamp_unit: {', '.join(TIMESTAMP_UNITS[1:])}."
    )


def _from_iso(path: Path, values: pd.Series) -> pd.Series:
    seconds = []
    for line, value in values.items():
        try:
            time = value if isinstance(value, datetime) else datetime.fromisoformat(str(value).strip())
        except ValueError:
            raise DataError(
                f"{path}: column {values.name!r} holds {value!r} in line {line}, which is neither a number nor an ISO "
                "8601 time such as 2024-05-31T18:00:00+02:00. Write all of them in one of these ways."
            ) from None
        seconds.append(int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() // 1))
    return pd.Series(seconds, values.index, dtype="int64", name=values.name)

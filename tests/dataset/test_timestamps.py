"""Times: every way of writing the same moment gives the same second, and no unit is guessed."""

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.dataset.readers.timestamps import unix_seconds
from llmrec.schema import DataError

PATH = Path("events.csv")


def read(values: list, unit: str = "auto", dtype: object = None) -> list[int]:
    return unix_seconds(PATH, pd.Series(values, range(2, len(values) + 2), dtype, "time"), unit).tolist()


@given(seconds=st.integers(10**8, 10**10 - 1), unit=st.sampled_from([("s", 1), ("ms", 10**3), ("us", 10**6)]))
def test_every_notation_of_a_moment_is_the_same_second(seconds: int, unit: tuple[str, int]) -> None:
    assert read([seconds * unit[1]]) == [seconds]
    assert read([str(seconds * unit[1])]) == [seconds]
    assert read([seconds * unit[1] + unit[1] - 1], unit[0]) == [seconds]
    assert read([datetime.fromtimestamp(seconds, UTC).isoformat()]) == [seconds]


@pytest.mark.parametrize(
    "text",
    [
        "2023-11-14T22:13:20Z",
        "2023-11-14 22:13:20",
        "2023-11-14T23:13:20+01:00",
        "2023-11-14T22:13:20.900",
        " 20231114T221320 ",
    ],
)
def test_iso_times_without_a_zone_are_utc(text: str) -> None:
    assert read([text]) == [1_700_000_000]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "Europe/Paris"])
def test_datetime_columns_of_every_resolution(unit: str, zone: str | None) -> None:
    moments = pd.Series(pd.to_datetime([1_700_000_000], unit="s", utc=True).tz_convert(zone).as_unit(unit))
    assert unix_seconds(PATH, moments.rename("time")).tolist() == [1_700_000_000]


def test_large_whole_numbers_stay_exact() -> None:
    assert read(["1700000000123456789"], "position") == [1_700_000_000_123_456_789]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, 2, 3], r"'time' runs from 1 \(line 2\) to 3 \(line 4\).*timestamp_unit: s, ms"),
        ([1_700_000_000, 1_700_000_000_000], r".* to 1.7e\+12 \(line 3\), which is in no one unit"),
        (["2023-11-14", "yesterday"], "'time' holds 'yesterday' in line 3, which is neither a number nor an ISO"),
        ([1_700_000_000, "soon"], "'time' holds 'soon' in line 3, which is no number"),
        ([1_700_000_000, None], "'time' has no time in line 3"),
        ([1_700_000_000, float("inf")], "'time' holds inf in line 3"),
    ],
)
def test_unreadable_and_ambiguous_times_are_refused_with_their_line(values: list, message: str) -> None:
    with pytest.raises(DataError, match=rf"events\.csv: column {message}"):
        read(values, dtype=object)


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="allowed are auto, s, ms"):
        read([1], "minutes")

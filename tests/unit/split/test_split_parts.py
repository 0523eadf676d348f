"""Parts by time, hash and column; empty parts and leaking keys are refused."""

import datetime as dt
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipway.dataset import DatasetWriter, row_hashes, scan
from shipway.errors import InputError
from shipway.spec import ColumnSplit, DataSection, HashSplit, TimeSplit
from shipway.split.split import PARTS, SplitResult, split_dataset
from shipway.split.windows import time_windows

ROLES = DataSection(uri="x", label="y")


def cut(
    folder: Path, frame: pl.DataFrame, section: TimeSplit | HashSplit | ColumnSplit, data: DataSection = ROLES
) -> tuple[SplitResult, dict[str, pl.DataFrame]]:
    with DatasetWriter(folder / "rows", part_rows=97) as writer:
        writer.write(frame)
    folders = {part: folder / part for part in PARTS}
    result = split_dataset(folder / "rows", folders, section, data)
    parts = {part: scan(path).collect() for part, path in folders.items()}
    assert result.rows == {part: rows.height for part, rows in parts.items()}
    assert sum(result.rows.values()) + result.left_out == frame.height
    return result, parts


def days(start: str, count: int) -> pl.Series:
    first = dt.datetime.fromisoformat(start)
    return pl.Series("t", [first + dt.timedelta(days=day) for day in range(count)], dtype=pl.Datetime("us"))


def by_time(until: str = "latest", train: str | None = None, unit: str = "mo") -> TimeSplit:
    return TimeSplit(by="time", column="t", until=until, validation=f"1{unit}", test=f"1{unit}", train=train)


def test_months_in_order_with_rows_outside_left_out(tmp_path: Path) -> None:
    frame = pl.DataFrame([days("2013-01-01", 365)]).with_columns(pl.lit(0).alias("y"))
    frame = pl.concat([frame, pl.DataFrame({"t": [None], "y": [0]}, schema=frame.schema)])
    result, parts = cut(tmp_path, frame, by_time("2013-11-01", "8mo"))
    assert result.rows == {"train": 243, "validation": 30, "test": 31}
    assert result.left_out == 62
    assert parts["train"]["t"].min() == dt.datetime(2013, 1, 1)
    assert parts["train"]["t"].max() < parts["validation"]["t"].min()
    assert parts["test"]["t"].max() == dt.datetime(2013, 10, 31)
    assert "from 2013-10-01 00:00:00 to before 2013-11-01 00:00:00" in result.bounds["test"]


@pytest.mark.parametrize(
    ("unit", "end"),
    [("d", "2013-05-16"), ("w", "2013-05-20"), ("mo", "2013-06-01"), ("y", "2014-01-01")],
)
def test_latest_ends_with_the_newest_rows_period(unit: str, end: str) -> None:
    windows = time_windows(by_time(unit=unit), dt.datetime(2013, 5, 15, 13, 30))
    assert windows[2].end == dt.datetime.fromisoformat(end)
    assert windows[0].start is None


def test_months_of_different_length() -> None:
    windows = time_windows(by_time("2024-03-31"))
    assert windows[2].start == dt.datetime(2024, 2, 29)


@given(
    newest=st.datetimes(dt.datetime(1990, 1, 1), dt.datetime(2090, 1, 1)),
    unit=st.sampled_from(["d", "w", "mo", "y"]),
    counts=st.tuples(*[st.integers(1, 30)] * 3),
)
def test_windows_touch_and_hold_the_newest_row(newest: dt.datetime, unit: str, counts: tuple[int, int, int]) -> None:
    train, validation, test = (f"{count}{unit}" for count in counts)
    section = TimeSplit(by="time", column="t", train=train, validation=validation, test=test)
    first, second, third = time_windows(section, newest)
    assert first.start is not None
    assert first.start < first.end == second.start
    assert second.end == third.start
    assert third.start is not None
    assert third.start <= newest < third.end


@pytest.mark.parametrize("kind", ["date", "text", "zone"])
def test_dates_iso_text_and_zones_are_times_too(tmp_path: Path, kind: str) -> None:
    times = days("2013-01-01", 90)
    column = {
        "date": times.cast(pl.Date),
        "text": times.dt.strftime("%Y-%m-%d %H:%M:%S"),
        "zone": times.dt.replace_time_zone("UTC"),
    }[kind]
    result, _ = cut(tmp_path, pl.DataFrame([column]), by_time())
    assert result.rows == {"train": 31, "validation": 28, "test": 31}


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pl.Series("t", [1, 2, 3]), "column 't' is Int64, expected Date or Datetime"),
        (pl.Series("t", ["2013-01-01", "soon"]), "is text that is no ISO time in 1 rows, as 'soon'"),
        (pl.Series("t", [None, None], dtype=pl.Datetime("us")), "'latest' needs a time"),
        (pl.Series("other", [1]), "the data has no column 't'; it has other"),
    ],
)
def test_a_column_that_is_no_time_is_refused(tmp_path: Path, column: pl.Series, message: str) -> None:
    with pytest.raises(InputError, match=message):
        cut(tmp_path, pl.DataFrame([column]), by_time())


def test_an_empty_part_is_refused_with_the_datas_range(tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"the train part is empty .*the validation part is empty .*'t' goes from 2013-01-01.* to 2013-01-10",
    ):
        cut(tmp_path, pl.DataFrame([days("2013-01-01", 10)]), by_time("2013-02-01"))


def test_equal_keys_share_a_part_whatever_the_order(tmp_path: Path) -> None:
    frame = pl.DataFrame({"id": [f"k{number % 700}" for number in range(2100)], "x": range(2100)})
    section = HashSplit(by="hash", columns=["id"])
    result, parts = cut(tmp_path / "a", frame, section, DataSection(uri="x", label="y", key=["id"]))
    assert abs(result.rows["train"] / 2100 - 0.7) < 0.06
    _, again = cut(tmp_path / "b", frame.reverse(), section)
    for part in PARTS:
        assert set(parts[part]["id"]) == set(again[part]["id"])
    _, other = cut(tmp_path / "c", frame, HashSplit(by="hash", columns=["id"], seed=1))
    assert set(other["test"]["id"]) != set(parts["test"]["id"])


def test_the_hash_never_changes() -> None:
    """A released split must stay what it was: rows must not move between parts with a new version."""
    frame = pl.DataFrame({"a": [1, 2, None], "b": ["x", None, "y"]})
    expected = [7291037069914519263, 10460388586764331542, 12518151728012324370]
    assert row_hashes(frame, ["a", "b"], 7).tolist() == expected
    floats = frame.with_columns(pl.col("a").cast(pl.Float64))
    assert row_hashes(floats, ["b", "a"], 7).tolist() == expected


def test_hashes_fill_their_range_evenly() -> None:
    hashes = row_hashes(pl.DataFrame({"a": range(100_000)}), ["a"])
    counts, _ = np.histogram(hashes.astype(np.float64), bins=20, range=(0, 2.0**64))
    assert np.unique(hashes).size == 100_000
    assert counts.min() > 4_700
    assert counts.max() < 5_300


def test_by_column_values(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"part": ["a", "b", "c", "d", None], "n": [1, 2, 3, 4, 5], "yes": [True, False, None, True, False]}
    )
    section = ColumnSplit(by="column", column="part", train=["a", "d"], validation=["b"], test=["c"])
    result, parts = cut(tmp_path / "text", frame, section)
    assert (parts["train"]["n"].to_list(), result.left_out) == ([1, 4], 1)
    numbers = ColumnSplit(by="column", column="n", train=[1, 2], validation=[3], test=[4])
    assert cut(tmp_path / "number", frame, numbers)[1]["test"]["n"].to_list() == [4]
    with pytest.raises(InputError, match=r"split\.test: 'a' is a value of the train part already"):
        cut(
            tmp_path / "twice",
            frame,
            ColumnSplit(by="column", column="part", train=["a"], validation=["b"], test=["a"]),
        )
    with pytest.raises(InputError, match="the test part is empty"):
        cut(
            tmp_path / "none", frame, ColumnSplit(by="column", column="part", train=["a"], validation=["b"], test=["z"])
        )


def test_a_key_in_two_parts_is_refused_with_samples(tmp_path: Path) -> None:
    frame = pl.DataFrame({"id": [1, 2, 3, 1], "part": ["a", "b", "c", "c"]})
    section = ColumnSplit(by="column", column="part", train=["a"], validation=["b"], test=["c"])
    with pytest.raises(InputError, match=r"1 keys \(id\) are in more than one part, as id=1 in test and train"):
        cut(tmp_path, frame, section, DataSection(uri="x", label="y", key=["id"]))
    assert not (tmp_path / "train" / "dataset.json").exists()

"""Cuts a dataset into a training, a validation and a test part, in one pass and bounded memory.

Memory holds one batch of rows and, where the spec names a key, a 64-bit hash for each distinct key.
"""

import datetime as dt
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from shipway.dataset import DatasetWriter, batches, read_info, row_hashes, scan
from shipway.errors import InputError
from shipway.spec import ColumnSplit, DataSection, HashSplit, TimeSplit
from shipway.split.windows import Window, time_windows

PARTS = ("train", "validation", "test")
_OUTSIDE = len(PARTS)
_SAMPLES = 5

# Part numbers 0, 1, 2 as in PARTS, or 3 for rows that are in none.
Parts = npt.NDArray[np.int8]


@dataclass(frozen=True)
class SplitResult:
    """What became of the rows.

    Attributes:
        rows: Part -> rows.
        left_out: Rows that are in no part.
        bounds: Part -> what its rows have in common, in words.
        versions: Part -> content hash of its rows.
    """

    rows: dict[str, int]
    left_out: int
    bounds: dict[str, str]
    versions: dict[str, str] = field(default_factory=dict)

    def metadata(self, part: str) -> dict[str, int | str]:
        """Returns what a part's artifact says of it."""
        return {"rows": self.rows[part], "data_version": self.versions[part]}


def split_dataset(
    dataset: str | Path,
    folders: dict[str, str | Path],
    section: TimeSplit | HashSplit | ColumnSplit,
    data: DataSection,
) -> SplitResult:
    """Cuts a dataset into its three parts.

    Args:
        dataset: The dataset's folder.
        folders: Part -> folder to write it to, for each of `PARTS`.
        section: How to cut.
        data: Roles of the columns: the time column and the key.

    Raises:
        InputError: A column is missing or of a wrong type, a part is empty, or a key is in more than one part.
    """
    known = read_info(dataset).columns
    assign, bounds, needed = _assignment(dataset, section, data)
    for name in dict.fromkeys([*needed, *data.key]):
        if name not in known:
            raise InputError(f"split: the data has no column {name!r}; it has {', '.join(known)}")
    left_out = 0
    keys: list[list[npt.NDArray[np.uint64]]] = [[] for _ in PARTS]
    with ExitStack() as stack:
        writers = [stack.enter_context(DatasetWriter(folders[part])) for part in PARTS]
        for frame in batches(dataset):
            parts = assign(frame)
            left_out += int((parts == _OUTSIDE).sum())
            for number, writer in enumerate(writers):
                rows = frame.filter(parts == number)
                writer.write(rows)
                # A key with a null in it names no row, and cannot be in two parts.
                named = rows.drop_nulls(data.key) if data.key else rows.clear()
                if named.height:
                    keys[number].append(np.unique(row_hashes(named, data.key)))
        rows_of = {part: writer.rows for part, writer in zip(PARTS, writers, strict=True)}
        _refuse_empty(rows_of, bounds, left_out, dataset, needed)
        if data.key:
            _refuse_leaks(dataset, data.key, [_distinct(hashes) for hashes in keys], assign)
    versions = {part: read_info(folders[part]).version for part in PARTS}
    return SplitResult(rows_of, left_out, bounds, versions)


def _assignment(
    dataset: str | Path, section: TimeSplit | HashSplit | ColumnSplit, data: DataSection
) -> tuple[Callable[[pl.DataFrame], Parts], dict[str, str], list[str]]:
    """Returns what gives each row its part, the parts' bounds in words, and the columns that it reads."""
    match section:
        case TimeSplit():
            column = section.column or data.time or ""
            windows = _windows(dataset, section, column)
            return (
                lambda frame: _by_time(frame, column, windows),
                {part: str(window) for part, window in zip(PARTS, windows, strict=True)},
                [column],
            )
        case HashSplit():
            columns = section.columns or data.key
            shares = dict(zip(PARTS, (section.train, section.validation, section.test), strict=True))
            return (
                lambda frame: _by_hash(frame, columns, section),
                {part: f"{share:.1%} of the hashes of {', '.join(columns)}" for part, share in shares.items()},
                columns,
            )
        case ColumnSplit():
            values = dict(zip(PARTS, (section.train, section.validation, section.test), strict=True))
            seen: dict[str | int | bool, str] = {}
            for part, named in values.items():
                for value in named:
                    if value in seen:
                        raise InputError(f"split.{part}: {value!r} is a value of the {seen[value]} part already")
                    seen[value] = part
            return (
                lambda frame: _by_column(frame, section.column, list(values.values())),
                {part: f"{section.column} in {named}" for part, named in values.items()},
                [section.column],
            )


def _windows(dataset: str | Path, section: TimeSplit, column: str) -> list[Window]:
    known = read_info(dataset).columns
    if column not in known:
        raise InputError(f"split: the data has no column {column!r}; it has {', '.join(known)}")
    newest = None
    if section.until == "latest":
        for frame in batches(dataset, columns=[column]):
            latest = _times(frame[column]).max()
            if isinstance(latest, dt.datetime) and (newest is None or latest > newest):
                newest = latest
        if newest is None:
            raise InputError(
                f"split.until: 'latest' needs a time, but column {column!r} has none (all null, or no rows)"
            )
    return time_windows(section, newest)


def _times(column: pl.Series) -> pl.Series:
    """Returns a time column as Datetime without time zone (UTC where it had one)."""
    if column.dtype == pl.Date:
        return column.cast(pl.Datetime("us"))
    if isinstance(column.dtype, pl.Datetime):
        plain = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None) if column.dtype.time_zone else column
        return plain.dt.cast_time_unit("us")
    if column.dtype == pl.String:
        parsed = column.str.to_datetime(time_unit="us", strict=False)
        bad = column.filter(parsed.is_null() & column.is_not_null())
        if bad.len() == 0:
            return parsed
        raise InputError(
            f"split: column {column.name!r} is text that is no ISO time in {bad.len()} rows, as {bad[0]!r}"
        )
    raise InputError(f"split: column {column.name!r} is {column.dtype}, expected Date or Datetime")


def _by_time(frame: pl.DataFrame, column: str, windows: list[Window]) -> Parts:
    times = _times(frame[column])
    parts = np.full(frame.height, _OUTSIDE, dtype=np.int8)
    for number, window in enumerate(windows):
        inside = times < window.end
        if window.start is not None:
            inside &= times >= window.start
        parts[inside.fill_null(False).to_numpy()] = number
    return parts


def _by_hash(frame: pl.DataFrame, columns: list[str], section: HashSplit) -> Parts:
    # The upper 53 bits as a fraction in [0, 1), which a float64 holds exactly.
    place = (row_hashes(frame, columns, section.seed) >> np.uint64(11)).astype(np.float64) / 2.0**53
    parts = np.full(frame.height, 2, dtype=np.int8)
    parts[place < section.train + section.validation] = 1
    parts[place < section.train] = 0
    return parts


def _by_column(frame: pl.DataFrame, column: str, values: list[list[str | int | bool]]) -> Parts:
    parts = np.full(frame.height, _OUTSIDE, dtype=np.int8)
    values_here = frame[column]
    if values_here.dtype.is_float():
        # Whole numbers become floats where nulls are about; 2013.0 is what the spec calls 2013.
        whole = values_here.cast(pl.Int64, strict=False)
        values_here = whole.zip_with((whole == values_here).fill_null(False), pl.Series([None], dtype=pl.Int64))
    text = values_here.cast(pl.String)
    for number, named in enumerate(values):
        wanted = [str(value).lower() if isinstance(value, bool) else str(value) for value in named]
        parts[text.is_in(wanted).fill_null(False).to_numpy()] = number
    return parts


def _refuse_empty(
    rows: dict[str, int], bounds: dict[str, str], left_out: int, dataset: str | Path, columns: list[str]
) -> None:
    empty = [part for part, count in rows.items() if count == 0]
    if not empty:
        return
    found = ""
    if len(columns) == 1:
        column = pl.col(columns[0])
        low, high = scan(dataset).select(column.min().alias("low"), column.max().alias("high")).collect().row(0)
        found = f"; {columns[0]!r} goes from {low} to {high}"
    named = "; ".join(f"the {part} part is empty ({bounds[part]})" for part in empty)
    counts = ", ".join(f"{part} {count}" for part, count in rows.items())
    raise InputError(f"split: {named}; rows: {counts}, in no part {left_out}{found}")


def _distinct(hashes: list[npt.NDArray[np.uint64]]) -> npt.NDArray[np.uint64]:
    return np.unique(np.concatenate(hashes)) if hashes else np.empty(0, dtype=np.uint64)


def _refuse_leaks(
    dataset: str | Path,
    key: list[str],
    hashes: list[npt.NDArray[np.uint64]],
    assign: Callable[[pl.DataFrame], Parts],
) -> None:
    every, counts = np.unique(np.concatenate(hashes), return_counts=True)
    leaking = every[counts > 1]
    if leaking.size == 0:
        return
    samples: dict[tuple[object, ...], set[str]] = {}
    shown = leaking[:_SAMPLES]
    for frame in batches(dataset):
        hit = np.isin(row_hashes(frame, key), shown)
        for values, part in zip(frame.filter(hit).select(key).rows(), assign(frame)[hit], strict=True):
            if part != _OUTSIDE:
                samples.setdefault(values, set()).add(PARTS[part])
    listed = []
    for values, parts in sorted(samples.items(), key=str):
        named = ", ".join(f"{name}={value!r}" for name, value in zip(key, values, strict=True))
        listed.append(f"{named} in {' and '.join(sorted(parts))}")
    raise InputError(f"split: {leaking.size} keys ({', '.join(key)}) are in more than one part, as {'; '.join(listed)}")

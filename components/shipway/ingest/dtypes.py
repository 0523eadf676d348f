"""The few dtypes that a dataset holds, and how others come down to them.

Booleans, integers, floats, text, dates and naive UTC datetimes in microseconds; nulls, but no NaN.
"""

import polars as pl

from shipway.errors import InputError

TIME = pl.Datetime("us")
_INT64_MAX = 2**63 - 1

# What each dtype is stored as; None: as it is. `fitting_integer` says whether unsigned 64-bit integers may stay.
_STORED: tuple[tuple[tuple[type[pl.DataType], ...], pl.DataType | None], ...] = (
    ((pl.Null, pl.Boolean, pl.String, pl.Date, pl.Float32, pl.Float64), None),
    ((pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt64), None),
    ((pl.UInt8, pl.UInt16, pl.UInt32, pl.Int128, pl.UInt128), pl.Int64()),
    ((pl.Categorical, pl.Enum, pl.Time), pl.String()),
    ((pl.Decimal, pl.Duration), pl.Float64()),
    ((pl.Float16,), pl.Float32()),
    ((pl.Datetime,), TIME),
)


def stored_dtype(dtype: pl.DataType, column: str, where: str) -> pl.DataType:
    """Returns the dtype that a column of `dtype` is stored as (`Null` where nothing but nulls is known yet).

    Raises:
        InputError: A dataset cannot hold it (lists, structs, bytes, objects).
    """
    for kinds, target in _STORED:
        if isinstance(dtype, kinds):
            return target or dtype
    raise InputError(
        f"{where}: column {column!r}: a dataset cannot hold {dtype}; expected numbers, text, times, booleans"
    )


def wider(one: pl.DataType, other: pl.DataType) -> pl.DataType:
    """Returns a stored dtype that holds the values of both: text where nothing else does."""
    if one == other or isinstance(other, pl.Null):
        return one
    if isinstance(one, pl.Null):
        return other
    if one.is_numeric() and other.is_numeric():
        pair = [pl.DataFrame(schema={"x": dtype}) for dtype in (one, other)]
        return pl.concat(pair, how="vertical_relaxed").schema["x"]
    times = (pl.Date, pl.Datetime)
    return TIME if isinstance(one, times) and isinstance(other, times) else pl.String()


def stored(frame: pl.DataFrame, schema: dict[str, pl.DataType]) -> pl.DataFrame:
    """Returns a frame's columns in the order and dtypes of `schema`; NaN becomes null.

    Raises:
        polars.exceptions.PolarsError: A value does not fit (an integer beyond 64 bits).
    """
    return frame.select(_column(frame[name], dtype) for name, dtype in schema.items())


def fitting_integer(greatest: int | None) -> pl.DataType:
    """Returns the dtype for unsigned 64-bit integers up to `greatest`: signed where they fit."""
    return pl.Int64() if greatest is None or greatest <= _INT64_MAX else pl.UInt64()


def _column(column: pl.Series, dtype: pl.DataType) -> pl.Series:
    if isinstance(column.dtype, pl.Duration) and dtype.is_numeric():
        column = column.dt.total_microseconds() / 1_000_000
    if isinstance(column.dtype, pl.Datetime):
        if column.dtype.time_zone is not None:
            column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        column = column.dt.cast_time_unit("us")
    if column.dtype.is_float():
        column = column.fill_nan(None)
    return column.cast(dtype)

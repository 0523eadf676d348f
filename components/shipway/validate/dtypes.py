"""Whether a stored column is what the schema wants, and which of its values can be read as that.

A dataset holds few dtypes, so a difference in width or unit alone is none: what counts is whether every value
can be said in the wanted dtype without loss (5 or 5.0 as an 8-bit integer, midnight as a date). A column stored as
another kind of thing (text for numbers) is a breach even where every value would convert, since nobody converts it.
"""

from dataclasses import dataclass
from typing import Literal

import polars as pl

_Kind = Literal["integer", "float", "boolean", "text", "date", "datetime", "other"]

TIME = pl.Datetime("us")
_EXACT = {("integer", "float"), ("date", "datetime")}
_READABLE = {("text", "integer"), ("text", "float"), ("text", "boolean")}
_BY_VALUE = {("integer", "integer"), ("float", "integer"), ("datetime", "date")}


@dataclass(frozen=True)
class Reading:
    """How to read a stored column as the wanted dtype.

    Attributes:
        stored: The dtype it has.
        wanted: The dtype it should have, as a dataset would store it.
        same: Whether the difference in dtype is none in itself; values may still not fit.
        expression: The values in the wanted dtype, null where one does not convert; None when nothing is to be done.
        readable: Whether scoring reads the values all the same, as it does numbers and booleans given as text.
    """

    stored: pl.DataType
    wanted: pl.DataType
    same: bool
    expression: pl.Expr | None
    readable: bool = False


def storable(dtype: pl.DataType) -> pl.DataType:
    """Returns the dtype that a dataset stores values of a schema's dtype as."""
    if isinstance(dtype, (pl.Categorical, pl.Enum, pl.Time)):
        return pl.String()
    if isinstance(dtype, (pl.Decimal, pl.Duration)):
        return pl.Float64()
    return TIME if isinstance(dtype, pl.Datetime) else dtype


def reading(name: str, stored: pl.DataType, wanted: pl.DataType, empty: bool) -> Reading:
    """Compares a stored column with the wanted dtype.

    Args:
        name: The column.
        stored: The dtype it has.
        wanted: The schema's dtype.
        empty: Whether it holds nothing but nulls, which fit any dtype.
    """
    target = storable(wanted)
    if stored == target:
        return Reading(stored, target, True, None)
    if empty:
        return Reading(stored, target, True, pl.lit(None, dtype=target).alias(name))
    column = pl.col(name)
    pair = (_kind(stored), _kind(target))
    if pair in _EXACT or pair == ("float", "float"):
        return Reading(stored, target, True, column.cast(target, strict=False))
    if pair in _BY_VALUE:
        cast = column.cast(target, strict=False)
        # Casting cuts off fractions and hours; only what survives the way back has converted.
        return Reading(stored, target, True, pl.when(cast.cast(stored, strict=False) == column).then(cast).alias(name))
    return Reading(stored, target, False, _converted(column, pair, target).alias(name), pair in _READABLE)


def _kind(dtype: pl.DataType) -> _Kind:
    if dtype.is_integer():
        return "integer"
    if dtype.is_float():
        return "float"
    kinds: dict[type[pl.DataType], _Kind] = {
        pl.Boolean: "boolean",
        pl.String: "text",
        pl.Date: "date",
        pl.Datetime: "datetime",
    }
    return kinds.get(type(dtype), "other")


def _converted(column: pl.Expr, pair: tuple[_Kind, _Kind], target: pl.DataType) -> pl.Expr:
    """Returns the values of another kind of column in the wanted dtype, null where one does not convert."""
    text = column.str.strip_chars()
    lower = text.str.to_lowercase()
    whole = pl.when(column.is_in([0, 1] if pair[0] == "integer" else [0.0, 1.0])).then(column.cast(pl.Boolean))
    conversions: dict[tuple[_Kind, _Kind], pl.Expr] = {
        ("text", "boolean"): pl.when(lower == "true").then(True).when(lower == "false").then(False),
        ("text", "date"): text.str.to_date("%Y-%m-%d", strict=False),
        ("text", "datetime"): text.str.to_datetime(time_unit="us", strict=False),
        ("text", "integer"): text.cast(target, strict=False),
        ("text", "float"): text.cast(target, strict=False),
        ("integer", "boolean"): whole,
        ("float", "boolean"): whole,
        ("boolean", "integer"): column.cast(target),
        ("boolean", "float"): column.cast(target),
    }
    if pair[1] == "text" and pair[0] != "other":
        return column.cast(pl.String)
    return conversions.get(pair, pl.lit(None, dtype=target))

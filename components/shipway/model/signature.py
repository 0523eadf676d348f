"""What a model takes: raw columns by name, as arrays. The request path uses nothing but NumPy and this module.

A number or boolean is a float64 with NaN for null; a category is a `str` with `NULL_TOKEN` for null. Every column is an
array of shape (rows, 1), which is what the ONNX graph takes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from shipway.errors import InputError

if TYPE_CHECKING:
    import polars as pl

T = TypeVar("T")
Kind = Literal["number", "boolean", "category"]
Columns = dict[str, npt.NDArray[Any]]

NULL_TOKEN = "\x1fnull\x1f"  # noqa: S105 - stands for a missing text; no secret
"""Stands for null in a text column, which ONNX cannot say; unit separators keep it apart from any real text."""

_EXPECTED = {"number": "a number", "boolean": "true or false", "category": "text"}


class InputColumn(BaseModel):
    """A raw column that a model takes.

    Attributes:
        name: Its name.
        kind: `number` and `boolean` are float64 tensors, `category` is a string tensor.
        nullable: Whether a request may leave its value null.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: Kind
    nullable: bool


class RequestError(ValueError):
    """A request's rows do not fit the model; the message is one sentence for the caller."""


class RowReader:
    """Turns JSON rows into a model's columns; made once for a model, since a request has microseconds.

    Args:
        inputs: The model's raw columns.
    """

    def __init__(self, inputs: Sequence[InputColumn]) -> None:
        self._names = [column.name for column in inputs]
        self._known = frozenset(self._names)
        self._numbers = [
            (column, column.name, _number if column.kind == "number" else _boolean)
            for column in inputs
            if column.kind != "category"
        ]
        self._texts = [(column, column.name) for column in inputs if column.kind == "category"]

    def read(self, rows: Sequence[Mapping[str, Any]]) -> Columns:
        """Returns name -> array of shape (len(rows), 1).

        Args:
            rows: JSON objects, each with every column and no other; null only where the column is nullable.

        Raises:
            RequestError: A row is no object, lacks a column, has an unknown one, or holds a value of the wrong type.
        """
        for index, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise RequestError(f"row {index}: expected an object of features, found {_shown(row)}")
            if row.keys() != self._known:
                raise _misfit(self._names, row, index)
        count = len(rows)
        columns: Columns = {}
        values = [
            convert(column, row[name], index)
            for column, name, convert in self._numbers
            for index, row in enumerate(rows)
        ]
        block = np.array(values, dtype=np.float64).reshape(len(self._numbers), count, 1)
        for (_, name, _), numbers in zip(self._numbers, block, strict=True):
            columns[name] = numbers
        for column, name in self._texts:
            texts = np.empty((count, 1), dtype=object)
            for index, row in enumerate(rows):
                value = row[name]
                texts[index, 0] = value if type(value) is str else _text(column, value, index)
            columns[name] = texts
        return columns


def columns_from_frame(inputs: Sequence[InputColumn], frame: pl.DataFrame) -> Columns:
    """Turns a frame of raw rows into the model's columns; other columns are ignored.

    Returns:
        Name -> array of shape (rows, 1).

    Raises:
        InputError: A column is missing, or its values are not of its kind.
    """
    return {
        column.name: (
            text_series(column, frame).fill_null(NULL_TOKEN).to_numpy().astype(object)
            if column.kind == "category"
            else number_values(column, frame)
        ).reshape(-1, 1)
        for column in inputs
    }


def frame_from_columns(inputs: Sequence[InputColumn], columns: Mapping[str, npt.NDArray[Any]]) -> pl.DataFrame:
    """Turns the model's columns back into a frame with nulls: booleans, floats and strings."""
    import polars as pl

    series = []
    for column in inputs:
        values = np.asarray(columns[column.name]).reshape(-1)
        if column.kind == "category":
            texts = [None if value == NULL_TOKEN else str(value) for value in values]
            series.append(pl.Series(column.name, texts, dtype=pl.String))
        else:
            numbers = pl.Series(column.name, values.astype(np.float64)).fill_nan(None)
            series.append(numbers.cast(pl.Boolean) if column.kind == "boolean" else numbers)
    return pl.DataFrame(series)


def number_values(column: InputColumn, frame: pl.DataFrame) -> npt.NDArray[np.float64]:
    """Returns a number or boolean column as float64 of shape (rows,), NaN for null.

    Raises:
        InputError: The column is missing, or a value is no number.
    """
    import polars as pl

    series = _series(column, frame)
    if series.dtype != pl.Float64:
        try:
            if series.dtype in (pl.Date, pl.Datetime, pl.Duration, pl.Time):
                raise pl.exceptions.InvalidOperationError
            series = series.cast(pl.Float64)
        except pl.exceptions.PolarsError as error:
            raise InputError(f"column {column.name!r}: expected {column.kind}s, found {series.dtype}") from error
    values: npt.NDArray[np.float64] = series.fill_null(float("nan")).to_numpy()
    return values


def text_series(column: InputColumn, frame: pl.DataFrame) -> pl.Series:
    """Returns a category column as strings with nulls.

    Raises:
        InputError: The column is missing, or does not hold categories.
    """
    import polars as pl

    series = _series(column, frame)
    if series.dtype == pl.String:
        return series
    try:
        return series.cast(pl.String)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"column {column.name!r}: expected text, found {series.dtype}") from error


def require_columns(inputs: Iterable[InputColumn], found: Iterable[str]) -> None:
    """Checks that every raw column is there.

    Raises:
        InputError: Some are missing; all are named.
    """
    present = set(found)
    missing = [column.name for column in inputs if column.name not in present]
    if missing:
        raise InputError(f"missing columns {', '.join(missing)}; the model takes {', '.join(c.name for c in inputs)}")


def _series(column: InputColumn, frame: pl.DataFrame) -> pl.Series:
    if column.name not in frame.columns:
        raise InputError(f"missing column {column.name!r}; the rows have {', '.join(frame.columns)}")
    return frame.get_column(column.name)


def _number(column: InputColumn, value: Any, index: int) -> float:
    kind = type(value)
    if kind is float or kind is int:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
        raise RequestError(f"row {index}: feature {column.name!r} must be a finite number, found {_shown(value)}")
    return _null(column, value, index, math.nan)


def _boolean(column: InputColumn, value: Any, index: int) -> float:
    if value is True:
        return 1.0
    if value is False:
        return 0.0
    return _null(column, value, index, math.nan)


def _text(column: InputColumn, value: Any, index: int) -> str:
    if isinstance(value, str):
        return str(value)
    return _null(column, value, index, NULL_TOKEN)


def _null(column: InputColumn, value: Any, index: int, null: T) -> T:
    if value is not None:
        expected = _EXPECTED[column.kind]
        raise RequestError(f"row {index}: feature {column.name!r} must be {expected}, found {_shown(value)}")
    if not column.nullable:
        raise RequestError(f"row {index}: feature {column.name!r} must not be null")
    return null


def _misfit(names: Sequence[str], row: Mapping[str, Any], index: int) -> RequestError:
    missing = [repr(name) for name in names if name not in row]
    if missing:
        subject = f"feature {missing[0]} is" if len(missing) == 1 else f"features {', '.join(missing)} are"
        return RequestError(f"row {index}: {subject} missing")
    unknown = ", ".join(repr(name) for name in row if name not in names)
    return RequestError(f"row {index}: unknown feature {unknown}; the model takes {', '.join(names)}")


def _shown(value: Any) -> str:
    names = {bool: "boolean", int: "number", float: "number", str: "text", list: "list", dict: "object"}
    if value is None:
        return "null"
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**40 else "a huge integer"
    return f"{text if len(text) <= 40 else text[:37] + '...'} ({names.get(type(value), type(value).__name__)})"

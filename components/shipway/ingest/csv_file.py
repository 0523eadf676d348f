"""CSV files in bounded memory: dtypes are told by every cell of the file, never by its first lines."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.csv as pacsv

from shipway.errors import InputError
from shipway.ingest.dtypes import TIME

_BLOCK_BYTES = 8 << 20
_HEAD_BYTES = 1 << 20
_PROBE_ROWS = 256
_CANDIDATES: tuple[pl.DataType, ...] = (pl.Boolean(), pl.Int64(), pl.Float64(), pl.Date(), TIME)
# Text that stands for a missing value in a column whose other cells are all numbers, booleans or times.
_MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
_ZERO_PADDED = r"^[+-]?0[0-9]"
_TOO_LONG = r"^[+-]?[0-9]{19,}$"
_ARROW_ROW = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+)")


def csv_columns(path: Path, name: str) -> list[str]:
    """Returns the names in a CSV file's header.

    Raises:
        InputError: The file is empty or no UTF-8 text, or a name comes twice.
    """
    with _reading(name), pa.input_stream(str(path), compression="detect") as stream:
        head = stream.read(_HEAD_BYTES)
    try:
        text = head.decode("utf-8-sig", errors="strict" if len(head) < _HEAD_BYTES else "ignore")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    columns = next((row for row in csv.reader(io.StringIO(text, newline="")) if row), [])
    if not columns:
        raise InputError(f"{name}: the file is empty; expected a header line")
    repeated = sorted({column for column in columns if columns.count(column) > 1})
    if repeated:
        raise InputError(f"{name}: column names come twice in the header: {', '.join(map(repr, repeated))}")
    return columns


def csv_dtypes(path: Path, name: str, nulls: Sequence[str] = ()) -> dict[str, pl.DataType]:
    """Returns the narrowest dtype that every cell of a column converts to; `Null` for a column without values.

    Zero-padded numbers (`00501`) and integers of more than 18 digits are text: as numbers they would lose digits.

    Raises:
        InputError: As for `csv_batches`.
    """
    candidates = {column: list(_CANDIDATES) for column in csv_columns(path, name)}
    filled: set[str] = set()
    for batch in csv_batches(path, name, nulls):
        for column, left in candidates.items():
            text = batch[column]
            if left and text.null_count() < text.len():
                candidates[column] = [dtype for dtype in left if _fits(text, dtype)]
                if column not in filled and not text.drop_nulls().is_in(_MISSING).all():
                    filled.add(column)
    return {
        column: (left[0] if left else pl.String()) if column in filled or not left else pl.Null()
        for column, left in candidates.items()
    }


def csv_batches(path: Path, name: str, nulls: Sequence[str] = ()) -> Iterator[pl.DataFrame]:
    """Yields a CSV file's rows as text, in frames of some megabytes; an empty cell is null, a quoted empty one is not.

    Args:
        path: The file.
        name: What to call it in errors.
        nulls: Further texts that mean a missing value, in any column.

    Raises:
        InputError: A line has more or fewer cells than the header, or the file is no CSV.
    """
    columns = csv_columns(path, name)
    read = pacsv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False)
    # In a file of one column an empty line is an empty cell.
    parse = pacsv.ParseOptions(newlines_in_values=True, ignore_empty_lines=len(columns) > 1)
    convert = pacsv.ConvertOptions(
        column_types={column: pa.string() for column in columns},
        null_values=["", *nulls],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    with _reading(name), pa.input_stream(str(path), compression="detect") as stream:
        reader = pacsv.open_csv(stream, read_options=read, parse_options=parse, convert_options=convert)
        for batch in reader:
            yield pl.DataFrame(pl.from_arrow(batch))


def from_text(text: pl.Series, dtype: pl.DataType) -> pl.Series:
    """Converts text to a dtype; what does not convert becomes null."""
    if isinstance(dtype, pl.String):
        return text
    plain = text.str.strip_chars()
    if isinstance(dtype, pl.Boolean):
        lower = plain.str.to_lowercase()
        return lower.replace_strict(["true", "false"], [True, False], default=None, return_dtype=pl.Boolean)
    if isinstance(dtype, pl.Date):
        return plain.str.to_date("%Y-%m-%d", strict=False)
    if isinstance(dtype, pl.Datetime):
        return _times(plain)
    lossy = plain.str.contains(_ZERO_PADDED) | plain.str.contains(_TOO_LONG)
    number = plain.cast(dtype, strict=False).zip_with(~lossy.fill_null(value=False), pl.Series([None], dtype=dtype))
    return number.fill_nan(None) if dtype.is_float() else number


def _fits(text: pl.Series, dtype: pl.DataType) -> bool:
    """Tells whether every cell converts; the first ones settle most columns without looking at the rest."""
    return all(
        (part.is_null() | from_text(part, dtype).is_not_null() | part.str.strip_chars().is_in(_MISSING)).all()
        for part in (text.head(_PROBE_ROWS), text)
    )


def _times(text: pl.Series) -> pl.Series:
    """Reads ISO 8601 dates and times; an offset is counted back to UTC."""
    whole = (
        text.str.replace(r"^(\d{4}-\d{2}-\d{2}) ", "${1}T")
        .str.replace(r"^(\d{4}-\d{2}-\d{2})$", "${1}T00:00:00")
        .str.replace(r"^(\d{4}-\d{2}-\d{2}T\d{2}:\d{2})($|Z|[+-])", "${1}:00${2}")
        .str.replace(r"Z$", "+00:00")
    )
    naive = whole.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False)
    if naive.null_count() == text.null_count():
        return naive
    aware = whole.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%z", time_unit="us", strict=False)
    return naive.zip_with(naive.is_not_null(), aware.dt.convert_time_zone("UTC").dt.replace_time_zone(None))


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turns what PyArrow raises into an InputError that names the file, and the row where one is ragged."""
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        text = str(error).strip().splitlines()[0]
        ragged = _ARROW_ROW.search(text)
        if ragged:
            row, expected, found = ragged.groups()
            text = f"row {row} (the header is row 1): expected {expected} cells, found {found}"
        raise InputError(f"{name}: {text}") from error

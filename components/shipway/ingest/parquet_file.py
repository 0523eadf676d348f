"""Parquet files in bounded memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from shipway.errors import InputError
from shipway.ingest.dtypes import fitting_integer, stored_dtype

_BATCH_ROWS = 65_536


def parquet_dtypes(path: Path, name: str) -> dict[str, pl.DataType]:
    """Returns a Parquet file's columns with the dtypes that a dataset stores them as.

    Raises:
        InputError: The file is damaged, a column name comes twice or a column holds what a dataset cannot.
    """
    with _reading(name), pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        repeated = sorted({column for column in names if names.count(column) > 1})
        if repeated:
            raise InputError(f"{name}: column names come twice: {', '.join(map(repr, repeated))}")
        empty = pl.DataFrame(pl.from_arrow(file.schema_arrow.empty_table()))
        dtypes = {column: stored_dtype(dtype, column, name) for column, dtype in empty.schema.items()}
        for column, dtype in dtypes.items():
            if isinstance(dtype, pl.UInt64):
                batches = file.iter_batches(batch_size=_BATCH_ROWS, columns=[column])
                greatest = [pl.Series(pl.from_arrow(batch.column(0))).max() for batch in batches]
                dtypes[column] = fitting_integer(max((int(str(top)) for top in greatest if top is not None), default=0))
    return dtypes


def parquet_batches(path: Path, name: str) -> Iterator[pl.DataFrame]:
    """Yields a Parquet file's rows as frames.

    Raises:
        InputError: The file is damaged.
    """
    with _reading(name), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS):
            yield pl.DataFrame(pl.from_arrow(batch))


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turns what PyArrow raises into an InputError that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        text = str(error).strip().splitlines()
        raise InputError(f"{name}: not a readable Parquet file: {text[0] if text else type(error).__name__}") from error

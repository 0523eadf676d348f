"""Reads files, or what the user's loader gives, into a dataset; memory does not grow with the rows."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from shipway.dataset import DatasetInfo, DatasetWriter, read_info
from shipway.errors import InputError
from shipway.ingest.csv_file import csv_batches, csv_dtypes, from_text
from shipway.ingest.dtypes import stored, wider
from shipway.ingest.loader import load_files
from shipway.ingest.parquet_file import parquet_batches, parquet_dtypes
from shipway.ingest.source import Format, fetched, find_files, named_uri
from shipway.lineage.project import project_folder
from shipway.spec import DataSection


@dataclass(frozen=True)
class _Table:
    """A file on this machine, and its columns as a dataset stores them."""

    name: str
    path: Path
    format: Format
    dtypes: dict[str, pl.DataType]
    nulls: Sequence[str] = ()


def ingest(data: DataSection, source: str, folder: str | Path) -> DatasetInfo:
    """Reads the source into a dataset.

    Files are read in the order of their paths. Where their dtypes differ, a column gets one that holds all its values.

    Args:
        data: The spec's data section.
        source: URI or glob to read instead of what the section names; "" for none.
        folder: Where the dataset goes.

    Raises:
        InputError: No file, an unreadable one, or files with different columns.
        UserCodeError: The user's loader raised.
    """
    with tempfile.TemporaryDirectory(prefix="shipway-ingest-") as temporary:
        uri = named_uri(data, source)
        if uri is None:
            loader = str(data.loader)
            tables = [
                _Table(f"data.loader {loader}", path, "parquet", parquet_dtypes(path, f"data.loader {loader}"))
                for path in load_files(loader, Path(temporary))
            ]
            sources = [loader]
        else:
            files = find_files(uri, data.format)
            tables = [
                _Table(
                    file.name,
                    path,
                    file.format,
                    csv_dtypes(path, file.name, data.null_values)
                    if file.format == "csv"
                    else parquet_dtypes(path, file.name),
                    data.null_values,
                )
                for file, path in fetched(files, Path(temporary))
            ]
            sources = [_shown(file.name) for file in files]
        schema = _common_schema(tables)
        with DatasetWriter(folder, sources) as writer:
            writer.write(pl.DataFrame(schema=schema))
            for table in tables:
                for frame in _frames(table, schema):
                    writer.write(frame)
    return read_info(folder)


def _frames(table: _Table, schema: dict[str, pl.DataType]) -> Iterator[pl.DataFrame]:
    if table.format == "csv":
        for text in csv_batches(table.path, table.name, table.nulls):
            yield stored(text.select(from_text(text[name], dtype) for name, dtype in schema.items()), schema)
    else:
        for frame in parquet_batches(table.path, table.name):
            yield stored(frame, schema)


def _common_schema(tables: list[_Table]) -> dict[str, pl.DataType]:
    first = tables[0]
    schema = dict(first.dtypes)
    for table in tables[1:]:
        missing = [name for name in schema if name not in table.dtypes]
        extra = [name for name in table.dtypes if name not in schema]
        if missing or extra:
            said = [f"missing {', '.join(map(repr, missing))}"] * bool(missing)
            said += [f"extra {', '.join(map(repr, extra))}"] * bool(extra)
            raise InputError(f"{table.name}: columns differ from those of {first.name}: {'; '.join(said)}")
        for name, dtype in table.dtypes.items():
            schema[name] = wider(schema[name], dtype)
    # A column without a single value anywhere is text.
    return {name: pl.String() if isinstance(dtype, pl.Null) else dtype for name, dtype in schema.items()}


def _shown(name: str) -> str:
    """Returns a path inside the project relative to it, so that a dataset's manifest is the same on every machine."""
    try:
        return Path(name).relative_to(project_folder().absolute()).as_posix()
    except ValueError:
        return name

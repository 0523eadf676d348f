"""Rows from the user's own Python function, staged as Parquet files so that they are read like any other."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from shipway.errors import InputError
from shipway.ingest.dtypes import stored_dtype
from shipway.lineage.project import load_object, user_code

_SETTING = "data.loader"
_FILE_ROWS = 500_000


def load_files(target: str, folder: Path) -> list[Path]:
    """Runs a loader and writes what it gives to Parquet files.

    Args:
        target: `FILE.py:FUNCTION`; the function takes nothing and returns a Polars or pandas frame or a LazyFrame, or
            gives several one after another.
        folder: Where to write.

    Returns:
        The files, in the order of the rows; a new one begins where the frames' dtypes change.

    Raises:
        InputError: There is no such function, or what it gives is no frame.
        UserCodeError: The function raised.
    """
    function = load_object(target, _SETTING)
    where = f"{_SETTING} {target}"
    if not callable(function):
        raise InputError(f"{where}: expected a function, found {type(function).__name__}")
    with user_code(where):
        given = function()
    files: list[Path] = []
    pending: list[pl.DataFrame] = []

    def flush() -> None:
        if pending:
            files.append(folder / f"loaded-{len(files):06d}.parquet")
            pl.concat(pending).write_parquet(files[-1])
            pending.clear()

    for item in _items(given, where):
        if isinstance(item, pl.LazyFrame):
            flush()
            files.append(folder / f"loaded-{len(files):06d}.parquet")
            _sink(item, files[-1], where)
            continue
        frame = _plain(_polars(item, where), where)
        if pending and (pending[0].schema != frame.schema or sum(map(len, pending)) >= _FILE_ROWS):
            flush()
        pending.append(frame)
    flush()
    if not files:
        raise InputError(f"{where}: it gave no frame")
    return files


def _items(given: Any, where: str) -> Iterator[Any]:
    """Yields the frames of a loader; the code of a generator runs here, and counts as the user's."""
    if _is_frame(given):
        yield given
        return
    if not isinstance(given, Iterable) or isinstance(given, (str, bytes, dict)):
        raise InputError(f"{where}: expected a Polars or pandas frame, or several; found {type(given).__name__}")
    frames = iter(given)
    nothing = object()
    while True:
        with user_code(where):
            item = next(frames, nothing)
        if item is nothing:
            return
        yield item


def _is_frame(item: Any) -> bool:
    # pandas is not imported to ask: whoever gives such a frame has imported it.
    return isinstance(item, (pl.DataFrame, pl.LazyFrame)) or (
        type(item).__name__ == "DataFrame" and type(item).__module__.startswith("pandas")
    )


def _polars(item: Any, where: str) -> pl.DataFrame:
    if isinstance(item, pl.DataFrame):
        return item
    if not _is_frame(item):
        raise InputError(f"{where}: expected Polars or pandas frames, found {type(item).__name__}")
    import pyarrow as pa

    names = [name for name in item.columns if not isinstance(name, str)]
    if names:
        raise InputError(f"{where}: column names must be text, found {names[:5]}")
    try:
        return pl.DataFrame(pl.from_pandas(item))
    except (pa.ArrowException, TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{where}: its pandas frame mixes types in a column: {str(error).splitlines()[0]}") from error


def _sink(frame: pl.LazyFrame, path: Path, where: str) -> None:
    with user_code(where):
        schema = frame.collect_schema()
        for column, dtype in schema.items():
            stored_dtype(dtype, column, where)
        frame.sink_parquet(path)


def _plain(frame: pl.DataFrame, where: str) -> pl.DataFrame:
    """Returns the frame in dtypes that Parquet holds; what no dataset can hold is refused."""
    for column, dtype in frame.schema.items():
        stored_dtype(dtype, column, where)
    wide = [name for name, dtype in frame.schema.items() if isinstance(dtype, (pl.Int128, pl.UInt128))]
    try:
        return frame.with_columns(pl.col(wide).cast(pl.Int64))
    except pl.exceptions.InvalidOperationError as error:
        raise InputError(f"{where}: columns {wide}: integers beyond 64 bits") from error

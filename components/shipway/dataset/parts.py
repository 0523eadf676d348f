"""Parquet parts and their manifest."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import polars as pl
from pydantic import BaseModel, ValidationError

from shipway.dataset.content import ContentHash
from shipway.errors import InputError
from shipway.lineage.files import write_text

MANIFEST = "dataset.json"
PART_ROWS = 1_000_000
BATCH_ROWS = 65_536


class DatasetInfo(BaseModel):
    """A dataset's manifest.

    Attributes:
        version: Content hash of the rows (`sha256:...`), the same wherever they come from.
        rows: How many there are.
        columns: Name -> Polars dtype as text, in order.
        parts: File names, in order.
        sources: Where the rows came from, as a person would name it.
    """

    schema_version: int = 1
    version: str
    rows: int
    columns: dict[str, str]
    parts: list[str]
    sources: list[str] = []


class DatasetWriter:
    """Writes frames to a folder of Parquet parts; the manifest comes last, so a folder without one is unfinished.

    Use as a context manager; `info` is set when the block ends well.

    Args:
        folder: Where.
        sources: Where the rows came from, as a person would name it.
        part_rows: Rows of a part.
        version: The version, where it follows from digests already known (rows computed from rows); default: the
            content hash of what is written.
    """

    def __init__(
        self,
        folder: str | Path,
        sources: list[str] | None = None,
        part_rows: int = PART_ROWS,
        version: str | None = None,
    ) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        # What an earlier attempt left must not pass for this one's, should this one be killed.
        (self._folder / MANIFEST).unlink(missing_ok=True)
        self._sources = sources or []
        self._part_rows = part_rows
        self._version = version
        self._hash = ContentHash()
        self._pending: list[pl.DataFrame] = []
        self._pending_rows = 0
        self._parts: list[str] = []
        self._rows = 0
        self._schema: pl.Schema | None = None
        self.info: DatasetInfo | None = None

    @property
    def rows(self) -> int:
        """Rows written so far."""
        return self._rows

    def __enter__(self) -> "DatasetWriter":
        return self

    def write(self, frame: pl.DataFrame) -> None:
        """Adds a frame; every frame must have the first one's columns and dtypes."""
        if self._schema is None:
            self._schema = frame.schema
        elif frame.schema != self._schema:
            raise ValueError(f"a frame with {frame.schema} cannot follow one with {self._schema}")
        if self._version is None:
            self._hash.update(frame)
        self._rows += frame.height
        while frame.height:
            room = self._part_rows - self._pending_rows
            piece, frame = frame.head(room), frame.slice(room)
            self._pending.append(piece)
            self._pending_rows += piece.height
            if self._pending_rows == self._part_rows:
                self._flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            return
        if self._schema is None:
            raise ValueError("no frame was written")
        if self._pending_rows or not self._parts:
            self._pending.append(pl.DataFrame(schema=self._schema))
            self._flush()
        self.info = DatasetInfo(
            version=self._version or self._hash.digest(),
            rows=self._rows,
            columns={name: str(dtype) for name, dtype in self._schema.items()},
            parts=self._parts,
            sources=self._sources,
        )
        write_text(self._folder / MANIFEST, self.info.model_dump_json(indent=2) + "\n")

    def _flush(self) -> None:
        name = f"part-{len(self._parts):05d}.parquet"
        pl.concat(self._pending).write_parquet(self._folder / name)
        self._parts.append(name)
        self._pending, self._pending_rows = [], 0


def read_info(folder: str | Path) -> DatasetInfo:
    """Reads a dataset's manifest.

    Raises:
        InputError: The folder holds none, or a damaged one.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise InputError(f"{folder}: not a dataset (no {MANIFEST} in it)")
    try:
        return DatasetInfo.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(f"{path}: damaged manifest: {error.errors()[0]['msg']}") from error


def scan(folder: str | Path) -> pl.LazyFrame:
    """Returns all rows of a dataset as a LazyFrame, parts in order.

    Raises:
        InputError: It is no dataset, or a damaged one.
    """
    return pl.scan_parquet(_part_paths(folder))


def batches(folder: str | Path, rows: int = BATCH_ROWS, columns: list[str] | None = None) -> Iterator[pl.DataFrame]:
    """Yields a dataset's rows in order as frames of at most `rows` rows, in bounded memory.

    Raises:
        InputError: It is no dataset, or a damaged one.
    """
    import pyarrow.parquet as pq

    for path in _part_paths(folder):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=rows, columns=columns):
                yield pl.DataFrame(pl.from_arrow(batch))


def _part_paths(folder: str | Path) -> list[Path]:
    paths = [Path(folder) / part for part in read_info(folder).parts]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise InputError(f"{folder}: damaged dataset: {', '.join(missing[:3])} of {len(paths)} parts missing")
    return paths

"""Scores one part of a batch: read, predicted and written at the same time, in bounded memory.

Chunks go in turn to a few threads, each of which predicts and counts its own, and come back in the order of the rows to
the one that reads and writes. Which thread gets a chunk follows from its place alone, so that sums have the same last
bits each time. PyArrow, ONNX Runtime and NumPy let go of Python's lock while they work.
"""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import reduce
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from shipway.errors import ShipwayError
from shipway.lineage.batches import SliceTally
from shipway.model.profile import Profile, Profiler
from shipway.model.signature import require_columns
from shipway.predict.rows import Labelled, as_inputs, labelled, output_schema, output_table, require_slices
from shipway.predict.tally import Tally

if TYPE_CHECKING:
    from shipway.model.package import Package

T = TypeVar("T")

# Rows read at once, and a row group of the output.
_CHUNK_ROWS = 131_072
_THREADS = 2


@dataclass(frozen=True)
class ScoredPart:
    """What a part's predictions look like, counted."""

    predicted: int
    profile: Profile
    slices: list[SliceTally]


class PartScorer:
    """Scores parts with one package; the same part gives the same bytes.

    Args:
        package: The package.
        version: Its version in the registry.
        run_id: The run that began the batch.
        carried: Raw columns that the predictions carry: the key first.
        slices: Raw columns whose values are counted.
    """

    def __init__(
        self, package: Package, version: str, run_id: str, carried: Sequence[str], slices: Sequence[str]
    ) -> None:
        self._package = package
        self._version = version
        self._run_id = run_id
        self._carried = list(dict.fromkeys(carried))
        self._slices = list(dict.fromkeys(slices))
        self._inputs = [column.name for column in package.info.inputs]
        # What is not ONNX is the user's or a library's own code, which need not bear two threads.
        self._threads = _THREADS if package.runs_onnx else 1

    def score(self, source: Path, first: int, left_out: npt.NDArray[np.int64], target: Path) -> ScoredPart:
        """Scores a part and writes its predictions, whole or not at all.

        Args:
            source: The part, Parquet.
            first: The number of its first row in the batch.
            left_out: Numbers in the part, from 0, of rows without a prediction; rising, shape (rows left out,).
            target: Where the predictions go.

        Raises:
            InputError: A column is missing or of another kind.
            ShipwayError: The model gives no finite prediction for a row.
        """
        info = self._package.info
        workers = [_Worker(self._package, self._slices) for _ in range(self._threads)]
        with pq.ParquetFile(source) as file, ExitStack() as pools:
            require_columns(info.inputs, file.schema_arrow.names)
            require_slices(self._slices, file.schema_arrow.names)
            schema = output_schema(file.schema_arrow, self._carried, info.task)
            turns = cycle([(worker, pools.enter_context(ThreadPoolExecutor(1))) for worker in workers])
            with _writer(target, schema) as write:

                def chunk(worker: _Worker, batch: pa.RecordBatch, numbers: npt.NDArray[np.int64]) -> pa.Table:
                    prediction = worker.predict(batch, numbers)
                    carried = batch.select(self._carried)
                    return output_table(schema, info, numbers, carried, prediction, self._version, self._run_id)

                scoring = (
                    pool.submit(chunk, worker, batch, numbers + first)
                    for (batch, numbers), (worker, pool) in zip(self._read(file, left_out), turns, strict=False)
                )
                predicted = sum(write(table) for table in _results(scoring, 2 * self._threads))
        return _counted(predicted, workers, self._slices)

    def _read(
        self, file: pq.ParquetFile, left_out: npt.NDArray[np.int64]
    ) -> Iterator[tuple[pa.RecordBatch, npt.NDArray[np.int64]]]:
        """Yields the rows that are to be scored, with their numbers in the part."""
        wanted = {*self._inputs, *self._carried, *self._slices}
        columns = [name for name in file.schema_arrow.names if name in wanted]
        start = 0
        for batch in file.iter_batches(batch_size=_CHUNK_ROWS, columns=columns):
            numbers = np.arange(start, start + batch.num_rows)
            gone = left_out[np.searchsorted(left_out, start) : np.searchsorted(left_out, start + batch.num_rows)]
            start += batch.num_rows
            if len(gone):
                kept = np.ones(batch.num_rows, dtype=np.bool_)
                kept[gone - numbers[0]] = False
                yield batch.filter(pa.array(kept)), numbers[kept]
            else:
                yield batch, numbers


class _Worker:
    """Predicts the chunks of one thread, and counts them."""

    def __init__(self, package: Package, slices: Sequence[str]) -> None:
        self._package = package
        self._profiler = Profiler(package.statistics(), package.info, package.prediction_statistics())
        self._tally = Tally(slices)

    @property
    def profile(self) -> Profile:
        return self._profiler.profile()

    @property
    def slices(self) -> list[SliceTally]:
        return self._tally.slices()

    def predict(self, batch: pa.RecordBatch, numbers: npt.NDArray[np.int64]) -> Labelled:
        package = self._package
        frame = as_inputs(pl.DataFrame(pl.from_arrow(batch)), package.info.inputs)
        prediction = package.predict(frame).astype(np.float64)
        finite = np.isfinite(prediction).all(axis=1)
        if not finite.all():
            raise ShipwayError(
                f"the model gives NaN or an infinite prediction for {(~finite).sum()} of {len(numbers)} rows, as row "
                f"{numbers[~finite][0]} of the batch (from 0); let the schema refuse such rows, and allow for them in "
                "inference.max_quarantine"
            )
        found = labelled(package.info, prediction)
        self._profiler.update(frame, prediction)
        self._tally.update(frame, found.values)
        return found


def _counted(predicted: int, workers: Sequence[_Worker], slices: Sequence[str]) -> ScoredPart:
    tally = Tally(slices)
    for worker in workers:
        tally.merge(worker.slices)
    return ScoredPart(predicted, reduce(Profile.plus, (worker.profile for worker in workers)), tally.slices())


def _results(futures: Iterator[Future[T]], ahead: int) -> Iterator[T]:
    """Yields results in order, while so many others are worked on."""
    waiting: deque[Future[T]] = deque()
    for future in futures:
        waiting.append(future)
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@contextmanager
def _writer(target: Path, schema: pa.Schema) -> Iterator[Callable[[pa.Table], int]]:
    """Yields a function that writes a row group and returns its rows.

    The file appears at `target` when the block ends well, and not at all otherwise.
    """
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    texts = [field.name for field in schema if pa.types.is_string(field.type)]
    encodings = {"row": "DELTA_BINARY_PACKED"}
    try:
        with os.fdopen(handle, "wb") as sink:
            options = {"compression": "zstd", "use_dictionary": texts, "column_encoding": encodings}
            with pq.ParquetWriter(sink, schema, **options) as file:

                def write(table: pa.Table) -> int:
                    file.write_table(table)
                    return int(table.num_rows)

                yield write
            sink.flush()
            os.fsync(sink.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise

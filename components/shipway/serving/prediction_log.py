"""The prediction log: what was asked and answered, to Parquet, off the request path.

Rows are kept in memory until a part is full or old enough; a thread of its own writes it. Its loss is counted and never
anybody's error: rows beyond what may wait (a store that hangs) and parts that could not be written (a full disk, a
folder without permission, a store out of reach). See `endpoints.log_parts` for files and columns.
"""

import io
import logging
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shipway.endpoints.log_parts import METADATA, part_name, parts
from shipway.errors import InputError
from shipway.lineage import files, storage
from shipway.lineage.storage_errors import is_remote, reaching
from shipway.serving.log_frame import Batch, batch_frame, joined

if TYPE_CHECKING:
    import polars as pl

_logger = logging.getLogger("shipway.serving")

_PAUSE_SECONDS = 0.25
_CLEAN_SECONDS = 60.0
_CLOSE_SECONDS = 5.0
_FRAME_ROWS = 4096


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of one revision that wait to be written."""

    revision: str
    metadata: str
    first: float
    last: float
    frame: "pl.DataFrame"


class PredictionLog:
    """Writes a prediction log.

    Args:
        uri: Folder or fsspec URI.
        share: Share of the requests that are logged.
        keep_seconds: How long parts are kept; 0 keeps them for ever.
        part_rows: Rows that end a part.
        part_seconds: Age that ends a part.
        most_rows: Rows that may wait to be written; more are lost.
    """

    def __init__(
        self,
        uri: str,
        *,
        share: float = 1.0,
        keep_seconds: float = 0.0,
        part_rows: int = 50_000,
        part_seconds: float = 10.0,
        most_rows: int = 250_000,
    ) -> None:
        self.uri = uri.rstrip("/")
        self.written = 0
        self._share = share
        self._keep_seconds = keep_seconds
        self._part_rows = part_rows
        self._part_seconds = part_seconds
        self._most_rows = most_rows
        self._instance = secrets.token_hex(4)
        self._draw = np.random.default_rng()
        self._requests = self._parts = 0
        self._lost_waiting = self._lost_writing = 0
        self._batches: dict[str, list[Batch]] = {}
        self._frames: list[_Rows] = []
        self._waiting_rows = self._writing_rows = 0
        self._since = 0.0
        self._is_failing = self._is_littered = False
        self._cleaned = 0.0
        self._hand_over = threading.Lock()
        self._due = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Rows that were to be logged and are not."""
        return self._lost_waiting + self._lost_writing

    def write(self, batch: Batch) -> None:
        """Takes requests; called by the telemetry's thread alone, and never waits for the store.

        Raises:
            ValueError: Rows, predictions and sizes do not belong together.
        """
        if self._share < 1:
            batch = batch.chosen(self._draw.random(len(batch.sizes)) < self._share)
        count = len(batch.rows)
        if not count:
            return
        if self._waiting_rows + self._writing_rows + count > self._most_rows:
            self._lost_waiting += count
            return
        with self._hand_over:
            if not self._waiting_rows:
                self._since = time.monotonic()
            self._waiting_rows += count
            batches = self._batches.setdefault(batch.revision, [])
            batches.append(batch)
            if sum(len(found.rows) for found in batches) >= _FRAME_ROWS:
                self._frame(self._batches.pop(batch.revision))
        if self._waiting_rows >= self._part_rows:
            self._due.set()

    def close(self, seconds: float = _CLOSE_SECONDS) -> None:
        """Writes what waits and ends the thread; what a hanging store does not take in time is lost."""
        self._ending.set()
        self._due.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._ending.is_set():
            self._due.wait(_PAUSE_SECONDS)
            self._due.clear()
            if self._waiting_rows and (
                self._waiting_rows >= self._part_rows or time.monotonic() - self._since >= self._part_seconds
            ):
                self._write_waiting()
            if self._keep_seconds and time.monotonic() - self._cleaned >= min(_CLEAN_SECONDS, self._keep_seconds):
                self._cleaned = time.monotonic()
                self._remove_old()
        self._write_waiting()

    def _frame(self, batches: list[Batch]) -> None:
        """Turns requests into rows, many at once: a frame costs much the same for one row as for a thousand."""
        batch = joined(batches)
        try:
            frame = batch_frame(batch, self._instance, self._requests)
        except ValueError as error:
            self._lose(len(batch.rows), error)
            self._waiting_rows -= len(batch.rows)
            return
        self._requests += len(batch.sizes)
        self._frames.append(_Rows(batch.revision, batch.metadata, min(batch.times), max(batch.times), frame))

    def _write_waiting(self) -> None:
        with self._hand_over:
            for batches in self._batches.values():
                self._frame(batches)
            waiting, self._batches, self._frames = self._frames, {}, []
            self._writing_rows, self._waiting_rows = self._waiting_rows, 0
        groups: dict[tuple[str, str], list[_Rows]] = {}
        for rows in waiting:
            groups.setdefault((rows.revision, rows.metadata), []).append(rows)
        for (revision, metadata), group in groups.items():
            count = sum(rows.frame.height for rows in group)
            try:
                self._write_part(revision, metadata, group)
            except (InputError, OSError) as error:
                self._lose(count, error)
            else:
                self.written += count
                self._is_failing = False
            self._writing_rows -= count

    def _lose(self, rows: int, error: Exception) -> None:
        self._lost_writing += rows
        if not self._is_failing:
            _logger.warning("the prediction log cannot be written; its rows are lost and counted: %s", error)
        self._is_failing = True

    def _write_part(self, revision: str, metadata: str, group: list[_Rows]) -> None:
        import polars as pl

        self._parts += 1
        first, last = min(rows.first for rows in group), max(rows.last for rows in group)
        name = part_name(first, last, self._instance, self._parts)
        buffer = io.BytesIO()
        pl.concat([rows.frame for rows in group]).write_parquet(buffer, metadata={METADATA: metadata})
        if not is_remote(self.uri):
            files.write_bytes(Path(self.uri.removeprefix("file://")) / revision / name, buffer.getvalue())
        else:
            storage.write_bytes(storage.join(self.uri, revision, name), buffer.getvalue())

    def _remove_old(self) -> None:
        oldest = time.time() - self._keep_seconds
        try:
            with reaching(self.uri, "remove"):
                filesystem, path = storage.locate(self.uri)
                filesystem.invalidate_cache()
                for part in parts(filesystem.find(path)):
                    if part.last < oldest:
                        filesystem.rm_file(part.path)
        except InputError as error:
            if not self._is_failing:
                _logger.warning("old parts of the prediction log cannot be removed: %s", error)
            self._is_failing = True

"""Counts what each revision does, without slowing its requests.

The request path counts by the second and puts what was asked and answered on a bounded queue; a thread takes it from
there to statistics and the prediction log, some hundred rows at a time, so that it never holds the interpreter for
longer than a request does. When the queue is full, rows are left out of statistics and log, and counted.
"""

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from shipway.endpoints.window import MirrorCounts, Window
from shipway.serving.access_log import AccessLog
from shipway.serving.buckets import Series, Traffic
from shipway.serving.log_frame import Batch
from shipway.serving.prediction_log import PredictionLog
from shipway.serving.summary import Counts, Summary

if TYPE_CHECKING:
    from shipway.serving.model_slot import Array, ServedInfo

_logger = logging.getLogger("shipway.serving")

_QUEUED_ROWS = 50_000
_CHUNK_ROWS = 256
# Without a log, the features of so many requests a second are counted: more tell no more, and cost the others time.
_SAMPLED_REQUESTS = 500
_PAUSE_SECONDS = 0.1
_BREATH_SECONDS = 0.001
_CLOSE_SECONDS = 5.0
_KEPT_REVISIONS = 50
_EXPOSED_SECONDS = 600.0


class _Item(NamedTuple):
    """An answered request on its way to the statistics; one that is mirrored or not sampled has no rows."""

    time: float
    counter: "RevisionCounter"
    seconds: float
    prediction: "Array"
    rows: list[dict[str, Any]] | None
    key: str
    primary: "Array | None"
    logged: bool = True


class _Queue:
    """Items between two threads, bounded by their rows."""

    def __init__(self, most: int, sampled: int) -> None:
        self._items: deque[_Item] = deque()
        self._most = most
        self.sampled = sampled
        # One thread writes each of them, so that no lock is needed for their difference.
        self._put = self._taken = 0
        self.lost = 0

    def put(self, item: _Item) -> None:
        """Queues an item, or counts its rows as lost when the queue is full."""
        count = len(item.prediction)
        if self._put - self._taken + count > self._most:
            self.lost += count
            return
        self._put += count
        self._items.append(item)

    def take(self, rows: int) -> list[_Item]:
        """Returns items of about so many rows, the oldest first."""
        found: list[_Item] = []
        count = 0
        while self._items and count < rows:
            item = self._items.popleft()
            found.append(item)
            count += len(item.prediction)
        self._taken += count
        return found


class RevisionCounter:
    """Counts what one revision does. Called on the event loop alone; every call takes about a microsecond.

    `seconds` is the model's own time, from reading the rows to the prediction.

    Attributes:
        id: The revision.
        version: The registry's version.
    """

    __slots__ = ("_clock", "_queue", "forgotten", "id", "info", "statistics", "summary", "traffic", "version")

    def __init__(
        self,
        revision: str,
        version: str,
        info: "ServedInfo",
        edges: Sequence[float],
        queue: _Queue,
        clock: Callable[[], float],
    ) -> None:
        self.id = revision
        self.version = version
        self.info = info
        self.summary = Summary(info, edges)
        self.traffic: Series[Traffic] = Series(Traffic)
        self.statistics: Series[Counts] = Series(self.summary.empty)
        self.forgotten = 0.0
        self._queue = queue
        self._clock = clock

    def answered(
        self, seconds: float, prediction: "Array", rows: list[dict[str, Any]], key: str, logged: bool = True
    ) -> None:
        """Counts an answered request; it goes into statistics and, unless told otherwise, the prediction log.

        Args:
            seconds: What the model took.
            prediction: Shape (rows, classes) or (rows, 1).
            rows: The request's rows, every feature by name.
            key: What the caller is known by; "" for nothing.
            logged: Whether it is a caller's; one that a rollout sends is counted, and not logged.
        """
        now, queue = self._clock(), self._queue
        traffic = self.traffic.at(now)
        traffic.answer(seconds)
        kept = rows if traffic.requests <= queue.sampled else None
        queue.put(_Item(now, self, seconds, prediction, kept, key, None, logged))

    def failed(self, seconds: float) -> None:  # noqa: ARG002 - the latency is that of answers
        """Counts a request that failed by the revision's fault."""
        traffic = self.traffic.at(self._clock())
        traffic.requests += 1
        traffic.errors += 1

    def refused(self, seconds: float) -> None:  # noqa: ARG002 - the latency is that of answers
        """Counts a request that does not fit the model."""
        traffic = self.traffic.at(self._clock())
        traffic.requests += 1
        traffic.refused += 1

    def mirrored(self, seconds: float, prediction: "Array", primary: "Array") -> None:
        """Counts an answered mirrored request, and compares its predictions with the primary's."""
        now = self._clock()
        traffic = self.traffic.at(now)
        traffic.answer(seconds)
        traffic.sent += 1
        self._queue.put(_Item(now, self, seconds, prediction, None, "", primary))

    def mirror_failed(self, seconds: float) -> None:  # noqa: ARG002 - the latency is that of answers
        """Counts a mirrored request that the revision did not answer, or refused although the primary answered."""
        traffic = self.traffic.at(self._clock())
        traffic.requests += 1
        traffic.errors += 1
        traffic.sent += 1
        traffic.failed += 1

    def mirror_dropped(self) -> None:
        """Counts a request that was not mirrored because the queue was full."""
        self.traffic.at(self._clock()).dropped += 1

    def window(self, since: float, until: float) -> Window:
        """Returns what was counted between two moments."""
        traffic, counts = Traffic(), self.summary.empty()
        for part in self.traffic.between(since, until):
            traffic.add(part)
        for sums in self.statistics.between(since, until):
            counts.add(sums)
        compared, agreed, difference = counts.agreement.tolist()
        return Window(
            revision=self.id,
            since=since,
            until=until,
            requests=traffic.requests,
            errors=traffic.errors,
            refused=traffic.refused,
            latency=traffic.latency,
            predictions=self.summary.prediction_counts(counts),
            features=self.summary.feature_counts(counts),
            mirror=MirrorCounts(
                sent=traffic.sent,
                dropped=traffic.dropped,
                failed=traffic.failed,
                compared=int(compared),
                agreed=int(agreed),
                difference=difference,
            ),
        )


class Telemetry:
    """Counts what the revisions of one model do.

    Args:
        name: The model's name.
        log: Where requests and predictions are logged; None for nowhere.
        access: The access log, for its losses; None when there is none.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        name: str,
        *,
        log: PredictionLog | None = None,
        access: AccessLog | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.log = log
        self.access = access
        self._clock = clock
        self._counters: dict[str, RevisionCounter] = {}
        self._queue = _Queue(_QUEUED_ROWS, _SAMPLED_REQUESTS if log is None else sys.maxsize)
        self._unreadable = 0
        self._one_at_a_time = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._thread.start()

    def revision(self, revision: str, version: str, info: "ServedInfo", edges: Sequence[float]) -> RevisionCounter:
        """Returns a revision's counter, the same one for the same id.

        Args:
            revision: Its id.
            version: The registry's version.
            info: What its package says of itself.
            edges: Inner edges of the histogram of a regression model's predictions; () counts none.
        """
        counter = self._counters.get(revision)
        if counter is None:
            counter = RevisionCounter(revision, version, info, edges, self._queue, self._clock)
            self._counters = {**self._counters, revision: counter}
        counter.forgotten = 0.0
        return counter

    def forget(self, revision: str) -> None:
        """Says that a revision is gone; what it did stays in the windows."""
        counter = self._counters.get(revision)
        if counter is not None and not counter.forgotten:
            counter.forgotten = self._clock()
        gone = sorted((found.forgotten, found.id) for found in self._counters.values() if found.forgotten)
        surplus = {found for _, found in gone[: max(0, len(gone) - _KEPT_REVISIONS)]}
        self._counters = {name: found for name, found in self._counters.items() if name not in surplus}

    def windows(self, since: float, until: float) -> dict[str, Window]:
        """Returns what each revision did between two moments (seconds since the epoch), by its id.

        Whatever was counted before the call is in it. It may take some milliseconds: call it on a thread of its own.
        """
        self._flush()
        return {revision: counter.window(since, until) for revision, counter in self._counters.items()}

    def exposition(self) -> tuple[bytes, str]:
        """Returns all counts for Prometheus, and their content type; see `exposition`."""
        from shipway.serving.exposition import expose

        self._flush()
        return expose(self)

    def exposed(self) -> list[RevisionCounter]:
        """Returns the counters to tell Prometheus of: the living ones, and those forgotten a few scrapes ago."""
        now = self._clock()
        return [
            counter
            for counter in self._counters.values()
            if not counter.forgotten or now - counter.forgotten < _EXPOSED_SECONDS
        ]

    @property
    def rows_lost(self) -> int:
        """Rows that are in no statistics and no log, because the queue was full."""
        return self._queue.lost + self._unreadable

    def close(self) -> None:
        """Counts and logs what is queued and ends the threads; takes a bounded time, whatever the log's store does."""
        self._ending.set()
        self._thread.join(_CLOSE_SECONDS)
        if self.log:
            self.log.close()
        if self.access:
            self.access.close()

    def _run(self) -> None:
        while not self._ending.wait(_PAUSE_SECONDS):
            self._flush(_BREATH_SECONDS)
        self._flush()

    def _flush(self, breath: float = 0.0) -> None:
        while True:
            with self._one_at_a_time:
                items = self._queue.take(_CHUNK_ROWS)
                if not items:
                    return
                self._count(items)
            if breath:
                time.sleep(breath)

    def _count(self, items: list[_Item]) -> None:
        groups: dict[tuple[RevisionCounter, int, bool, bool, bool], list[_Item]] = {}
        for item in items:
            kind = (item.counter, int(item.time), item.primary is None, item.rows is not None, item.logged)
            groups.setdefault(kind, []).append(item)
        for (counter, second, is_answer, sampled, logged), group in groups.items():
            counts = counter.statistics.at(second)
            summary = counter.summary
            try:
                prediction = _joined([item.prediction for item in group])
                if sampled:
                    rows = [row for item in group for row in item.rows or ()]
                    matrix = summary.matrix(rows)
                    summary.count_rows(rows, matrix, counts)
                    if self.log and logged:
                        self.log.write(_batch(counter, group, rows, matrix, prediction))
                elif not is_answer:
                    primary = _joined([item.primary for item in group if item.primary is not None])
                    summary.compare(prediction, primary, counts)
                summary.count_predictions(prediction, counts)
            # A model that answers in another shape than it says must not end the counting.
            except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
                if not self._unreadable:
                    _logger.warning("revision %s: requests that cannot be counted: %s", counter.id, error)
                self._unreadable += sum(len(item.prediction) for item in group)


def _batch(
    counter: RevisionCounter, group: list[_Item], rows: list[dict[str, Any]], matrix: "Array", prediction: "Array"
) -> Batch:
    return Batch(
        counter.id,
        counter.version,
        counter.info,
        counter.summary,
        rows,
        matrix,
        prediction,
        sizes=[len(item.rows or ()) for item in group],
        times=[item.time for item in group],
        seconds=[item.seconds for item in group],
        keys=[item.key for item in group],
    )


def _joined(parts: "list[Array]") -> "Array":
    return np.concatenate(parts) if len(parts) > 1 else parts[0]

"""Counts by the second, kept within bounds: the last hour by the second, two days before it by the minute."""

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, Protocol, Self, TypeVar

from shipway.endpoints.window import LATENCY_EDGES_MS

_EDGES = tuple(edge / 1000 for edge in LATENCY_EDGES_MS)
_FINE_SECONDS = 3600
_COARSE_SECONDS = 60
_KEEP_SECONDS = 48 * 3600


class Summable(Protocol):
    """Counts that can be added to others of their kind."""

    def add(self, other: Any) -> None:
        """Adds another's counts to these."""


T = TypeVar("T", bound=Summable)


class Traffic:
    """What a revision was asked, counted as each request ends.

    Attributes:
        requests: All of them, mirrored ones too.
        errors: Those that failed by the revision's fault.
        refused: Those that did not fit the model.
        latency: Answered ones by `LATENCY_EDGES_MS`, and those beyond.
        seconds: Sum of the answered ones' time.
        sent: Mirrored ones handed to the revision.
        dropped: Mirrored ones left out.
        failed: Mirrored ones without an answer.
    """

    __slots__ = ("dropped", "errors", "failed", "latency", "refused", "requests", "seconds", "sent")

    def __init__(self) -> None:
        self.requests = self.errors = self.refused = self.sent = self.dropped = self.failed = 0
        self.seconds = 0.0
        self.latency = [0] * (len(_EDGES) + 1)

    def answer(self, seconds: float) -> None:
        """Counts an answered request."""
        self.requests += 1
        self.seconds += seconds
        self.latency[bisect_left(_EDGES, seconds)] += 1

    def add(self, other: Self) -> None:
        """Adds another's counts to these."""
        for name in ("requests", "errors", "refused", "seconds", "sent", "dropped", "failed"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.latency = [mine + theirs for mine, theirs in zip(self.latency, other.latency, strict=True)]


class Series(Generic[T]):
    """Counts by the second. One thread writes; any may read.

    Args:
        make: Makes empty counts.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._second = -1
        self._current = make()
        self._fine: deque[tuple[int, T]] = deque()
        self._coarse: deque[tuple[int, T]] = deque()
        # The current second, its counts and the sum of those before change in one assignment, so that a reader on
        # another thread counts nothing twice, and never sees a total that falls.
        self._state = (self._second, self._current, make())

    def at(self, now: float) -> T:
        """Returns the counts of a moment; a clock that was set back counts where it was."""
        second = int(now)
        if second > self._second:
            self._roll(second)
        return self._current

    def total(self) -> T:
        """Returns all counts since the beginning."""
        _, current, over = self._state
        total = self._make()
        total.add(over)
        total.add(current)
        return total

    def between(self, since: float, until: float) -> Iterator[T]:
        """Returns the counts whose second (or minute, an hour later) begins at or after `since` and before `until`."""
        now, current, _ = self._state
        if since <= now < until:
            yield current
        # The writer may add to the deques meanwhile; a copy is one step under the interpreter's lock.
        for second, counts in (*self._coarse.copy(), *self._fine.copy()):
            if since <= second < until and second != now:
                yield counts

    def _roll(self, second: int) -> None:
        finished, begun = self._current, self._make()
        if self._second >= 0:
            self._fine.append((self._second, finished))
        over = self._make()
        over.add(self._state[2])
        over.add(finished)
        self._state = (second, begun, over)
        self._second, self._current = second, begun
        while self._fine and self._fine[0][0] < second - _FINE_SECONDS:
            self._thin(*self._fine.popleft())
        while self._coarse and self._coarse[0][0] < second - _KEEP_SECONDS:
            self._coarse.popleft()

    def _thin(self, second: int, counts: T) -> None:
        # A minute is known by its first second with counts, so that a window which begins with them has them.
        if not self._coarse or self._coarse[-1][0] // _COARSE_SECONDS != second // _COARSE_SECONDS:
            self._coarse.append((second, self._make()))
        self._coarse[-1][1].add(counts)

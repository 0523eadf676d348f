"""Stores events before they are acknowledged, many requests in one commit.

A commit costs an fsync, whether one event is in it or a thousand. One thread therefore takes all that came while the
last commit was under way, and commits them together; each request is answered once its own commit is done.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shipway.errors import ShipwayError
from shipway.triggers.store import Delivery, Store, Stored, StoreError, UnstorableError

log = logging.getLogger("shipway.triggers")

# Of one commit; more wait for the next, so that the database's lock is soon free again.
_GROUP = 1000
_FORGET_EVERY = 600.0


class FullError(ShipwayError):
    """More events wait to be stored than there is room for."""

    kind = "full"


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    deliveries: Sequence[Delivery]
    size: int
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[list[Stored]]"


class Intake:
    """Takes events from the requests of an event loop and stores them on a thread of its own.

    Args:
        store: Where they are stored.
        wake: Called after each commit, on the intake's thread: there may be something to decide.
        room: How many bytes of requests may wait at most.
        keep_seconds: How long an alert that started nothing is kept; 0 for ever.
    """

    def __init__(self, store: Store, wake: Callable[[], None], room: int = 64 << 20, keep_seconds: float = 0.0) -> None:
        self._store = store
        self._wake = wake
        self._room = room
        self._keep = keep_seconds
        self._waiting: deque[_Request] = deque()
        self._size = 0
        self._open = True
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="shipway-intake", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether events are being stored."""
        return self._thread.is_alive()

    async def put(self, deliveries: Sequence[Delivery], size: int) -> list[Stored]:
        """Stores the events of a request, all of them or none, and returns once they are on the disk.

        Args:
            deliveries: The events.
            size: The request's bytes.

        Raises:
            FullError: Too many wait already.
            StoreError: The database failed; nothing of these was stored.
        """
        loop = asyncio.get_running_loop()
        request = _Request(deliveries, size, loop, loop.create_future())
        with self._changed:
            if not self._open or not self._thread.is_alive():
                raise FullError("the service is shutting down; send it again")
            if self._size + size > self._room:
                raise FullError(f"{len(self._waiting)} requests wait to be stored; send it again later")
            self._size += size
            self._waiting.append(request)
            self._changed.notify()
        return await request.future

    def close(self) -> None:
        """Stores what waits, and ends the thread."""
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        forgotten = time.monotonic()
        while True:
            group = self._next_group()
            if group:
                self._store_group(group)
                self._wake()
            elif not self._open:
                return
            if self._keep and time.monotonic() - forgotten > _FORGET_EVERY:
                forgotten = time.monotonic()
                self._forget()

    def _next_group(self) -> list[_Request]:
        with self._changed:
            if self._open and not self._waiting:
                self._changed.wait(_FORGET_EVERY)
            group: list[_Request] = []
            events = 0
            while self._waiting and (not group or events + len(self._waiting[0].deliveries) <= _GROUP):
                group.append(self._waiting.popleft())
                events += len(group[-1].deliveries)
                self._size -= group[-1].size
            return group

    def _store_group(self, group: list[_Request]) -> None:
        try:
            stored = iter(self._store.add([one for request in group for one in request.deliveries]))
        except StoreError as error:
            if isinstance(error, UnstorableError) and len(group) > 1:
                # One that the database will not have must not take the others with it.
                for request in group:
                    self._store_group([request])
                return
            log.error("%d requests are not stored: %s", len(group), error)
            _answer(group, [error] * len(group))
            return
        _answer(group, [[next(stored) for _ in request.deliveries] for request in group])

    def _forget(self) -> None:
        try:
            while self._store.forget(time.time() - self._keep) and not self._waiting:
                pass
        except StoreError as error:
            log.warning("old alerts are not deleted yet: %s", error)


def _answer(group: list[_Request], results: Sequence[list[Stored] | StoreError]) -> None:
    # The event loop is woken once for the whole group.
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Request, list[Stored] | StoreError]]] = {}
    for request, result in zip(group, results, strict=True):
        by_loop.setdefault(request.loop, []).append((request, result))
    for loop, pairs in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, pairs)
        except RuntimeError:
            log.warning("%d requests were stored after their event loop had ended", len(pairs))


def _resolve(pairs: list[tuple[_Request, list[Stored] | StoreError]]) -> None:
    for request, result in pairs:
        if request.future.done():
            continue
        if isinstance(result, StoreError):
            request.future.set_exception(result)
        else:
            request.future.set_result(result)

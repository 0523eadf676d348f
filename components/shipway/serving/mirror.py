"""Mirrors requests to a revision that is never answered from, without a request ever waiting for it.

A request is handed over after its answer was sent, through a queue that is bounded in requests and rows; what finds it
full is left out and counted.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

from shipway.model.signature import RequestError
from shipway.serving.isolated import ModelFaultError
from shipway.serving.model_slot import Array
from shipway.serving.revision import Revision

if TYPE_CHECKING:
    from shipway.serving.telemetry import RevisionCounter

_QUEUED_REQUESTS = 1_000
_QUEUED_ROWS = 20_000
_AT_ONCE = 4


class MirrorTarget(Protocol):
    """What requests are mirrored to."""

    async def predict(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Array, float]:
        """Returns the prediction and the model's own seconds.

        Raises:
            RequestError: A row does not fit the model.
            ModelFaultError: There is no answer.
        """

    def close(self) -> None:
        """Gives up what it holds; nothing is asked after that."""


class RevisionTarget:
    """A revision of this server: its process, or its slot on a thread, so that the event loop never waits for it."""

    def __init__(self, revision: Revision) -> None:
        self._revision = revision
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mirror")

    async def predict(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Array, float]:
        """See `MirrorTarget`."""
        slot = self._revision.slot
        if slot is None:
            return await self._revision.ask(rows)

        def timed() -> tuple[Array, float]:
            begun = time.perf_counter()
            return slot.predict(rows), time.perf_counter() - begun

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, timed)
        except RequestError:
            raise
        except Exception as error:  # a model's code may raise anything
            raise ModelFaultError(f"the model raised {type(error).__name__}") from error

    def close(self) -> None:
        """See `MirrorTarget`."""
        self._thread.shutdown(wait=False, cancel_futures=True)


class Mirror:
    """Mirrors a share of the requests to one target.

    Attributes:
        revision: The id of the revision that they are mirrored to.
        percent: Share of the requests.

    Args:
        revision: See above.
        percent: See above.
        target: What answers.
        counter: What it did.
    """

    def __init__(self, revision: str, percent: int, target: MirrorTarget, counter: "RevisionCounter") -> None:
        self.revision = revision
        self.percent = percent
        self._target = target
        self._counter = counter
        self._queue: deque[tuple[list[Any], Array]] = deque()
        self._rows = 0
        self._filled = asyncio.Event()
        self._tasks = [asyncio.create_task(self._run()) for _ in range(_AT_ONCE)]

    def offer(self, rows: list[Any], primary: Array) -> None:
        """Hands a request over that was answered, or leaves it out.

        Args:
            rows: The request's rows.
            primary: What the caller was answered.
        """
        if self.percent < 100 and random.random() * 100 >= self.percent:  # noqa: S311 - draws a sample
            return
        if len(self._queue) >= _QUEUED_REQUESTS or self._rows + len(rows) > _QUEUED_ROWS:
            self._counter.mirror_dropped()
            return
        self._rows += len(rows)
        self._queue.append((rows, primary))
        self._filled.set()

    async def close(self) -> None:
        """Ends mirroring; what still waits counts as left out."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _ in self._queue:
            self._counter.mirror_dropped()
        self._queue.clear()
        self._target.close()

    async def _run(self) -> None:
        while True:
            while not self._queue:
                self._filled.clear()
                await self._filled.wait()
            rows, primary = self._queue.popleft()
            self._rows -= len(rows)
            await self._ask(rows, primary)
            # Answers of a process may come without this task ever waiting: the primary's requests have their turn.
            await asyncio.sleep(0)

    async def _ask(self, rows: list[Any], primary: Array) -> None:
        begun = time.perf_counter()
        try:
            prediction, seconds = await self._target.predict(rows)
        except (RequestError, ModelFaultError):
            self._counter.mirror_failed(time.perf_counter() - begun)
            return
        if prediction.shape == primary.shape:
            self._counter.mirrored(seconds, prediction, primary)
        else:
            self._counter.mirror_failed(seconds)

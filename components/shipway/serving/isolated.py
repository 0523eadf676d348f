"""The server's end of a worker process: starts it, asks it, and notices when it dies or hangs."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import orjson

from shipway import errors
from shipway.errors import ShipwayError
from shipway.model.signature import InputColumn, RequestError
from shipway.serving import frames
from shipway.serving.model_slot import Array

WORKER_COMMAND = (sys.executable, "-P", "-m", "shipway.serving.worker")
_SECRETS = ("SHIPWAY_SERVING_TOKEN",)
_MOST_PENDING = 1_024
_MOST_UNSENT_BYTES = 64 << 20


class ModelFaultError(Exception):
    """A model did not answer, by its own fault; the message says what happened, without a caller's data."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How workers are run.

    Attributes:
        command: What starts one; its arguments are appended.
        answer_seconds: How long one may take for an answer; after that it hangs, and is killed.
        load_seconds: How long one may take to load its package.
    """

    command: Sequence[str] = WORKER_COMMAND
    answer_seconds: float = 10.0
    load_seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker tells of its package; see `ServedInfo`."""

    digest: str
    name: str
    task: str
    classes: list[str | int | bool]
    onnx: bool
    inputs: list[InputColumn] = field(default_factory=list)


class Worker(asyncio.Protocol):
    """One worker process. Only the event loop's thread may use it; `start_worker` makes it.

    Attributes:
        process: The process.
        info: What it serves.
        gone: Why it answers no more; "" while it lives.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", settings: WorkerSettings) -> None:
        self.process = process
        self.info: WorkerInfo | None = None
        self.gone = ""
        self.idle = asyncio.Event()
        self.ended = asyncio.Event()
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._pending: dict[int, tuple[asyncio.Future[frames.Reply], float]] = {}
        self._number = 0
        self._watch: asyncio.TimerHandle | None = None
        self._look_at = 0.0
        self._ending: asyncio.Task[None] | None = None
        self.idle.set()

    async def predict(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Array, float]:
        """Predicts raw rows.

        Returns:
            The prediction, and the worker's own seconds.

        Raises:
            RequestError: A row does not fit the model.
            ModelFaultError: The worker is gone, hangs, has too much before it, or its model raised.
        """
        answer = await self.ask(orjson.dumps(rows), self._settings.answer_seconds)
        if answer.kind == frames.ANSWERED:
            return frames.unpack_array(answer.payload), answer.seconds
        if answer.kind == frames.REFUSED:
            raise RequestError(answer.payload.decode())
        raise ModelFaultError(answer.payload.decode())

    def ask(self, payload: bytes, seconds: float) -> "asyncio.Future[frames.Reply]":
        """Sends a request and returns its answer to come.

        Args:
            payload: JSON.
            seconds: How long the answer may take; after that the process is ended.

        Raises:
            ModelFaultError: The worker is gone, or has too much before it.
        """
        transport = self._transport
        if self.gone or transport is None:
            raise ModelFaultError(self.gone)
        if len(self._pending) >= _MOST_PENDING or transport.get_write_buffer_size() > _MOST_UNSENT_BYTES:
            raise ModelFaultError(f"{len(self._pending)} requests are waiting for its process")
        number, self._number = self._number, self._number + 1
        future = self._loop.create_future()
        deadline = time.monotonic() + seconds
        self._pending[number] = (future, deadline)
        self.idle.clear()
        transport.write(frames.request(number, payload))
        if self._watch is None or deadline < self._look_at:
            self._look_in(seconds)
        return future

    def kill(self, reason: str) -> None:
        """Ends the process at once, and every request that waits for it."""
        self.gone = self.gone or reason
        self.process.kill()

    async def close(self) -> None:
        """Lets the open requests end, then the process."""
        await self.idle.wait()
        self.gone = self.gone or "it was retired"
        if self._transport is not None:
            self._transport.close()
        await self.ended.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the connection."""
        # uvloop's transports are of no class of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Hands answers to whoever waits for them."""
        self._buffer += data
        for answer in frames.take_replies(self._buffer):
            future, _ = self._pending.pop(answer.number)
            if not future.done():
                future.set_result(answer)
        if not self._pending:
            self.idle.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name; the process says more
        """Fails what waits: the process is gone, or about to be."""
        if self._watch is not None:
            self._watch.cancel()
        died = not self.gone
        self.gone = self.gone or "its process ended"
        self.process.kill()
        pending, self._pending = self._pending, {}
        for future, _ in pending.values():
            if not future.done():
                future.set_exception(ModelFaultError(self.gone))
        self.idle.set()
        self._ending = self._loop.create_task(self._bury(died))

    async def _bury(self, died: bool) -> None:
        code = await asyncio.to_thread(self.process.wait)
        if died:
            self.gone = f"its process ended ({_how(code)})"
        self.ended.set()

    def _look_in(self, seconds: float) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._look_at = time.monotonic() + seconds
        self._watch = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        """Kills the process when its oldest request has waited too long."""
        self._watch = None
        if not self._pending:
            return
        _, deadline = next(iter(self._pending.values()))
        left = deadline - time.monotonic()
        if left > 0:
            self._look_in(left)
        else:
            self.kill("its process did not answer in time and was ended")


async def start_worker(revision: str, path: Path, digest: str | None, what: str, settings: WorkerSettings) -> Worker:
    """Starts a worker and waits until it has loaded and warmed its package.

    Args:
        revision: The revision's id.
        path: The package's folder.
        digest: The digest it must have; None trusts the bytes.
        what: The model, to begin an error message.
        settings: How workers are run.

    Raises:
        ShipwayError: As `open_slot`, of the same class; or the process died or took too long.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        # From the event loop's own thread: the kernel ends a worker with the thread that started it.
        process = _spawn(theirs, revision, settings)
    worker = Worker(process, settings)
    try:
        await asyncio.get_running_loop().create_unix_connection(lambda: worker, sock=ours)
        order = orjson.dumps({"path": str(path), "digest": digest, "what": what})
        try:
            answer = await worker.ask(order, settings.load_seconds)
        except ModelFaultError:
            await worker.ended.wait()
            raise ShipwayError(f"{what} was not loaded: {worker.gone}") from None
        worker.info = _told(answer)
    except BaseException:
        worker.kill("it was not wanted any more")
        raise
    return worker


def _told(answer: frames.Reply) -> WorkerInfo:
    told = orjson.loads(answer.payload)
    if answer.kind == frames.ANSWERED:
        inputs = [InputColumn(**column) for column in told.pop("inputs")]
        return WorkerInfo(**told, inputs=inputs)
    kind = getattr(errors, told["kind"], ShipwayError)
    raise kind(told["message"])


def _spawn(theirs: socket.socket, revision: str, settings: WorkerSettings) -> "subprocess.Popen[bytes]":
    environment = {name: value for name, value in os.environ.items() if name not in _SECRETS}
    try:
        return subprocess.Popen(
            [*settings.command, str(theirs.fileno()), str(os.getpid()), revision],
            env=environment,
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
        )
    except OSError as error:
        raise ShipwayError(f"revision {revision}: its process cannot be started: {error}") from error


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"

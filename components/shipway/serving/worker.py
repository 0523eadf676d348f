"""A process that serves one revision to the server in front of it, over a socket that it is born with.

A crash, a leak or an endless loop of a candidate stays in here. The process ends with the server, however that
ends: the kernel kills it (Linux), and anywhere it leaves when the socket is closed.
"""

import ctypes
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from shipway.errors import ShipwayError
from shipway.model.signature import RequestError
from shipway.serving import frames
from shipway.serving.limits import Limits
from shipway.serving.model_slot import Loader, ModelSlot, load_package, open_slot

log = logging.getLogger("shipway.serving.worker")

_PR_SET_PDEATHSIG = 1
_LARGE_AT_ONCE = 2


def main(arguments: Sequence[str] | None = None, loader: Loader = load_package) -> int:
    """Serves until the server closes the socket.

    Args:
        arguments: The socket's descriptor, the server's process id, and the revision's id for whoever lists processes.
        loader: Turns a path and a digest into a package.

    Returns:
        The exit code.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    descriptor, parent, *_ = sys.argv[1:] if arguments is None else arguments
    # Ctrl-C and a container's end reach the whole group; the server ends its open requests first, and this one then.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _die_with(int(parent))
    with socket.socket(fileno=int(descriptor)) as connection, connection.makefile("rb") as incoming:
        _Worker(connection, incoming, loader).run()
    # A large request may still be at work for a server that is gone.
    os._exit(0)


class _Worker:
    def __init__(self, connection: socket.socket, incoming: BinaryIO, loader: Loader) -> None:
        self._connection = connection
        self._incoming = incoming
        self._loader = loader
        self._sending = threading.Lock()

    def run(self) -> None:
        order = self._next()
        slot = self._load(*order) if order else None
        if slot is None:
            return
        inline = Limits().inline_rows
        with ThreadPoolExecutor(_LARGE_AT_ONCE) as threads:
            while (asked := self._next()) is not None:
                begun = time.perf_counter()
                number, payload = asked
                rows = orjson.loads(payload)
                if len(rows) > inline:
                    threads.submit(self._answer, slot, number, rows, begun)
                else:
                    self._answer(slot, number, rows, begun)

    def _load(self, number: int, payload: bytes) -> ModelSlot | None:
        order = orjson.loads(payload)
        try:
            slot = open_slot(Path(order["path"]), order["digest"], order["what"], self._loader)
        except ShipwayError as error:
            fault = {"kind": type(error).__name__, "message": str(error)}
            self._send(number, frames.FAULT, 0.0, orjson.dumps(fault))
            return None
        info = slot.info
        told = {
            "digest": slot.digest,
            "name": info.name,
            "task": info.task,
            "classes": list(info.classes),
            "inputs": [column.model_dump() for column in info.inputs],
            "onnx": bool(info.onnx),
        }
        self._send(number, frames.ANSWERED, 0.0, orjson.dumps(told))
        return slot

    def _answer(self, slot: ModelSlot, number: int, rows: list[Any], begun: float) -> None:
        try:
            prediction = frames.pack_array(slot.predict(rows))
        except RequestError as error:
            kind, payload = frames.REFUSED, str(error).encode()
        except Exception as error:  # a model's code may raise anything, and the next request waits
            log.exception("the model raised")
            kind, payload = frames.FAULT, f"the model raised {type(error).__name__}".encode()
        else:
            kind, payload = frames.ANSWERED, prediction
        self._send(number, kind, time.perf_counter() - begun, payload)

    def _send(self, number: int, kind: int, seconds: float, payload: bytes) -> None:
        with self._sending:
            self._connection.sendall(frames.reply(number, kind, seconds, payload))

    def _next(self) -> tuple[int, bytes] | None:
        try:
            head = self._incoming.read(frames.REQUEST.size)
            if len(head) < frames.REQUEST.size:
                return None
            length, number = frames.REQUEST.unpack(head)
            payload = self._incoming.read(length)
        except ConnectionError:
            return None
        return (number, payload) if len(payload) == length else None


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main())

"""The access log: a JSON line a request, written on a thread of its own."""

import logging
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import BinaryIO

import orjson

log = logging.getLogger("shipway.serving")

_QUEUED = 20_000
_PAUSE_SECONDS = 0.1
_CHUNK = 500
_CLOSE_SECONDS = 2.0

_Line = tuple[float, str, str, int, str, float, int]


class AccessLog:
    """Writes a line a request: time, method, path (without its query), status, revision, milliseconds, rows.

    A full queue, disk or pipe loses lines, which are counted, and never keeps a request waiting.

    Args:
        errors_only: Whether to write only requests with a status of 400 or more.
        path: The file to append to; None writes to standard error.
    """

    def __init__(self, errors_only: bool = False, path: Path | None = None) -> None:
        self.lost = 0
        self._least = 400 if errors_only else 0
        self._path = path
        self._lines: deque[_Line] = deque()
        self._said = False
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def write(self, method: str, path: str, status: int, revision: str, seconds: float, rows: int) -> None:
        """Queues a line; `seconds` is the time from the request's first byte to the answer."""
        if status < self._least:
            return
        if len(self._lines) >= _QUEUED:
            self.lost += 1
            return
        self._lines.append((time.time(), method, path, status, revision, seconds, rows))

    def close(self) -> None:
        """Writes what is queued and ends the thread; a reader that takes nothing keeps it two seconds at most."""
        self._ending.set()
        self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while not self._ending.wait(_PAUSE_SECONDS):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        while self._lines:
            lines = [self._lines.popleft() for _ in range(min(_CHUNK, len(self._lines)))]
            text = b"".join(_text(line) for line in lines)
            try:
                if self._path is None:
                    _put(sys.stderr.buffer, text)
                else:
                    with self._path.open("ab") as file:
                        _put(file, text)
            except (OSError, ValueError) as error:
                self.lost += len(lines)
                if not self._said:
                    log.warning("the access log cannot be written: %s", error)
                    self._said = True


def _put(file: BinaryIO, text: bytes) -> None:
    file.write(text)
    file.flush()


def _text(line: _Line) -> bytes:
    moment, method, path, status, revision, seconds, rows = line
    return orjson.dumps(
        {
            "time": round(moment, 3),
            "method": method,
            # A path may hold bytes that are no text.
            "path": path.encode(errors="replace").decode(),
            "status": status,
            "revision": revision,
            "milliseconds": round(seconds * 1000, 3),
            "rows": rows,
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )

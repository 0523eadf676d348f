"""Reads what kfp's local runner does off its log, which is the only way it tells (kfp 2.17).

A test runs real pipelines and fails when a new kfp changes its words.
"""

import re
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_STARTED = re.compile(r"Executing task '([^']+)'")
_ENDED = re.compile(r"Task '([^']+)' finished with status (SUCCESS|FAILURE)")
_CACHED = re.compile(r"Task (\S+) cache hit \(key=([0-9a-f]+)\)")
_OUTPUTS = re.compile(r'^"outputFile": "([^"]+)/executor_output\.json"')
_SKIPPED = re.compile(r"Skipping (?:conditional )?task (\S+?):? (?:upstream|\(condition)")


@dataclass(frozen=True)
class Event:
    """Something the local runner said.

    Attributes:
        kind: `started`, `succeeded`, `failed`, `cached`, `skipped` or `line` (a line of a step's own log).
        task: The task's name; "" for a line outside any task.
        detail: The beginning of the cache key, or the line; of a task that has ended, the folder of its outputs.
        worker: Which of the runner's threads it was: two steps of a loop run side by side.
    """

    kind: str
    task: str
    detail: str = ""
    worker: int = field(default=0, compare=False)


@dataclass
class _Worker:
    """What one thread of the runner is at."""

    pending: str = ""
    task: str = ""
    outputs: str = ""


class EventStream:
    """A text file to stand in for standard output; turns the runner's lines into events."""

    def __init__(self, handle: Callable[[Event], None], log: IO[str]) -> None:
        self._handle = handle
        self._log = log
        self._workers: defaultdict[int, _Worker] = defaultdict(_Worker)
        self._lock = threading.Lock()
        self.encoding = "utf-8"

    def write(self, text: str) -> int:
        """Takes text; whole lines become events."""
        with self._lock:
            number = threading.get_ident()
            worker = self._workers[number]
            *lines, worker.pending = (worker.pending + text).split("\n")
            for line in lines:
                plain = _ANSI.sub("", line)
                self._log.write(plain + "\n")
                self._line(plain, worker, number)
        return len(text)

    def flush(self) -> None:
        """Flushes the log."""
        self._log.flush()

    def isatty(self) -> bool:
        """Tells that this is no terminal."""
        return False

    def _line(self, line: str, worker: _Worker, number: int) -> None:
        if match := _STARTED.search(line):
            worker.task, worker.outputs = match[1], ""
            self._handle(Event("started", match[1], worker=number))
        elif match := _ENDED.search(line):
            kind = "succeeded" if match[2] == "SUCCESS" else "failed"
            worker.task = ""
            self._handle(Event(kind, match[1], worker.outputs, number))
        elif match := _CACHED.search(line):
            self._handle(Event("cached", match[1], match[2], number))
        elif match := _SKIPPED.search(line):
            self._handle(Event("skipped", match[1], worker=number))
        elif worker.task and line.strip():
            if not worker.outputs and (match := _OUTPUTS.match(line.strip())):
                worker.outputs = match[1]
            self._handle(Event("line", worker.task, line.removeprefix("    "), number))

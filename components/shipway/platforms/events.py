"""Reads what kfp's local runner does off its log, which is the only way it tells (kfp 2.17).

A test runs real pipelines and fails when a new kfp changes its words.
"""

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_STARTED = re.compile(r"Executing task '([^']+)'")
_ENDED = re.compile(r"Task '([^']+)' finished with status (SUCCESS|FAILURE)")
_CACHED = re.compile(r"Task (\S+) cache hit \(key=([0-9a-f]+)\)")
_SKIPPED = re.compile(r"Skipping (?:conditional )?task (\S+?):? (?:upstream|\(condition)")


@dataclass(frozen=True)
class Event:
    """Something the local runner said.

    Attributes:
        kind: `started`, `succeeded`, `failed`, `cached`, `skipped` or `line` (a line of a step's own log).
        task: The task's name; "" for a line outside any task.
        detail: The beginning of the cache key, or the line.
    """

    kind: str
    task: str
    detail: str = ""


class EventStream:
    """A text file to stand in for standard output; turns the runner's lines into events."""

    def __init__(self, handle: Callable[[Event], None], log: IO[str]) -> None:
        self._handle = handle
        self._log = log
        self._pending = ""
        self._task = ""
        self._lock = threading.Lock()
        self.encoding = "utf-8"

    def write(self, text: str) -> int:
        """Takes text; whole lines become events."""
        with self._lock:
            self._pending += text
            *lines, self._pending = self._pending.split("\n")
            for line in lines:
                plain = _ANSI.sub("", line)
                self._log.write(plain + "\n")
                self._line(plain)
        return len(text)

    def flush(self) -> None:
        """Flushes the log."""
        self._log.flush()

    def isatty(self) -> bool:
        """Tells that this is no terminal."""
        return False

    def _line(self, line: str) -> None:
        if match := _STARTED.search(line):
            self._task = match[1]
            self._handle(Event("started", self._task))
        elif match := _ENDED.search(line):
            self._task = ""
            self._handle(Event("succeeded" if match[2] == "SUCCESS" else "failed", match[1]))
        elif match := _CACHED.search(line):
            self._handle(Event("cached", match[1], match[2]))
        elif match := _SKIPPED.search(line):
            self._handle(Event("skipped", match[1]))
        elif self._task and line.strip():
            self._handle(Event("line", self._task, line.removeprefix("    ")))

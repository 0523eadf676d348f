"""Runs of this machine that are found again by their key: how each is at, and never two of one at once.

The run's folder is `RUNS/NAME-PIPELINE-KEY`. Whoever runs it holds the lock `RUNS/.NAME-PIPELINE-KEY.lock`, which the
kernel frees however the process ends; a run has ended when its folder holds a summary.
"""

import contextlib
import fcntl
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shipway.endpoints.claim import is_held
from shipway.errors import InputError
from shipway.lineage.documents import read_document
from shipway.lineage.locks import lock
from shipway.report.summary import SUMMARY_FILE, Summary

_KEY = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")


@dataclass(frozen=True)
class KeyedRun:
    """A run as its folder and its lock tell.

    Attributes:
        id: Its id.
        folder: Its folder, which need not be there.
        state: `absent` (nobody has begun it), `running`, `killed` (begun, and nobody is at it) or `ended`.
        summary: How it ended.
    """

    id: str
    folder: Path
    state: Literal["absent", "running", "killed", "ended"]
    summary: Summary | None = None


def check_key(key: str) -> str:
    """Returns an idempotency key.

    Raises:
        InputError: It is none.
    """
    if not _KEY.fullmatch(key):
        raise InputError(f"--key: expected at most 40 lower-case letters, digits and dashes, found {key!r}")
    return key


def keyed_id(name: str, pipeline: str, key: str) -> str:
    """Returns the id of the run of a key.

    Raises:
        InputError: The key is none.
    """
    return f"{name}-{pipeline}-{check_key(key)}"


def find_run(runs: Path, run_id: str) -> KeyedRun:
    """Looks at a run; nothing is changed.

    Args:
        runs: The folder of the runs.
        run_id: As `keyed_id` makes it.
    """
    folder = runs / run_id
    if (summary := ended_run(folder)) is not None:
        return KeyedRun(run_id, folder, "ended", summary)
    if is_held(_lock_file(runs, run_id)):
        return KeyedRun(run_id, folder, "running")
    # It may have ended between the two looks.
    if (summary := ended_run(folder)) is not None:
        return KeyedRun(run_id, folder, "ended", summary)
    return KeyedRun(run_id, folder, "killed" if folder.is_dir() else "absent")


def ended_run(folder: Path) -> Summary | None:
    """Returns how a run ended, or None while it has not."""
    path = folder / SUMMARY_FILE
    return read_document(Summary, path) if path.is_file() else None


@contextlib.contextmanager
def only_of_its_key(runs: Path, run_id: str, waiting: Callable[[str], None]) -> Iterator[None]:
    """Holds a run's lock for the length of a block, once whoever has it is done.

    Args:
        runs: The folder of the runs.
        run_id: The run.
        waiting: Is told the holder's process id before it is waited for.
    """
    handle = os.open(_lock_file(runs, run_id), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if not lock(handle, fcntl.LOCK_EX, 0):
            waiting(os.pread(handle, 20, 0).decode() or "?")
            fcntl.flock(handle, fcntl.LOCK_EX)
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)


def _lock_file(runs: Path, run_id: str) -> Path:
    return runs / f".{run_id}.lock"

"""Locks on files, which the kernel frees however their holder ends."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shipway.errors import ShipwayError

_POLL_SECONDS = 0.02


@contextmanager
def exclusive(path: Path, seconds: float, what: str) -> Iterator[None]:
    """Holds a lock file for the length of a block; one process at a time.

    Args:
        path: The lock file; it is created, and stays.
        seconds: How long to wait for it.
        what: What the lock is for, for the error message.

    Raises:
        ShipwayError: Another process held it all the while.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not lock(handle, fcntl.LOCK_EX, seconds):
            raise ShipwayError(f"{what}: another process has been at it for {seconds:g} s (lock {path})")
        yield
    finally:
        os.close(handle)


def lock(handle: int, kind: int, seconds: float) -> bool:
    """Locks an open file, trying for some seconds; returns whether it worked.

    Args:
        handle: The file.
        kind: `fcntl.LOCK_EX` or `fcntl.LOCK_SH`.
        seconds: How long to try; 0 tries once.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_SECONDS)
        else:
            return True

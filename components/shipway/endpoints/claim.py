"""The claim that a server process holds on a name: an exclusive lock on a file, with who it is inside.

The kernel lets go of the lock however the process ends, `kill -9` included, so a claim that is held means a living
process, and the process id inside is that process's: neither a stale file nor a reused process id can deceive. Both
the server and whoever looks for it use this file; it imports nothing heavy.
"""

import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from shipway.errors import ShipwayError
from shipway.lineage.locks import lock

_PATIENCE_SECONDS = 2.0
_POLL_SECONDS = 0.02


class ClaimHeldError(ShipwayError):
    """Another process holds the claim. The exit code is its own, so that whoever started a server can tell."""

    exit_code = 75


@dataclass(frozen=True, slots=True)
class Claimant:
    """A living server process.

    Attributes:
        pid: Its process id.
        host: The address it listens on.
        port: The port it listens on.
        instance: The id it tells at `/v2`.
    """

    pid: int
    host: str
    port: int
    instance: str


class Claim:
    """A claim held by this process until it ends.

    Raises:
        ClaimHeldError: Another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # Whoever looks at the claim locks it for an instant; that must not turn a new server away.
        if not lock(self._handle, fcntl.LOCK_EX, _PATIENCE_SECONDS):
            os.close(self._handle)
            raise ClaimHeldError(f"{path}: another server process holds this claim")
        # Else whoever looks before the announcement would be told of the process before this one.
        os.ftruncate(self._handle, 0)

    def announce(self, claimant: Claimant) -> None:
        """Writes who holds the claim."""
        content = json.dumps(asdict(claimant)).encode()
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, content, 0)

    def is_lost(self) -> bool:
        """Tells whether the file is gone or another one: nobody could find this process any more."""
        try:
            found = self._path.stat()
        except OSError:
            return True
        own = os.fstat(self._handle)
        return (found.st_dev, found.st_ino) != (own.st_dev, own.st_ino)


def claimant(path: Path) -> Claimant | None:
    """Returns the living process that holds a claim, or None.

    Raises:
        ShipwayError: The claim is held, but its holder did not say who it is.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while is_held(path):
        try:
            return Claimant(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            # Between taking the lock and the announcement.
            if time.monotonic() > deadline:
                raise ShipwayError(f"{path}: a process holds this claim without saying which") from None
            time.sleep(_POLL_SECONDS)
    return None


def is_held(path: Path) -> bool:
    """Tells whether a living process holds a claim."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not lock(handle, fcntl.LOCK_SH, 0)
    finally:
        os.close(handle)

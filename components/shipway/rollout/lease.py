"""Who controls an endpoint: a lease in its record, which ends with the process that holds it."""

import os
import secrets
import socket
from dataclasses import dataclass, field
from pathlib import Path

from shipway.rollout.memory import Lease


def process_start(pid: int) -> str:
    """Returns when a process started, in the kernel's ticks since boot; "" where it is gone or nobody can tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # The second field, the program's name, may hold blanks and brackets itself.
    return stat.rpartition(")")[2].split()[19]


@dataclass(frozen=True, slots=True)
class Owner:
    """A controller, as its lease names it."""

    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    start: str = field(default_factory=lambda: process_start(os.getpid()))
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    def lease(self, expires: float) -> Lease:
        """Returns this controller's lease."""
        return Lease(token=self.token, host=self.host, pid=self.pid, start=self.start, expires=expires)

    def may_act(self, lease: Lease | None, now: float) -> bool:
        """Tells whether the endpoint is this controller's to change: its own lease, none, an ended or a dead one's."""
        if lease is None or lease.token == self.token or lease.expires <= now:
            return True
        return lease.host == self.host and _is_dead(lease)


def _is_dead(lease: Lease) -> bool:
    try:
        os.kill(lease.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return bool(lease.start) and process_start(lease.pid) != lease.start

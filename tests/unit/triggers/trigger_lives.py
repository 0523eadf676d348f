"""The service, killed at one point after another: `python trigger_lives.py ROUTES PORT DATABASE STATE POINT...`.

Each life is a process of its own that serves until it kills itself, with SIGKILL, at its point; the last one has none.
"""

import functools
import os
import signal
import sys
from pathlib import Path
from typing import Any

from shipway.triggers import service
from shipway.triggers.actions import Outcome
from shipway.triggers.queue import Queue
from shipway.triggers.worker import Engine


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(kind: Any, name: str, is_it: Any) -> None:
    """Lets the process die before a method is called."""
    method = getattr(kind, name)

    @functools.wraps(method)
    def wrapped(self: Any, *given: Any, **named: Any) -> Any:
        if is_it(self, *given):
            die()
        return method(self, *given, **named)

    setattr(kind, name, wrapped)


def after(kind: Any, name: str, is_it: Any) -> None:
    """Lets the process die once a method has returned."""
    method = getattr(kind, name)

    @functools.wraps(method)
    def wrapped(self: Any, *given: Any, **named: Any) -> Any:
        found = method(self, *given, **named)
        if is_it(found, *given):
            die()
        return found

    setattr(kind, name, wrapped)


def is_start(*given: Any) -> bool:
    """Tells whether what is settled is the start of a run."""
    return any(isinstance(entry, Outcome) and entry.result == "started" for entry in given)


POINTS = {
    "stored": lambda: before(Queue, "decide", lambda queue, _: queue._store.counts()[0] > 0),
    "decided": lambda: after(Queue, "decide", lambda counts, _: bool(counts)),
    "claimed": lambda: after(Queue, "claim", lambda found, _: found[0] is not None),
    "at work": lambda: after(Engine, "_spawn", lambda *_: True),
    "begun": lambda: before(Engine, "_settle", is_start),
    "recorded": lambda: after(Engine, "_settle", is_start),
}


def main() -> None:
    routes, port, database, state, *points = sys.argv[1:]
    # So that nobody waits long for the dead.
    service.Engine = functools.partial(Engine, lease_seconds=1.0, look_seconds=1.0)  # type: ignore[misc, assignment]
    for point in points:
        child = os.fork()
        if child == 0:
            POINTS[point]()
            service.serve(Path(routes), host="127.0.0.1", port=int(port), database=database, state=Path(state))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(point, os.waitstatus_to_exitcode(status), flush=True)
    service.serve(Path(routes), host="127.0.0.1", port=int(port), database=database, state=Path(state))


if __name__ == "__main__":
    main()

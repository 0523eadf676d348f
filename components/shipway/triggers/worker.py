"""The engine: decides about alerts, does what is due, and follows runs to their end, in a thread of the service.

It keeps nothing that the store does not have: killed at any moment, the next one goes on.
"""

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from shipway.errors import ShipwayError
from shipway.platforms.start import local_status
from shipway.triggers.actions import Outcome
from shipway.triggers.database import PRIVATE
from shipway.triggers.queue import LEASE_SECONDS, Queue, Task
from shipway.triggers.routes import Routes
from shipway.triggers.store import Store

log = logging.getLogger("shipway.triggers")

MOST_ACTIONS = 4
# An action that takes longer is ended, and tried again: what it did is found by its key.
ACTION_SECONDS = 900.0
MOST_ATTEMPTS = 12
LEAST_LOOK_SECONDS, MOST_LOOK_SECONDS = 1.0, 15.0
REMOTE_LOOK_SECONDS = 30.0
IDLE_SECONDS, PACE_SECONDS = 0.5, 0.05
# How long the thread may take for one round before the service says that it is not ready.
STUCK_SECONDS = 60.0
_MOST_PAUSE = 600.0


@dataclass
class _Action:
    """A process that does what a task says."""

    task: Task
    process: "subprocess.Popen[bytes]"
    said: IO[bytes]
    complaints: IO[bytes]
    until: float
    outcome: Outcome | None = field(default=None)

    def ended(self, now: float) -> bool:
        """Tells whether there is an outcome; a process that takes too long is ended."""
        if self.outcome is not None:
            return True
        if self.process.poll() is None:
            if now < self.until:
                return False
            self.process.kill()
            self.process.wait()
            self.outcome = Outcome("error", f"took longer than {ACTION_SECONDS:g} s and was ended")
        else:
            self.outcome = self._read()
        self.said.close()
        self.complaints.close()
        return True

    def _read(self) -> Outcome:
        self.said.seek(0)
        last = self.said.read().decode(errors="replace").strip().rpartition("\n")[2]
        self.complaints.seek(0)
        complaints = self.complaints.read().decode(errors="replace").strip()
        if complaints:
            log.info("decision %d (%s): %s", self.task.id, self.task.key, complaints[-4000:])
        if self.process.returncode == 0:
            with contextlib.suppress(ValueError, TypeError):
                return Outcome(**json.loads(last))
        said = complaints.rpartition("\n")[2][:500]
        return Outcome("error", f"its process ended with code {self.process.returncode}{f': {said}' if said else ''}")


class Engine:
    """Decides and acts, until it is stopped.

    Args:
        store: The store.
        routes: The routes file.
        state: The state folder of what runs on this machine.
        decided: Is told each decision's route and outcome, for the metrics.
        lease_seconds: How long the work of a process that died waits for another.
        look_seconds: Shortest pause between two looks at a run on a platform.
    """

    def __init__(
        self,
        store: Store,
        routes: Routes,
        state: Path,
        decided: Callable[[str, str], None],
        *,
        lease_seconds: float = LEASE_SECONDS,
        look_seconds: float = REMOTE_LOOK_SECONDS,
    ) -> None:
        self._routes, self._state, self._decided = routes, state.absolute(), decided
        self._queue = Queue(store, routes, lease_seconds)
        self._lease, self._look_seconds = lease_seconds, look_seconds
        self._actions: list[_Action] = []
        self._renewed = 0.0
        self._round = time.monotonic()
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        """Begins to work, in a thread."""
        self._round = time.monotonic()
        self._thread.start()

    def wake(self) -> None:
        """Says that there is something new to decide."""
        self._wake.set()

    def stop(self) -> None:
        """Ends the thread; actions under way end by themselves, and what they did is found by its key."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    @property
    def running(self) -> bool:
        """Whether its thread has not ended; what a new process alone brings back."""
        return self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """Whether it is at work: its thread runs, and has come round lately."""
        return self._thread.is_alive() and time.monotonic() - self._round < STUCK_SECONDS

    def _work(self) -> None:
        told = ""
        while not self._stopping.is_set():
            try:
                more = self._go_round(time.time())
                self._round = time.monotonic()
                told = ""
            except (ShipwayError, OSError) as error:
                # The database, or no more processes: it is tried again.
                if str(error) != told:
                    log.error("%s; trying again", error)
                told, more = str(error), False
            if more:
                # Each round is a commit, which the intake's have to wait for: alerts are decided some at a time.
                self._stopping.wait(PACE_SECONDS)
            else:
                self._wake.wait(IDLE_SECONDS if not self._actions else IDLE_SECONDS / 5)
                self._wake.clear()

    def _go_round(self, now: float) -> bool:
        """Does one round; tells whether there is more to do at once."""
        if self._actions and now - self._renewed > self._lease / 3:
            self._queue.renew([action.task.id for action in self._actions], now)
            self._renewed = now
        for action in [entry for entry in self._actions if entry.ended(time.monotonic())]:
            self._settle(action.task, action.outcome or Outcome("error", "no outcome"), time.time())
            self._actions.remove(action)
        counts = self._queue.decide(now)
        for (route, state), count in counts.items():
            for _ in range(count):
                self._decided(route, "matched" if state == "waiting" else state)
        more = bool(counts)
        if len(self._actions) < MOST_ACTIONS:
            task, again = self._queue.claim(now)
            more = more or again
            if task is not None:
                self._begin(task, now)
        return more

    def _begin(self, task: Task, now: float) -> None:
        runnable = self._routes.specs.get(self._spec_of(task))
        if runnable is None:
            self._settle(task, Outcome("failed", f"spec {self._spec_of(task)!r} is no longer in the routes file"), now)
        elif task.state == "started" and runnable.target == "local":
            found = local_status(runnable.runs, task.run_name)
            self._settle(task, Outcome(found.state, found.reason), now)
        else:
            self._actions.append(self._spawn(task, self._request(task)))

    def _request(self, task: Task) -> dict[str, Any]:
        runnable = self._routes.specs[self._spec_of(task)]
        images = {"repository": runnable.repository, "tag": runnable.tag, "file": runnable.images}
        return {
            "do": "look" if task.state == "started" else task.action["do"],
            "key": task.key,
            "route": task.route,
            "spec": str(runnable.spec),
            "target": runnable.target,
            "runs": str(runnable.runs),
            "state": str(self._state),
            "images": {name: str(value) for name, value in images.items() if value is not None},
            "action": dict(task.action),
            "last_data": task.last_data,
        }

    def _spawn(self, task: Task, request: dict[str, Any]) -> _Action:
        with contextlib.ExitStack() as files, tempfile.TemporaryFile() as asked:
            said, complaints = (files.enter_context(tempfile.TemporaryFile()) for _ in range(2))
            asked.write(json.dumps(request).encode())
            asked.seek(0)
            process = subprocess.Popen(
                [sys.executable, "-m", "shipway.triggers.actions"],
                stdin=asked,
                stdout=said,
                stderr=complaints,
                env={name: value for name, value in os.environ.items() if name not in PRIVATE},
                start_new_session=True,
            )
            # Open until there is an outcome.
            files.pop_all()
        return _Action(task, process, said, complaints, time.monotonic() + ACTION_SECONDS)

    def _settle(self, task: Task, outcome: Outcome, now: float) -> None:
        """Writes what came of a task."""
        values = self._values(task, outcome, now)
        if self._queue.settle(task, now, **values) and values.get("state", task.state) != task.state:
            self._decided(task.route, values["state"])
            log.info(
                "decision %d (route %s, %s): %s: %s", task.id, task.route, task.key, values["state"], outcome.reason
            )

    def _values(self, task: Task, outcome: Outcome, now: float) -> dict[str, Any]:
        """Returns the columns that tell what came of a task."""
        values: dict[str, Any] = {"reason": outcome.reason}
        match outcome.result:
            case "started":
                values |= {"state": "started", "due": now + LEAST_LOOK_SECONDS, "data_version": outcome.data_version}
                values |= {"run_name": outcome.run_name, "run_link": outcome.run_link}
            case "running":
                values = {"due": now + self._pause(task, now)}
            case "error" if task.state == "started":
                values = {"due": now + self._look_seconds}
            case "lost" if task.attempts < MOST_ATTEMPTS:
                # The run goes on in its own folder, however often it is started.
                values = {"state": "starting", "reason": f"{outcome.reason}; it is started again", "due": now}
            case "error" if task.attempts < MOST_ATTEMPTS:
                pause = min(_MOST_PAUSE, 2.0**task.attempts)
                values = {"reason": f"try {task.attempts}: {outcome.reason}; next in {pause:.0f} s", "due": now + pause}
            case "done":
                values |= {"state": "done", "run_link": outcome.run_link}
            case "skipped":
                # Nothing was begun, so that no cooldown begins and no quota is used.
                values |= {"state": "skipped", "begun": 0.0}
            case "succeeded":
                values |= {"state": "succeeded"}
            case "rejected":
                values |= {"state": "failed", "reason": f"rejected: {outcome.reason}"}
            case _:
                values |= {"state": "failed", **({"begun": 0.0} if task.state == "starting" else {})}
        return values

    def _pause(self, task: Task, now: float) -> float:
        """Returns how long not to look at a run: a long one is looked at less often."""
        least, most = LEAST_LOOK_SECONDS, MOST_LOOK_SECONDS
        if self._routes.specs[self._spec_of(task)].target != "local":
            least, most = self._look_seconds, 4 * self._look_seconds
        return min(most, max(least, (now - task.begun) / 20))

    @staticmethod
    def _spec_of(task: Task) -> str:
        return str(task.action["spec"])

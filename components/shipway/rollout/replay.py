"""Logged requests, sent again to the candidate while traffic is thin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shipway.endpoints.client import UnreachableError
from shipway.endpoints.log_windows import logged_rows
from shipway.endpoints.protocol import Endpoint, UnsupportedError
from shipway.errors import ShipwayError
from shipway.rollout.machine import Look
from shipway.rollout.memory import Memory
from shipway.rollout.plan import Phase

_MOST_ROWS = 2000
_MOST_AT_ONCE = 25


class LogReplayer:
    """Sends as many logged requests to the candidate as it lacks of its minimum, spread over the bake time.

    They are directed to its revision: they count for it, are answered to nobody, and are not logged again.

    Args:
        endpoint: Where.
        log_uri: The prediction log.
    """

    def __init__(self, endpoint: Endpoint, log_uri: str) -> None:
        self._endpoint, self._log_uri = endpoint, log_uri
        self._rows: list[Mapping[str, Any]] | None = None
        self._next = 0
        self.sent = 0

    def send(self, memory: Memory, phase: Phase, look: Look, now: float) -> None:
        """Sends as many as are wanting by now, at most 25 at a time.

        Nothing that goes wrong here is more than a request less: the evidence counts what the candidate did.
        """
        waited = now - (memory.since if memory.since is not None else now)
        due = phase.min_requests * min(waited / phase.bake, 1.0) if phase.bake else float(phase.min_requests)
        wanting = min(int(due) - look.requests, _MOST_AT_ONCE)
        if wanting <= 0 or memory.candidate.revision not in memory.warmed:
            return
        try:
            rows = self._logged(memory.timings.started)
            for _ in range(wanting if rows else 0):
                self._endpoint.predict(memory.candidate.revision, [rows[self._next % len(rows)]])
                self._next += 1
                self.sent += 1
        except UnsupportedError:
            self._rows = []
        except UnreachableError:
            return

    def _logged(self, until: float) -> list[Mapping[str, Any]]:
        if self._rows is None:
            try:
                self._rows = list(logged_rows(self._log_uri, _MOST_ROWS, until))
            except ShipwayError:
                self._rows = []
        return self._rows

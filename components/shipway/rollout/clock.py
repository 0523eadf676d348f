"""The clock that a rollout's durations run on; tests turn their own."""

import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time and waits."""

    def now(self) -> float:
        """Returns seconds since the epoch."""

    def sleep(self, seconds: float) -> None:
        """Waits."""


class WallClock:
    """The machine's clock."""

    def now(self) -> float:
        """Returns seconds since the epoch."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Waits."""
        time.sleep(seconds)

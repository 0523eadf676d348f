"""Sends to receivers side by side, tries again what passes by, and gives up in time."""

from __future__ import annotations

import math
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

# How long all receivers together may take, seconds: less than a rollout's controller may be away from its endpoint.
SECONDS = 20.0
# Between tries, seconds.
_PAUSES = (0.5, 2.0, 5.0)

_UNTOLD = "could not be told: "

T = TypeVar("T")


class DeliveryError(Exception):
    """A receiver could not be told; the message says why without any secret, as `answered 500`.

    Attributes:
        passes: Whether trying again may help.
        wait: How long the receiver asked to wait before that, seconds.
    """

    def __init__(self, message: str, *, passes: bool = False, wait: float = 0.0) -> None:
        super().__init__(message)
        self.passes, self.wait = passes, wait


class Deadline:
    """When it is too late; counts on the monotonic clock."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Returns how many seconds are left, 0 at least."""
        return max(0.0, self._end - time.monotonic())


@dataclass(frozen=True, slots=True)
class Receiver:
    """Somebody to tell.

    Attributes:
        name: What messages call it.
        send: Tells it, and returns what became of it in a few words ("" for nothing worth saying); raises
            DeliveryError.
    """

    name: str
    send: Callable[[Deadline], str]


def deliver(receivers: Sequence[Receiver], deadline: Deadline) -> None:
    """Tells all receivers side by side; prints a line about each on standard error.

    A receiver that is not done in time is left to its thread, which ends with the process.

    Args:
        receivers: Whom to tell.
        deadline: When it is too late.
    """
    ended: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
    waiting = dict(enumerate(receivers))
    for place, receiver in waiting.items():
        threading.Thread(target=_send, args=(place, receiver, deadline, ended), daemon=True).start()
    while waiting:
        try:
            place, outcome = ended.get(timeout=deadline.left() + 0.1)
        except queue.Empty:
            break
        _say(waiting.pop(place), outcome)
    for receiver in waiting.values():
        _say(receiver, f"{_UNTOLD}no answer in time")


def _send(place: int, receiver: Receiver, deadline: Deadline, ended: queue.SimpleQueue[tuple[int, str]]) -> None:
    outcome = f"{_UNTOLD}its client broke, see the traceback"
    try:
        outcome = receiver.send(deadline)
    except DeliveryError as error:
        outcome = f"{_UNTOLD}{error}"
    finally:
        ended.put((place, outcome))


def _say(receiver: Receiver, outcome: str) -> None:
    if outcome:
        print(f"notify: {receiver.name} {outcome}", file=sys.stderr, flush=True)


def persist(send: Callable[[], T], deadline: Deadline) -> T:
    """Calls something until it succeeds, or its failure is one that stays, or the time is over.

    Args:
        send: What to call; raises DeliveryError.
        deadline: When to stop.

    Raises:
        DeliveryError: The last failure.
    """
    pauses = iter(_PAUSES)
    while True:
        try:
            return send()
        except DeliveryError as error:
            pause = max(error.wait, next(pauses, math.inf))
            if not error.passes or pause >= deadline.left():
                raise
        time.sleep(pause)

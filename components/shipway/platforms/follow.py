"""Follows a run on a platform to its end, with the same lines a step as a local run."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from shipway.errors import ShipwayError
from shipway.platforms.display import Display
from shipway.report.summary import StepState

State = Literal["pending", "running", "succeeded", "failed", "skipped", "cancelled"]
_EXIT_HANDLER = "report"


@dataclass(frozen=True)
class RemoteStep:
    """A step as the platform sees it.

    Attributes:
        name: The step's name in the compiled pipeline.
        state: What it is at.
        seconds: How long it has run or ran.
        cached: Whether its outputs came from the cache.
        message: Why it failed, as the platform says, or "".
    """

    name: str
    state: State
    seconds: float = 0.0
    cached: bool = False
    message: str = ""


@dataclass(frozen=True)
class RemoteStatus:
    """A run as the platform sees it.

    Attributes:
        state: `pending`, `running`, `succeeded`, `failed` or `cancelled`.
        steps: Its steps, in any order; those not begun may be missing.
        message: Why it failed, as the platform says, or "".
    """

    state: State
    steps: Sequence[RemoteStep] = ()
    message: str = ""


class RemoteRun(Protocol):
    """A run on a platform."""

    @property
    def name(self) -> str:
        """The run's name."""

    @property
    def link(self) -> str:
        """Where a person can look at it."""

    def status(self) -> RemoteStatus:
        """Asks the platform; retries what passes by itself.

        Raises:
            ShipwayError: The platform cannot be reached, or refuses.
        """


def follow(
    run: RemoteRun,
    names: Sequence[str],
    display: Display,
    *,
    poll_seconds: float = 5.0,
    timeout_seconds: float | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Shows a run's steps until it has ended.

    Args:
        run: The run.
        names: The pipeline's steps in the order in which they may run; others (those of the platform's own) are
            not shown.
        display: Where to show them.
        poll_seconds: Pause between two questions.
        timeout_seconds: How long to follow; the run itself goes on.
        sleep: The clock's pause.

    Returns:
        An exit code: 0 when the model was registered, 3 when data or model were rejected, 1 when the run failed.

    Raises:
        ShipwayError: The run did not end in time, or the platform cannot be asked.
    """
    shown: dict[str, str] = {}
    running = ""
    started = time.monotonic()
    while True:
        status = run.status()
        steps = {step.name: step for step in status.steps}
        for name in names:
            step = steps.get(name)
            if step is None or shown.get(name) in ("succeeded", "failed", "skipped", "cancelled"):
                continue
            if step.state in ("succeeded", "failed", "cancelled"):
                ended = "succeeded" if step.state == "succeeded" else "failed"
                display.ended(StepState(name=name, status=ended, seconds=step.seconds, cached=step.cached))
                running = "" if running == name else running
            elif step.state == "running" and not running:
                display.started(name)
                running = name
            shown[name] = step.state
        if status.state in ("succeeded", "failed", "cancelled"):
            return _ended(run, status, steps, display)
        if timeout_seconds is not None and time.monotonic() - started > timeout_seconds:
            raise ShipwayError(f"run {run.name} has not ended after {timeout_seconds:g} s; it goes on, see {run.link}")
        sleep(poll_seconds)


def _ended(run: RemoteRun, status: RemoteStatus, steps: Mapping[str, RemoteStep], display: Display) -> int:
    failed = [step for step in steps.values() if step.state == "failed" and step.name != _EXIT_HANDLER]
    rejected = any(step.name == "admit" for step in failed)
    registered = (found := steps.get("register")) is not None and found.state == "succeeded"
    if status.state == "succeeded" and registered:
        display.say(f"run {run.name} succeeded: the model is registered", "green")
        return 0
    if rejected or status.state == "succeeded":
        why = "the data were rejected" if rejected else "the gates did not bless the model"
        display.say(f"run {run.name} ended: {why}; the reports are at {run.link}", "red")
        return 3
    display.say(f"run {run.name} {status.state}{': ' + status.message if status.message else ''}", "red")
    for step in failed:
        display.say(f"step {step.name} failed{': ' + step.message if step.message else ''}", "red")
    return 1

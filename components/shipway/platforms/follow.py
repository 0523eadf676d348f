"""Follows a run on a platform to its end, with the same lines a step as a local run."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from shipway.endpoints.client import UnreachableError
from shipway.errors import ShipwayError
from shipway.platforms.display import Display
from shipway.report.summary import StepState

State = Literal["pending", "running", "succeeded", "failed", "skipped", "cancelled"]
_EXIT_HANDLER = "report"
_ENDED = ("succeeded", "failed", "skipped", "cancelled")
# How Vertex AI tells the exit code of a step that refused; Kubeflow does not tell it.
_REFUSED = re.compile(r"(exit code|exit status|non-zero status of):? 3\b")


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


class VanishedError(ShipwayError):
    """A platform no longer knows a run, which someone has deleted."""


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
    patience_seconds: float = 600.0,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Shows a run's steps until it has ended.

    Args:
        run: The run.
        names: The pipeline's steps in the order in which they may run; others (those of the platform's own) are
            not shown.
        display: Where to show them.
        poll_seconds: Pause between two questions.
        timeout_seconds: How long to follow; the run itself goes on.
        patience_seconds: For how long a platform that does not answer is asked again; the run goes on without it.
        sleep: The clock's pause.
        clock: The clock, in seconds.

    Returns:
        An exit code: 0 when the pipeline did what it is for (registered, promoted, rolled back, scored, checked), 3
        when data or model were rejected, as far as the platform tells, 1 when the run failed.

    Raises:
        ShipwayError: The run did not end in time, is gone, or the platform cannot be asked.
    """
    shown: dict[str, str] = {}
    running = ""
    started = clock()
    silent_since: float | None = None
    while True:
        try:
            status = run.status()
            silent_since = None
        except UnreachableError as error:
            if silent_since is None:
                silent_since = clock()
                display.say(f"{error}; still asking", "yellow")
            if clock() - silent_since > patience_seconds:
                raise ShipwayError(
                    f"{error}; gave up after {patience_seconds:g} s, the run may go on: {run.link}"
                ) from error
            _pause(run, started, timeout_seconds, poll_seconds, sleep, clock)
            continue
        steps = _by_name(status.steps)
        for name in names:
            step = steps.get(name)
            if step is None or shown.get(name) in _ENDED:
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
            return _ended(run, names, status, steps, display)
        _pause(run, started, timeout_seconds, poll_seconds, sleep, clock)


def _by_name(found: Sequence[RemoteStep]) -> dict[str, RemoteStep]:
    """Returns the steps by name; one of a loop is there several times, and becomes one that fails with any of them."""
    passes: dict[str, list[RemoteStep]] = {}
    for step in found:
        passes.setdefault(step.name, []).append(step)
    return {name: steps[0] if len(steps) == 1 else _joined(steps) for name, steps in passes.items()}


def _joined(steps: Sequence[RemoteStep]) -> RemoteStep:
    under_way = [step for step in steps if step.state not in _ENDED]
    failed = [step for step in steps if step.state in ("failed", "cancelled")]
    # While others go on, those that failed are not told of: each step is shown once, when it has ended.
    chosen = (under_way or failed or list(steps))[0]
    if under_way and any(step.state != "pending" for step in steps):
        chosen = replace(chosen, state="running")
    seconds = max(step.seconds for step in steps)
    return replace(chosen, seconds=seconds, cached=all(step.cached for step in steps))


def _pause(
    run: RemoteRun,
    started: float,
    timeout_seconds: float | None,
    poll_seconds: float,
    sleep: Callable[[float], None],
    clock: Callable[[], float],
) -> None:
    left = poll_seconds if timeout_seconds is None else started + timeout_seconds - clock()
    if left <= 0:
        raise ShipwayError(f"run {run.name} has not ended after {timeout_seconds:g} s; it goes on, see {run.link}")
    sleep(min(poll_seconds, left))


def _ended(
    run: RemoteRun,
    names: Sequence[str],
    status: RemoteStatus,
    steps: Mapping[str, RemoteStep],
    display: Display,
) -> int:
    failed = [step for step in steps.values() if step.state == "failed" and step.name != _EXIT_HANDLER]
    rejected = any(step.name == "admit" for step in failed)
    refused = [step.name for step in failed if step.name != "admit" and _REFUSED.search(step.message)]
    registered = (found := steps.get("register")) is not None and found.state == "succeeded"
    judged = (found := steps.get("gate")) is not None and found.state == "succeeded"
    if status.state == "succeeded" and (registered or "register" not in names):
        display.say(f"run {run.name} succeeded{': the model is registered' if registered else ''}", "green")
        return 0
    if rejected or (status.state == "succeeded" and judged):
        why = "the data were rejected" if rejected else "the gates did not bless the model"
        display.say(f"run {run.name} ended: {why}; the reports are at {run.link}", "red")
        return 3
    if refused:
        what = "rows" if refused[0] == "screen" else "version"
        display.say(
            f"run {run.name} ended: {refused[0]} refused the {what}; why is in its log and at {run.link}", "red"
        )
        return 3
    if status.state == "succeeded":
        # A platform that has dropped a run's steps cannot tell a registered model from a rejected one.
        display.say(f"run {run.name} ended, but its steps are not known any more; see {run.link}", "red")
        return 1
    display.say(
        f"run {run.name} {status.state}{': ' + status.message if status.message else ''}; see {run.link}", "red"
    )
    for step in failed:
        display.say(f"step {step.name} failed{': ' + step.message if step.message else ''}", "red")
    return 1

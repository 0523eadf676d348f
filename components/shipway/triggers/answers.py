"""What the trigger service answers readers with."""

from typing import Any

from pydantic import BaseModel


class StoredAnswer(BaseModel):
    """An alert that is in the store.

    Attributes:
        id: Its id.
        folded: Whether it was there already.
    """

    id: str
    folded: bool


class HookAnswer(BaseModel):
    """What a hook acknowledges.

    Attributes:
        alerts: The request's events, in their order.
    """

    alerts: list[StoredAnswer]


class DecisionAnswer(BaseModel):
    """What a route made of an alert.

    Attributes:
        id: Its number.
        alert_id: The alert.
        route: The route's name.
        key: What names the run, so that there is one.
        action: What was, or will be, done.
        state: waiting, starting, started, succeeded, failed, skipped or done.
        reason: Why.
        due: When it may start, in seconds since the epoch.
        attempts: How often it was begun.
        run_name: The run's name on its platform; "" before there is one.
        run_link: Where to look at it.
        created: When it was made.
        updated: When it changed last.
    """

    id: int
    alert_id: str
    route: str
    key: str
    action: Any
    state: str
    reason: str
    due: float
    attempts: int
    run_name: str
    run_link: str
    created: float
    updated: float


class RunAnswer(DecisionAnswer):
    """A decision that starts a run, or acts.

    Attributes:
        title: Its alert in one line.
        source: Where that came from.
    """

    title: str
    source: str


class AlertAnswer(BaseModel):
    """An alert, without its payload.

    Attributes:
        id: Its id.
        source: Where it came from.
        fingerprint: What is the same for the same event.
        kind: alert, data, code or request.
        title: It in one line.
        labels: What routes match on.
        resolved: Whether it says that something is over.
        received: When it came first, in seconds since the epoch.
        last_seen: When it came last.
        count: How often it came.
        state: new or decided.
        decisions: What the routes made of it.
    """

    id: str
    source: str
    fingerprint: str
    kind: str
    title: str
    labels: dict[str, str]
    resolved: bool
    received: float
    last_seen: float
    count: int
    state: str
    decisions: list[DecisionAnswer]


class WholeAlertAnswer(AlertAnswer):
    """An alert with its payload.

    Attributes:
        payload: The event as it came.
    """

    payload: dict[str, Any]


class AlertsAnswer(BaseModel):
    """The last alerts, newest first."""

    alerts: list[AlertAnswer]


class RunsAnswer(BaseModel):
    """The last decisions that start a run or act, newest first."""

    runs: list[RunAnswer]


class HealthAnswer(BaseModel):
    """Whether the service is well, and what ails it."""

    ok: bool
    reasons: list[str] = []


class ErrorAnswer(BaseModel):
    """Why something was refused."""

    error: str
